// Comparisons and predicates. Source: PTX ISA 9.0, sections 9.7.3.4 (testp), 9.7.5 and 9.7.6
// (set, setp, selp, slct), 9.7.8 (logic on .pred), 9.7.9 (mov). Special registers are read by decode_special,
// which is asked first.
#include "exec/compare.h"

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

}  // namespace

Comparison alu::find_comparison(std::string_view word, Type type, bool ftz) {
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

namespace {

// --- setp p|q with a boolean, and set ---
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
  e.op = find_bool(in);
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
                       : kTest == Test::kNormal   ? (x == 0) | ((x >= kMin) & (x < kInfinity))
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

}  // namespace

bool decode_compare(Decoder& d, const ptx::Instruction& in) {
  const std::string_view op = in.mnemonic();
  if (op == "setp" || op == "set") return decode_compared(d, in, op == "set");
  if (op == "testp") return decode_testp(d, in);
  const bool is_logic = op == "and" || op == "or" || op == "xor" || op == "not" || op == "mov";
  if (is_logic && type_from_end(in, 0) == Type::kPred) return decode_predicate_logic(d, in);
  return decode_move(d, in);
}

}  // namespace ptxsim
