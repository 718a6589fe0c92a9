// What: ragged causal attention over a paged key/value cache, forward.
// Math: s = scale * (q . k);  p = exp(s - max s);  o = (sum p v) / (sum p);  lse = max s + log(sum p)
// Shapes: q [T, num_heads * d_qk], kv [rows of pages, row_width], o [T, num_heads * d_v], lse [T, num_heads].
// Layouts: rows of 16-byte pieces at aligned addresses: d_qk, d_v and all column offsets are multiples of 8.
// Where the
//   value is part of the key row (absorbed MLA) it is read once. seqs and page_ids are in device memory.
// Precision: q, k, v, o BF16; scores, softmax and sums FP32; p is rounded to BF16 for p v, not for the sum of
// p. Schedule: the rows that share a kv head are (query, head) pairs, queries first; a block takes 16 of
// them, a tile,
//   and walks over the keys 64 at a time from position 0. Warp w computes the scores of keys 16 w.. of the
//   64; eight threads a row do the online softmax; then warp w owns columns 16 w.. of every 64 of the output.
//   The host knows no lengths: the grid is a bound on the number of tiles, and each block finds its own from
//   the lengths. A row's sums run over the same blocks in the same order whatever shares its tile: keys that
//   it does not see are -inf in its maximum, 0 in its sum, and leave its output untouched. In the last
//   blocks, where the rows of a tile see different keys, p v is made once for each query with the keys that
//   this query sees, and kept in its rows alone, so that not even a NaN of a later key reaches an earlier
//   query.
// Roofline: 2 (d_qk + d_v) flops for each (row, key); each tile reads the keys anew, (d_qk + d_v) * 2 bytes
// for 16
//   rows, mostly from L2: 16 flops a byte, bound by L2 and by shared memory, far from the tensor cores.
// Limits: d_v <= 512; d_qk and d_v together within shared memory.
// Source: Dao et al., arXiv 2205.14135; Milakov and Gimelshein, arXiv 1805.02867 (online softmax).
#include <cmath>

#include "cuda/attention/tensor_core.cuh"
#include "cuda/common/device_check.cuh"
#include "cuda/common/dispatch.h"
#include "cuda/common/rows.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/attention.h"

namespace contender::cuda {
namespace {

using bf16 = __nv_bfloat16;

constexpr int kRows = 16;
constexpr int kKeys = 64;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kThreadsPerRow = kThreads / kRows;
static_assert(kKeys % kAttentionBlock == 0 && kKeys == kWarps * 16 && kKeys == kThreadsPerRow * 8);

// The fixed part of shared memory. Behind it: q [kRows], keys [kKeys] and, unless they are part of the keys,
// values [kKeys], in rows of row_stride().
struct Smem {
  alignas(128) float scores[kRows][kKeys + 8];
  alignas(128) bf16 probs[kRows][kKeys + 8];
  float rescale[kRows];  // what the output so far is multiplied by
};

// An odd number of 16-byte pieces: the eight rows of a matrix lie in different banks.
__host__ __device__ constexpr int row_stride(int cols) { return (cols + 15) / 16 * 16 + 8; }

// Where the score of key c of the block is: eight threads reading eight keys each, four at a time, meet in no
// bank.
__device__ inline int score_column(int c) { return c ^ (c >> 3 & 4); }

// 16 rows of one sequence and kv head.
struct Tile {
  AttentionSeq seq;
  int heads;  // query heads of a kv head
  int row0;   // of q_len * heads
  int rows;   // 0: no tile for this block

