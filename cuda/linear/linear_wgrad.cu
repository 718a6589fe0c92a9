// What: dw[g] = sum over the rows r of group g of dy[r]^T x[r], and one such sum per head on strided columns
// (ops/linear.h).
// Shapes: any M, N, K and number of groups; groups without rows get 0.
// Layouts: dy [M, N], x [M, K] BF16, row-major, any ld. dw [groups * N, K] F32. The table of segments
// [groups][leaves][parts] lies on the device and is checked there.
// Precision: linear_tile.cuh. The chain of a (group, leaf) counts its rows one after the other over all its
// segments: steps of 16 do not see how the rows are cut into segments, or where they lie. Leaves are summed
// in FP32 in the fixed tree; an absent one is +0.
// Schedule: one launch; one block per tile of dw and group or head, which goes through all its rows: no split
// over rows, no atomics on floats. First it counts the rows of each leaf, all threads at the table at once;
// then each thread walks the segments with the rows that it copies. Operands lie with the contracted index
// across rows; ldmatrix turns them.
// Roofline: 2 M N K flops; 2 (M N + M K) + 4 N K groups bytes. Memory-bound below 410 (H200) and 590 (H800)
// rows of a group.
// Limits: 64 leaves; F32 x or dy; 65,535 groups or heads, and tiles of columns.
// Source: PTX ISA, mma.m16n8k16, ldmatrix, cp.async.
#include <bit>

#include "cuda/common/device_check.cuh"
#include "cuda/common/row_cursor.cuh"
#include "cuda/common/stream.h"
#include "cuda/linear/linear_tile.cuh"
#include "cuda/ops.h"

