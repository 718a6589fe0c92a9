// What the attention kernels share: a block keeps 16 rows and walks over 64 others at a time, queries over
// keys or keys over queries; scores in shared memory; a warp owns 16 of every 64 columns of the results.
#pragma once

#include "cuda/attention/tensor_core.cuh"
#include "cuda/common/device_check.cuh"
#include "cuda/common/rows.cuh"
#include "cuda/common/shared_memory.h"
#include "ops/attention.h"

namespace contender::cuda {

using bf16 = __nv_bfloat16;

constexpr int kRows = 16;
constexpr int kKeys = 64;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kThreadsPerRow = kThreads / kRows;
static_assert(kKeys % kAttentionBlock == 0 && kKeys == kWarps * 16 && kKeys == kThreadsPerRow * 8);

using Scores = float[kRows][kKeys + 8];
using Probs = bf16[kRows][kKeys + 8];

// An odd number of 16-byte pieces: the eight rows of a matrix lie in different banks.
__host__ __device__ constexpr int row_stride(int cols) { return (cols + 15) / 16 * 16 + 8; }

// Where the score of column c is: eight threads reading eight columns each, four at a time, meet in no bank.
__device__ inline int score_column(int c) { return c ^ (c >> 3 & 4); }

// Whether values are columns of the key rows that are loaded anyway, at a place that ldmatrix can start from.
__host__ __device__ inline bool values_in_keys(const AttentionShape& s) {
  return (s.num_kv_heads == 1 || s.v_stride == s.k_stride) && s.v_offset % 16 == 0 &&
         s.v_offset + s.d_v <= s.d_qk;
}

// One block for each (tile, kv head) with `bytes` of shared memory.
template <auto kKernel, class Params>
void launch_tiles(cudaStream_t stream, int64_t blocks, const AttentionShape& s, int64_t bytes,
                  const Params& params) {
  if (bytes > kMaxSharedMemory)
    fail(ExitCode::kConfig, "attention with heads of {} and {}: {} bytes of shared memory, there are {}",
         s.d_qk, s.d_v, bytes, kMaxSharedMemory);
  allow_shared_memory<kKernel>();
  const dim3 grid(static_cast<unsigned>(narrow<int>(blocks)), static_cast<unsigned>(s.num_kv_heads));
  kKernel<<<grid, kThreads, static_cast<size_t>(bytes), stream>>>(params);
  CUDA_CHECK_LAUNCH();
}

// 16 rows of one sequence and kv head: (query, head) pairs, queries first.
struct Tile {
  AttentionSeq seq;
  int heads;  // rows of one query
  int row0;   // of q_len * heads
  int rows;   // 0: no tile for this block

  __device__ int query(int r) const { return (row0 + min(r, rows - 1)) / heads; }
  __device__ int64_t token(int r) const { return seq.q_begin + (row0 + r) / heads; }
  __device__ int head(int r) const { return static_cast<int>(blockIdx.y) * heads + (row0 + r) % heads; }
  __device__ int visible_to_query(int query) const { return seq.kv_len - seq.q_len + query + 1; }
  __device__ int visible(int r) const { return visible_to_query(query(r)); }
};

template <class Args>
__device__ void check_seq(const Args& a, const AttentionSeq& s, int64_t i) {
  const bool lengths = std::is_same_v<Args, AttentionArgs> ? s.kv_len >= s.q_len : s.kv_len == s.q_len;
  DEVICE_CHECK(s.q_len >= 1 && lengths && s.q_begin >= 0 && int64_t{s.q_begin} + s.q_len <= a.q.rows &&
                   s.page_table >= 0,
               "attention: sequence %lld: queries [%d, +%d) of %lld, %d keys, page table at %d",
               static_cast<long long>(i), s.q_begin, s.q_len, static_cast<long long>(a.q.rows), s.kv_len,
               s.page_table);
}

// Tile number `tile`, `heads` rows a query: those of sequence 0 first. Every warp finds it for itself, 32
// sequences at a time.
template <class Args>
__device__ Tile find_tile(const Args& a, int heads, int tile) {
  const int lane = threadIdx.x % 32;
  int begin = 0;  // first tile of sequence `first`
  for (int64_t first = 0; first < a.num_seqs; first += 32) {
    const bool mine = first + lane < a.num_seqs;
    int tiles = mine ? (a.seqs[first + lane].q_len * heads + kRows - 1) / kRows : 0, end = tiles;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, end, o);
      if (lane >= o) end += before;
    }
    const unsigned after = __ballot_sync(0xffffffffu, begin + end > tile);
    if (after != 0) {
      const int i = __ffs(static_cast<int>(after)) - 1;
      const AttentionSeq seq = a.seqs[first + i];
      check_seq(a, seq, first + i);
      const int row0 = (tile - begin - __shfl_sync(0xffffffffu, end - tiles, i)) * kRows;
      return {.seq = seq, .heads = heads, .row0 = row0, .rows = min(kRows, seq.q_len * heads - row0)};
    }
    begin += __shfl_sync(0xffffffffu, end, 31);
  }
  return {};
}

// `cols` columns and zeros to a multiple of 16, by eight threads; all zeros unless `exists`.
__device__ inline void copy_row(bf16* to, const bf16* from, int cols, bool exists) {
  for (int c = threadIdx.x % 8 * 8; c < row_stride(cols) - 8; c += 64) {
    const bool filled = exists && c < cols;
    cp_async_16(to + c, filled ? from + c : from, filled ? 16 : 0);
  }
}