  __device__ int query(int r) const { return (row0 + min(r, rows - 1)) / heads; }
  __device__ int64_t token(int r) const { return seq.q_begin + (row0 + r) / heads; }
  __device__ int head(int r) const { return static_cast<int>(blockIdx.y) * heads + (row0 + r) % heads; }
  __device__ int visible_to_query(int query) const { return seq.kv_len - seq.q_len + query + 1; }
  __device__ int visible(int r) const { return visible_to_query(query(r)); }
};

__device__ void check_seq(const AttentionArgs& a, const AttentionSeq& s, int64_t i) {
  DEVICE_CHECK(s.q_len >= 1 && s.kv_len >= s.q_len && s.q_begin >= 0 &&
                   int64_t{s.q_begin} + s.q_len <= a.q.rows && s.page_table >= 0,
               "attention: sequence %lld: queries [%d, +%d) of %lld, %d keys, page table at %d",
               static_cast<long long>(i), s.q_begin, s.q_len, static_cast<long long>(a.q.rows), s.kv_len,
               s.page_table);
}

// The tile of block blockIdx.x: those of sequence 0 first. Every warp finds it for itself, 32 sequences at a
// time.
__device__ Tile find_tile(const AttentionArgs& a) {
  const int lane = threadIdx.x % 32, heads = static_cast<int>(a.shape.num_heads / a.shape.num_kv_heads);
  const int block = static_cast<int>(blockIdx.x);
  int begin = 0;  // first tile of sequence `first`
  for (int64_t first = 0; first < a.num_seqs; first += 32) {
    const bool mine = first + lane < a.num_seqs;
    int tiles = mine ? (a.seqs[first + lane].q_len * heads + kRows - 1) / kRows : 0, end = tiles;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, end, o);
      if (lane >= o) end += before;
    }
    const unsigned after = __ballot_sync(0xffffffffu, begin + end > block);
    if (after != 0) {
      const int i = __ffs(static_cast<int>(after)) - 1;
      const AttentionSeq seq = a.seqs[first + i];
      check_seq(a, seq, first + i);
      const int row0 = (block - begin - __shfl_sync(0xffffffffu, end - tiles, i)) * kRows;
      return {.seq = seq, .heads = heads, .row0 = row0, .rows = min(kRows, seq.q_len * heads - row0)};
    }
    begin += __shfl_sync(0xffffffffu, end, 31);
  }
  return {};
}

// `cols` columns and zeros to a multiple of 16, by eight threads; all zeros unless `exists`.
__device__ void copy_row(bf16* to, const bf16* from, int cols, bool exists) {
  for (int c = threadIdx.x % 8 * 8; c < row_stride(cols) - 8; c += 64) {
    const bool filled = exists && c < cols;
    cp_async_16(to + c, filled ? from + c : from, filled ? 16 : 0);
  }
}

__device__ void load_queries(const AttentionArgs& a, const Tile& tile, bf16* to) {
  const int d_qk = static_cast<int>(a.shape.d_qk), r = threadIdx.x / 8;
  const auto* q = static_cast<const bf16*>(a.q.data);
  if (r < tile.rows) q += tile.token(r) * a.q.ld + int64_t{tile.head(r)} * d_qk;
  copy_row(to + r * row_stride(d_qk), q, d_qk, r < tile.rows);
}

// Columns [column, column + cols) of keys [key0, key0 + kKeys); zeros, unread, from `end` on.
__device__ void load_keys(const AttentionArgs& a, const Tile& tile, int key0, int end, int64_t column,
                          int cols, bf16* to) {
  const int page_size = static_cast<int>(a.shape.page_size);
  for (int k = threadIdx.x / 8; k < kKeys; k += kThreads / 8) {
    const int key = key0 + k;
    const auto* row = static_cast<const bf16*>(a.kv.data);
    if (key < end) {
      const int page = a.page_ids[tile.seq.page_table + key / page_size];
      const int64_t r = int64_t{page} * page_size + key % page_size;
      DEVICE_CHECK(page >= 0 && r < a.kv.rows,
                   "attention: key %d in page %d of %d rows, the cache has %lld rows", key, page, page_size,
                   static_cast<long long>(a.kv.rows));
      row += r * a.kv.ld + column;
    }
    copy_row(to + k * row_stride(cols), row, cols, key < end);
  }
}

// Unscaled scores of all rows and 16 keys of this warp.
__device__ void score_keys(Smem& smem, const bf16* q, const bf16* keys, int d_qk) {
  const int lane = threadIdx.x % 32, key = threadIdx.x / 32 * 16, stride = row_stride(d_qk);
  const bf16* a_row = q + rows_first(lane, stride);
  const bf16* b_row = keys + key * stride + columns_first(lane, stride);
  float s[2][4] = {};
#pragma unroll 4
  for (int d = 0; d < d_qk; d += 16) {
    uint32_t a[4], b[4];
    ldmatrix_x4(a, a_row + d);
    ldmatrix_x4(b, b_row + d);
    mma_16816(s[0], a, b[0], b[1]);
    mma_16816(s[1], a, b[2], b[3]);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int c = score_column(key + n * 8 + lane % 4 * 2);
    *reinterpret_cast<float2*>(&smem.scores[lane / 4][c]) = make_float2(s[n][0], s[n][1]);
    *reinterpret_cast<float2*>(&smem.scores[lane / 4 + 8][c]) = make_float2(s[n][2], s[n][3]);
  }
}

