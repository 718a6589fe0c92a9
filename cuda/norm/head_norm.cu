// What: RMSNorm of each head of a row, and its backward.
// Math: norm.cu's, on the columns of each head; dgamma[h] = sum over rows of dy_h * xhat_h
// Shapes: x, y, dy, dx [M, ...] with the D columns of head h at their Heads' column(h); gamma [1, D], rstd
//   [heads, M], dgamma [heads, D].
// Layouts: row-major with any row stride. Heads that are whole 16-byte pieces at aligned addresses move in
//   such pieces, others element by element, with the same bits. Other columns are untouched.
// Precision: activations F32 or BF16, everything between in FP32; the bits of norm.cu on the head's columns.
// Schedule: a head of a row is a team's: as many lanes as it has pieces, a power of two. Forward: teams walk
//   over rows and heads, gamma stays in registers. Backward: a block works on the leaves of one head, two
//   rows to a team at a time; dx leaves from registers, and x and dy wait in shared memory until thread c
//   has taken the chain of column c over them. The blocks of a head are a cluster that ends with the tree
//   over the leaves. Rows that no segment has come last; they need dx alone.
// Roofline: 4 (backward: 10) flops for 2 (3) elements of traffic: memory-bound, floor bytes / 4.3 TB/s on
//   H200, / 3.0 TB/s on H800. The backward keeps heads * min(leaves, 8) blocks busy.
// Limits: D <= 256; leaves as in column_sum.cuh.
// Source: Zhang and Sennrich, arXiv 1910.07467; of heads: Qwen3 (arXiv 2505.09388).
#include <bit>

#include "cuda/common/column_sum.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/heads.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/norm.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxHead = 256;          // columns
constexpr int kElems = kMaxHead / 32;  // of a head that a lane holds
constexpr int kForwardBlocksPerSm = 4, kBackwardBlocksPerSm = 2;
constexpr int kRows = 2;                               // that a team has in flight in the backward
constexpr int kTileElems = kThreads * kElems * kRows;  // of x, and of dy, in shared memory

template <class T>
using HeadRow = Vec<T>[kElems / kVec<T>];

// Lanes of a team. Only heads that need all 32 have a second piece in a lane.
template <class T>
int team_of(int64_t d) {
  return static_cast<int>(std::min<uint64_t>(std::bit_ceil(static_cast<uint64_t>(ceil_div(d, kVec<T>))), 32));
}

// A butterfly over 32 lanes of which those past the team hold zeros.
__device__ float team_sum(float x, int team) {
  if (team < 32) x += 0.0f;
  for (int o = team / 2; o > 0; o /= 2) x += __shfl_xor_sync(0xffffffffu, x, o);
  return x;
}

// `cols` is 0 where there is no row.
template <Access kAccess, class T>
__device__ void load_head(HeadRow<T>& v, const T* head, int first, int step, int cols) {
#pragma unroll
  for (int p = 0; p < kElems / kVec<T>; ++p) v[p] = load_piece<kAccess>(head, first + p * step, cols);
}
template <Access kAccess, class T>
__device__ void load_gamma(HeadRow<T>& v, const float* gamma, int first, int step, int cols) {
#pragma unroll
  for (int p = 0; p < kElems / kVec<T>; ++p) v[p] = load_f32_piece<kAccess, T>(gamma, first + p * step, cols);
}

// --- forward ---

template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads, kForwardBlocksPerSm)
    head_norm_kernel(const __grid_constant__ HeadNormArgs a, int team) {
  const int d = static_cast<int>(a.gamma.cols), first = threadIdx.x % team * kVec<T>, step = team * kVec<T>;
  const auto heads = static_cast<unsigned>(a.x_heads.count);
  const int64_t items = a.x.rows * heads, teams = kThreads / team;
  HeadRow<T> gamma;
  load_gamma<kAccess, T>(gamma, static_cast<const float*>(a.gamma.data), first, step, d);
  const int64_t first_of_warp = (blockIdx.x * kThreads + threadIdx.x / 32 * 32) / team;
  for (int64_t i = first_of_warp; i < items; i += gridDim.x * teams) {
    const int64_t item = i + threadIdx.x % 32 / team;
    const bool inside = item < items;
    const int64_t r = inside ? item / heads : 0;
    const auto h = static_cast<unsigned>(inside ? item - r * heads : 0);
    const int cols = inside ? d : 0;
    HeadRow<T> x;
    load_head<kAccess, T>(x, row_of<const T>(a.x, r) + head_column(a.x_heads, h), first, step, cols);
    float sum = 0;
#pragma unroll
    for (Vec<T>& piece : x) {
#pragma unroll
      for (int k = 0; k < kVec<T>; ++k) sum = fmaf(piece.v[k], piece.v[k], sum);
    }
    const float mean = __fdiv_rn(team_sum(sum, team), static_cast<float>(d));
    const float rstd = __frcp_rn(__fsqrt_rn(mean + a.eps));
    if (a.rstd && first == 0 && inside) a.rstd[h * a.x.rows + r] = rstd;
    T* y = row_of<T>(a.y, r) + head_column(a.y_heads, h);
#pragma unroll
    for (int p = 0; p < kElems / kVec<T>; ++p) {
#pragma unroll
      for (int k = 0; k < kVec<T>; ++k) x[p].v[k] = (x[p].v[k] * rstd) * gamma[p].v[k];
      store_piece<kAccess>(y, first + p * step, cols, x[p]);
    }
  }
}

