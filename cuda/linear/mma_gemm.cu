// What: the products of ops/linear.h with operands that TMA cannot read: rows that are not in pieces of 16
//   bytes, K or a slice of it no multiple of 8, more than 4 slices. No released model has any.
// Math: C = A B^T on rows of contracted values; dw = dy^T x over the rows of leaves.
// Shapes: any M, N, K, also 0; slices and leaves up to kMaxLeaves.
// Layouts: BF16 operands, row-major, any stride; results BF16 or F32, weight gradients F32.
// Precision: as bf16_gemm and bf16_wgrad: BF16 operands, FP32 accumulators, chains in steps of 16, zeros
//   behind their end, summed in the fixed tree; bias and old value added in FP32; one rounding.
// Schedule: a block of four warps makes 64 x 64 results, 64 contracted values at a time, read one by one.
// Roofline: none aimed at.
// Limits: 65,535 tiles of columns, and groups or heads.
// Source: PTX ISA, mma.m16n8k16.
#include "cuda/common/device_check.cuh"
#include "cuda/common/row_cursor.cuh"
#include "cuda/common/rows.cuh"
#include "cuda/common/stream.h"
#include "cuda/linear/mma_gemm.h"

namespace contender::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kSide = 64, kThreads = 128;
constexpr int kDepth = 64;        // contracted values at a time
constexpr int kRow = kDepth + 8;  // rows of shared memory that meet in no bank
constexpr int kLevels = 9;        // of the tree over chains
static_assert(kMaxLeaves == 1 << kLevels);

struct Tiles {
  Bf16 a[kSide][kRow], b[kSide][kRow];
};

// What a thread has of the tile: rows row(i, h), columns col(j) + c in v[i][j][2 * h + c].
struct Accumulator {
  float v[2][4][4];
  static __device__ int row(int i, int h) {
    return threadIdx.x / 64 * 32 + 16 * i + 8 * h + threadIdx.x % 32 / 4;
  }
  static __device__ int col(int j) { return threadIdx.x / 32 % 2 * 32 + 8 * j + threadIdx.x % 4 * 2; }
  template <class F>
  __device__ void each(const F& f) {
#pragma unroll
    for (int i = 0; i < 32; ++i) f((&v[0][0][0])[i], i);
  }
};

__device__ inline uint32_t pair(const Bf16* p) { return *reinterpret_cast<const uint32_t*>(p); }

__device__ inline void multiply_step(Accumulator& acc, const Tiles& t, int l) {
  const int k = l + threadIdx.x % 4 * 2, quad = threadIdx.x % 32 / 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Bf16 *low = &t.a[Accumulator::row(i, 0)][k], *high = &t.a[Accumulator::row(i, 1)][k];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Bf16* b = &t.b[threadIdx.x / 32 % 2 * 32 + 8 * j + quad][k];
      float* c = acc.v[i][j];
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
          "%9}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(pair(low)), "r"(pair(high)), "r"(pair(low + 8)), "r"(pair(high + 8)), "r"(pair(b)),
            "r"(pair(b + 8)));
    }
  }
}

// The sum of `count` chains in the tree ((0+1)+(2+3))+..., +0 if there are none. load(chain, first): fills
// the tiles with values [first, first + kDepth) of a chain of length(chain), zeros behind its end.
template <class Length, class Load>
__device__ inline void sum_of_chains(Accumulator& acc, Tiles& tiles, int count, const Length& length,
                                     const Load& load) {
  float levels[kLevels][32];  // one for each set bit of the number of chains so far
  acc.each([](float& v, int) { v = 0; });
  for (int chain = 0; chain < count; ++chain) {
    acc.each([](float& v, int) { v = 0; });
    for (int first = 0; first < length(chain); first += kDepth) {
      __syncthreads();
      load(chain, first);
      __syncthreads();
      for (int l = 0; l < min(kDepth, length(chain) - first); l += 16) multiply_step(acc, tiles, l);
    }
    int level = 0;
    for (; chain >> level & 1; ++level) acc.each([&](float& v, int i) { v = levels[level][i] + v; });
    if (chain + 1 < count) acc.each([&](float& v, int i) { levels[level][i] = v; });
  }
}