// Of the keys so far, the same in the eight threads of a row.
struct RowState {
  float max = -INFINITY, sum = 0;
};

// Scores become probabilities; `visible` of the block's keys are seen by the row.
__device__ void softmax_row(Smem& smem, RowState& state, float scale, int visible) {
  const int row = threadIdx.x / kThreadsPerRow, key = threadIdx.x % kThreadsPerRow * 8;
  float x[8];
#pragma unroll
  for (int k = 0; k < 8; k += 4) {
    const float4 s = *reinterpret_cast<const float4*>(&smem.scores[row][score_column(key + k)]);
    x[k] = s.x, x[k + 1] = s.y, x[k + 2] = s.z, x[k + 3] = s.w;
  }
  float max = state.max;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    x[k] = key + k < visible ? __fmul_rn(x[k], scale) : -INFINITY;
    max = fmaxf(max, x[k]);
  }
#pragma unroll
  for (int o = kThreadsPerRow / 2; o > 0; o /= 2) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, o));
  float sum = 0;
  Vec<bf16> p;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    p.v[k] = expf(x[k] - max);
    sum += p.v[k];
  }
#pragma unroll
  for (int o = kThreadsPerRow / 2; o > 0; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  store_vec(&smem.probs[row][key], p);
  const float rescale = expf(state.max - max);
  if (key == 0) smem.rescale[row] = rescale;
  state = {.max = max, .sum = fmaf(state.sum, rescale, sum)};
}

// The part of the output that a warp holds: column pairs of tiles, 16 columns, number warp + kWarps * i.
template <int kPairs>
struct Output {
  float v[kPairs][2][4] = {};

  __device__ void multiply(const float* row_factor) {
    const int row = threadIdx.x % 32 / 4;
    const float low = row_factor[row], high = row_factor[row + 8];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        v[i][n][0] *= low, v[i][n][1] *= low;
        v[i][n][2] *= high, v[i][n][3] *= high;
      }
    }
  }
};

struct Values {
  const bf16* rows;  // of the first key of the block
  int stride, cols;
  __device__ static int column(int pair) { return (static_cast<int>(threadIdx.x) / 32 + kWarps * pair) * 16; }
  __device__ void load(uint32_t (&b)[4], int key, int pair) const {
    ldmatrix_x4_trans(b, rows + key * stride + rows_first(threadIdx.x % 32, stride) + column(pair));
  }
};

// 16 keys that all rows see.
template <int kPairs>
__device__ void weigh_all(Output<kPairs>& out, const Values& values, const uint32_t (&p)[4], int key) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    if (Values::column(i) >= values.cols) continue;
    uint32_t b[4];
    values.load(b, key, i);
    mma_16816(out.v[i][0], p, b[0], b[1]);
    mma_16816(out.v[i][1], p, b[2], b[3]);
  }
}

// The first `visible` of 16 keys, for the rows of one query: `low` and `high` say whether this lane's two
// rows are.
template <int kPairs>
__device__ void weigh_some(Output<kPairs>& out, const Values& values, const uint32_t (&p)[4], int key,
                           int visible, bool low, bool high) {
  const int k = threadIdx.x % 4 * 2;
  uint32_t keep[2];  // of the keys in the first and in the second register of a fragment
#pragma unroll
  for (int h = 0; h < 2; ++h)
    keep[h] = (k + 8 * h < visible ? 0xffffu : 0) | (k + 8 * h + 1 < visible ? 0xffff0000u : 0);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    if (Values::column(i) >= values.cols) continue;
    uint32_t b[4];
    values.load(b, key, i);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float(&o)[4] = out.v[i][n];
      float sum[4] = {o[0], o[1], o[2], o[3]};
      mma_16816(sum, p, b[2 * n] & keep[0], b[2 * n + 1] & keep[1]);
      if (low) o[0] = sum[0], o[1] = sum[1];
      if (high) o[2] = sum[2], o[3] = sum[3];
    }
  }
}