// --- backward ---

template <class T>
struct Smem {
  uint4 x[kTileElems / kVec<T>], dy[kTileElems / kVec<T>];  // [row of the tile][pieces of a head]
  float rstd[kThreads * kRows];                             // of those rows
  LeafTree<kMaxHead> tree;
  int2 rows;
  unsigned covered[kThreads / 32];  // a bit for each row that a segment has
};

struct BackwardParams {
  HeadNormBwdArgs args;
  SegmentTable segments;
  int team;
};

// What a thread is in the work on one head.
template <class T, Access kAccess>
struct HeadBackward {
  const HeadNormBwdArgs& a;
  int64_t x_column, dy_column, dx_column;
  const float* rstd;  // [M]
  int d, width, team, first, step;
  HeadRow<T> gamma;

  __device__ HeadBackward(const BackwardParams& p, unsigned h)
      : a(p.args),
        x_column(head_column(a.x_heads, h)),
        dy_column(head_column(a.dy_heads, h)),
        dx_column(head_column(a.dx_heads, h)),
        rstd(a.rstd + h * a.x.rows),
        d(static_cast<int>(a.gamma.cols)),
        width((d + kVec<T> - 1) / kVec<T> * kVec<T>),
        team(p.team),
        first(threadIdx.x % team * kVec<T>),
        step(team * kVec<T>) {
    load_gamma<kAccess, T>(gamma, static_cast<const float*>(a.gamma.data), first, step, d);
  }

  // dx of kCount rows, `every` apart, from r on; those from `end` on are absent. All lanes come here.
  // keep(k, column, x, dy, rstd) sees each piece that was read.
  template <int kCount, class Keep>
  __device__ void dx_of(int r, int every, int end, const Keep& keep) const {
    HeadRow<T> xhat[kCount], g[kCount];
    float scale[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const int row = r + k * every, cols = row < end ? d : 0;
      load_head<kAccess, T>(xhat[k], row_of<const T>(a.x, row) + x_column, first, step, cols);
      load_head<kAccess, T>(g[k], row_of<const T>(a.dy, row) + dy_column, first, step, cols);
      scale[k] = row < end ? rstd[row] : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const int row = r + k * every, cols = row < end ? d : 0;
      float sum = 0;
#pragma unroll
      for (int p = 0; p < kElems / kVec<T>; ++p) {
        keep(k, first + p * step, xhat[k][p], g[k][p], scale[k]);
#pragma unroll
        for (int i = 0; i < kVec<T>; ++i) {
          xhat[k][p].v[i] *= scale[k];
          g[k][p].v[i] *= gamma[p].v[i];
          sum = fmaf(g[k][p].v[i], xhat[k][p].v[i], sum);
        }
      }
      const float mean = __fdiv_rn(team_sum(sum, team), static_cast<float>(d));
#pragma unroll
      for (int p = 0; p < kElems / kVec<T>; ++p) {
#pragma unroll
        for (int i = 0; i < kVec<T>; ++i)
          g[k][p].v[i] = scale[k] * fmaf(-xhat[k][p].v[i], mean, g[k][p].v[i]);
        store_piece<kAccess>(row_of<T>(a.dx, row) + dx_column, first + p * step, cols, g[k][p]);
      }
    }
  }

  // dx of the rows of a leaf; the result is the chain of column threadIdx.x.
  __device__ float leaf(const SegmentTable& segments, int leaf, Smem<T>& smem) const {
    const int own = threadIdx.x / team, teams = kThreads / team, c = threadIdx.x;
    const T *x_tile = reinterpret_cast<const T*>(smem.x), *dy_tile = reinterpret_cast<const T*>(smem.dy);
    float acc = 0;
    LeafRows leaf_rows;
    for (int begin, end; leaf_rows.next(segments, leaf, begin, end, smem.rows);) {
      for (; begin < end; begin += teams * kRows) {
        dx_of<kRows>(begin + own, teams, end,
                     [&](int k, int column, const Vec<T>& x, const Vec<T>& dy, float scale) {
                       const int row = own + k * teams;
                       if (column == 0) smem.rstd[row] = scale;
                       if (column >= width) return;
                       const int piece = (row * width + column) / kVec<T>;
                       store_vec(reinterpret_cast<T*>(smem.x + piece), x);
                       store_vec(reinterpret_cast<T*>(smem.dy + piece), dy);
                     });
        __syncthreads();
        const int rows = c < d ? min(teams * kRows, end - begin) : 0;
#pragma unroll 8
        for (int r = 0; r < rows; ++r)
          acc = fmaf(load_one(dy_tile + r * width + c), load_one(x_tile + r * width + c) * smem.rstd[r], acc);
        __syncthreads();
      }
    }
    return acc;
  }