struct GemmParams {
  Product p;
  int m, n, length;  // of a slice
};

// Rows [row, end) of one layer begin with those of the tile. Surplus tiles find row = end.
struct Place {
  int layer, row, end;
};
__device__ Place find_place(const GemmParams& g) {
  int tile = static_cast<int>(blockIdx.x);
  if (!g.p.grouped) return {static_cast<int>(blockIdx.z), tile * kSide, g.m};
  for (int layer = 0; layer < g.p.layers; ++layer) {
    const int begin = g.p.offsets[layer], end = g.p.offsets[layer + 1];
    DEVICE_CHECK((layer == 0 ? begin == 0 : begin >= 0) && begin <= end && end <= g.m,
                 "grouped_linear: group %d of %d: rows [%d, %d) of %d", layer, static_cast<int>(g.p.layers),
                 begin, end, g.m);
    const int tiles = (end - begin + kSide - 1) / kSide;
    if (tile < tiles) return {layer, begin + tile * kSide, end};
    tile -= tiles;
  }
  return {0, g.m, g.m};
}

template <class T>
__global__ void __launch_bounds__(kThreads) mma_gemm_kernel(const __grid_constant__ GemmParams g) {
  __shared__ Tiles tiles;
  const Product& p = g.p;
  const Place place = find_place(g);
  if (place.row >= place.end) return;
  const int col0 = static_cast<int>(blockIdx.y) * kSide;
  const auto* a = static_cast<const Bf16*>(p.a) + (p.grouped ? 0 : place.layer * p.a_layer);
  const auto* b = static_cast<const Bf16*>(p.b) + place.layer * p.b_layer;
  Accumulator acc;
  sum_of_chains(
      acc, tiles, p.slices, [&](int) { return g.length; },
      [&](int slice, int first) {
        for (int i = threadIdx.x; i < kSide * kDepth; i += kThreads) {
          const int row = i / kDepth, l = i % kDepth;
          const bool inside = first + l < g.length;
          const int64_t k = static_cast<int64_t>(slice) * g.length + first + l, r = place.row + row,
                        c = col0 + row;
          tiles.a[row][l] = inside && r < place.end ? a[r * p.lda + k] : Bf16(0.0f);
          tiles.b[row][l] = inside && c < g.n ? b[c * p.ldb + k] : Bf16(0.0f);
        }
      });
  T* y = static_cast<T*>(p.c) + (p.grouped ? 0 : place.layer * p.c_layer);
  acc.each([&](float v, int i) {
    const int row = place.row + Accumulator::row(i / 16, i / 2 % 2),
              col = col0 + Accumulator::col(i / 4 % 4) + i % 2;
    if (row >= place.end || col >= g.n) return;
    if (p.bias) v += p.bias[col];
    T* to = y + row * p.ldc + col;
    store_one(to, p.accumulate ? load_one(to) + v : v);
  });
}

struct WgradParams {
  WgradProduct p;
  int m, n, k, parts;
};

