// What: token embedding over a shard of the vocabulary, and its gradient.
// Math: y[t] = table[tokens[t] - vocab_begin], zeros where that row is another shard's
//       dtable[v] = sum over the tokens t with tokens[t] - vocab_begin = v of dy[t]
// Shapes: tokens [T]; table, dtable [V, H]; y, dy [T, H].
// Layouts: row-major with any row stride. Rows that are whole pieces at aligned addresses move in pieces of
//   16 bytes (of four columns in the backward, where BF16 lies beside F32), others element by element, same
//   bits.
// Precision: y F32 or BF16, table of the same type or F32; dy F32 or BF16, dtable F32, sums in FP32: the
//   CPU backend's bits, for BF16 too, on the same dy.
// Schedule: forward: a thread for each piece of y. Backward: a block owns 256 rows of dtable x 1024
//   columns. It reads all tokens, keeps those of its rows in canonical order (leaf, segment, token), sorts
//   them by row with that order kept, and carries each row's chain and tree in registers and shared memory.
//   No atomics on values, no workspace; every row is written once, most of them as zeros. Where more tokens
//   hit the 256 rows than a list holds, the rows are taken in halves; one row alone is done list by list.
// Roofline: no flops to speak of: forward 2 T H elements, backward T H read and 4 V H bytes written, and
//   the tokens once for each block, from L2: floor bytes / 4.3 TB/s on H200, / 3.0 TB/s on H800.
// Limits: fewer than 2^31 pieces of y; 65,535 * 1024 columns; leaves as in column_sum.cuh.
// Source: -
#include <bit>
#include <cstddef>

#include "cuda/common/column_sum.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/shared_memory.h"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/embedding.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTileRows = 256;  // of dtable
constexpr int kTileColumns = 4 * kThreads;
constexpr int kRounds = 4;      // tokens that a thread looks at between two barriers
constexpr int kList = 4096;     // tokens of a list
constexpr int kTreeLevels = 9;  // left siblings that wait for their right one
static_assert(1 << kTreeLevels == kMaxLeaves);
static_assert(kRounds * kWarps == 32 && kList >= kRounds * kThreads);

struct Smem {
  int token[kList], sorted_token[kList];
  int key[kList];  // leaf * kTileRows + row of the tile
  uint16_t sorted_leaf[kList];
  int hits[32];  // [round][warp]
  int2 rows;
  int end[kTileRows];                     // of a row's tokens in sorted_*
  float4 waiting[kTreeLevels][kThreads];  // the launch has as many levels as there are
};

// --- forward ---

template <class Table, class Y, Access kAccess>
__global__ void __launch_bounds__(kThreads) embedding_kernel(const __grid_constant__ EmbeddingArgs a) {
  constexpr int kCount = 16 / (sizeof(Table) > sizeof(Y) ? sizeof(Table) : sizeof(Y));
  const int cols = static_cast<int>(a.y.cols);
  const unsigned per_row = (cols + kCount - 1) / kCount, i = blockIdx.x * kThreads + threadIdx.x;
  const int64_t t = i / per_row;
  const int c = static_cast<int>(i % per_row) * kCount;
  if (t >= a.y.rows) return;
  const int64_t v = a.tokens[t] - a.vocab_begin;
  const bool here = 0 <= v && v < a.table.rows;
  const Table* from = row_of<const Table>(a.table, here ? v : 0);
  if constexpr (std::is_same_v<Table, Y>) {
    store_piece<kAccess>(row_of<Y>(a.y, t), c, cols, load_piece<kAccess>(from, c, here ? cols : 0));
  } else {
    store_quad_piece<kAccess>(row_of<Y>(a.y, t), c, cols, load_quad_piece<kAccess>(from, c, here ? cols : 0));
  }
}

// --- backward ---

struct BackwardParams {
  EmbeddingBwdArgs args;
  SegmentTable segments;
};

// Where the walk over the tokens stands.
struct Cursor {
  LeafRows segments;
  int leaf = 0;
  int begin = 0, end = 0;  // what is left of a segment
};

