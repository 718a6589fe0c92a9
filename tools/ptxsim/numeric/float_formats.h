// Conversions between f32 / f64 and the narrow formats f16, bf16, tf32, e4m3, e5m2. Values are given and
// returned as bits. Branch-free: a loop over the 32 lanes of a row becomes vector code. Sources: PTX ISA 9.0,
// cvt; OCP 8-bit floating point specification 1.0 (e4m3: no infinity, NaN is S.1111.111).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace ptxsim::numeric {

// .rn .rz .rm .rp .rna
enum class Round : uint8_t { kNearestEven, kZero, kDown, kUp, kNearestAway };

// What a value beyond the largest finite one becomes: infinity (or the largest finite one, where the rounding
// mode points inwards), or always the largest finite one (.satfinite; infinities too).
enum class Overflow : uint8_t { kInfinity, kFinite };

struct Format {
  int exponent_bits, mantissa_bits, bias;
  uint32_t max_finite, infinity,
      nan;  // positive bits; nan is the canonical one. No infinity: nan stands there.
};

inline constexpr Format kF16{5, 10, 15, 0x7bff, 0x7c00, 0x7fff};
inline constexpr Format kBf16{8, 7, 127, 0x7f7f, 0x7f80, 0x7fff};
inline constexpr Format kTf32{8, 10, 127, 0x3fbff, 0x3fc00, 0x3ffff};  // the upper 19 bits of an f32
inline constexpr Format kE4m3{4, 3, 7, 0x7e, 0x7f, 0x7f};
inline constexpr Format kE5m2{5, 2, 15, 0x7b, 0x7c, 0x7f};

inline constexpr uint32_t kCanonicalNanF32 = 0x7fffffff;
inline constexpr uint64_t kCanonicalNanF64 = 0x7ff8000000000000;

constexpr bool is_nan_f32(uint32_t bits) { return (bits & 0x7fffffff) > 0x7f800000; }

// Whether the magnitude grows by one unit: `rest` of `2 * half` is cut off behind `quotient`.
template <Round kRound>
constexpr bool rounds_up(uint32_t quotient, uint32_t rest, uint32_t half, bool negative) {
  if constexpr (kRound == Round::kNearestEven) return rest + (quotient & 1) > half;
  if constexpr (kRound == Round::kNearestAway) return rest >= half;
  if constexpr (kRound == Round::kDown) return negative & (rest != 0);
  if constexpr (kRound == Round::kUp) return !negative & (rest != 0);
  return false;
}

// f32 -> F. NaN becomes the canonical NaN of F (positive).
template <Format F, Round kRound, Overflow kOverflow>
constexpr uint32_t narrow(uint32_t bits) {
  const uint32_t magnitude = bits & 0x7fffffff;
  const bool negative = bits >> 31;
  const uint32_t implicit = magnitude > 0x7fffff ? 0x800000u : 0u;
  const uint32_t significand = (magnitude & 0x7fffff) | implicit;
  const int exponent = std::max(static_cast<int>(magnitude >> 23), 1) - 127 + F.bias;  // biased as in F

  // Subnormal results lose one more bit per step below exponent 1. 25 cut bits leave nothing, less than half
  // a unit.
  const int drop = std::min(23 - F.mantissa_bits + std::max(1 - exponent, 0), 25);
  const uint32_t quotient = significand >> drop;
  const uint32_t rest = significand & ((1u << drop) - 1);
  const uint32_t up = rounds_up<kRound>(quotient, rest, 1u << (drop - 1), negative);
  // The implicit bit of a normal quotient adds one to the exponent field, as does a carry.
  uint32_t code = (static_cast<uint32_t>(std::max(exponent, 1) - 1) << F.mantissa_bits) + quotient + up;

  bool inwards = kOverflow == Overflow::kFinite || kRound == Round::kZero;
  if constexpr (kRound == Round::kDown) inwards |= !negative;
  if constexpr (kRound == Round::kUp) inwards |= negative;
  const uint32_t beyond = inwards ? F.max_finite : F.infinity;
  code = code > F.max_finite ? beyond : code;
  if constexpr (kOverflow == Overflow::kInfinity) code = magnitude == 0x7f800000 ? F.infinity : code;
  const uint32_t signed_code =
      code | (static_cast<uint32_t>(negative) << (F.exponent_bits + F.mantissa_bits));
  return magnitude > 0x7f800000 ? F.nan : signed_code;
}

