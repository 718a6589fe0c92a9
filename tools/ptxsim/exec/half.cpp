// f16 and bf16 arithmetic, scalar and packed. Source: PTX ISA 9.0, sections 9.7.4 (half precision), 9.7.6
// (half precision comparisons). A row of 32 packed pairs is a row of 64 halves; each vector of halves is
// widened to f32, computed there and narrowed. Sums and products of f32 are precise enough for that second
// rounding to be harmless (24 >= 2 * 11 + 2 bits); fma takes care of it (half_vector.h). ex2 and tanh are
// those of f32, rounded. NaN results are 0x7fff.
#include <array>
#include <cmath>
#include <string_view>

#include "exec/alu.h"
#include "exec/approximate.h"
#include "exec/compare.h"
#include "exec/half_vector.h"

namespace ptxsim {
namespace {

using namespace alu;  // NOLINT: the vocabulary of this file
using ptx::Type;

enum class Op { kAdd, kSub, kMul, kFma, kMin, kMax, kAbs, kNeg };
constexpr std::string_view kOps[] = {"add", "sub", "mul", "fma", "min", "max", "abs", "neg"};
constexpr int kOpCount = std::size(kOps);

// Modifiers, in Instr::imm.
constexpr uint32_t kFtz = 1, kSat = 2, kRelu = 4, kNan = 8, kXorSign = 16, kOob = 32;

template <class H>
F32 flush(F32 v) {
  if constexpr (!H::kHasFtz) return v;
  const F32 sign = from_bits(hn::And(bits_of(v), hn::Set(kU32, 0x80000000)));
  return hn::IfThenElse(hn::Lt(hn::Abs(v), hn::Set(kF32, 0x1p-14f)), sign, v);
}

template <bool kMax>
F32 select(F32 a, F32 b, uint32_t flags) {
  const U32 sign = hn::And(hn::Xor(bits_of(a), bits_of(b)), hn::Set(kU32, 0x80000000));
  if (flags & kXorSign) a = hn::Abs(a), b = hn::Abs(b);
  F32 r = hn::IfThenElse(kMax ? hn::Gt(a, b) : hn::Lt(a, b), a, b);
  const U32 zero = kMax ? hn::And(bits_of(a), bits_of(b)) : hn::Or(bits_of(a), bits_of(b));  // -0 < +0
  r = hn::IfThenElse(hn::Eq(a, b), from_bits(zero), r);
  const bool nan_wins = flags & kNan;
  r = hn::IfThenElse(hn::Eq(a, a), r, nan_wins ? a : b);
  r = hn::IfThenElse(hn::Eq(b, b), r, nan_wins ? b : a);
  return flags & kXorSign ? from_bits(hn::Or(bits_of(r), sign)) : r;
}

template <class H, Op kOp>
F32 apply(F32 a, F32 b, F32 c, uint32_t flags) {
  switch (kOp) {
    case Op::kAdd:
      return hn::Add(a, b);
    case Op::kSub:
      return hn::Sub(a, b);
    case Op::kMul:
      return hn::Mul(a, b);
    case Op::kFma:
      return H::fma(a, b, c);
    case Op::kMin:
      return select<false>(a, b, flags);
    case Op::kMax:
      return select<true>(a, b, flags);
    case Op::kAbs:
      return hn::Abs(a);
    case Op::kNeg:
      return hn::Neg(a);
  }
}

F32 limit(F32 v, uint32_t flags) {
  const F32 zero = hn::Zero(kF32);
  if (flags & kRelu) v = hn::IfThenElse(hn::Le(v, zero), zero, v);  // NaN stays
  if (flags & kSat) v = hn::Min(hn::IfThenElseZero(hn::Gt(v, zero), v), hn::Set(kF32, 1.f));
  return v;
}

// Lanes where a half is the NaN that fills what a tensor map reads out of bounds.
auto is_oob(const uint16_t* p) {
  constexpr hn::Rebind<uint16_t, decltype(kF32)> kHalf;
  return hn::RebindMask(kF32, hn::Eq(hn::PromoteTo(kU32, hn::LoadU(kHalf, p)), hn::Set(kU32, 0xffff)));
}

constexpr int sources_of(Op op) { return op == Op::kFma ? 3 : op == Op::kAbs || op == Op::kNeg ? 1 : 2; }

// The halves of a lane: 1, or 2 packed ones.
template <int kHalves>
void write_halves(uint32_t mask, uint16_t* d, const uint16_t* from) {
  using Word = UnsignedOf<2 * kHalves>;
  blend(mask, reinterpret_cast<Word*>(d), reinterpret_cast<const Word*>(from));
}

template <class H, int kHalves, Op kOp, bool kModified>
void arithmetic(Warp& w, const Instr& i) {
  const uint16_t *a = row<uint16_t>(w, i.a), *b = row<uint16_t>(w, i.b), *c = row<uint16_t>(w, i.c);
  uint16_t* d = row<uint16_t>(w, i.d);
  const uint32_t mask = active(w, i), flags = kModified ? static_cast<uint32_t>(i.imm) : 0;
  constexpr int kCount = kHalves * kWarpSize;
  alignas(64) uint16_t all[kCount];
  uint16_t* to = mask == kAllLanes && !kModified ? d : all;
  const auto read = [&](const uint16_t* p) {
    const F32 v = H::widen(p);
    return flags & kFtz ? flush<H>(v) : v;
  };
  for (int l = 0; l < kCount; l += kVector<float>) {
    const F32 x = read(a + l);
    const F32 y = sources_of(kOp) > 1 ? read(b + l) : x;
    const F32 z = sources_of(kOp) > 2 ? read(c + l) : x;
    F32 r = apply<H, kOp>(x, y, z, flags);
    if constexpr (kModified) {
      r = limit(r, flags);
      if (flags & kOob) r = hn::IfThenElse(hn::Or(is_oob(a + l), is_oob(b + l)), hn::Zero(kF32), r);
    }
    H::narrow(r, to + l);
  }
  if (flags & kFtz && H::kHasFtz)  // after rounding
    for (uint16_t& half : all) half = (half & 0x7fff) < 0x400 ? half & 0x8000 : half;
  if (to != d) write_halves<kHalves>(mask, d, all);
}

template <class H, int kHalves, auto kFunction>
void function(Warp& w, const Instr& i) {
  constexpr int kCount = kHalves * kWarpSize;
  const uint16_t* a = row<uint16_t>(w, i.a);
  const F32 smallest = hn::Set(kF32, (i.imm & kFtz) ? std::numeric_limits<float>::min() : 0.f);  // of bf16
  const auto flushed = [&](F32 v) {
    return hn::IfThenElse(hn::Lt(hn::Abs(v), smallest),
                          from_bits(hn::And(bits_of(v), hn::Set(kU32, 0x80000000))), v);
  };
  alignas(64) float x[kCount];
  alignas(64) uint16_t out[kCount];
  for (int l = 0; l < kCount; l += kVector<float>) hn::StoreU(flushed(H::widen(a + l)), kF32, x + l);
  for (float& v : x) v = kFunction(v);
  for (int l = 0; l < kCount; l += kVector<float>) H::narrow(flushed(hn::LoadU(kF32, x + l)), out + l);
  write_halves<kHalves>(active(w, i), row<uint16_t>(w, i.d), out);
}
constexpr auto kTanh = [](float x) { return std::tanh(x); };

// --- comparisons ---
struct HalfCompare {
  uint32_t (*compare)(const void*, const void*) = nullptr;  // of f32
  bool ftz = false;
  Bool op = Bool::kNone;
  bool has_q = false;
  uint32_t q = 0, c = kTrueRow, c_flip = 0;
  uint32_t value = 0;  // set: of a half (or a lane of a scalar) where it holds
};

// The k-th halves of the lanes as f32.
template <class H, int kHalves>
void widen_row(const uint16_t* p, bool ftz, float (&out)[kHalves][kWarpSize]) {
  alignas(64) float all[kHalves * kWarpSize];
  for (int l = 0; l < kHalves * kWarpSize; l += kVector<float>) {
    const F32 v = H::widen(p + l);
    hn::StoreU(ftz ? flush<H>(v) : v, kF32, all + l);
  }
  for (int k = 0; k < kHalves; ++k)
    for (int l = 0; l < kWarpSize; ++l) out[k][l] = all[l * kHalves + k];
}

// Where it holds, for each half of the lanes.
template <class H, int kHalves>
std::array<uint32_t, kHalves> compare_halves(Warp& w, const Instr& i, const HalfCompare& e) {
  float a[kHalves][kWarpSize], b[kHalves][kWarpSize];
  widen_row<H>(row<uint16_t>(w, i.a), e.ftz, a);
  widen_row<H>(row<uint16_t>(w, i.b), e.ftz, b);
  std::array<uint32_t, kHalves> holds;
  for (int k = 0; k < kHalves; ++k) holds[k] = e.compare(a[k], b[k]);
  return holds;
}

// Scalar: q is of the complement. Packed: p is of the low halves, q of the high ones.
template <class H, int kHalves>
void setp(Warp& w, const Instr& i) {
  const HalfCompare& e = *static_cast<const HalfCompare*>(i.ext);
  const auto holds = compare_halves<H, kHalves>(w, i, e);
  const uint32_t mask = active(w, i), c = predicate_row(w, e.c) ^ e.c_flip;
  const uint32_t second = kHalves == 2 ? holds[kHalves - 1] : ~holds[0];
  write_predicate(predicate_row(w, i.d), mask, combine(e.op, holds[0], c));
  if (e.has_q) write_predicate(predicate_row(w, e.q), mask, combine(e.op, second, c));
}

// D: the row of the destination. A packed source gives two halves.
template <class H, int kHalves, class D>
void set(Warp& w, const Instr& i) {
  const HalfCompare& e = *static_cast<const HalfCompare*>(i.ext);
  auto holds = compare_halves<H, kHalves>(w, i, e);
  const uint32_t mask = active(w, i), c = predicate_row(w, e.c) ^ e.c_flip;
  for (uint32_t& h : holds) h = combine(e.op, h, c);
  const uint32_t value = e.value;
  write_lanes<Pace::kVector>(mask, row<D>(w, i.d), [=](int l) {
    uint32_t word = (holds[0] >> l) & 1 ? value : 0;
    if (kHalves == 2) word |= ((holds[kHalves - 1] >> l) & 1 ? value : 0) << 16;
    return static_cast<D>(word);
  });
}

// set of another type into f16 or bf16: the comparison is of that type.
void set_half(Warp& w, const Instr& i) {
  const HalfCompare& e = *static_cast<const HalfCompare*>(i.ext);
  const uint32_t mask = active(w, i), value = e.value;
  const uint32_t holds =
      combine(e.op, e.compare(w.regs + i.a, w.regs + i.b), predicate_row(w, e.c) ^ e.c_flip);
  write_lanes<Pace::kVector>(mask, row<uint16_t>(w, i.d),
                             [=](int l) { return static_cast<uint16_t>((holds >> l) & 1 ? value : 0); });
}

// --- decoding ---
// Handlers of one format: f16, f16x2, bf16, bf16x2.
struct Family {
  Type type;
  Handler arithmetic[kOpCount][2];  // by Op, then whether it has modifiers
  Handler ex2, tanh, setp, set16, set32;
};
template <class H, int kHalves>
constexpr Family family(Type type) {
  Family f{type,
           {},
           &function<H, kHalves, kEx2>,
           &function<H, kHalves, kTanh>,
           &setp<H, kHalves>,
           &set<H, kHalves, uint16_t>,
           &set<H, kHalves, uint32_t>};
  [&]<size_t... k>(std::index_sequence<k...>) {
    ((f.arithmetic[k][0] = &arithmetic<H, kHalves, static_cast<Op>(k), false>), ...);
    ((f.arithmetic[k][1] = &arithmetic<H, kHalves, static_cast<Op>(k), true>), ...);
  }
  (std::make_index_sequence<kOpCount>());
  return f;
}
constexpr Family kFamilies[] = {family<F16Vector, 1>(Type::kF16), family<F16Vector, 2>(Type::kF16x2),
                                family<Bf16Vector, 1>(Type::kBf16), family<Bf16Vector, 2>(Type::kBf16x2)};

const Family* find_family(Type type) {
  for (const Family& f : kFamilies)
    if (f.type == type) return &f;
  return nullptr;
}
bool is_packed(Type type) { return type == Type::kF16x2 || type == Type::kBf16x2; }

// What setp and set share: comparison, sources, the boolean.
bool read_comparison(Decoder& d, const ptx::Instruction& in, Type type, HalfCompare& e, Instr& i) {
  const Type compared = find_family(type) ? Type::kF32 : type;
  const Comparison found = find_comparison(in.parts[1], compared, compared == type && in.has("ftz"));
  e.op = find_bool(in);
  if (!found.compare || in.operands.size() != (e.op == Bool::kNone ? 3u : 4u)) return false;
  e.compare = found.compare;
  e.ftz = in.has("ftz");
  i.a = d.row(in.operands[1], type);
  i.b = d.row(in.operands[2], type);
  if (e.op != Bool::kNone) e.c = d.predicate(in.operands[3], &e.c_flip);
  return true;
}

void decode_half_setp(Decoder& d, const ptx::Instruction& in, const Family& f) {
  HalfCompare e;
  Instr i;
  if (!read_comparison(d, in, f.type, e, i)) return d.unknown(in);
  const ptx::Operand& to = in.operands[0];
  e.has_q = to.kind == ptx::OperandKind::kPair;
  uint32_t unused = 0;
  i.d = d.predicate(e.has_q ? to.elements[0] : to, &unused);
  if (e.has_q) e.q = d.predicate(to.elements[1], &unused);
  i.run = f.setp;
  i.ext = d.program().keep(e);
  d.emit(i);
}

void decode_half_set(Decoder& d, const ptx::Instruction& in, Type result, Type source) {
  HalfCompare e;
  Instr i;
  const Family* f = find_family(source);
  const bool is_float = find_family(result);
  const bool is_bf16 = result == Type::kBf16 || result == Type::kBf16x2;
  const bool is_wide = ptx::size_of(result) == 4;
  const bool fits = is_packed(result) ? f && is_packed(source) : !is_float || !is_packed(source);
  if (!fits || ptx::size_of(result) > 4 || !read_comparison(d, in, source, e, i)) return d.unknown(in);
  const uint32_t ones = is_wide && !is_packed(source) ? ~0u : 0xffffu;
  e.value = is_bf16 ? 0x3f80u : is_float ? 0x3c00u : result == Type::kF32 ? 0x3f800000u : ones;
  i.run = f ? (is_wide ? f->set32 : f->set16) : &set_half;
  i.d = d.row(in.operands[0], result);
  i.ext = d.program().keep(e);
  d.emit(i);
}

uint32_t flags_of(const ptx::Instruction& in) {
  return (in.has("ftz") ? kFtz : 0) | (in.has("sat") ? kSat : 0) | (in.has("relu") ? kRelu : 0) |
         (in.has("NaN") ? kNan : 0) | (in.has("xorsign") ? kXorSign : 0) | (in.has("oob") ? kOob : 0);
}

bool decode_half_arithmetic(Decoder& d, const ptx::Instruction& in, const Family& f) {
  const std::string_view name = in.mnemonic();
  Instr i;
  int sources = 1;
  const uint32_t flags = flags_of(in);
  if (name == "ex2" || name == "tanh") {
    i.run = name == "ex2" ? f.ex2 : f.tanh;
  } else {
    int op = 0;
    while (op < kOpCount && kOps[op] != name) ++op;
    if (op == kOpCount) return false;
    i.run = f.arithmetic[op][flags != 0];
    sources = sources_of(static_cast<Op>(op));
  }
  if (in.operands.size() != static_cast<size_t>(sources) + 1) return false;
  i.d = d.row(in.operands[0], f.type);
  i.a = d.row(in.operands[1], f.type);
  if (sources > 1) i.b = d.row(in.operands[2], f.type);
  if (sources > 2) i.c = d.row(in.operands[3], f.type);
  i.imm = flags;
  d.emit(i);
  return true;
}

}  // namespace

bool decode_half(Decoder& d, const ptx::Instruction& in) {
  if (in.parts.size() < 2) return false;
  const Type type = type_from_end(in, 0);
  if (in.mnemonic() == "set") {
    const Type result = type_from_end(in, 1);
    if (!find_family(type) && !find_family(result)) return false;
    decode_half_set(d, in, result, type);
    return true;
  }
  const Family* f = find_family(type);
  if (!f || in.mnemonic() == "cvt") return false;
  if (in.mnemonic() != "setp") return decode_half_arithmetic(d, in, *f);
  decode_half_setp(d, in, *f);
  return true;
}

}  // namespace ptxsim
