// A square of 128 x 128 weights of one group in shared memory, and the forms that products read, written from
// it: BF16 and FP8, as it lies and transposed.
#pragma once

#include "cuda/common/e4m3.cuh"
#include "ops/optimizer.h"

namespace contender::cuda {

inline constexpr int kWeightSide = kQuantizeBlock;
inline constexpr int kWeightThreads = 256;
inline constexpr int kWeightWarps = kWeightThreads / 32;
inline constexpr int kWeightRows = kWeightSide / kWeightWarps;  // of a warp: one from each kWeightWarps
static_assert(kWeightSide == 32 * 4, "a warp has a row of the square, a lane four columns");

struct WeightTile {
  float4 quads[kWeightSide * 32];
  float warp_max[kWeightWarps];
};

// Elements from group to group of the BF16 forms.
struct WeightStrides {
  int64_t forward = 0, backward = 0;
};
inline WeightStrides weight_strides(const WeightCopies& c) {
  return {.forward = packed_forward_bytes(c.n, c.k, kCudaWeights) / dtype_size(DType::kBF16),
          .backward = packed_backward_bytes(c.n, c.k, kCudaWeights) / dtype_size(DType::kBF16)};
}

// Whether all forms can be written in whole pieces.
inline bool copies_in_pieces(const WeightCopies& c) {
  const auto aligned = [](const void* p, uintptr_t bytes) {
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
  };
  return c.k % 4 == 0 && aligned(c.forward, 8) &&
         (!c.backward || (aligned(c.backward, 16) && c.n % 8 == 0)) && in_pieces(c.q.data, 4) &&
         in_pieces(c.transposed.data);
}

inline unsigned weight_tiles(const WeightCopies& c) {
  return static_cast<unsigned>(
      narrow<int32_t>(c.num_groups * ceil_div(c.n, kWeightSide) * ceil_div(c.k, kWeightSide)));
}

struct WeightPlace {
  int group, row_block, col_block;
  int row0, col0;  // in the group
  int n, k;
};
__device__ inline WeightPlace weight_place(const WeightCopies& c) {
  const int n = static_cast<int>(c.n), k = static_cast<int>(c.k);
  const unsigned rows = (n + kWeightSide - 1) / kWeightSide, cols = (k + kWeightSide - 1) / kWeightSide;
  const unsigned band = blockIdx.x / cols;
  const int row = static_cast<int>(band % rows), col = static_cast<int>(blockIdx.x % cols);
  return {.group = static_cast<int>(band / rows),
          .row_block = row,
          .col_block = col,
          .row0 = row * kWeightSide,
          .col0 = col * kWeightSide,
          .n = n,
          .k = k};
}

// Quads of a row are permuted by three bits of its number. Rows are written and read without bank conflicts,
// and so are columns by 8 lanes that are 8 rows apart, or 16.
__device__ inline int weight_quad(int row, int quad) {
  return row * 32 + (quad ^ ((row >> 4 & 3) | ((row >> 3 ^ row >> 6) & 1) << 2));
}

// Values of a column from a row on.
template <int kCount>
__device__ inline void weight_column(const WeightTile& tile, int col, int row, float (&v)[kCount]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j)
    v[j] = reinterpret_cast<const float*>(tile.quads + weight_quad(row + j, col / 4))[col % 4];
}

template <Access kAccess>
__device__ inline void write_weight_rows(const WeightCopies& c, const WeightStrides& strides,
                                         const WeightPlace& at, const WeightTile& tile,
                                         const E4m3WeightScale& scale) {
  const int lane = threadIdx.x % 32, col = at.col0 + lane * 4;
#pragma unroll 4
  for (int i = 0; i < kWeightRows; ++i) {
    const int local = threadIdx.x / 32 + i * kWeightWarps, row = at.row0 + local;
    if (row >= at.n) break;
    const float4 v = tile.quads[weight_quad(local, lane)];
    if (c.forward) {
      auto* to = static_cast<__nv_bfloat16*>(c.forward) + at.group * strides.forward;
      store_quad_piece<kAccess>(to + int64_t{row} * at.k, col, at.k, v);
    }
    if (c.q.data.data) {
      const float values[4] = {v.x, v.y, v.z, v.w};
      uint32_t word;
      scale.encode<4>(values, &word);
      store_codes<kAccess, 4>(row_of<uint8_t>(c.q.data, int64_t{at.group} * at.n + row), col, at.k, &word);
    }
  }
}

// A warp: 4 columns of the square by 8 pieces of rows, 16 bytes each.
template <Access kAccess>
__device__ inline void write_weight_columns(const WeightCopies& c, const WeightStrides& strides,
                                            const WeightPlace& at, const WeightTile& tile,
                                            const E4m3WeightScale& scale) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (c.backward) {
#pragma unroll 2
    for (int part = warp; part < kWeightSide / 4 * 2; part += kWeightWarps) {
      const int local = part / 2 * 4 + lane / 8, row = part % 2 * 64 + lane % 8 * 8, col = at.col0 + local;
      Vec<__nv_bfloat16> v;
      weight_column(tile, local, row, v.v);
      if (col >= at.k) continue;
      auto* to = static_cast<__nv_bfloat16*>(c.backward) + at.group * strides.backward;
      store_piece<kAccess>(to + int64_t{col} * at.n, at.row0 + row, at.n, v);
    }
  }
  if (c.transposed.data.data) {
    for (int part = warp; part < kWeightSide / 4; part += kWeightWarps) {
      const int local = part * 4 + lane / 8, row = lane % 8 * 16, col = at.col0 + local;
      float v[16];
      uint32_t words[4];
      weight_column(tile, local, row, v);
      scale.encode<16>(v, words);
      if (col >= at.k) continue;
      store_codes<kAccess, 16>(row_of<uint8_t>(c.transposed.data, int64_t{at.group} * at.k + col),
                               at.row0 + row, at.n, words);
    }
  }
}

// All threads of the block come here once their quads of the square are in place; `amax` is of those of this
// thread. Quads outside the weight are zero.
template <Access kAccess>
__device__ inline void write_weight_copies(const WeightCopies& c, const WeightStrides& strides,
                                           const WeightPlace& at, WeightTile& tile, float amax) {
  amax = warp_reduce_max(amax);
  if (threadIdx.x % 32 == 0) tile.warp_max[threadIdx.x / 32] = amax;
  __syncthreads();
  const E4m3WeightScale scale(abs_max<kWeightWarps>(tile.warp_max));
  if (threadIdx.x == 0) {
    const int row_blocks = (at.n + kWeightSide - 1) / kWeightSide,
              col_blocks = (at.k + kWeightSide - 1) / kWeightSide;
    if (c.q.data.data)
      row_of<float>(c.q.scale, int64_t{at.group} * row_blocks + at.row_block)[at.col_block] = scale.value();
    if (c.transposed.data.data)
      row_of<float>(c.transposed.scale, int64_t{at.group} * col_blocks + at.col_block)[at.row_block] =
          scale.value();
  }
  if (c.forward || c.q.data.data) write_weight_rows<kAccess>(c, strides, at, tile, scale);
  write_weight_columns<kAccess>(c, strides, at, tile, scale);
}

}  // namespace contender::cuda
