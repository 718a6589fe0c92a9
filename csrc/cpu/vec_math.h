// Elementary functions of the CPU backend, in vectors (Highway, static dispatch) and in scalars, with the
// same bits.
//
// Every operation is IEEE-exact and every multiply-add is fused and written out, so a lane's result depends
// on its argument alone: not on the vector width, the neighbours, the compiler or the C library.
// Include from .cpp files and private headers of cpu/ only.
#pragma once

#include <cstdint>

#include "cpu/highway.h"

namespace contender::cpu {

// Lanes of one full vector: 16 (AVX-512) or 8 (AVX2).
using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;
inline constexpr int64_t kFloatLanes = HWY_LANES(float);

// exp(x), within 1.1 ulp over the whole range, subnormal results included; exp(0) = 1, exp(-inf) = 0,
// exp(NaN) = NaN. x = n ln2 + r, exp(x) = 2^n (1 + r + r^2 q(r)); q is the minimax polynomial of degree 5 on
// |r| <= ln2 / 2.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V vec_exp(D d, V x) {
  const hn::RebindToSigned<D> di;
  // Beyond these, the result is 0 or infinity already; a NaN passes both comparisons unchanged.
  x = hn::IfThenElse(hn::Gt(x, hn::Set(d, 89.0f)), hn::Set(d, 89.0f), x);
  x = hn::IfThenElse(hn::Lt(x, hn::Set(d, -105.0f)), hn::Set(d, -105.0f), x);

  // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits of the sum.
  const V shift = hn::Set(d, 0x1.8p23f);
  const V shifted = hn::MulAdd(x, hn::Set(d, 0x1.715476p0f), shift);
  const V n = hn::Sub(shifted, shift);
  V r = hn::NegMulAdd(n, hn::Set(d, 0x1.62e4p-1f), x);   // ln2, upper 15 bits: the product is exact
  r = hn::NegMulAdd(n, hn::Set(d, 0x1.7f7d1cp-20f), r);  // ln2, the rest

  V q = hn::Set(d, 0x1.9f077ap-13f);
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.6d8e6ep-10f));
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.111274p-7f));
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.55548cp-5f));
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.555554p-3f));
  q = hn::MulAdd(q, r, hn::Set(d, 0x1p-1f));
  const V p = hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), hn::Set(d, 1.0f));

  // 2^n in two factors, so that subnormal results are rounded once and overflow is infinity.
  const auto k = hn::Sub(hn::BitCast(di, shifted), hn::Set(di, 0x4B400000));
  const auto k1 = hn::ShiftRight<1>(k);
  const auto bias = hn::Set(di, 127);
  const V s1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(k1, bias)));
  const V s2 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(k, k1), bias)));
  return hn::Mul(hn::Mul(p, s1), s2);
}

// 1 / (1 + exp(-x)).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V vec_sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, vec_exp(d, hn::Neg(x))));
}

// The same bits for one value.
inline float scalar_exp(float x) {
  const hn::CappedTag<float, 1> d;
  return hn::GetLane(vec_exp(d, hn::Set(d, x)));
}
inline float scalar_sigmoid(float x) {
  const hn::CappedTag<float, 1> d;
  return hn::GetLane(vec_sigmoid(d, hn::Set(d, x)));
}

}  // namespace contender::cpu
