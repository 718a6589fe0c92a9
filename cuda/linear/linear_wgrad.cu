// What: dw[g] = sum over the rows r of group g of dy[r]^T x[r] (ops/linear.h).
// Shapes: any M, N, K and number of groups; groups without rows get 0.
// Layouts: dy [M, N], x [M, K] BF16, row-major, any ld. dw [groups * N, K] F32.
// Precision: linear_tile.cuh. The chain of a (group, leaf) counts its rows one after the other over all its
// segments: steps of 16 do not see how the rows are cut into segments, or where they lie. Leaves are summed
// in FP32 in the fixed tree; an absent one is +0.
// Schedule: one block per tile of dw and group, which goes through all rows of the group: no split over rows,
// no atomics. Operands lie with the contracted index across rows; ldmatrix turns them. Segments travel in the
// kernel's parameters, so that a captured graph owns them; a launch takes as many groups as fit.
// Roofline: 2 M N K flops; 2 (M N + M K) + 4 N K groups bytes. Memory-bound below 410 (H200) and 590 (H800)
// rows of a group.
// Limits: 1,920 segments of one group, after neighbours of one leaf are joined; 4,096 leaves; F32 x or dy.
// Source: PTX ISA, mma.m16n8k16, ldmatrix, cp.async.
#include <algorithm>
#include <bit>

#include "cuda/common/stream.h"
#include "cuda/linear/linear_tile.cuh"
#include "cuda/ops.h"

namespace contender::cuda {
namespace {

constexpr int kFewSegments = 32;
constexpr int kMaxSegments = 1920;  // 30 KB of the 32,764 bytes that a launch may carry

// Sorted by (group, leaf); no segment is empty.
template <int kCapacity>
struct SegmentList {
  int32_t count = 0;
  RowSegment segment[kCapacity] = {};

