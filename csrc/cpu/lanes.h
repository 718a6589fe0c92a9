// Sixteen float lanes, whatever the register width: one AVX-512 register, two of AVX2, four of SSE or NEON.
//
// A reduction along a row puts column c into lane c % 16, columns ascending, and ends with one fixed tree
// over the lanes (i + (i + 8), then 4, 2, 1). So its bits depend on the row alone: not on alignment, row
// count or machine.
#pragma once

#include <cstdint>

#include "cpu/highway.h"

namespace contender::cpu {

inline constexpr int64_t kLanes = 16;
using LaneTag = hn::CappedTag<float, kLanes>;
inline constexpr int kLaneRegs = static_cast<int>(kLanes) / static_cast<int>(hn::MaxLanes(LaneTag()));

struct Lanes {
  hn::Vec<LaneTag> reg[kLaneRegs];
};

template <class F>
HWY_INLINE Lanes lanes_map(const F& f) {
  Lanes r;
  for (int i = 0; i < kLaneRegs; ++i) r.reg[i] = f(i);
  return r;
}
inline constexpr int64_t kRegLanes = kLanes / kLaneRegs;

HWY_INLINE Lanes lanes_set(float v) {
  return lanes_map([&](int) { return hn::Set(LaneTag(), v); });
}
HWY_INLINE Lanes lanes_load(const float* p) {
  return lanes_map([&](int i) { return hn::LoadU(LaneTag(), p + i * kRegLanes); });
}
// The first n lanes from memory, the others 0; nothing past p[n) is read.
HWY_INLINE Lanes lanes_load_n(const float* p, int64_t n) {
  if (n >= kLanes) return lanes_load(p);
  float tail[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) tail[i] = p[i];
  return lanes_load(tail);
}
HWY_INLINE Lanes lanes_fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  return lanes_map([&](int i) { return hn::MulAdd(a.reg[i], b.reg[i], c.reg[i]); });
}
HWY_INLINE Lanes lanes_add(const Lanes& a, const Lanes& b) {
  return lanes_map([&](int i) { return hn::Add(a.reg[i], b.reg[i]); });
}
HWY_INLINE Lanes lanes_mul(const Lanes& a, const Lanes& b) {
  return lanes_map([&](int i) { return hn::Mul(a.reg[i], b.reg[i]); });
}

template <class D>
HWY_INLINE float register_sum(D d, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(d) == 1) {
    return hn::GetLane(v);
  } else {
    const hn::Half<D> half;
    return register_sum(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}
HWY_INLINE float lanes_sum(Lanes a) {
  for (int n = kLaneRegs / 2; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) a.reg[i] = hn::Add(a.reg[i], a.reg[i + n]);
  }
  return register_sum(LaneTag(), a.reg[0]);
}

// Sum of a row, in lanes.
inline float row_sum(const float* a, int64_t n) {
  Lanes sum = lanes_set(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) sum = lanes_add(sum, lanes_load_n(a + i, n - i));
  return lanes_sum(sum);
}

// Sum of a[i] * b[i] over a row, in lanes.
inline float row_dot(const float* a, const float* b, int64_t n) {
  Lanes sum = lanes_set(0.0f);
  for (int64_t i = 0; i < n; i += kLanes)
    sum = lanes_fma(lanes_load_n(a + i, n - i), lanes_load_n(b + i, n - i), sum);
  return lanes_sum(sum);
}

}  // namespace contender::cpu