// Appends the tokens of rows [first_row, first_row + rows) to the list, in canonical order, until all
// segments are done (true) or the list is full (false). Same result in all threads.
__device__ bool collect(const BackwardParams& p, int64_t first_row, int rows, Cursor& at, int& count,
                        Smem& smem) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (; at.leaf < p.segments.num_leaves; ++at.leaf, at.segments = {}) {
    while (at.begin < at.end || at.segments.next(p.segments, at.leaf, at.begin, at.end, smem.rows)) {
      int row[kRounds];
      unsigned mask[kRounds];
#pragma unroll
      for (int k = 0; k < kRounds; ++k) {
        const int t = at.begin + k * kThreads + static_cast<int>(threadIdx.x);
        const int64_t v = t < at.end ? p.args.tokens[t] - p.args.vocab_begin - first_row : -1;
        row[k] = 0 <= v && v < rows ? static_cast<int>(v) : -1;
        mask[k] = __ballot_sync(0xffffffffu, row[k] >= 0);
        if (lane == 0) smem.hits[k * kWarps + warp] = __popc(mask[k]);
      }
      __syncthreads();
      int before = smem.hits[lane];  // hits up to the end of (round, warp) number `lane`
#pragma unroll
      for (int o = 1; o < 32; o *= 2) {
        const int left = __shfl_up_sync(0xffffffffu, before, o);
        if (lane >= o) before += left;
      }
      const int total = __shfl_sync(0xffffffffu, before, 31);
      __syncthreads();
      if (count + total > kList) return false;
#pragma unroll
      for (int k = 0; k < kRounds; ++k) {
        const int own_end = __shfl_sync(0xffffffffu, before, k * kWarps + warp);
        if (row[k] < 0) continue;
        const int i = count + own_end - __popc(mask[k] >> lane);
        smem.token[i] = at.begin + k * kThreads + static_cast<int>(threadIdx.x);
        smem.key[i] = at.leaf * kTileRows + row[k];
      }
      count += total;
      at.begin += kRounds * kThreads;
    }
  }
  return true;
}

// Sorts the list by row; of one row, tokens stay in order. There is a barrier before the list is read, and
// one at the end.
__device__ void sort_by_row(int count, Smem& smem) {
  const int lane = threadIdx.x % 32;
  for (int r = threadIdx.x; r < kTileRows; r += kThreads) smem.end[r] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) atomicAdd(&smem.end[smem.key[i] % kTileRows], 1);
  __syncthreads();
  if (threadIdx.x < 32) {
    int base = 0;  // from counts to begins, 32 rows at a time
    for (int r = lane; r < kTileRows; r += 32) {
      const int n = smem.end[r];
      int up_to = n;
#pragma unroll
      for (int o = 1; o < 32; o *= 2) {
        const int left = __shfl_up_sync(0xffffffffu, up_to, o);
        if (lane >= o) up_to += left;
      }
      smem.end[r] = base + up_to - n;
      base += __shfl_sync(0xffffffffu, up_to, 31);
    }
    __syncwarp();
    for (int first = 0; first < count; first += 32) {  // begins become ends
      const int i = first + lane;
      const int key = i < count ? smem.key[i] : -1;
      const int row = key < 0 ? -1 : key % kTileRows;
      const unsigned same = __match_any_sync(0xffffffffu, row);
      const int earlier = __popc(same & ((1u << lane) - 1));
      if (row >= 0) {
        const int to = smem.end[row] + earlier;
        smem.sorted_token[to] = smem.token[i];
        smem.sorted_leaf[to] = static_cast<uint16_t>(key / kTileRows);
      }
      __syncwarp();
      if (row >= 0 && earlier == 0) smem.end[row] += __popc(same);
      __syncwarp();
    }
  }
  __syncthreads();
}

__device__ float4 add4(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// One element group's sum: the chain of the current leaf, and at most one left sibling of each level of the
// tree that waits for its right one. Absent leaves count as +0 and need nothing: no partial sum is -0.
class TreeSum {
 public:
  __device__ void add(int leaf, float4 x, Smem& smem) {
    if (leaf != leaf_) {
      if (leaf_ >= 0) close(leaf, smem);
      leaf_ = leaf;
      sum_ = make_float4(0, 0, 0, 0);
    }
    sum_ = add4(sum_, x);
  }
  __device__ float4 finish(Smem& smem) {
    merge(kTreeLevels, smem);
    return sum_;
  }

 private:
  // The current leaf is complete, `next` follows: so are the trees that `next` is not part of, and what they
  // make waits as the left one of those that first have both.
  __device__ void close(int next, Smem& smem) {
    const int level = 31 - __clz(leaf_ ^ next);
    merge(level, smem);
    smem.waiting[level][threadIdx.x] = sum_;
    waiting_ |= 1u << level;
  }
  // With those that wait below `level`.
  __device__ void merge(int level, Smem& smem) {
    for (int first = __ffs(waiting_) - 1; first >= 0 && first < level; first = __ffs(waiting_) - 1) {
      sum_ = add4(smem.waiting[first][threadIdx.x], sum_);
      waiting_ &= waiting_ - 1;
    }
  }

  float4 sum_ = {0, 0, 0, 0};
  int leaf_ = -1;
  unsigned waiting_ = 0;  // a bit for each level
};

// Tokens [begin, end) of the sorted list, four rows of dy in flight.
template <Access kAccess, class T>
__device__ void add_tokens(TreeSum& sum, const Tensor& dy, int c, int begin, int end, Smem& smem) {
  for (int i = begin; i < end; i += 4) {
    float4 x[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (i + k < end)
        x[k] = load_quad_piece<kAccess>(row_of<const T>(dy, smem.sorted_token[i + k]), c,
                                        static_cast<int>(dy.cols));
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (i + k < end) sum.add(smem.sorted_leaf[i + k], x[k], smem);
    }
  }
}

template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads, 2)
    embedding_bwd_kernel(const __grid_constant__ BackwardParams p) {
  extern __shared__ char shared[];
  Smem& smem = *reinterpret_cast<Smem*>(shared);
  const Tensor &dy = p.args.dy, &dtable = p.args.dtable;
  const int cols = static_cast<int>(dtable.cols), c = blockIdx.y * kTileColumns + threadIdx.x * 4;
  const int64_t tile = int64_t{blockIdx.x} * kTileRows;
  const int tile_rows = static_cast<int>(min(int64_t{kTileRows}, dtable.rows - tile));
  int rows = tile_rows;
  for (int first = 0; first < tile_rows; first += rows) {
    rows = min(rows, tile_rows - first);
    Cursor at;
    int count = 0;
    bool complete = collect(p, tile + first, rows, at, count, smem);
    for (; !complete && rows > 1; complete = collect(p, tile + first, rows, at, count, smem)) {
      rows /= 2;
      at = {};
      count = 0;
    }
    sort_by_row(count, smem);
    for (int r = 0; r < rows; ++r) {
      TreeSum sum;
      add_tokens<kAccess, T>(sum, dy, c, r == 0 ? 0 : smem.end[r - 1], smem.end[r], smem);
      while (!complete) {  // one row that has more tokens than a list holds
        __syncthreads();
        count = 0;
        complete = collect(p, tile + first, 1, at, count, smem);
        sort_by_row(count, smem);
        add_tokens<kAccess, T>(sum, dy, c, 0, count, smem);
      }
      store_quad_piece<kAccess>(row_of<float>(dtable, tile + first + r), c, cols, sum.finish(smem));
    }
    __syncthreads();
  }
}