  // First segment of this (group, leaf) or of a later one.
  __device__ int first(int group, int leaf) const {
    int low = 0, high = count;
    while (low < high) {
      const int middle = (low + high) / 2;
      const RowSegment& s = segment[middle];
      if (s.group < group || (s.group == group && s.leaf < leaf)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

template <int kCapacity>
struct WgradParams {
  const Bf16* dy;  // [m, n]
  const Bf16* x;   // [m, k]
  float* dw;       // [groups * n, k]
  int64_t ld_dy, ld_x, ld_dw;
  int n, k, first_group, num_leaves;
  SegmentList<kCapacity> segments = {};
};

// Finds the row of a position in a chain; positions are asked for in ascending order.
struct RowCursor {
  int segment;    // the one looked at
  int start = 0;  // position of its first row
  template <int kCapacity>
  __device__ int row(const SegmentList<kCapacity>& list, int position) {
    while (true) {
      const RowSegment& s = list.segment[segment];
      if (position - start < s.end - s.begin) return s.begin + position - start;
      start += s.end - s.begin;
      ++segment;
    }
  }
};

extern __shared__ __align__(128) char wgrad_smem[];

// One tile of dw of one group and leaf: dy and x point at the first columns of the tile.
template <class S, Access kAccess, int kCapacity>
__device__ void leaf_chain(Accumulator<S>& acc, ProductSmem<S>& smem, const WgradParams<kCapacity>& p,
                           int group, int leaf, int dy_cols, int x_cols, const Bf16* dy, const Bf16* x) {
  const int segment = p.segments.first(group, leaf);
  int rows = 0;
  for (int s = segment; s < p.segments.count; ++s) {
    const RowSegment& at = p.segments.segment[s];
    if (at.group != group || at.leaf != leaf) break;
    rows += at.end - at.begin;
  }
  RowCursor cursor = {segment};
  chain<S, Major::kFree>(acc, smem, rows, [&](int stage, int first) {
    constexpr int kRowPieces = S::kSide / kPieceSize;
#pragma unroll
    for (int i = 0; i < S::kPieces; ++i) {
      const int index = threadIdx.x + i * S::kThreads;
      const int line = index / kRowPieces, piece = index % kRowPieces;
      const bool present = first + line < rows;
      const int64_t row = present ? cursor.row(p.segments, first + line) : 0;
      const int to = swizzled(line, piece, kRowPieces), c = piece * kPieceSize;
      copy_piece<kAccess>(smem.a[stage] + to, dy + row * p.ld_dy, c, present ? dy_cols : 0, dy);
      copy_piece<kAccess>(smem.b[stage] + to, x + row * p.ld_x, c, present ? x_cols : 0, x);
    }
  });
}

template <class S, Access kAccess, int kCapacity>
__global__ void __launch_bounds__(S::kThreads)
    wgrad_kernel(const __grid_constant__ WgradParams<kCapacity> p) {
  auto& smem = *reinterpret_cast<ProductSmem<S>*>(wgrad_smem);
  float* levels = reinterpret_cast<float*>(&smem + 1);
  const int group = p.first_group + static_cast<int>(blockIdx.z);
  const int row = blockIdx.x * S::kSide, col = blockIdx.y * S::kSide;
  const int rows = min(S::kSide, p.n - row), cols = min(S::kSide, p.k - col);
  Accumulator<S> acc;
  for (int leaf = 0; leaf < p.num_leaves; ++leaf) {
    leaf_chain<S, kAccess>(acc, smem, p, group, leaf, rows, cols, p.dy + row, p.x + col);
    tree_push<S>(acc, levels, leaf, p.num_leaves);
  }
  store_tile<kAccess, S>(acc, smem,
                         TileOut<float>{.c = p.dw + (static_cast<int64_t>(group) * p.n + row) * p.ld_dw + col,
                                        .ld = p.ld_dw,
                                        .rows = rows,
                                        .cols = cols});
}

// Groups [begin, end), whose segments are the first `count` of the list.
struct GroupRange {
  int32_t begin = 0, end = 0, count = 0;
};

template <class S, Access kAccess, int kCapacity>
void launch_wgrad(const Exec& exec, const LinearWgradArgs& args, const RowSegment* segments,
                  GroupRange range) {
  WgradParams<kCapacity> p = {.dy = static_cast<const Bf16*>(args.dy.data),
                              .x = static_cast<const Bf16*>(args.x.data),
                              .dw = args.dw.f32(),
                              .ld_dy = args.dy.ld,
                              .ld_x = args.x.ld,
                              .ld_dw = args.dw.ld,
                              .n = narrow<int>(args.dy.cols),
                              .k = narrow<int>(args.x.cols),
                              .first_group = range.begin,
                              .num_leaves = args.segments.num_leaves};
  p.segments.count = range.count;
  std::copy_n(segments, range.count, p.segments.segment);
  const int64_t col_tiles = ceil_div(p.k, S::kSide);
  CHECK(col_tiles <= 65535, "{} columns", p.k);
  const dim3 grid(static_cast<unsigned>(narrow<int>(ceil_div(p.n, S::kSide))),
                  static_cast<unsigned>(col_tiles), static_cast<unsigned>(range.end - range.begin));
  const auto kernel = wgrad_kernel<S, kAccess, kCapacity>;
  kernel<<<grid, S::kThreads, shared_bytes_of(kernel, product_smem_bytes<S>(p.num_leaves)),
           stream_of(exec)>>>(p);
  CUDA_CHECK_LAUNCH();
}

void launch_range(const Exec& exec, const LinearWgradArgs& args, const RowSegment* segments,
                  GroupRange range) {
  if (range.begin == range.end || args.dw.numel() == 0) return;
  const bool vector = in_pieces(args.dy) && in_pieces(args.x) && in_pieces(args.dw);
  constexpr int64_t kLarge = LargeTile::kSide;
  const bool large =
      product_smem_bytes<LargeTile>(args.segments.num_leaves) <= kMaxSharedBytes &&
      ceil_div(args.dy.cols, kLarge) * ceil_div(args.x.cols, kLarge) * (range.end - range.begin) >=
          sm_count();
  const auto launch = [&]<class S, Access kAccess>() {
    if (range.count <= kFewSegments)
      return launch_wgrad<S, kAccess, kFewSegments>(exec, args, segments, range);
    launch_wgrad<S, kAccess, kMaxSegments>(exec, args, segments, range);
  };
  if (!vector) return launch.template operator()<SmallTile, Access::kScalar>();
  if (!large) return launch.template operator()<SmallTile, Access::kVector>();
  launch.template operator()<LargeTile, Access::kVector>();
}

void check_segments(const RowSegments& segments, int64_t num_groups, int64_t rows) {
  CHECK(segments.num_leaves >= 1 && std::has_single_bit(static_cast<uint32_t>(segments.num_leaves)),
        "num_leaves {} is not a power of two", segments.num_leaves);
  for (int32_t i = 0; i < segments.count; ++i) {
    const RowSegment& s = segments.data[i];
    CHECK(0 <= s.begin && s.begin <= s.end && s.end <= rows, "segment {}: rows [{}, {}) of {}", i, s.begin,
          s.end, rows);
    CHECK(0 <= s.group && s.group < num_groups && 0 <= s.leaf && s.leaf < segments.num_leaves,
          "segment {}: group {} of {}, leaf {} of {}", i, s.group, num_groups, s.leaf, segments.num_leaves);
    if (i == 0) continue;
    const RowSegment& before = segments.data[i - 1];
    CHECK(before.group < s.group || (before.group == s.group && before.leaf <= s.leaf),
          "segment {} is not sorted by group and leaf", i);
  }
}

}  // namespace

void linear_wgrad(const Exec& exec, const LinearWgradArgs& args) {
  const int64_t m = args.x.rows, n = args.dy.cols, k = args.x.cols;
  CHECK(args.dy.rows == m && args.dw.rows == args.num_groups * n && args.dw.cols == k,
        "dy [{}, {}], x [{}, {}], dw [{}, {}] of {} groups", args.dy.rows, n, m, k, args.dw.rows,
        args.dw.cols, args.num_groups);
  CHECK(args.dy.dtype == DType::kBF16 && args.x.dtype == DType::kBF16 && args.dw.dtype == DType::kF32,
        "dy {}, x {}, dw {}: weight gradients are F32 sums over BF16 activations on CUDA",
        dtype_name(args.dy.dtype), dtype_name(args.x.dtype), dtype_name(args.dw.dtype));
  check_segments(args.segments, args.num_groups, m);

  RowSegment list[kMaxSegments];
  constexpr int32_t kMaxGroups = 65535;  // of one launch
  const RowSegment *next = args.segments.data, *last = next + args.segments.count;
  GroupRange range;
  for (const int32_t groups = narrow<int32_t>(args.num_groups); range.end < groups; ++range.end) {
    int32_t count = range.count;
    if (range.end - range.begin == kMaxGroups) {
      launch_range(exec, args, list, range);
      range = {range.end, range.end, count = 0};
    }
    for (; next != last && next->group == range.end; ++next) {
      if (next->begin == next->end) continue;
      RowSegment* before = count > range.count ? &list[count - 1] : nullptr;
      if (before && before->leaf == next->leaf && before->end == next->begin) {
        before->end = next->end;
        continue;
      }
      if (count == kMaxSegments && range.count > 0) {  // the groups before this one go first
        launch_range(exec, args, list, range);
        std::copy(list + range.count, list + count, list);
        count -= range.count;
        range = {range.end, range.end, 0};
      }
      CHECK(count < kMaxSegments, "more than {} separate segments of group {}", kMaxSegments, range.end);
      list[count++] = *next;
    }
    range.count = count;
  }
  launch_range(exec, args, list, range);
}

}  // namespace contender::cuda
