// Sums over rows in the canonical order of RowSegments (ops/exec.h), for results that are one row: a warp
// carries the chains of one leaf over 128 columns, four to a lane; the tree over leaves is in shared memory.
// The same bits as the CPU backend's, by construction.
// Limits: kMaxLeaves leaves, one group. A segment outside the rows, or of another place in the table than its
// own, ends the job from the device.
#pragma once

#include <algorithm>

#include "cuda/common/check.h"
#include "cuda/common/device_check.cuh"
#include "cuda/common/rows.cuh"
#include "ops/exec.h"

namespace contender::cuda {

inline constexpr int kMaxLeaves = 64;  // 32 KB of shared memory
inline constexpr int kColumnSumWarps = 16;
inline constexpr int kColumnSumWidth = 128;  // columns of a block

// The dense table of a sum that has one group.
struct SegmentTable {
  const RowSegment* data;  // [num_leaves][parts] in device memory
  int num_leaves, parts;
  int rows;  // of the operand

  __device__ RowSegment get(int leaf, int part) const {
    const RowSegment s = data[leaf * parts + part];
    DEVICE_CHECK(s.group == 0 && s.leaf == leaf && 0 <= s.begin && s.begin <= s.end && s.end <= rows,
                 "segment (leaf %d, part %d): rows [%d, %d) of %d, group %d, leaf %d", leaf, part, s.begin,
                 s.end, rows, s.group, s.leaf);
    return s;
  }
};

inline SegmentTable segment_table(const RowSegments& s, int64_t rows) {
  CHECK(s.num_leaves >= 1 && (s.num_leaves & (s.num_leaves - 1)) == 0, "num_leaves {} is not a power of two",
        s.num_leaves);
  CHECK(s.num_leaves <= kMaxLeaves, "num_leaves {}, at most {} here", s.num_leaves, kMaxLeaves);
  return {.data = s.data,
          .num_leaves = s.num_leaves,
          .parts = static_cast<int>(div_exact(s.count, s.num_leaves)),
          .rows = narrow<int>(rows)};
}

// f(begin, end) for the rows of a leaf, in order; a warp reads 32 segments at a time.
template <class F>
__device__ void for_each_segment(const SegmentTable& table, int leaf, const F& f) {
  const int lane = threadIdx.x % 32;
  for (int first = 0; first < table.parts; first += 32) {
    RowSegment mine = {};
    if (first + lane < table.parts) mine = table.get(leaf, first + lane);
    unsigned filled = __ballot_sync(0xffffffffu, mine.begin < mine.end);
    for (; filled != 0; filled &= filled - 1) {
      const int k = __ffs(static_cast<int>(filled)) - 1;
      f(__shfl_sync(0xffffffffu, mine.begin, k), __shfl_sync(0xffffffffu, mine.end, k));
    }
  }
}

template <class Term>
struct ColumnSumParams {
  Term term;  // term.add(acc, row, c): the chains of columns [c, c + 4) go on with this row
  int cols;
  float* out;
  SegmentTable segments;
};

template <Access kAccess, class Term>
__global__ void __launch_bounds__(kColumnSumWarps * 32)
    column_sum_kernel(const __grid_constant__ ColumnSumParams<Term> p) {
  extern __shared__ float4 leaf_sums[];  // [num_leaves][32]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
  const int c = blockIdx.x * kColumnSumWidth + lane * 4;
  const int num_leaves = p.segments.num_leaves;
  for (int leaf = warp; leaf < num_leaves; leaf += num_warps) {
    float4 acc = make_float4(0, 0, 0, 0);
    for_each_segment(p.segments, leaf, [&](int begin, int end) {
#pragma unroll 8
      for (int r = begin; r < end; ++r) p.term.add(acc, r, c);
    });
    leaf_sums[leaf * 32 + lane] = acc;
  }
  for (int d = 1; d < num_leaves; d *= 2) {
    __syncthreads();
    for (int leaf = warp * 2 * d; leaf < num_leaves; leaf += num_warps * 2 * d) {
      float4& a = leaf_sums[leaf * 32 + lane];
      const float4 b = leaf_sums[(leaf + d) * 32 + lane];
      a = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    }
  }
  // Leaf 0 was this warp's in every step.
  if (warp == 0) store_quad_piece<kAccess>(p.out, c, p.cols, leaf_sums[lane]);
}

template <Access kAccess, class Term>
void launch_column_sum(cudaStream_t stream, const Term& term, const Tensor& out, const RowSegments& segments,
                       int64_t rows) {
  const ColumnSumParams<Term> params = {.term = term,
                                        .cols = narrow<int>(out.cols),
                                        .out = out.f32(),
                                        .segments = segment_table(segments, rows)};
  if (out.cols == 0) return;
  const int num_leaves = segments.num_leaves, warps = std::min(num_leaves, kColumnSumWarps);
  const auto blocks = static_cast<unsigned>(ceil_div(out.cols, kColumnSumWidth));
  const size_t shared = static_cast<size_t>(num_leaves) * 32 * sizeof(float4);
  column_sum_kernel<kAccess><<<blocks, warps * 32, shared, stream>>>(params);
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::cuda