// The rows of a tile from a tensor [T, num_heads * cols].
__device__ inline void load_queries(const Tensor& from, const Tile& tile, int cols, bf16* to) {
  const int r = threadIdx.x / 8;
  const auto* row = static_cast<const bf16*>(from.data);
  if (r < tile.rows) row += tile.token(r) * from.ld + int64_t{tile.head(r)} * cols;
  copy_row(to + r * row_stride(cols), row, cols, r < tile.rows);
}

// The row of the cache that holds a key.
template <class Args>
__device__ int64_t cache_row(const Args& a, const Tile& tile, int key) {
  const int page_size = static_cast<int>(a.shape.page_size);
  const int page = a.page_ids[tile.seq.page_table + key / page_size];
  const int64_t r = int64_t{page} * page_size + key % page_size;
  DEVICE_CHECK(page >= 0 && r < a.kv.rows, "attention: key %d in page %d of %d rows, the cache has %lld rows",
               key, page, page_size, static_cast<long long>(a.kv.rows));
  return r;
}

// Columns [column, column + cols) of keys [key0, key0 + count); zeros, unread, from `end` on.
template <class Args>
__device__ void load_keys(const Args& a, const Tile& tile, int key0, int count, int end, int64_t column,
                          int cols, bf16* to) {
  for (int k = threadIdx.x / 8; k < count; k += kThreads / 8) {
    const auto* row = static_cast<const bf16*>(a.kv.data);
    if (key0 + k < end) row += cache_row(a, tile, key0 + k) * a.kv.ld + column;
    copy_row(to + k * row_stride(cols), row, cols, key0 + k < end);
  }
}

// Rows in shared memory, the first `cols` columns of each.
struct Block {
  const bf16* rows;
  int stride, cols;
};

// x . y for the 16 rows of x and the 16 rows of y that are this warp's.
__device__ inline void score_rows(Scores& scores, const Block& x, const Block& y) {
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
  const bf16* a_row = x.rows + rows_first(lane, x.stride);
  const bf16* b_row = y.rows + first * y.stride + columns_first(lane, y.stride);
  float s[2][4] = {};
#pragma unroll 4
  for (int d = 0; d < x.cols; d += 16) {
    uint32_t a[4], b[4];
    ldmatrix_x4(a, a_row + d);
    ldmatrix_x4(b, b_row + d);
    mma_16816(s[0], a, b[0], b[1]);
    mma_16816(s[1], a, b[2], b[3]);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int c = score_column(first + n * 8 + lane % 4 * 2);
    *reinterpret_cast<float2*>(&scores[lane / 4][c]) = make_float2(s[n][0], s[n][1]);
    *reinterpret_cast<float2*>(&scores[lane / 4 + 8][c]) = make_float2(s[n][2], s[n][3]);
  }
}

// Eight scores of a row, from column c on.
__device__ inline void load_scores(float (&x)[8], const float (&row)[kKeys + 8], int c) {
#pragma unroll
  for (int k = 0; k < 8; k += 4) {
    const float4 s = *reinterpret_cast<const float4*>(&row[score_column(c + k)]);
    x[k] = s.x, x[k + 1] = s.y, x[k + 2] = s.z, x[k + 3] = s.w;
  }
}

// The first of the 16 columns of a warp's piece `i`.
__device__ inline int piece_column(int i) { return (static_cast<int>(threadIdx.x) / 32 + kWarps * i) * 16; }

// What a warp holds of 16 rows of a result: pieces of 16 columns, two tiles of the tensor cores each.
template <int kPieces>
struct Output {
  float v[kPieces][2][4] = {};

  __device__ void multiply(const float* row_factor) {
    const int row = threadIdx.x % 32 / 4;
    const float low = row_factor[row], high = row_factor[row + 8];
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        v[i][n][0] *= low, v[i][n][1] *= low;
        v[i][n][2] *= high, v[i][n][3] *= high;
      }
    }
  }
  // f(row, column, two values of neighbouring columns) for all that this thread holds of the first `cols`.
  template <class F>
  __device__ void for_each(int cols, const F& f) const {
    const int row = threadIdx.x % 32 / 4;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int c = piece_column(i) + n * 8 + threadIdx.x % 4 * 2;
        if (c >= cols) continue;
        f(row, c, v[i][n][0], v[i][n][1]);
        f(row + 8, c, v[i][n][2], v[i][n][3]);
      }
    }
  }
};

// The fragments of rows [row, row + 16) of y for one piece.
__device__ inline void load_piece_fragments(uint32_t (&b)[4], const Block& y, int row, int i) {
  ldmatrix_x4_trans(b, y.rows + row * y.stride + rows_first(threadIdx.x % 32, y.stride) + piece_column(i));
}

// out += p y over rows [row, row + 16) of y, with the A fragment p.
template <int kPieces>
__device__ void weigh_rows(Output<kPieces>& out, const Block& y, const uint32_t (&p)[4], int row) {
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    if (piece_column(i) >= y.cols) continue;
    uint32_t b[4];
    load_piece_fragments(b, y, row, i);
    mma_16816(out.v[i][0], p, b[0], b[1]);
    mma_16816(out.v[i][1], p, b[2], b[3]);
  }
}

// The A fragment of columns [c, c + 16).
__device__ inline void load_probs(uint32_t (&p)[4], const Probs& probs, int c) {
  ldmatrix_x4(p, &probs[0][0] + rows_first(threadIdx.x % 32, kKeys + 8) + c);
}

}  // namespace contender::cuda