namespace contender::cuda {
namespace {

constexpr int kMaxLeaves = 64;

// Strides are in elements; *_group is from one group or head to the next.
struct WgradParams {
  const Bf16* dy = nullptr;  // [m, n]
  int64_t ld_dy = 0, dy_group = 0;
  const Bf16* x = nullptr;  // [m, k]
  int64_t ld_x = 0, x_group = 0;
  float* dw = nullptr;  // [groups * n, k]
  int64_t ld_dw = 0;
  const RowSegment* segments = nullptr;  // [groups][num_leaves][parts], or [num_leaves][parts] for all heads
  bool shared_rows = false;              // by all heads
  int m = 0, n = 0, k = 0, groups = 1, num_leaves = 1, parts = 0;
};

template <class S>
struct WgradSmem {
  ProductSmem<S> product;
  int leaf_rows[kMaxLeaves];
};

// Rows of each leaf of `group`, whose part of the table is given. Says whether there are any.
__device__ inline bool count_rows(int* leaf_rows, const WgradParams& p, const RowSegment* segments,
                                  int group) {
  if (threadIdx.x < p.num_leaves) leaf_rows[threadIdx.x] = 0;
  __syncthreads();
  bool any = false;
  for (int i = threadIdx.x; i < p.num_leaves * p.parts; i += blockDim.x) {
    const RowSegment s = segments[i];
    const int leaf = i / p.parts;
    DEVICE_CHECK(0 <= s.begin && s.begin <= s.end && s.end <= p.m && s.group == group && s.leaf == leaf,
                 "linear_wgrad: segment %d of group %d: rows [%d, %d) of %d, group %d, leaf %d of %d", i,
                 group, s.begin, s.end, p.m, s.group, s.leaf, p.num_leaves);
    if (s.begin == s.end) continue;
    atomicAdd(&leaf_rows[leaf], s.end - s.begin);
    any = true;
  }
  return __syncthreads_or(any);
}

extern __shared__ __align__(128) char wgrad_smem[];

template <class S, Access kAccess>
__global__ void __launch_bounds__(S::kThreads) wgrad_kernel(const __grid_constant__ WgradParams p) {
  auto& smem = *reinterpret_cast<WgradSmem<S>*>(wgrad_smem);
  float* levels = reinterpret_cast<float*>(&smem + 1);
  const int group = static_cast<int>(blockIdx.z), row_group = p.shared_rows ? 0 : group;
  const RowSegment* segments = p.segments + static_cast<int64_t>(row_group) * p.num_leaves * p.parts;
  const int row = blockIdx.x * S::kSide, col = blockIdx.y * S::kSide;
  const int rows = min(S::kSide, p.n - row), cols = min(S::kSide, p.k - col);
  const Bf16* dy = p.dy + group * p.dy_group + row;
  const Bf16* x = p.x + group * p.x_group + col;
  const bool any = count_rows(smem.leaf_rows, p, segments, row_group);
  RowCursor cursor;
  Accumulator<S> acc;
  sum_of_chains<S, Major::kFree>(
      acc, smem.product, levels, any ? p.num_leaves : 0, [&](int leaf) { return smem.leaf_rows[leaf]; },
      [&](int stage, int leaf, int first) {
        constexpr int kRowPieces = S::kSide / kPieceSize;
        if (first == 0) cursor = {segments + leaf * p.parts};
#pragma unroll
        for (int i = 0; i < S::kPieces; ++i) {
          const int index = threadIdx.x + i * S::kThreads;
          const int line = index / kRowPieces, piece = index % kRowPieces;
          const bool present = first + line < smem.leaf_rows[leaf];
          const int64_t r = present ? cursor.row(first + line) : 0;
          const int to = swizzled(line, piece, kRowPieces), c = piece * kPieceSize;
          copy_piece<kAccess>(smem.product.a[stage] + to, dy + r * p.ld_dy, c, present ? rows : 0, dy);
          copy_piece<kAccess>(smem.product.b[stage] + to, x + r * p.ld_x, c, present ? cols : 0, x);
        }
      });
  store_tile<kAccess, S>(acc, smem.product,
                         TileOut<float>{.c = p.dw + (static_cast<int64_t>(group) * p.n + row) * p.ld_dw + col,
                                        .ld = p.ld_dw,
                                        .rows = rows,
                                        .cols = cols});
}

template <class S>
int64_t smem_bytes(const WgradParams& p) {
  return static_cast<int64_t>(sizeof(WgradSmem<S>)) + tree_bytes<S>(p.num_leaves);
}

template <class S, Access kAccess>
void launch_wgrad(const Exec& exec, const WgradParams& p) {
  const int64_t col_tiles = ceil_div(p.k, S::kSide);
  CHECK(col_tiles <= 65535 && p.groups <= 65535, "{} columns, {} groups", p.k, p.groups);
  const dim3 grid(static_cast<unsigned>(ceil_div(p.n, S::kSide)), static_cast<unsigned>(col_tiles),
                  static_cast<unsigned>(p.groups));
  const size_t shared = shared_bytes_of<wgrad_kernel<S, kAccess>>(smem_bytes<S>(p));
  wgrad_kernel<S, kAccess><<<grid, S::kThreads, shared, stream_of(exec)>>>(p);
  CUDA_CHECK_LAUNCH();
}

// Of groups * n rows of dw; dy and x are the columns of the first group or head.
void wgrad(const Exec& exec, const Tensor& dy, const Tensor& x, const Tensor& dw, const RowSegments& segments,
           WgradParams p) {
  CHECK(dy.dtype == DType::kBF16 && x.dtype == DType::kBF16 && dw.dtype == DType::kF32,
        "dy {}, x {}, dw {}: weight gradients are F32 sums over BF16 activations on CUDA",
        dtype_name(dy.dtype), dtype_name(x.dtype), dtype_name(dw.dtype));
  CHECK(1 <= segments.num_leaves && segments.num_leaves <= kMaxLeaves &&
            std::has_single_bit(static_cast<uint32_t>(segments.num_leaves)),
        "{} leaves: a power of two up to {} is needed", segments.num_leaves, kMaxLeaves);
  const int64_t chains = (p.shared_rows ? 1 : p.groups) * int64_t{segments.num_leaves};
  CHECK(segments.count >= 0 && (chains == 0 || segments.count % chains == 0),
        "{} segments are no table of {} groups x {} leaves", segments.count, chains / segments.num_leaves,
        segments.num_leaves);
  if (dw.numel() == 0) return;
  p.dy = static_cast<const Bf16*>(dy.data);
  p.ld_dy = dy.ld;
  p.x = static_cast<const Bf16*>(x.data);
  p.ld_x = x.ld;
  p.dw = dw.f32();
  p.ld_dw = dw.ld;
  p.segments = segments.data;
  p.m = narrow<int>(x.rows);
  p.n = narrow<int>(dy.cols);
  p.k = narrow<int>(x.cols);
  p.num_leaves = segments.num_leaves;
  p.parts = narrow<int>(segments.count / chains);
  const bool vector = in_pieces(dy) && in_pieces(x) && in_pieces(dw) && p.dy_group % kPieceSize == 0 &&
                      p.x_group % kPieceSize == 0;
  constexpr int64_t kLarge = LargeTile::kSide;
  const bool large = smem_bytes<LargeTile>(p) <= kMaxSharedBytes &&
                     ceil_div(p.n, kLarge) * ceil_div(p.k, kLarge) * p.groups >= sm_count();
  if (!vector) return launch_wgrad<SmallTile, Access::kScalar>(exec, p);
  if (!large) return launch_wgrad<SmallTile, Access::kVector>(exec, p);
  launch_wgrad<LargeTile, Access::kVector>(exec, p);
}

}  // namespace

void linear_wgrad(const Exec& exec, const LinearWgradArgs& args) {
  const Tensor &dy = args.dy, &x = args.x, &dw = args.dw;
  CHECK(dy.rows == x.rows && dw.rows == args.num_groups * dy.cols && dw.cols == x.cols,
        "dy [{}, {}], x [{}, {}], dw [{}, {}] of {} groups", dy.rows, dy.cols, x.rows, x.cols, dw.rows,
        dw.cols, args.num_groups);
  wgrad(exec, dy, x, dw, args.segments, {.groups = narrow<int>(args.num_groups)});
}

void heads_wgrad(const Exec& exec, const HeadsWgradArgs& args) {
  const int64_t heads = args.num_heads, last = heads - 1, k = args.dw.cols;
  CHECK(heads >= 1 && args.dw.rows % heads == 0, "dw of {} rows, {} heads", args.dw.rows, heads);
  const int64_t n = args.dw.rows / heads;
  CHECK(args.dy.rows == args.x.rows && last * args.dy_stride + n <= args.dy.cols &&
            last * args.x_stride + k <= args.x.cols,
        "{} heads: dy [{}, {}], stride {}, {} each; x [{}, {}], stride {}, {} each", heads, args.dy.rows,
        args.dy.cols, args.dy_stride, n, args.x.rows, args.x.cols, args.x_stride, k);
  wgrad(exec, args.dy.col_range(0, n), args.x.col_range(0, k), args.dw, args.segments,
        {.dy_group = args.dy_stride,
         .x_group = args.x_stride,
         .shared_rows = true,
         .groups = narrow<int>(heads)});
}

}  // namespace contender::cuda