// Rows of each leaf of `group`, whose part of the table is given.
__device__ void count_rows(int* leaf_rows, const WgradParams& g, const RowSegment* segments, int group) {
  const int leaves = g.p.segments.num_leaves;
  for (int leaf = threadIdx.x; leaf < leaves; leaf += kThreads) leaf_rows[leaf] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < leaves * g.parts; i += kThreads) {
    const RowSegment s = segments[i];
    const int leaf = i / g.parts;
    DEVICE_CHECK(0 <= s.begin && s.begin <= s.end && s.end <= g.m && s.group == group && s.leaf == leaf,
                 "linear_wgrad: segment %d of group %d: rows [%d, %d) of %d, group %d, leaf %d of %d", i,
                 group, s.begin, s.end, g.m, s.group, s.leaf, leaves);
    atomicAdd(&leaf_rows[leaf], s.end - s.begin);
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) mma_wgrad_kernel(const __grid_constant__ WgradParams g) {
  __shared__ Tiles tiles;
  __shared__ int leaf_rows[kMaxLeaves], rows[kDepth];
  const WgradProduct& p = g.p;
  const int group = static_cast<int>(blockIdx.z), row_group = p.shared_rows ? 0 : group;
  const int row0 = static_cast<int>(blockIdx.x) * kSide, col0 = static_cast<int>(blockIdx.y) * kSide;
  const int leaves = p.segments.num_leaves;
  const RowSegment* segments = p.segments.data + static_cast<int64_t>(row_group) * leaves * g.parts;
  const auto* dy = static_cast<const Bf16*>(p.dy.data) + group * p.dy_group;
  const auto* x = static_cast<const Bf16*>(p.x.data) + group * p.x_group;
  count_rows(leaf_rows, g, segments, row_group);
  RowCursor cursor;
  Accumulator acc;
  sum_of_chains(
      acc, tiles, leaves, [&](int leaf) { return leaf_rows[leaf]; },
      [&](int leaf, int first) {
        if (first == 0) cursor = {segments + leaf * g.parts};
        const int l = threadIdx.x;
        if (l < kDepth) rows[l] = first + l < leaf_rows[leaf] ? cursor.row(first + l) : -1;
        __syncthreads();
        for (int i = threadIdx.x; i < kSide * kDepth; i += kThreads) {
          const int free = i % kSide;
          const int64_t r = rows[i / kSide];
          tiles.a[free][i / kSide] = r >= 0 && row0 + free < g.n ? dy[r * p.dy.ld + row0 + free] : Bf16(0.0f);
          tiles.b[free][i / kSide] = r >= 0 && col0 + free < g.k ? x[r * p.x.ld + col0 + free] : Bf16(0.0f);
        }
      });
  acc.each([&](float v, int i) {
    const int row = row0 + Accumulator::row(i / 16, i / 2 % 2),
              col = col0 + Accumulator::col(i / 4 % 4) + i % 2;
    if (row >= g.n || col >= g.k) return;
    static_cast<float*>(p.dw.data)[(static_cast<int64_t>(group) * g.n + row) * p.dw.ld + col] = v;
  });
}

dim3 grid_of(int64_t row_tiles, int64_t cols, int64_t layers) {
  const int64_t col_tiles = ceil_div(cols, kSide);
  CHECK(col_tiles <= 65535 && layers <= 65535, "{} columns, {} groups", cols, layers);
  return {static_cast<unsigned>(narrow<int>(row_tiles)), static_cast<unsigned>(col_tiles),
          static_cast<unsigned>(layers)};
}

}  // namespace

void mma_gemm(const Exec& exec, const Product& p) {
  if (p.m == 0 || p.n == 0 || p.layers == 0) return;
  CHECK(p.slices <= kMaxLeaves, "{} slices, at most {}", p.slices, kMaxLeaves);
  const GemmParams g = {
      .p = p, .m = narrow<int>(p.m), .n = narrow<int>(p.n), .length = narrow<int>(p.k / p.slices)};
  // Each group may end in a tile of its own.
  const dim3 grid = grid_of(ceil_div(p.m, kSide) + (p.grouped ? p.layers : 0), p.n, p.grouped ? 1 : p.layers);
  with_float_type(p.c_type, [&]<class T>(std::type_identity<T>) {
    mma_gemm_kernel<T><<<grid, kThreads, 0, stream_of(exec)>>>(g);
    CUDA_CHECK_LAUNCH();
  });
}

void mma_wgrad(const Exec& exec, const WgradProduct& p) {
  if (p.dw.numel() == 0) return;
  const WgradParams g = {.p = p,
                         .m = narrow<int>(p.x.rows),
                         .n = narrow<int>(p.dy.cols),
                         .k = narrow<int>(p.x.cols),
                         .parts = narrow<int>(p.parts())};
  mma_wgrad_kernel<<<grid_of(ceil_div(p.dy.cols, kSide), p.x.cols, p.groups), kThreads, 0, stream_of(exec)>>>(
      g);
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::cuda
