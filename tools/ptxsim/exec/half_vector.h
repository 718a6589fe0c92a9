// Vectors of f16 and bf16 as vectors of f32: widened exactly, narrowed to nearest even. NaN keeps its sign
// when widened and becomes the canonical one when narrowed.
#pragma once

#include <cstdint>

#include "exec/alu.h"
#include "numeric/float_formats.h"

namespace ptxsim::alu {

using F32 = hn::Vec<hn::ScalableTag<float>>;
using U32 = hn::Vec<hn::ScalableTag<uint32_t>>;
inline constexpr auto kF32 = kTag<float>;
inline constexpr auto kU32 = kTag<uint32_t>;

inline U32 bits_of(F32 v) { return hn::BitCast(kU32, v); }
inline F32 from_bits(U32 v) { return hn::BitCast(kF32, v); }
inline F32 canonical(F32 v) {
  return hn::IfThenElse(hn::Eq(v, v), v, from_bits(hn::Set(kU32, numeric::kCanonicalNanF32)));
}
// One unit away from zero or towards it: -1 where `down` has its sign bit set, +1 where not.
inline U32 unit_towards(U32 down) {
  constexpr hn::RebindToSigned<decltype(kU32)> kI32;
  const auto signs = hn::ShiftRight<31>(hn::BitCast(kI32, down));
  return hn::BitCast(kU32, hn::Or(signs, hn::Set(kI32, 1)));
}

// s + e, e the error of s (less than half a unit), rounded to odd: the neighbours of the exact sum are s and
// the value one unit towards e; of them the one with the odd last bit stands for every inexact sum, so that a
// later rounding to at least two bits less is that of the exact sum (Boldo, Melquiond 2008). NaN and
// infinities stay.
inline F32 round_to_odd(F32 s, F32 e) {
  const F32 zero = hn::Zero(kF32);
  const auto inexact = hn::Or(hn::Lt(e, zero), hn::Gt(e, zero));
  const U32 bits = bits_of(s);
  const auto even = from_bits(hn::And(bits, hn::Set(kU32, 1)));
  const F32 moved = from_bits(hn::Add(bits, unit_towards(hn::Xor(bits, bits_of(e)))));
  const auto is_even = hn::Eq(bits_of(even), hn::Zero(kU32));
  return hn::IfThenElse(hn::And(inexact, hn::RebindMask(kF32, is_even)), moved, s);
}
// The exact error of s = p + c.
inline F32 sum_error(F32 p, F32 c, F32 s) {
  const F32 b = hn::Sub(s, p);
  return hn::Add(hn::Sub(p, hn::Sub(s, b)), hn::Sub(c, b));
}

struct F16Vector {
  static constexpr bool kHasFtz = true;
  static constexpr numeric::Format kFormat = numeric::kF16;
  static F32 widen(const uint16_t* p) {
    constexpr hn::Rebind<hwy::float16_t, decltype(kF32)> kHalf;
    return hn::PromoteTo(kF32, hn::LoadU(kHalf, reinterpret_cast<const hwy::float16_t*>(p)));
  }
  static void narrow(F32 v, uint16_t* p) {
    constexpr hn::Rebind<hwy::float16_t, decltype(kF32)> kHalf;
    hn::StoreU(hn::DemoteTo(kHalf, canonical(v)), kHalf, reinterpret_cast<hwy::float16_t*>(p));
  }
  // In the lower halves of words.
  static U32 narrowed(F32 v) {
    constexpr hn::Rebind<hwy::float16_t, decltype(kF32)> kHalf;
    constexpr hn::Rebind<uint16_t, decltype(kF32)> kBits;
    return hn::PromoteTo(kU32, hn::BitCast(kBits, hn::DemoteTo(kHalf, canonical(v))));
  }
  // The product has 22 bits and an exponent of at least -48: exact in f32. The sum is rounded to odd, then to
  // 11 bits.
  static F32 fma(F32 a, F32 b, F32 c) {
    const F32 p = hn::Mul(a, b), s = hn::Add(p, c);
    return round_to_odd(s, sum_error(p, c, s));
  }
};

struct Bf16Vector {
  static constexpr bool kHasFtz = false;
  static constexpr numeric::Format kFormat = numeric::kBf16;
  static constexpr hn::Rebind<uint16_t, decltype(kF32)> kHalf{};
  static F32 widen(const uint16_t* p) {
    return from_bits(hn::ShiftLeft<16>(hn::PromoteTo(kU32, hn::LoadU(kHalf, p))));
  }
  static void narrow(F32 v, uint16_t* p) {
    constexpr hn::RebindToSigned<decltype(kU32)> kI32;
    hn::StoreU(hn::DemoteTo(kHalf, hn::BitCast(kI32, narrowed(v))), kHalf, p);
  }
  static U32 narrowed(F32 v) {
    const U32 bits = bits_of(v);
    const U32 last = hn::And(hn::ShiftRight<16>(bits), hn::Set(kU32, 1));
    const U32 rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(kU32, 0x7fff)), last));
    return hn::IfThenElse(hn::RebindMask(kU32, hn::Eq(v, v)), rounded, hn::Set(kU32, numeric::kBf16.nan));
  }
  // The product has 16 bits: exact in f32 unless it leaves its range, which fma_exactly() is for.
  static F32 fma(F32 a, F32 b, F32 c) {
    const F32 p = hn::Mul(a, b), s = hn::Add(p, c);
    const F32 r = round_to_odd(s, sum_error(p, c, s));
    // Out of range: an infinite product of finite factors, a tiny one of factors other than zero.
    const F32 infinity = hn::Set(kF32, std::numeric_limits<float>::infinity()), magnitude = hn::Abs(p);
    const auto large =
        hn::And(hn::Eq(magnitude, infinity), hn::Lt(hn::Max(hn::Abs(a), hn::Abs(b)), infinity));
    const auto tiny = hn::And(hn::Le(magnitude, hn::Set(kF32, 0x1p-134f)),
                              hn::Gt(hn::Min(hn::Abs(a), hn::Abs(b)), hn::Zero(kF32)));
    if (hn::AllFalse(kF32, hn::Or(large, tiny))) [[likely]]
      return r;
    return fma_exactly(a, b, c);
  }
  // Lane by lane in double, where the product is exact whatever its exponent.
  [[gnu::noinline]] static F32 fma_exactly(F32 a, F32 b, F32 c) {
    constexpr int kLanes = kVector<float>;
    alignas(64) float x[kLanes], y[kLanes], z[kLanes];
    hn::Store(a, kF32, x);
    hn::Store(b, kF32, y);
    hn::Store(c, kF32, z);
    for (int l = 0; l < kLanes; ++l) {
      const double p = double{x[l]} * y[l], s = p + z[l];
      const double t = s - p, e = (p - (s - t)) + (z[l] - t);
      uint64_t bits = std::bit_cast<uint64_t>(s);
      if ((e < 0 || e > 0) && bits % 2 == 0) bits += (e > 0) == (s > 0) ? 1 : -1;  // to odd
      x[l] = std::bit_cast<float>(numeric::round_to_odd(bits));
    }
    return hn::Load(kF32, x);
  }
};

}  // namespace ptxsim::alu