// f64 -> f32 such that narrow() of the result, in any mode, is the correctly rounded conversion of the f64:
// inexact results get an odd last bit (Boldo, Melquiond 2008: round to odd).
constexpr uint32_t round_to_odd(uint64_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits >> 63) << 31;
  const uint64_t magnitude = bits & 0x7fffffffffffffff;
  const int exponent = static_cast<int>(magnitude >> 52) - 1023 + 127;  // biased as in f32
  const uint64_t significand = (magnitude & 0xfffffffffffff) | (magnitude >> 52 ? uint64_t{1} << 52 : 0);
  const int drop = std::min(29 + std::max(1 - exponent, 0), 60);
  const uint64_t rest = significand & ((uint64_t{1} << drop) - 1);
  uint32_t code =
      (static_cast<uint32_t>(std::max(exponent, 1) - 1) << 23) + static_cast<uint32_t>(significand >> drop);
  code = exponent >= 255 ? 0x7f7fffffu : code | (rest != 0);
  code = magnitude == 0x7ff0000000000000 ? 0x7f800000u : code;
  return magnitude > 0x7ff0000000000000 ? kCanonicalNanF32 : sign | code;
}

// F -> f32, exact. NaN becomes the canonical f32 NaN, except that bf16 keeps its payload (hardware: a shift).
template <Format F>
constexpr uint32_t widen(uint32_t bits) {
  const uint32_t sign = (bits >> (F.exponent_bits + F.mantissa_bits)) << 31;
  const uint32_t magnitude = bits & ((1u << (F.exponent_bits + F.mantissa_bits)) - 1);
  if constexpr (F.exponent_bits == 8) return sign | magnitude << (23 - F.mantissa_bits);
  const uint32_t shifted = magnitude << (23 - F.mantissa_bits);
  const uint32_t normal = shifted + (static_cast<uint32_t>(127 - F.bias) << 23);
  // m * 2^(1 - bias - M) as the difference of two normal numbers: right also where the host flushes
  // subnormals.
  constexpr uint32_t kSmallest = static_cast<uint32_t>(128 - F.bias) << 23;
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(kSmallest + shifted) - std::bit_cast<float>(kSmallest));
  uint32_t code = magnitude < (1u << F.mantissa_bits) ? subnormal : normal;
  code |= sign;
  if constexpr (F.infinity != F.nan) code = magnitude == F.infinity ? sign | 0x7f800000u : code;
  const bool nan = F.infinity != F.nan ? magnitude > F.infinity : magnitude == F.nan;
  return nan ? kCanonicalNanF32 : code;
}

// f32 -> tf32 in a 32-bit register, low 13 bits zero (NaN of .rn and .rz: all ones). .rna is what the
// compiler makes of it on this architecture: half a unit added to the bits and the rest cut, NaN payloads cut
// as they are.
template <Round kRound, Overflow kOverflow>
constexpr uint32_t to_tf32(uint32_t bits) {
  if constexpr (kRound == Round::kNearestAway) {
    const bool finite = (bits & 0x7fffffff) < 0x7f800000;
    const uint32_t rounded = (bits + (finite ? 0x1000u : 0u)) & 0xffffe000;
    const bool beyond = kOverflow == Overflow::kFinite && (rounded & 0x7fffffff) >= 0x7f800000;
    return beyond ? rounded - 0x2000 : rounded;
  }
  const uint32_t code = narrow<kTf32, kRound, kOverflow>(bits) << 13;
  return is_nan_f32(bits) ? kCanonicalNanF32 : code;
}

// .relu on an f32 about to be converted: negative values and -0 become +0; NaN stays NaN.
constexpr uint32_t relu_f32(uint32_t bits) { return bits >> 31 && !is_nan_f32(bits) ? 0u : bits; }

constexpr uint16_t f32_to_f16(float x) {
  return static_cast<uint16_t>(
      narrow<kF16, Round::kNearestEven, Overflow::kInfinity>(std::bit_cast<uint32_t>(x)));
}
constexpr uint16_t f32_to_bf16(float x) {
  return static_cast<uint16_t>(
      narrow<kBf16, Round::kNearestEven, Overflow::kInfinity>(std::bit_cast<uint32_t>(x)));
}
constexpr float f16_to_f32(uint16_t bits) { return std::bit_cast<float>(widen<kF16>(bits)); }
constexpr float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(widen<kBf16>(bits)); }
constexpr float e4m3_to_f32(uint8_t bits) { return std::bit_cast<float>(widen<kE4m3>(bits)); }
constexpr float e5m2_to_f32(uint8_t bits) { return std::bit_cast<float>(widen<kE5m2>(bits)); }

// Exact; NaN becomes 0x7fff.
template <Format F>
constexpr uint16_t fp8_to_f16(uint8_t bits) {
  return static_cast<uint16_t>(narrow<kF16, Round::kNearestEven, Overflow::kInfinity>(widen<F>(bits)));
}

}  // namespace ptxsim::numeric