// out = out * rescale + p v over the keys of one block.
template <int kPairs>
__device__ void weigh_values(Output<kPairs>& out, const Smem& smem, const Values& values, const Tile& tile,
                             int key0) {
  const int lane = threadIdx.x % 32, last = tile.query(kRows - 1);
  out.multiply(smem.rescale);
  for (int key = 0; key < kKeys && key0 + key < tile.visible_to_query(last); key += 16) {
    uint32_t p[4];
    ldmatrix_x4(p, &smem.probs[0][0] + rows_first(lane, kKeys + 8) + key);
    if (key0 + key + 16 <= tile.visible(0)) {
      weigh_all(out, values, p, key);
      continue;
    }
    const int low = tile.query(lane / 4), high = tile.query(lane / 4 + 8);
    for (int query = tile.query(0); query <= last; ++query) {
      const int visible = tile.visible_to_query(query) - key0 - key;
      if (visible > 0) weigh_some(out, values, p, key, visible, query == low, query == high);
    }
  }
}

template <int kPairs>
__device__ void store_output(const Output<kPairs>& out, const AttentionArgs& a, const Tile& tile) {
  const int lane = threadIdx.x % 32, d_v = static_cast<int>(a.shape.d_v);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int r = lane / 4 + 8 * h;
    if (r >= tile.rows) continue;
    bf16* row = row_of<bf16>(a.o, tile.token(r)) + int64_t{tile.head(r)} * d_v;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int c = Values::column(i) + n * 8 + lane % 4 * 2;
        if (c >= d_v) continue;
        *reinterpret_cast<__nv_bfloat162*>(row + c) =
            __floats2bfloat162_rn(out.v[i][n][2 * h], out.v[i][n][2 * h + 1]);
      }
    }
  }
}

// Whether values are columns of the key rows that are loaded anyway, at a place that ldmatrix can start from.
__host__ __device__ bool values_in_keys(const AttentionShape& s) {
  return (s.num_kv_heads == 1 || s.v_stride == s.k_stride) && s.v_offset % 16 == 0 &&
         s.v_offset + s.d_v <= s.d_qk;
}

template <int kPairs>
__global__ void __launch_bounds__(kThreads) attention_kernel(const __grid_constant__ AttentionArgs a) {
  extern __shared__ __align__(128) unsigned char memory[];
  Smem& smem = *reinterpret_cast<Smem*>(memory);
  const int d_qk = static_cast<int>(a.shape.d_qk), d_v = static_cast<int>(a.shape.d_v);
  bf16* q = reinterpret_cast<bf16*>(&smem + 1);
  bf16* keys = q + kRows * row_stride(d_qk);
  const bool shared_values = values_in_keys(a.shape);
  bf16* own_values = keys + kKeys * row_stride(d_qk);
  const Values values = {.rows = shared_values ? keys + a.shape.v_offset : own_values,
                         .stride = row_stride(shared_values ? d_qk : d_v),
                         .cols = d_v};
  const Tile tile = find_tile(a);
  if (tile.rows == 0) return;

  const int row = threadIdx.x / kThreadsPerRow, visible = tile.visible(row), end = tile.visible(kRows - 1);
  Output<kPairs> out;
  RowState state;
  load_queries(a, tile, q);
  for (int key0 = 0; key0 < end; key0 += kKeys) {
    load_keys(a, tile, key0, end, blockIdx.y * a.shape.k_stride, d_qk, keys);
    cp_async_commit();
    if (!shared_values)
      load_keys(a, tile, key0, end, a.shape.v_offset + blockIdx.y * a.shape.v_stride, d_v, own_values);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    score_keys(smem, q, keys, d_qk);
    __syncthreads();
    softmax_row(smem, state, a.shape.scale, visible - key0);
    cp_async_wait<0>();
    __syncthreads();
    weigh_values(out, smem, values, tile, key0);
    __syncthreads();  // before the next keys and probabilities
  }

  if (threadIdx.x % kThreadsPerRow == 0) {
    smem.rescale[row] = 1.0f / state.sum;
    if (a.lse.data && row < tile.rows)
      row_of<float>(a.lse, tile.token(row))[tile.head(row)] = state.max + logf(state.sum);
  }
  __syncthreads();
  out.multiply(smem.rescale);
  store_output(out, a, tile);
}