template <class Table, class Y>
void launch_forward(const Exec& exec, const EmbeddingArgs& a) {
  constexpr int64_t kCount = 16 / std::max(sizeof(Table), sizeof(Y));
  const bool vector = in_pieces(a.table, kCount * sizeof(Table)) && in_pieces(a.y, kCount * sizeof(Y));
  const unsigned blocks = grid_size(narrow<int32_t>(a.y.rows * ceil_div(a.y.cols, kCount)), kThreads);
  with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
    embedding_kernel<Table, Y, kAccess><<<blocks, kThreads, 0, stream_of(exec)>>>(a);
    CUDA_CHECK_LAUNCH();
  });
}

template <class T, Access kAccess>
void launch_backward(const Exec& exec, const BackwardParams& params) {
  constexpr auto kernel = embedding_bwd_kernel<T, kAccess>;
  const Tensor& dtable = params.args.dtable;
  const int64_t column_blocks = ceil_div(dtable.cols, kTileColumns);
  CHECK(column_blocks <= 65535, "{} columns", dtable.cols);
  const dim3 grid(grid_size(dtable.rows, kTileRows), static_cast<unsigned>(column_blocks));
  allow_shared_memory<kernel>();
  const size_t levels = std::bit_width(static_cast<unsigned>(params.segments.num_leaves)) - 1;
  kernel<<<grid, kThreads, offsetof(Smem, waiting) + levels * sizeof(Smem::waiting[0]), stream_of(exec)>>>(
      params);
  CUDA_CHECK_LAUNCH();
}

}  // namespace

void embedding(const Exec& exec, const EmbeddingArgs& a) {
  CHECK(a.table.cols == a.y.cols, "table has {} columns, y {}", a.table.cols, a.y.cols);
  CHECK(a.table.dtype == a.y.dtype || a.table.dtype == DType::kF32, "table {}, y {}",
        dtype_name(a.table.dtype), dtype_name(a.y.dtype));
  if (a.y.numel() == 0) return;
  with_float_type(a.y.dtype, [&]<class Y>(std::type_identity<Y>) {
    if (a.table.dtype == a.y.dtype) {
      launch_forward<Y, Y>(exec, a);
    } else {
      launch_forward<float, Y>(exec, a);
    }
  });
}

void embedding_bwd(const Exec& exec, const EmbeddingBwdArgs& a) {
  CHECK(a.dy.cols == a.dtable.cols && a.dtable.dtype == DType::kF32, "dy has {} columns, dtable {} ({})",
        a.dy.cols, a.dtable.cols, dtype_name(a.dtable.dtype));
  if (a.dtable.numel() == 0) return;
  const bool vector = in_pieces(a.dy, 4 * dtype_size(a.dy.dtype)) && in_pieces(a.dtable);
  const BackwardParams params = {.args = a, .segments = segment_table(a.segments, a.dy.rows)};
  with_float_type(a.dy.dtype, [&]<class T>(std::type_identity<T>) {
    with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
      launch_backward<T, kAccess>(exec, params);
    });
  });
}

}  // namespace contender::cuda
