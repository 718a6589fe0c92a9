// Softmax statistics over slices of the vocabulary: one code for the head and for the sampler, so that their
// log-probs are equal to the bit. z = logit * inv_temperature. Sums run over the 16 lanes of lanes.h, slices
// are combined in the fixed binary tree.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/lanes.h"
#include "cpu/vec_math.h"
#include "ops/head.h"

namespace contender::cpu {

// z of logits[0, 16), those from n on so low that exp(z - max) is exactly 0 and stays out of the sums.
HWY_INLINE Lanes scaled_lanes(const float* logits, int64_t n, float inv_temperature, float max) {
  const Lanes scale = lanes_set(inv_temperature);
  if (n >= kLanes) return lanes_mul(lanes_load(logits), scale);
  float z[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) z[i] = i < n ? logits[i] * inv_temperature : max - 1000.0f;
  return lanes_load(z);
}

inline float max_scaled(const float* logits, int64_t n, float inv_temperature) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  Lanes max = lanes_set(kLowest);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Lanes z = scaled_lanes(logits + i, n - i, inv_temperature, kLowest);
    max = lanes_map([&](int r) { return hn::Max(max.reg[r], z.reg[r]); });
  }
  float lane[kLanes];
  for (int r = 0; r < kLaneRegs; ++r) hn::StoreU(max.reg[r], LaneTag(), lane + r * kRegLanes);
  return *std::max_element(lane, lane + kLanes);
}

// Statistics of one slice of n >= 1 logits; `target` is the index of the target in it, or -1.
inline HeadPartial slice_partial(const float* logits, int64_t n, float inv_temperature, int64_t target) {
  const float max = max_scaled(logits, n, inv_temperature);
  const Lanes max_lanes = lanes_set(max);
  Lanes sum = lanes_set(0.0f), sum_z = lanes_set(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Lanes z = scaled_lanes(logits + i, n - i, inv_temperature, max);
    const Lanes e = lanes_map([&](int r) { return vec_exp(LaneTag(), hn::Sub(z.reg[r], max_lanes.reg[r])); });
    sum = lanes_add(sum, e);
    sum_z = lanes_fma(e, z, sum_z);
  }
  return {.max = max,
          .sum_exp = lanes_sum(sum),
          .sum_exp_z = lanes_sum(sum_z),
          .target_z = target >= 0 ? logits[target] * inv_temperature : 0.0f};
}

inline HeadPartial combine_partials(const HeadPartial& a, const HeadPartial& b) {
  const float max = std::max(a.max, b.max);
  const float scale_a = scalar_exp(a.max - max), scale_b = scalar_exp(b.max - max);
  return {.max = max,
          .sum_exp = std::fma(a.sum_exp, scale_a, b.sum_exp * scale_b),
          .sum_exp_z = std::fma(a.sum_exp_z, scale_a, b.sum_exp_z * scale_b),
          .target_z = a.target_z + b.target_z};
}

// The binary tree over slices [0, n), n a power of two.
inline HeadPartial combine_slices(const HeadPartial* partials, int32_t n) {
  if (n == 1) return partials[0];
  return combine_partials(combine_slices(partials, n / 2), combine_slices(partials + n / 2, n / 2));
}

inline HeadStats finish_row(const HeadPartial* partials, int32_t slices) {
  const HeadPartial p = combine_slices(partials, slices);
  const float lse = p.max + std::log(p.sum_exp);
  return {.lse = lse, .logp = p.target_z - lse, .entropy = lse - p.sum_exp_z / p.sum_exp};
}

}  // namespace contender::cpu