void check_attention(const AttentionArgs& a) {
  const AttentionShape& s = a.shape;
  CHECK(s.num_heads >= 1 && s.num_kv_heads >= 1 && s.num_heads % s.num_kv_heads == 0, "{} heads, {} kv heads",
        s.num_heads, s.num_kv_heads);
  CHECK(s.page_size >= kAttentionBlock && s.page_size % kAttentionBlock == 0,
        "page size {} is not a multiple of {}", s.page_size, kAttentionBlock);
  CHECK(a.kv.cols == s.row_width && (s.num_kv_heads - 1) * s.k_stride + s.d_qk <= s.row_width &&
            s.v_offset + (s.num_kv_heads - 1) * s.v_stride + s.d_v <= s.row_width,
        "cache rows of {} for {} kv heads of {} + {}", a.kv.cols, s.num_kv_heads, s.d_qk, s.d_v);
  CHECK(a.q.cols == s.num_heads * s.d_qk && a.o.cols == s.num_heads * s.d_v && a.q.rows == a.o.rows,
        "q [{}, {}], o [{}, {}]", a.q.rows, a.q.cols, a.o.rows, a.o.cols);
  CHECK(!a.lse || (a.lse.rows == a.q.rows && a.lse.cols == s.num_heads && a.lse.dtype == DType::kF32),
        "lse [{}, {}] {}", a.lse.rows, a.lse.cols, dtype_name(a.lse.dtype));
  CHECK(a.q.dtype == DType::kBF16 && a.kv.dtype == DType::kBF16 && a.o.dtype == DType::kBF16,
        "q {}, kv {}, o {}: BF16 is expected", dtype_name(a.q.dtype), dtype_name(a.kv.dtype),
        dtype_name(a.o.dtype));
  CHECK(in_pieces(a.q) && in_pieces(a.kv) && in_pieces(a.o) && s.d_qk % 8 == 0 && s.d_v % 8 == 0 &&
            s.k_stride % 8 == 0 && s.v_offset % 8 == 0 && s.v_stride % 8 == 0,
        "heads of {} and {}, columns of the cache at multiples of {}, {}, {}, row strides {}, {}, {}: all "
        "have to be "
        "multiples of 8",
        s.d_qk, s.d_v, s.k_stride, s.v_offset, s.v_stride, a.q.ld, a.kv.ld, a.o.ld);
}

int64_t smem_bytes(const AttentionShape& s) {
  const int64_t k = row_stride(narrow<int>(s.d_qk)),
                v = values_in_keys(s) ? 0 : row_stride(narrow<int>(s.d_v));
  return static_cast<int64_t>(sizeof(Smem)) +
         static_cast<int64_t>(sizeof(bf16)) * (kRows * k + kKeys * (k + v));
}

// f(std::integral_constant<int, pairs of column tiles that a warp holds>()).
template <class F>
void with_pairs(int64_t d_v, const F& f) {
  if (d_v <= 64) return f(std::integral_constant<int, 1>());
  if (d_v <= 128) return f(std::integral_constant<int, 2>());
  if (d_v <= 512) return f(std::integral_constant<int, 8>());
  fail(ExitCode::kConfig, "attention with values of {} columns, at most 512", d_v);
}

}  // namespace

void attention(const Exec& exec, const AttentionArgs& a) {
  check_attention(a);
  if (a.num_seqs == 0 || a.q.rows == 0) return;
  const AttentionShape& s = a.shape;
  const int64_t heads = s.num_heads / s.num_kv_heads, bytes = smem_bytes(s);
  // A sequence's last tile may be part of one.
  const int64_t tiles = a.q.rows * heads / kRows + a.num_seqs;
  int device = 0, limit = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  if (bytes > limit)
    fail(ExitCode::kConfig, "attention with heads of {} and {}: {} bytes of shared memory, there are {}",
         s.d_qk, s.d_v, bytes, limit);
  with_pairs(s.d_v, [&]<int kPairs>(std::integral_constant<int, kPairs>) {
    CUDA_CHECK(cudaFuncSetAttribute(attention_kernel<kPairs>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    narrow<int>(bytes)));
    const dim3 grid(static_cast<unsigned>(narrow<int>(tiles)), static_cast<unsigned>(s.num_kv_heads));
    attention_kernel<kPairs><<<grid, kThreads, static_cast<size_t>(bytes), stream_of(exec)>>>(a);
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace contender::cuda
