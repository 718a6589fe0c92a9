// What the head's forward and backward pass share: rows of a tile of logits as a thread holds them, and the
// checks of their operands.
#pragma once

#include <bit>

#include "cuda/linear/linear_tile.cuh"
#include "ops/head.h"

namespace contender::cuda {

// f(i, half, row) for the rows of the tile of which this thread holds columns: in acc.v[i][j][2 * half + c]
// that of column thread_col(j) + c.
template <class S, class F>
__device__ inline void for_each_row(const F& f) {
#pragma unroll
  for (int i = 0; i < S::kMmaM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) f(i, half, warp_row<S>() + 16 * i + 8 * half + threadIdx.x % 32 / 4);
  }
}
template <class S>
__device__ inline int thread_col(int j) {
  return warp_col<S>() + 8 * j + threadIdx.x % 4 * 2;
}

// Place of an id among `cols` ids from `begin` on, or -1.
__device__ inline int column_of(int32_t id, int64_t begin, int cols) {
  return begin <= id && id < begin + cols ? static_cast<int>(id - begin) : -1;
}

inline void check_head(const Tensor& h, const WeightView& w, int32_t slices) {
  CHECK(h.dtype == DType::kBF16, "the head reads BF16 rows on CUDA, not {}", dtype_name(h.dtype));
  CHECK(w.format.dtype == kCudaWeights.dtype && w.format.panel == kCudaWeights.panel,
        "the weight is packed as {} in panels of {} columns; products on CUDA read rows of BF16",
        dtype_name(w.format.dtype), w.format.panel);
  CHECK(h.cols == w.k, "h {} x {} w {} x {}", h.rows, h.cols, w.n, w.k);
  CHECK(w.n > 0 && slices >= 1 && std::has_single_bit(static_cast<uint32_t>(slices)) && w.n % slices == 0,
        "V {} slices {}", w.n, slices);
}

}  // namespace contender::cuda
