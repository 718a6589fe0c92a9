// Comparisons, predicates, selection and mov. Source: PTX ISA 9.0, sections 9.7.3.4 (testp), 9.7.5 and 9.7.6
// (set, setp, selp, slct), 9.7.8 (logic on .pred), 9.7.9 (mov). Special registers are read by decode_special,
// which is asked first.
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include "exec/alu.h"

namespace ptxsim {
namespace {

using namespace alu;  // NOLINT: the vocabulary of this file
using ptx::Operand;
using ptx::OperandKind;
using ptx::Type;

// --- comparisons of two rows, as bits ---
enum class Cmp : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan };
constexpr int kIntegerCompares = 6;
constexpr int kFloatCompares = 14;

// ordered: false where an operand is NaN. Only comparisons that every host orders alike are used.
template <Cmp kCmp, class V>
auto ordered(V a, V b) {
  if constexpr (kCmp == Cmp::kEq) return hn::Eq(a, b);
  if constexpr (kCmp == Cmp::kLt) return hn::Lt(a, b);
  if constexpr (kCmp == Cmp::kLe) return hn::Le(a, b);
  if constexpr (kCmp == Cmp::kGt) return hn::Gt(a, b);
  if constexpr (kCmp == Cmp::kGe) return hn::Ge(a, b);
  if constexpr (kCmp == Cmp::kNum) return hn::And(hn::Eq(a, a), hn::Eq(b, b));
  if constexpr (kCmp == Cmp::kNe) return hn::Or(hn::Lt(a, b), hn::Gt(a, b));
}

// The comparison whose complement is kCmp, for those that are true for NaN; else kCmp itself.
constexpr Cmp ordered_of(Cmp cmp) {
  switch (cmp) {
    case Cmp::kEqu:
      return Cmp::kNe;
    case Cmp::kNeu:
      return Cmp::kEq;
    case Cmp::kLtu:
      return Cmp::kGe;
    case Cmp::kLeu:
      return Cmp::kGt;
    case Cmp::kGtu:
      return Cmp::kLe;
    case Cmp::kGeu:
      return Cmp::kLt;
    case Cmp::kNan:
      return Cmp::kNum;
    default:
      return cmp;
  }
}
// Of integers eq and lt suffice, with operands swapped or the result negated.
constexpr bool swapped(Cmp cmp) { return cmp == Cmp::kGt || cmp == Cmp::kLe; }
constexpr bool negated(Cmp cmp) { return cmp == Cmp::kNe || cmp == Cmp::kLe || cmp == Cmp::kGe; }

template <class V>
V flush_vector(V v) {
  const hn::DFromV<V> d;
  const auto sign = hn::And(v, hn::SignBit(d));
  return hn::IfThenElse(hn::Lt(hn::Abs(v), hn::Set(d, std::numeric_limits<float>::min())), sign, v);
}

template <class T, bool kFtz, Cmp kCmp>
uint32_t compare(const void* a_row, const void* b_row) {
  const T *a = static_cast<const T*>(a_row), *b = static_cast<const T*>(b_row);
  constexpr auto kT = kTag<T>;
  constexpr bool kFloat = std::is_floating_point_v<T>;
  uint32_t bits = 0;
  for (int l = 0; l < kWarpSize; l += kVector<T>) {
    auto x = hn::LoadU(kT, a + l), y = hn::LoadU(kT, b + l);
    if constexpr (kFtz) x = flush_vector(x), y = flush_vector(y);
    if constexpr (kFloat)
      bits |= bits_from_mask<T>(ordered<ordered_of(kCmp)>(x, y)) << l;
    else if constexpr (kCmp == Cmp::kEq || kCmp == Cmp::kNe)
      bits |= bits_from_mask<T>(hn::Eq(x, y)) << l;
    else
      bits |= bits_from_mask<T>(swapped(kCmp) ? hn::Lt(y, x) : hn::Lt(x, y)) << l;
  }
  constexpr bool kNegate = kFloat ? ordered_of(kCmp) != kCmp : negated(kCmp);
  return kNegate ? ~bits : bits;
}

template <class T, bool kFtz, Cmp kCmp>
void setp(Warp& w, const Instr& i) {
  const uint32_t mask = active(w, i);
  write_predicate(predicate_row(w, i.d), mask, compare<T, kFtz, kCmp>(w.regs + i.a, w.regs + i.b));
}

struct Comparison {
  Handler setp = nullptr;                                   // p = a cmp b
  uint32_t (*compare)(const void*, const void*) = nullptr;  // the same as bits
};
template <class T, bool kFtz, int kCount>
constexpr auto comparisons() {
  return []<int... k>(std::integer_sequence<int, k...>) {
    return std::array<Comparison, kCount>{
        {{&setp<T, kFtz, static_cast<Cmp>(k)>, &compare<T, kFtz, static_cast<Cmp>(k)>}...}};
  }
  (std::make_integer_sequence<int, kCount>());
}
template <class T>
constexpr auto kIntegers = comparisons<T, false, kIntegerCompares>();
template <class T, bool kFtz>
constexpr auto kFloats = comparisons<T, kFtz, kFloatCompares>();

// The comparison that the words of an opcode name; its setp is null where there is none.
Comparison find_comparison(std::string_view word, Type type, bool ftz) {
  constexpr std::string_view kNames[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                         "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
  constexpr std::pair<std::string_view, Cmp> kUnsigned[] = {
      {"lo", Cmp::kLt}, {"ls", Cmp::kLe}, {"hi", Cmp::kGt}, {"hs", Cmp::kGe}};
  size_t k = 0;
  while (k < std::size(kNames) && kNames[k] != word) ++k;
  for (const auto& [name, cmp] : kUnsigned)
    if (name == word) k = static_cast<size_t>(cmp);
  if (k == std::size(kNames)) return {};
  switch (type) {
    case Type::kF32:
      return ftz ? kFloats<float, true>[k] : kFloats<float, false>[k];
    case Type::kF64:
      return kFloats<double, false>[k];
    default:
      break;
  }
  if (k >= kIntegerCompares) return {};
  switch (type) {
    case Type::kB16:
    case Type::kU16:
      return kIntegers<uint16_t>[k];
    case Type::kS16:
      return kIntegers<int16_t>[k];
    case Type::kB32:
    case Type::kU32:
      return kIntegers<uint32_t>[k];
    case Type::kS32:
      return kIntegers<int32_t>[k];
    case Type::kB64:
    case Type::kU64:
      return kIntegers<uint64_t>[k];
    case Type::kS64:
      return kIntegers<int64_t>[k];
    default:
      return {};
  }
}

// --- setp p|q with a boolean, and set ---
enum class Bool : uint8_t { kNone, kAnd, kOr, kXor };

uint32_t combine(Bool op, uint32_t a, uint32_t b) {
  switch (op) {
    case Bool::kAnd:
      return a & b;
    case Bool::kOr:
      return a | b;
    case Bool::kXor:
      return a ^ b;
    default:
      return a;
  }
}

struct Combined {
  uint32_t (*compare)(const void*, const void*) = nullptr;
  Bool op = Bool::kNone;
  bool has_q = false;
  uint32_t q = 0;
  uint32_t c = kTrueRow, c_flip = 0;
  uint32_t value = 0;  // set: of the lanes where it holds
};

void setp_combined(Warp& w, const Instr& i) {
  const Combined& e = *static_cast<const Combined*>(i.ext);
  const uint32_t mask = active(w, i);
  const uint32_t holds = e.compare(w.regs + i.a, w.regs + i.b);
  const uint32_t c = predicate_row(w, e.c) ^ e.c_flip;
  write_predicate(predicate_row(w, i.d), mask, combine(e.op, holds, c));
  if (e.has_q) write_predicate(predicate_row(w, e.q), mask, combine(e.op, ~holds, c));
}

void set_combined(Warp& w, const Instr& i) {
  const Combined& e = *static_cast<const Combined*>(i.ext);
  const uint32_t mask = active(w, i);
  const uint32_t holds =
      combine(e.op, e.compare(w.regs + i.a, w.regs + i.b), predicate_row(w, e.c) ^ e.c_flip);
  uint32_t* d = row<uint32_t>(w, i.d);
  write_lanes<Pace::kVector>(mask, d, [=](int l) { return (holds >> l) & 1 ? e.value : 0u; });
}

// The types at the end of an opcode, from the last.
Type type_from_end(const ptx::Instruction& in, size_t k) {
  return in.parts.size() > k + 1 ? ptx::type_named(in.parts[in.parts.size() - 1 - k]) : Type::kNone;
}

// setp and set: parts are the comparison, perhaps a boolean, ftz, and the types.
bool decode_compared(Decoder& d, const ptx::Instruction& in, bool is_set) {
  const Type type = type_from_end(in, 0);
  const Type result = is_set ? type_from_end(in, 1) : Type::kPred;
  const Comparison found =
      in.parts.size() > 2 ? find_comparison(in.parts[1], type, in.has("ftz")) : Comparison{};
  if (!found.setp || in.operands.size() < 3) return false;
  if (is_set && result != Type::kU32 && result != Type::kS32 && result != Type::kF32) return false;
  Combined e;
  e.compare = found.compare;
  e.value = result == Type::kF32 ? 0x3f800000u : ~0u;
  e.op = in.has("and") ? Bool::kAnd : in.has("or") ? Bool::kOr : in.has("xor") ? Bool::kXor : Bool::kNone;
  if (in.operands.size() != (e.op == Bool::kNone ? 3u : 4u)) {
    d.unknown(in);
    return true;
  }
  Instr i;
  i.a = d.row(in.operands[1], type);
  i.b = d.row(in.operands[2], type);
  if (e.op != Bool::kNone) e.c = d.predicate(in.operands[3], &e.c_flip);
  if (is_set) {
    i.run = &set_combined;
    i.d = d.row(in.operands[0], result);
  } else {
    const bool pair = in.operands[0].kind == OperandKind::kPair;
    uint32_t unused = 0;
    i.d = d.predicate(pair ? in.operands[0].elements[0] : in.operands[0], &unused);
    e.has_q = pair;
    if (pair) e.q = d.predicate(in.operands[0].elements[1], &unused);
    i.run = pair || e.op != Bool::kNone ? &setp_combined : found.setp;
  }
  if (i.run != found.setp) i.ext = d.program().keep(e);
  d.emit(i);
  return true;
}

// --- testp ---
enum class Test { kFinite, kInfinite, kNumber, kNan, kNormal, kSubnormal };

template <class T, Test kTest>
void testp(Warp& w, const Instr& i) {
  const T* a = row<T>(w, i.a);
  uint32_t bits = 0;
  for (int l = 0; l < kWarpSize; ++l) {
    const T x = std::fabs(a[l]);
    constexpr T kInfinity = std::numeric_limits<T>::infinity(), kMin = std::numeric_limits<T>::min();
    const bool holds = kTest == Test::kFinite     ? x < kInfinity
                       : kTest == Test::kInfinite ? x == kInfinity
                       : kTest == Test::kNumber   ? x == x
                       : kTest == Test::kNan      ? x != x
                       : kTest == Test::kNormal   ? (x >= kMin) & (x < kInfinity)
                                                  : (x > 0) & (x < kMin);
    bits |= uint32_t{holds} << l;
  }
  write_predicate(predicate_row(w, i.d), active(w, i), bits);
}

template <Test kTest>
Handler testp_of(Type type) {
  return type == Type::kF32 ? &testp<float, kTest> : type == Type::kF64 ? &testp<double, kTest> : nullptr;
}

bool decode_testp(Decoder& d, const ptx::Instruction& in) {
  const Type type = type_from_end(in, 0);
  const Handler run = in.has("finite")       ? testp_of<Test::kFinite>(type)
                      : in.has("infinite")   ? testp_of<Test::kInfinite>(type)
                      : in.has("number")     ? testp_of<Test::kNumber>(type)
                      : in.has("notanumber") ? testp_of<Test::kNan>(type)
                      : in.has("normal")     ? testp_of<Test::kNormal>(type)
                      : in.has("subnormal")  ? testp_of<Test::kSubnormal>(type)
                                             : nullptr;
  if (!run || in.operands.size() != 2) return false;
  uint32_t unused = 0;
  Instr i;
  i.run = run;
  i.d = d.predicate(in.operands[0], &unused);
  i.a = d.row(in.operands[1], type);
  d.emit(i);
  return true;
}

// --- selp, slct ---
template <class T>
void selp(Warp& w, const Instr& i) {
  const uint32_t mask = active(w, i);
  const uint32_t picks = predicate_row(w, i.c) ^ static_cast<uint32_t>(i.imm);
  const T *a = row<T>(w, i.a), *b = row<T>(w, i.b);
  T* d = row<T>(w, i.d);
  constexpr auto kT = kTag<T>;
  for (int l = 0; l < kWarpSize; l += kVector<T>) {
    const auto v = hn::IfThenElse(mask_from_bits<T>(picks, l), hn::LoadU(kT, a + l), hn::LoadU(kT, b + l));
    if (mask == kAllLanes) [[likely]]
      hn::StoreU(v, kT, d + l);
    else
      hn::StoreU(hn::IfThenElse(mask_from_bits<T>(mask, l), v, hn::LoadU(kT, d + l)), kT, d + l);
  }
}

bool decode_selp(Decoder& d, const ptx::Instruction& in) {
  const Type type = type_from_end(in, 0);
  Instr i;
  switch (ptx::size_of(type)) {
    case 2:
      i.run = &selp<uint16_t>;
      break;
    case 4:
      i.run = &selp<uint32_t>;
      break;
    case 8:
      i.run = &selp<uint64_t>;
      break;
    default:
      return false;
  }
  if (in.operands.size() != 4) return false;
  uint32_t flip = 0;
  i.d = d.row(in.operands[0], type);
  i.a = d.row(in.operands[1], type);
  i.b = d.row(in.operands[2], type);
  i.c = d.predicate(in.operands[3], &flip);
  i.imm = flip;
  d.emit(i);
  return true;
}

constexpr auto kSlct = [](auto a, auto b, auto c) { return c >= 0 ? a : b; };
constexpr auto kSlctFtz = [](auto a, auto b, float c) {
  return c > -std::numeric_limits<float>::min() ? a : b;
};

template <class T>
Form slct_of(Type type, bool ftz) {
  if (type == Type::kS32) return form<Pace::kVector, kSlct, T, T, T, int32_t>();
  if (type != Type::kF32) return {};
  return ftz ? form<Pace::kVector, kSlctFtz, T, T, T, float>() : form<Pace::kVector, kSlct, T, T, T, float>();
}

bool decode_slct(Decoder& d, const ptx::Instruction& in) {
  const Type type = type_from_end(in, 0), result = type_from_end(in, 1);
  Form f;
  switch (ptx::size_of(result)) {
    case 2:
      f = slct_of<uint16_t>(type, in.has("ftz"));
      break;
    case 4:
      f = slct_of<uint32_t>(type, in.has("ftz"));
      break;
    case 8:
      f = slct_of<uint64_t>(type, in.has("ftz"));
      break;
    default:
      break;
  }
  if (!f.run || in.operands.size() != 4) return false;
  for (int k = 0; k < 3; ++k) f.types[k] = result;
  d.emit(instruction_of(d, in, f));
  return true;
}

// --- and, or, xor, not, mov of predicates ---
template <Bool kOp>
void predicate_logic(Warp& w, const Instr& i) {
  const uint32_t a = predicate_row(w, i.a) ^ static_cast<uint32_t>(i.imm);
  const uint32_t b = predicate_row(w, i.b) ^ static_cast<uint32_t>(i.imm >> 32);
  write_predicate(predicate_row(w, i.d), active(w, i), combine(kOp, a, b));
}

bool decode_predicate_logic(Decoder& d, const ptx::Instruction& in) {
  const std::string_view op = in.mnemonic();
  const bool is_unary = op == "not" || op == "mov";
  if (in.operands.size() != (is_unary ? 2u : 3u)) return false;
  uint32_t unused = 0, flip_a = 0, flip_b = 0;
  Instr i;
  i.d = d.predicate(in.operands[0], &unused);
  i.a = d.predicate(in.operands[1], &flip_a);
  if (op == "not") flip_a = ~flip_a;
  i.b = is_unary ? i.a : d.predicate(in.operands[2], &flip_b);
  i.imm = static_cast<int64_t>(uint64_t{flip_b} << 32 | flip_a);
  i.run = op == "and"   ? &predicate_logic<Bool::kAnd>
          : op == "or"  ? &predicate_logic<Bool::kOr>
          : op == "xor" ? &predicate_logic<Bool::kXor>
                        : &predicate_logic<Bool::kNone>;
  d.emit(i);
  return true;
}

// --- mov ---
using Word128 = unsigned __int128;
constexpr auto kCopy = [](auto a) { return a; };
// {a, b, ...}: the first element in the lowest bits.
template <class D>
inline constexpr auto kPack = [](auto first, auto... rest) {
  D word = first;
  int shift = 0;
  ((word |= static_cast<D>(rest) << (shift += 8 * sizeof first)), ...);
  return word;
};

template <class T>
constexpr Form copy_of() {
  return form < sizeof(T) == 16 ? Pace::kScalar : Pace::kVector, kCopy, T, T > ();
}
template <class D, class S>
constexpr Form pack_of(size_t count) {
  constexpr Pace kPace = sizeof(D) == 16 ? Pace::kScalar : Pace::kVector;
  if constexpr (sizeof(D) == 2 * sizeof(S))
    return count == 2 ? form<kPace, kPack<D>, D, S, S>() : Form{};
  else
    return count == 4 ? form<kPace, kPack<D>, D, S, S, S, S>() : Form{};
}

// Elements in d, b, c, imm.
template <class D, class S, int kCount>
void unpack(Warp& w, const Instr& i) {
  const S* a = row<S>(w, i.a);
  const uint32_t mask = active(w, i);
  const uint32_t to[4] = {i.d, i.b, i.c, static_cast<uint32_t>(i.imm)};
  for (int k = 0; k < kCount; ++k)
    write_lanes<Pace::kVector>(mask, row<D>(w, to[k]),
                               [=](int l) { return static_cast<D>(a[l] >> (8 * sizeof(D) * k)); });
}

bool decode_pack(Decoder& d, const ptx::Instruction& in, int bytes) {
  const auto& elements = in.operands[1].elements;
  const size_t n = elements.size();
  Form f;
  Type element = Type::kNone;
  if (bytes == 4 && n == 2) f = pack_of<uint32_t, uint16_t>(n), element = Type::kB16;
  if (bytes == 8 && n == 2) f = pack_of<uint64_t, uint32_t>(n), element = Type::kB32;
  if (bytes == 8 && n == 4) f = pack_of<uint64_t, uint16_t>(n), element = Type::kB16;
  if (bytes == 16 && n == 2) f = pack_of<Word128, uint64_t>(n), element = Type::kB64;
  if (bytes == 16 && n == 4) f = pack_of<Word128, uint32_t>(n), element = Type::kB32;
  if (!f.run) return false;
  uint32_t rows[4] = {};
  for (size_t k = 0; k < n; ++k) rows[k] = d.row(elements[k], element);
  Instr i;
  i.run = f.run;
  i.d = d.row(in.operands[0], type_from_end(in, 0));
  i.a = rows[0];
  i.b = rows[1];
  i.c = rows[2];
  i.imm = rows[3];
  d.emit(i);
  return true;
}

bool decode_unpack(Decoder& d, const ptx::Instruction& in, int bytes) {
  const auto& elements = in.operands[0].elements;
  const size_t n = elements.size();
  Instr i;
  Type element = Type::kNone;
  if (bytes == 4 && n == 2) i.run = &unpack<uint16_t, uint32_t, 2>, element = Type::kB16;
  if (bytes == 8 && n == 2) i.run = &unpack<uint32_t, uint64_t, 2>, element = Type::kB32;
  if (bytes == 8 && n == 4) i.run = &unpack<uint16_t, uint64_t, 4>, element = Type::kB16;
  if (bytes == 16 && n == 2) i.run = &unpack<uint64_t, Word128, 2>, element = Type::kB64;
  if (bytes == 16 && n == 4) i.run = &unpack<uint32_t, Word128, 4>, element = Type::kB32;
  if (!i.run) return false;
  uint32_t rows[4] = {};
  for (size_t k = 0; k < n; ++k) rows[k] = d.row(elements[k], element);
  i.a = d.row(in.operands[1], type_from_end(in, 0));
  i.d = rows[0];
  i.b = rows[1];
  i.c = rows[2];
  i.imm = rows[3];
  d.emit(i);
  return true;
}

bool decode_mov(Decoder& d, const ptx::Instruction& in) {
  const Type type = type_from_end(in, 0);
  if (type == Type::kPred) return decode_predicate_logic(d, in);
  const int bytes = ptx::size_of(type);
  if (in.operands.size() != 2) return false;
  if (in.operands[1].kind == OperandKind::kVector) return decode_pack(d, in, bytes);
  if (in.operands[0].kind == OperandKind::kVector) return decode_unpack(d, in, bytes);
  Form f;
  switch (bytes) {
    case 2:
      f = copy_of<uint16_t>();
      break;
    case 4:
      f = copy_of<uint32_t>();
      break;
    case 8:
      f = copy_of<uint64_t>();
      break;
    case 16:
      f = copy_of<Word128>();
      break;
    default:
      return false;
  }
  f.types[0] = f.types[1] = type;
  d.emit(instruction_of(d, in, f));
  return true;
}

}  // namespace

bool decode_compare(Decoder& d, const ptx::Instruction& in) {
  const std::string_view op = in.mnemonic();
  if (op == "setp" || op == "set") return decode_compared(d, in, op == "set");
  if (op == "mov") return decode_mov(d, in);
  if (op == "selp") return decode_selp(d, in);
  if (op == "slct") return decode_slct(d, in);
  if (op == "testp") return decode_testp(d, in);
  const bool is_logic = op == "and" || op == "or" || op == "xor" || op == "not";
  return is_logic && type_from_end(in, 0) == Type::kPred && decode_predicate_logic(d, in);
}

}  // namespace ptxsim
