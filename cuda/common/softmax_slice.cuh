// Softmax statistics over slices of the vocabulary, in the order that the sampler and the head share, so that
// their log-probs are equal to the bit. z = logit * inv_temperature, rounded.
//
// A slice is cut into blocks of 128 columns (the last may be short). Inside a block, exp(z - max of the
// block) is summed in a tree: neighbours 2p and 2p + 1 first; then, of the 16 octets of columns, pairs in the
// same place (octets 0 and 1, 2 and 3, ..., then pairs of those, ...); then the 4 places of an octet. That is
// a local tree for whoever holds columns 8 j + 2 q + {0, 1} of a row, as mma accumulators lie, with two
// shuffles at its end; and shuffles alone for a warp that reads a row in pieces of 16 bytes. Columns that do
// not exist count as 0. Blocks, then slices, are combined in the tree ((0+1)+(2+3))+..., where a missing
// right side leaves the left as it is.
#pragma once

#include <cuda_runtime.h>

#include "cuda/common/exp.cuh"
#include "cuda/common/vec.cuh"

namespace contender::cuda {

inline constexpr int kSoftmaxBlock = 128;

struct SoftmaxPartial {
  float max;
  float sum;  // of exp(z - max)
};

// What brings the sums of two sides to their common maximum. A side without columns, or with none above -inf,
// has maximum -inf and sum 0, and changes nothing.
struct CommonMax {
  float max, scale_a, scale_b;
};
__device__ inline CommonMax common_max(float a, float b) {
  const float max = fmaxf(a, b);
  return {max, a == max ? 1.0f : exp_below_one(__fsub_rn(a, max)),
          b == max ? 1.0f : exp_below_one(__fsub_rn(b, max))};
}
__device__ inline float combine_sums(const CommonMax& c, float a, float b) {
  return fmaf(a, c.scale_a, __fmul_rn(b, c.scale_b));
}
__device__ inline SoftmaxPartial combine_partials(const SoftmaxPartial& a, const SoftmaxPartial& b) {
  const CommonMax c = common_max(a.max, b.max);
  return {c.max, combine_sums(c, a.sum, b.sum)};
}

__device__ inline float log_sum_exp(const SoftmaxPartial& p) { return __fadd_rn(p.max, logf(p.sum)); }

// What exp(z - max) counts from in a block.
__device__ inline float softmax_base(float max) { return max == -INFINITY ? 0.0f : max; }

// One block, a warp together: lane l holds z of columns 4 l .. 4 l + 3, of which the first `count` exist. A
// NaN or +inf makes the sum a NaN.
__device__ inline SoftmaxPartial warp_softmax_partial(const Vec<float>& z, int count) {
  float max = -INFINITY;
  bool bad = false;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (k >= count) continue;
    max = fmaxf(max, z.v[k]);
    bad |= !(z.v[k] < INFINITY);
  }
  max = warp_reduce_max(max);
  const float base = softmax_base(max);
  float e[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) e[k] = k < count ? exp_below_one(__fsub_rn(z.v[k], base)) : 0.0f;
  if (bad) e[0] = NAN;
  float even = __fadd_rn(e[0], e[1]), odd = __fadd_rn(e[2], e[3]);  // places 0 and 1, or 2 and 3, of an octet
#pragma unroll
  for (int o = 2; o <= 16; o *= 2) {
    even = __fadd_rn(even, __shfl_xor_sync(0xFFFFFFFFu, even, o));
    odd = __fadd_rn(odd, __shfl_xor_sync(0xFFFFFFFFu, odd, o));
  }
  const float half = __fadd_rn(even, odd);
  return {max, __fadd_rn(half, __shfl_xor_sync(0xFFFFFFFFu, half, 1))};
}

// A node of the tree over octets.
__device__ inline float sum_of_four(float a, float b, float c, float d) {
  return __fadd_rn(__fadd_rn(a, b), __fadd_rn(c, d));
}

}  // namespace contender::cuda
