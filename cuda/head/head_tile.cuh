// What the head's forward and backward pass share: the product of rows with the vocabulary's slices on wgmma,
// whose tiles of logits stay in registers, and the checks of its operands.
#pragma once

#include <bit>

#include "cuda/common/grid.h"
#include "cuda/common/tensor_map.h"
#include "cuda/gemm/bf16_gemm_device.cuh"
#include "ops/head.h"

namespace contender::cuda {

// 256 x 256 logits of two blocks, which fetch the tile of the weight once. A thread has, of rows head_row()
// and 8 below, columns 8 j + head_col() + {0, 1} in acc[4 j + 2 half + {0, 1}].
inline constexpr TileShape kHeadShape = {.side = Side::kRows,
                                         .consumers = 2,
                                         .wgmma_n = 256,
                                         .stages = 4,
                                         .cluster = 2,
                                         .levels = 0,
                                         .turns = Turns::kTogether};
using HeadTile = Tile<kHeadShape>;
using HeadRing = Ring<HeadTile::kStages>;

// The first row of a warpgroup in the tile, and of a thread.
__device__ inline int head_group_row(int warpgroup) {
  return static_cast<int>(cluster_rank()) * HeadTile::kP + warpgroup * 64;
}
__device__ inline int head_row(int warpgroup) {
  return head_group_row(warpgroup) + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
}
__device__ inline int head_col() { return threadIdx.x % 4 * 2; }

// Place of an id among `cols` ids from `begin` on, or -1.
__device__ inline int column_of(int32_t id, int64_t begin, int cols) {
  return begin <= id && id < begin + cols ? static_cast<int>(id - begin) : -1;
}

inline int64_t head_units(int64_t m, int64_t n, int64_t layers) {
  return ceil_div(m, kHeadShape.tile_m()) * ceil_div(n, kHeadShape.tile_n()) * layers;
}

// Logits of all rows of h and `slices` times `width` rows of w, one behind the other.
inline GemmParams logits_product(const Tensor& h, const void* w, int64_t width, int64_t slices) {
  GemmParams g;
  g.x = make_tensor_map_3d({.base = h.data,
                            .cols = h.cols,
                            .rows = h.rows,
                            .row_stride = h.ld,
                            .box_cols = kGemmDepth,
                            .box_rows = HeadTile::kP});
  g.w = make_tensor_map_3d({.base = w,
                            .cols = h.cols,
                            .rows = width,
                            .layers = slices,
                            .row_stride = h.cols,
                            .layer_stride = width * h.cols,
                            .box_cols = kGemmDepth,
                            .box_rows = HeadTile::kQ / HeadTile::kCluster});
  g.out.n = narrow<int>(width);
  g.stall = stall_record();
  g.m = narrow<int>(h.rows);
  g.layers = narrow<int>(slices);
  g.k_blocks = narrow<int>(ceil_div(h.cols, kGemmDepth));
  g.band = raster_band(kHeadShape, sm_count());
  g.one_x = true;
  return g;
}

inline void check_head(const Tensor& h, const WeightView& w, int32_t slices) {
  CHECK(h.dtype == DType::kBF16, "the head reads BF16 rows on CUDA, not {}", dtype_name(h.dtype));
  CHECK(w.format.dtype == kCudaWeights.dtype && w.format.panel == kCudaWeights.panel,
        "the weight is packed as {} in panels of {} columns; products on CUDA read rows of BF16",
        dtype_name(w.format.dtype), w.format.panel);
  CHECK(h.cols == w.k, "h {} x {} w {} x {}", h.rows, h.cols, w.n, w.k);
  CHECK(w.n > 0 && slices >= 1 && std::has_single_bit(static_cast<uint32_t>(slices)) && w.n % slices == 0,
        "V {} slices {}", w.n, slices);
  CHECK(w.forward != nullptr, "the forward form is not packed");
  if (h.cols % 8 != 0)
    fail(ExitCode::kConfig, "a head of hidden_size {}: CUDA needs a multiple of 8", h.cols);
  CHECK(aligned16(h.data) && h.ld % 8 == 0 && aligned16(w.forward),
        "h at {}, rows {} apart, w at {}: not in pieces of 16 bytes", h.data, h.ld, w.forward);
}

}  // namespace contender::cuda
