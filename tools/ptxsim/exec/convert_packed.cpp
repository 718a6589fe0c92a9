// cvt into and out of pairs (f16x2, bf16x2, e4m3x2, e5m2x2), into tf32, and cvt.pack. Source: PTX ISA 9.0,
// section 9.7.9. Of a pair, the first source goes to the upper half.
#include <string>

#include "exec/convert.h"
#include "numeric/float_formats.h"

namespace ptxsim::alu {
namespace {

using numeric::Overflow;
using numeric::Round;
using ptx::Type;

template <bool kRelu>
constexpr uint32_t limited(uint32_t x) {
  return kRelu ? numeric::relu_f32(x) : x;
}

// d = {a, b} in the format F, of 8 or 16 bits.
template <numeric::Format F, Round kRound, Overflow kOverflow, bool kRelu>
constexpr Form pair_form() {
  constexpr int kBits = 1 + F.exponent_bits + F.mantissa_bits;
  constexpr auto kPair = [](uint32_t a, uint32_t b) {
    return numeric::narrow<F, kRound, kOverflow>(limited<kRelu>(a)) << kBits |
           numeric::narrow<F, kRound, kOverflow>(limited<kRelu>(b));
  };
  using D = std::conditional_t<kBits == 16, uint32_t, uint16_t>;
  return vector_form<kPair, D, uint32_t, uint32_t>();
}

// To nearest even, nothing else: the common case.
template <class H>
void narrow_pair(Warp& w, const Instr& i) {
  const float *a = row<float>(w, i.a), *b = row<float>(w, i.b);
  uint32_t* d = row<uint32_t>(w, i.d);
  const uint32_t mask = active(w, i);
  alignas(64) uint32_t all[kWarpSize];
  uint32_t* to = mask == kAllLanes ? d : all;
  for (int l = 0; l < kWarpSize; l += kVector<float>) {
    const U32 high = H::narrowed(hn::LoadU(kF32, a + l)), low = H::narrowed(hn::LoadU(kF32, b + l));
    hn::StoreU(hn::Or(hn::ShiftLeft<16>(high), low), kU32, to + l);
  }
  if (to != d) blend(mask, d, all);
}

constexpr int kPairs = 2 * kWarpSize;  // values of a row of pairs

// f16x2 -> pairs of 8 bits: a row of 64 halves, a row of 64 bytes.
template <numeric::Format F, bool kRelu>
void halves_to_bytes(Warp& w, const Instr& i) {
  const uint16_t* a = row<uint16_t>(w, i.a);
  alignas(64) float x[kPairs];
  alignas(64) uint8_t bytes[kPairs];
  for (int k = 0; k < kPairs; k += kVector<float>) hn::StoreU(F16Vector::widen(a + k), kF32, x + k);
  for (int k = 0; k < kPairs; ++k)
    bytes[k] = static_cast<uint8_t>(numeric::narrow<F, Round::kNearestEven, Overflow::kFinite>(
        limited<kRelu>(std::bit_cast<uint32_t>(x[k]))));
  blend(active(w, i), row<uint16_t>(w, i.d), reinterpret_cast<const uint16_t*>(bytes));
}
// Pairs of 8 bits -> f16x2, exact.
template <numeric::Format F, bool kRelu>
void bytes_to_halves(Warp& w, const Instr& i) {
  const uint8_t* a = row<uint8_t>(w, i.a);
  alignas(64) float x[kPairs];
  alignas(64) uint16_t halves[kPairs];
  for (int k = 0; k < kPairs; ++k) x[k] = std::bit_cast<float>(limited<kRelu>(numeric::widen<F>(a[k])));
  for (int k = 0; k < kPairs; k += kVector<float>) F16Vector::narrow(hn::LoadU(kF32, x + k), halves + k);
  blend(active(w, i), row<uint32_t>(w, i.d), reinterpret_cast<const uint32_t*>(halves));
}

template <Round kRound, Overflow kOverflow, bool kRelu>
inline constexpr auto kTf32 =
    [](uint32_t x) { return numeric::to_tf32<kRound, kOverflow>(limited<kRelu>(x)); };

// By name with its rounding and types, without .relu and .satfinite; then [relu][satfinite].
using Variants = std::array<std::array<Form, 2>, 2>;
template <numeric::Format F, Round kRound>
constexpr Variants pairs() {
  return {
      {{pair_form<F, kRound, Overflow::kInfinity, false>(), pair_form<F, kRound, Overflow::kFinite, false>()},
       {pair_form<F, kRound, Overflow::kInfinity, true>(), pair_form<F, kRound, Overflow::kFinite, true>()}}};
}
template <class H>
constexpr Variants nearest_pairs() {
  Variants v = pairs<H::kFormat, Round::kNearestEven>();
  v[0][0].run = &narrow_pair<H>;
  return v;
}
// 8 bits: .satfinite always.
template <numeric::Format F>
constexpr Variants byte_pairs() {
  Variants v = pairs<F, Round::kNearestEven>();
  v[0][0] = v[1][0] = {};
  return v;
}
template <Round kRound>
constexpr Variants tf32() {
  return {{{vector_form<kTf32<kRound, Overflow::kInfinity, false>, uint32_t, uint32_t>(),
            vector_form<kTf32<kRound, Overflow::kFinite, false>, uint32_t, uint32_t>()},
           {vector_form<kTf32<kRound, Overflow::kInfinity, true>, uint32_t, uint32_t>(),
            vector_form<kTf32<kRound, Overflow::kFinite, true>, uint32_t, uint32_t>()}}};
}
template <numeric::Format F>
constexpr Variants from_halves() {
  return {{{Form{}, Form{&halves_to_bytes<F, false>, 1, {Type::kB16, Type::kF16x2}}},
           {Form{}, Form{&halves_to_bytes<F, true>, 1, {Type::kB16, Type::kF16x2}}}}};
}
template <numeric::Format F>
constexpr Variants to_halves() {
  return {{{Form{&bytes_to_halves<F, false>, 1, {Type::kF16x2, Type::kB16}}, Form{}},
           {Form{&bytes_to_halves<F, true>, 1, {Type::kF16x2, Type::kB16}}, Form{}}}};
}

const Variants* find_variants(std::string_view name) {
  using namespace numeric;  // NOLINT: the formats
  static const std::unordered_map<std::string_view, Variants> kTable = {
      {"rn.f16x2.f32", nearest_pairs<F16Vector>()},   {"rz.f16x2.f32", pairs<kF16, Round::kZero>()},
      {"rn.bf16x2.f32", nearest_pairs<Bf16Vector>()}, {"rz.bf16x2.f32", pairs<kBf16, Round::kZero>()},
      {"rn.e4m3x2.f32", byte_pairs<kE4m3>()},         {"rn.e5m2x2.f32", byte_pairs<kE5m2>()},
      {"rn.e4m3x2.f16x2", from_halves<kE4m3>()},      {"rn.e5m2x2.f16x2", from_halves<kE5m2>()},
      {"rn.f16x2.e4m3x2", to_halves<kE4m3>()},        {"rn.f16x2.e5m2x2", to_halves<kE5m2>()},
      {"rn.tf32.f32", tf32<Round::kNearestEven>()},   {"rz.tf32.f32", tf32<Round::kZero>()},
      {"rna.tf32.f32", tf32<Round::kNearestAway>()},
  };
  const auto it = kTable.find(name);
  return it == kTable.end() ? nullptr : &it->second;
}

// --- cvt.pack.sat: a and b as small integers in the low bits, above them c ---
struct Pack {
  int bits = 0;
  int32_t low = 0, high = 0;
  bool has_c = false;
};

void pack(Warp& w, const Instr& i) {
  const Pack& e = *static_cast<const Pack*>(i.ext);
  const int32_t *a = row<int32_t>(w, i.a), *b = row<int32_t>(w, i.b);
  const uint32_t* c = row<uint32_t>(w, e.has_c ? i.c : i.a);
  const uint32_t ones = (1u << e.bits) - 1;
  each_lane(active(w, i), row<uint32_t>(w, i.d), [&](int l) {
    const uint32_t high = static_cast<uint32_t>(std::clamp(a[l], e.low, e.high)) & ones;
    const uint32_t low = static_cast<uint32_t>(std::clamp(b[l], e.low, e.high)) & ones;
    const uint32_t pair = high << e.bits | low;
    return e.has_c ? c[l] << (2 * e.bits) | pair : pair;
  });
}

// cvt.pack.sat.<to>.s32{.b32} d, a, b{, c}
bool decode_pack(Decoder& d, const ptx::Instruction& in) {
  if (in.parts.size() < 5 || in.parts[2] != "sat" || in.parts[4] != "s32") return false;
  const std::string_view to = in.parts[3];
  Pack e;
  e.bits = to.substr(1) == "16" ? 16 : to.size() == 2 ? to[1] - '0' : 0;
  e.has_c = e.bits < 16;
  if ((e.bits != 2 && e.bits != 4 && e.bits != 8 && e.bits != 16) ||
      in.operands.size() != (e.has_c ? 4u : 3u))
    return false;
  const bool is_signed = to[0] == 's';
  e.high = (1 << (is_signed ? e.bits - 1 : e.bits)) - 1;
  e.low = is_signed ? -e.high - 1 : 0;
  Instr i;
  i.run = &pack;
  i.d = d.row(in.operands[0], Type::kB32);
  i.a = d.row(in.operands[1], Type::kS32);
  i.b = d.row(in.operands[2], Type::kS32);
  if (e.has_c) i.c = d.row(in.operands[3], Type::kB32);
  i.ext = d.program().keep(e);
  d.emit(i);
  return true;
}

}  // namespace

bool decode_packed_convert(Decoder& d, const ptx::Instruction& in) {
  if (in.has("pack")) return decode_pack(d, in);
  std::string name;
  for (size_t k = 1; k < in.parts.size(); ++k)
    if (in.parts[k] != "relu" && in.parts[k] != "satfinite")
      name.append(name.empty() ? "" : ".").append(in.parts[k]);
  const Variants* variants = find_variants(name);
  if (!variants) return false;
  const Form& form = (*variants)[in.has("relu")][in.has("satfinite")];
  if (!form.run || in.operands.size() != static_cast<size_t>(form.sources) + 1) return false;
  d.emit(instruction_of(d, in, form));
  return true;
}

}  // namespace ptxsim::alu