  // dx of those of the kThreads rows from `tile` on that no segment has.
  __device__ void rest(const SegmentTable& segments, int tile, Smem<T>& smem) const {
    __syncthreads();
    if (threadIdx.x < kThreads / 32) smem.covered[threadIdx.x] = 0;
    __syncthreads();
    for (int s = threadIdx.x; s < segments.num_leaves * segments.parts; s += kThreads) {
      const int begin = max(segments.data[s].begin - tile, 0),
                end = min(segments.data[s].end - tile, kThreads);
      for (int r = begin; r < end; r = r / 32 * 32 + 32) {
        const int bits = min(32 - r % 32, end - r);
        atomicOr(&smem.covered[r / 32], (bits == 32 ? ~0u : (1u << bits) - 1) << r % 32);
      }
    }
    __syncthreads();
    const int rows = min(kThreads, segments.rows - tile), warp_teams = 32 / team;
    for (int r = threadIdx.x / 32 * warp_teams; r < rows; r += kThreads / team) {
      const int own = r + threadIdx.x % 32 / team;
      const bool open = own < rows && !(smem.covered[own / 32] >> own % 32 & 1);
      if (__any_sync(0xffffffffu, open))
        dx_of<1>(tile + own, 0, open ? segments.rows : 0,
                 [](int, int, const Vec<T>&, const Vec<T>&, float) {});
    }
  }
};

template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads, kBackwardBlocksPerSm)
    head_norm_bwd_kernel(const __grid_constant__ BackwardParams p) {
  extern __shared__ uint4 shared[];
  Smem<T>& smem = *reinterpret_cast<Smem<T>*>(shared);
  const auto cluster = cooperative_groups::this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks()), rank = static_cast<int>(cluster.block_rank());
  const unsigned h = blockIdx.x / blocks;
  const HeadBackward<T, kAccess> head(p, h);
  const int leaves = p.segments.num_leaves / blocks, c = threadIdx.x;
  for (int leaf = 0; leaf < leaves; ++leaf)
    smem.tree.push(leaf, head.leaf(p.segments, rank * leaves + leaf, smem));
  const float sum = sum_of_leaves(smem.tree, leaves);
  if (rank == 0 && c < head.d) row_of<float>(p.args.dgamma, h)[c] = sum;
  for (int tile = rank * kThreads; tile < p.segments.rows; tile += blocks * kThreads)
    head.rest(p.segments, tile, smem);
  cluster.sync();  // nobody leaves while its sums are read
}

template <class T, Access kAccess>
void launch_backward(const Exec& exec, const HeadNormBwdArgs& a) {
  constexpr auto kernel = head_norm_bwd_kernel<T, kAccess>;
  allow_shared_memory<kernel>();
  const BackwardParams params = {
      .args = a, .segments = segment_table(a.segments, a.x.rows), .team = team_of<T>(a.gamma.cols)};
  launch_leaf_clusters(kernel, params, a.x_heads.count, kThreads, sizeof(Smem<T>), stream_of(exec));
}

}  // namespace

void head_norm(const Exec& exec, const HeadNormArgs& a) {
  check_head_norm(a);
  const int64_t d = a.gamma.cols, items = a.x.rows * a.x_heads.count;
  CHECK(d <= kMaxHead && a.y.dtype == a.x.dtype, "heads of {} columns, at most {}; x {}, y {}", d, kMaxHead,
        dtype_name(a.x.dtype), dtype_name(a.y.dtype));
  if (items == 0) return;
  const bool vector =
      heads_in_pieces(a.x, a.x_heads, d) && heads_in_pieces(a.y, a.y_heads, d) && in_pieces(a.gamma);
  with_float_type(a.x.dtype, [&]<class T>(std::type_identity<T>) {
    with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
      const int team = team_of<T>(d);
      const unsigned blocks = grid_size(items, kThreads / team, kForwardBlocksPerSm);
      head_norm_kernel<T, kAccess><<<blocks, kThreads, 0, stream_of(exec)>>>(a, team);
      CUDA_CHECK_LAUNCH();
    });
  });
}

void head_norm_bwd(const Exec& exec, const HeadNormBwdArgs& a) {
  check_head_norm_bwd(a);
  const int64_t d = a.gamma.cols;
  CHECK(d <= kMaxHead && a.dy.dtype == a.x.dtype && a.dx.dtype == a.x.dtype && a.dgamma.dtype == DType::kF32,
        "heads of {} columns, at most {}; x {}, dy {}, dx {}, dgamma {}", d, kMaxHead, dtype_name(a.x.dtype),
        dtype_name(a.dy.dtype), dtype_name(a.dx.dtype), dtype_name(a.dgamma.dtype));
  const bool vector = heads_in_pieces(a.x, a.x_heads, d) && heads_in_pieces(a.dy, a.dy_heads, d) &&
                      heads_in_pieces(a.dx, a.dx_heads, d) && in_pieces(a.gamma);
  with_float_type(a.x.dtype, [&]<class T>(std::type_identity<T>) {
    with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
      launch_backward<T, kAccess>(exec, a);
    });
  });
}

}  // namespace contender::cuda
