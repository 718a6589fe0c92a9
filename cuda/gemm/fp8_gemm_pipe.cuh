// What the FP8 products share: the ring of stages that a producer warp fills by TMA, the products of a block
// of 128, and its promotion into FP32 registers.
#pragma once

#include "cuda/common/e4m3.cuh"
#include "cuda/common/tma.cuh"
#include "cuda/common/wgmma.cuh"
#include "cuda/gemm/fp8_gemm.h"

namespace contender::cuda {

inline constexpr int kRowBytes = 128;  // of k: a block of 128 codes, the width of the swizzle
inline constexpr int kWarpgroup = 128;
inline constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

// Position in a ring: a stage, and the parity of its current round.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

// part = a b^T over one block of 128: operands K-major under the 128-byte swizzle, a 64 rows, b kN rows.
// Started, not awaited.
template <int kN>
__device__ __forceinline__ void block_product(float (&part)[kN / 2], uint64_t a, uint64_t b) {
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < 4; ++step)
    wgmma_e4m3<kN>(part, a + step * kWgmmaStep<Layout::kKMajor>, b + step * kWgmmaStep<Layout::kKMajor>,
                   step != 0);
  wgmma_commit();
}

// Scales of consecutive blocks, read four at a time, four ahead of their use.
class ScaleStream {
 public:
  // `row`: the scales of a row, or null: all zero. `vector`: four of them are one aligned load.
  __device__ ScaleStream(const float* row, int blocks, bool vector)
      : row_(row), blocks_(blocks), vector_(vector) {
    current_ = load(0);
    next_ = load(4);
  }
  // Of block b; to be asked for each, in order.
  __device__ float take() {
    const float s = current_.x;
    current_.x = current_.y;
    current_.y = current_.z;
    current_.z = current_.w;
    return s;
  }
  // Before block b, a multiple of 4, other than the first.
  __device__ void refill(int b) {
    current_ = next_;
    next_ = load(b + 4);
  }

 private:
  __device__ float4 load(int b) const {
    float4 v = make_float4(0, 0, 0, 0);
    if (row_ == nullptr) return v;
    if (vector_ && b + 4 <= blocks_) return __ldg(reinterpret_cast<const float4*>(row_ + b));
    if (b < blocks_) v.x = __ldg(row_ + b);
    if (b + 1 < blocks_) v.y = __ldg(row_ + b + 1);
    if (b + 2 < blocks_) v.z = __ldg(row_ + b + 2);
    if (b + 3 < blocks_) v.w = __ldg(row_ + b + 3);
    return v;
  }

  const float* row_;
  int blocks_;
  bool vector_;
  float4 current_, next_;
};

}  // namespace contender::cuda
