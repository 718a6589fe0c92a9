// What the FP8 products share: places in the ring of stages, the product of a block of 128, scales on their
// way into registers; launches.
#pragma once

#include "cuda/common/dispatch.h"
#include "cuda/common/tensor_map.h"
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

// --- blocks of a cluster that multiply the same rows ---

// kRows rows of codes into this block and, where there are others in the cluster, into theirs: each block
// fetches its share for all.
template <int kCluster, int kRows>
__device__ __forceinline__ void load_shared_rows(uint8_t* to, const CUtensorMap* map, Mbarrier* full, int x,
                                                 int row) {
  if constexpr (kCluster == 1) {
    tma_load_2d(to, map, full, x, row);
  } else {
    constexpr int kShare = kRows / kCluster;
    const int first = static_cast<int>(blockIdx.x) % kCluster * kShare;
    tma_load_2d_multicast(to + first * kRowBytes, map, full, x, row + first, (1 << kCluster) - 1);
  }
}
// A warp has read its stage, which may be filled again: by its own block, and with shared rows by the others.
template <int kCluster>
__device__ __forceinline__ void release(Mbarrier* empty) {
  if constexpr (kCluster == 1) {
    mbarrier_arrive(empty);
  } else {
#pragma unroll
    for (uint32_t rank = 0; rank < kCluster; ++rank) mbarrier_arrive_cluster(empty, rank);
  }
}
// All threads of the block, or of the cluster.
template <int kCluster>
__device__ __forceinline__ void sync_all() {
  if constexpr (kCluster == 1) {
    __syncthreads();
  } else {
    __syncwarp();
    cluster_arrive();
    cluster_wait();
  }
}

// --- products and scales ---

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

// Scales of consecutive blocks, read four at a time, four ahead of their use. By plain loads: the kernel that
// wrote them may have run beside this one's prologue.
class ScaleStream {
 public:
  ScaleStream() = default;
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
    if (vector_ && b + 4 <= blocks_) return *reinterpret_cast<const float4*>(row_ + b);
    if (b < blocks_) v.x = row_[b];
    if (b + 1 < blocks_) v.y = row_[b + 1];
    if (b + 2 < blocks_) v.z = row_[b + 2];
    if (b + 3 < blocks_) v.w = row_[b + 3];
    return v;
  }

  const float* row_ = nullptr;
  int blocks_ = 0;
  bool vector_ = false;
  float4 current_ = {}, next_ = {};
};

// --- launchers ---

// On a GPU the kernel's prologue runs beside the end of the one before (it waits by griddepcontrol_wait).
template <class Params>
void launch_dependent(void (*kernel)(Params), const Params& params, int64_t blocks, int cluster, int threads,
                      size_t shared_bytes, cudaStream_t stream) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = static_cast<unsigned>(narrow<int32_t>(blocks));
  config.blockDim = static_cast<unsigned>(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 2 : 1;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, params));
}

// Boxes of 128 codes of `box_rows` rows.
inline CUtensorMap code_map(const Tensor& t, int box_rows) {
  return make_tensor_map_2d({.base = t.data,
                             .type = CU_TENSOR_MAP_DATA_TYPE_UINT8,
                             .element_bytes = 1,
                             .cols = t.cols,
                             .rows = t.rows,
                             .row_stride = t.ld,
                             .box_cols = kRowBytes,
                             .box_rows = box_rows});
}

// TMA, and stores of 16 bytes: rows begin at multiples of them.
inline void check_aligned(const Tensor& t, const char* name) {
  CHECK(
      reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && (t.rows <= 1 || t.ld * dtype_size(t.dtype) % 16 == 0),
      "{} at {}, rows of {} {} apart: not at multiples of 16 bytes", name, t.data, dtype_name(t.dtype), t.ld);
}

}  // namespace contender::cuda
