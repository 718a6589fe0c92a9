// Sums over rows in the canonical order of RowSegments (ops/exec.h), for results that are one row: a warp
// carries the chains of one leaf over 128 columns, four to a lane; the tree over leaves is in shared memory.
// The same bits as the CPU backend's, by construction.
// Limits: kMaxSegments segments after neighbours are joined (they travel in the kernel's parameters, so that
// a captured graph owns them), kMaxLeaves leaves.
#pragma once

#include <algorithm>

#include "cuda/common/check.h"
#include "cuda/common/rows.cuh"
#include "ops/exec.h"

namespace contender::cuda {

inline constexpr int kFewSegments = 32;    // 0.5 KB of parameters
inline constexpr int kMaxSegments = 1920;  // 30 KB of the 32,764 bytes that a launch may carry
inline constexpr int kMaxLeaves = 64;      // 32 KB of shared memory
inline constexpr int kColumnSumWarps = 16;
inline constexpr int kColumnSumWidth = 128;  // columns of a block

template <int kCapacity>
struct SegmentTable {
  int32_t count = 0;
  int32_t num_leaves = 1;
  RowSegment segment[kCapacity];

  // First segment of a leaf or of a later one.
  __device__ int first(int leaf) const {
    int low = 0, high = count;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (segment[middle].leaf < leaf) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// f(const SegmentTable<...>&) with the segments of a sum over `rows` rows that has one group: checked, empty
// ones dropped, neighbours of one chain joined.
template <class F>
void with_segments(const RowSegments& s, int64_t rows, const F& f) {
  CHECK(s.num_leaves >= 1 && (s.num_leaves & (s.num_leaves - 1)) == 0, "num_leaves {} is not a power of two",
        s.num_leaves);
  CHECK(s.num_leaves <= kMaxLeaves, "num_leaves {}, at most {} here", s.num_leaves, kMaxLeaves);
  SegmentTable<kMaxSegments> all;
  all.num_leaves = s.num_leaves;
  for (int32_t i = 0; i < s.count; ++i) {
    const RowSegment& r = s.data[i];
    CHECK(r.group == 0 && 0 <= r.leaf && r.leaf < s.num_leaves, "segment {}: group {}, leaf {} of {}", i,
          r.group, r.leaf, s.num_leaves);
    CHECK(0 <= r.begin && r.begin <= r.end && r.end <= rows, "segment {}: rows [{}, {}) of {}", i, r.begin,
          r.end, rows);
    CHECK(i == 0 || s.data[i - 1].leaf <= r.leaf, "segment {} is not sorted by leaf", i);
    if (r.begin == r.end) continue;
    RowSegment* last = all.count > 0 ? &all.segment[all.count - 1] : nullptr;
    if (last && last->leaf == r.leaf && last->end == r.begin) {
      last->end = r.end;
      continue;
    }
    CHECK(all.count < kMaxSegments, "more than {} separate segments", kMaxSegments);
    all.segment[all.count++] = r;
  }
  if (all.count > kFewSegments) return f(all);
  SegmentTable<kFewSegments> few;
  few.count = all.count;
  few.num_leaves = all.num_leaves;
  std::copy_n(all.segment, all.count, few.segment);
  f(few);
}

template <class Term, int kCapacity>
struct ColumnSumParams {
  Term term;  // term.add(acc, row, c): the chains of columns [c, c + 4) go on with this row
  int cols;
  float* out;
  SegmentTable<kCapacity> segments;
};

template <Access kAccess, class Term, int kCapacity>
__global__ void __launch_bounds__(kColumnSumWarps * 32)
    column_sum_kernel(const __grid_constant__ ColumnSumParams<Term, kCapacity> p) {
  extern __shared__ float4 leaf_sums[];  // [num_leaves][32]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
  const int c = blockIdx.x * kColumnSumWidth + lane * 4;
  const int num_leaves = p.segments.num_leaves;
  for (int leaf = warp; leaf < num_leaves; leaf += num_warps) {
    float4 acc = make_float4(0, 0, 0, 0);
    for (int s = p.segments.first(leaf); s < p.segments.count && p.segments.segment[s].leaf == leaf; ++s) {
      const int end = p.segments.segment[s].end;
#pragma unroll 8
      for (int r = p.segments.segment[s].begin; r < end; ++r) p.term.add(acc, r, c);
    }
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
  with_segments(segments, rows, [&]<int kCapacity>(const SegmentTable<kCapacity>& table) {
    const ColumnSumParams<Term, kCapacity> params = {
        .term = term, .cols = narrow<int>(out.cols), .out = out.f32(), .segments = table};
    const int warps = std::min(table.num_leaves, kColumnSumWarps);
    const auto blocks = static_cast<unsigned>(ceil_div(out.cols, kColumnSumWidth));
    const size_t shared = static_cast<size_t>(table.num_leaves) * 32 * sizeof(float4);
    if (blocks == 0) return;
    column_sum_kernel<kAccess><<<blocks, warps * 32, shared, stream>>>(params);
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace contender::cuda
