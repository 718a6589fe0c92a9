// What: gradients of causal attention for whole sequences (q_len == kv_len), p recomputed from lse.
// Math: p = exp(s - lse);  delta = dout . o;  ds = p * (dout . v - delta) * scale
//       dq = sum over keys of ds k;  dk = sum over (head, query) of ds q;  dv = sum of p dout
// Shapes: as in attention.cu; dout, dq like o, q; dkv like kv.
// Layouts: as in attention.cu. seqs and page_ids are in device memory. Values are columns of the key rows,
//   or none of them is.
// Precision: q, kv, o, dout, dq BF16; dkv F32 or BF16; everything between FP32, but p and ds are rounded to
//   BF16 before the products that give dq, dk and dv.
// Schedule: two launches, no atomics; every sum has one order. dq: a block keeps 16 (query, head) rows and
//   walks over the keys. dkv: a block keeps 16 keys of a kv head and walks over the heads and, in each, over
//   the queries from its own keys on, 64 at a time anchored at 0; dk + dv where they share columns; slices
//   of the heads are joined by the fixed binary tree, whose open terms lie in the workspace: its size says
//   how many blocks can run, and changes no bit.
// Roofline: 2 (3 d_qk + 2 d_v) flops for each (row, key) are needed, 2 (d_qk + d_v) more are done, since
//   both kernels make the scores; each tile reads the other side anew, mostly from L2: far from the tensor
//   cores.
// Limits: d_qk <= 576, d_v <= 512.
// Source: Dao et al., arXiv 2205.14135, appendix B.
#include <algorithm>
#include <cmath>

#include "cuda/attention/tiles.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/attention.h"

namespace contender::cuda {
namespace {

// The fixed part of shared memory. Behind it, in rows of row_stride(): the 16 rows that the block keeps, then
// the 64 that pass by, each with d_qk columns (query or key), then with d_v columns (dout or value, unless it
// is in the key).
struct Smem {
  alignas(128) Scores scores, dp;
  alignas(128) Probs probs, ds;
  float lse[kKeys], delta[kKeys];  // of the queries that pass by
};

struct Blocks {
  Block kept_qk, kept_v, passing_qk, passing_v;
};

enum class Kept { kQueries, kKeys };

__host__ __device__ int64_t smem_bytes(const AttentionShape& s, Kept kept) {
  const int qk = row_stride(static_cast<int>(s.d_qk)), v = row_stride(static_cast<int>(s.d_v));
  const int key = values_in_keys(s) ? qk : qk + v, query = qk + v;
  const int rows = kept == Kept::kQueries ? kRows * query + kKeys * key : kRows * key + kKeys * query;
  return static_cast<int64_t>(sizeof(Smem)) + static_cast<int64_t>(sizeof(bf16)) * rows;
}

__device__ Blocks blocks_of(Smem& smem, const AttentionShape& s, Kept kept) {
  const int d_qk = static_cast<int>(s.d_qk), d_v = static_cast<int>(s.d_v), qk = row_stride(d_qk),
            v = row_stride(d_v);
  const bool in_keys = values_in_keys(s);
  bf16* at = reinterpret_cast<bf16*>(&smem + 1);
  auto place = [&](int rows, bool are_keys, Block& first, Block& second) {
    first = {at, qk, d_qk};
    at += rows * qk;
    if (are_keys && in_keys) {
      second = {first.rows + s.v_offset, qk, d_v};
      return;
    }
    second = {at, v, d_v};
    at += rows * v;
  };
  Blocks b;
  place(kRows, kept == Kept::kKeys, b.kept_qk, b.kept_v);
  place(kKeys, kept == Kept::kQueries, b.passing_qk, b.passing_v);
  return b;
}

__device__ bf16* writable(const Block& b) { return const_cast<bf16*>(b.rows); }

__device__ void load_key_rows(const AttentionBwdArgs& a, const Tile& tile, int key0, int count,
                              int64_t kv_head, const Block& keys, const Block& values) {
  load_keys(a, tile, key0, count, tile.seq.kv_len, kv_head * a.shape.k_stride, keys.cols, writable(keys));
  if (!values_in_keys(a.shape))
    load_keys(a, tile, key0, count, tile.seq.kv_len, a.shape.v_offset + kv_head * a.shape.v_stride,
              values.cols, writable(values));
}

// dout . o of one row and head, by the eight threads of a row, in all of them.
__device__ float row_delta(const AttentionBwdArgs& a, int64_t token, int head) {
  const int d_v = static_cast<int>(a.shape.d_v);
  const bf16* dout = row_of<const bf16>(a.dout, token) + int64_t{head} * d_v;
  const bf16* o = row_of<const bf16>(a.o, token) + int64_t{head} * d_v;
  float sum = 0;
  for (int c = threadIdx.x % 8 * 8; c < d_v; c += 64) {
    const Vec<bf16> x = load_vec(dout + c), y = load_vec(o + c);
#pragma unroll
    for (int k = 0; k < 8; ++k) sum = fmaf(x.v[k], y.v[k], sum);
  }
#pragma unroll
  for (int o = kThreadsPerRow / 2; o > 0; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  return sum;
}

// p and ds of eight columns of a row; stats(column) gives {lse, delta} of its query, sees(column) whether the
// query sees the key.
template <class Sees, class Stats>
__device__ void score_gradients(Smem& smem, float scale, const Sees& sees, const Stats& stats) {
  const int row = threadIdx.x / kThreadsPerRow, c = threadIdx.x % kThreadsPerRow * 8;
  float s[8], dp[8];
  load_scores(s, smem.scores[row], c);
  load_scores(dp, smem.dp[row], c);
  Vec<bf16> p, ds;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float2 lse_delta = stats(c + k);
    const bool seen = sees(c + k);
    p.v[k] = seen ? expf(__fmul_rn(s[k], scale) - lse_delta.x) : 0;
    ds.v[k] = seen ? p.v[k] * (dp[k] - lse_delta.y) * scale : 0;
  }
  store_vec(&smem.probs[row][c], p);
  store_vec(&smem.ds[row][c], ds);
}

template <int kQk>
__global__ void __launch_bounds__(kThreads) attention_dq_kernel(const __grid_constant__ AttentionBwdArgs a) {
  extern __shared__ __align__(128) unsigned char memory[];
  Smem& smem = *reinterpret_cast<Smem*>(memory);
  const Blocks b = blocks_of(smem, a.shape, Kept::kQueries);
  const int heads = static_cast<int>(a.shape.num_heads / a.shape.num_kv_heads);
  const Tile tile = find_tile(a, heads, static_cast<int>(blockIdx.x));
  if (tile.rows == 0) return;

  const int row = min(static_cast<int>(threadIdx.x) / kThreadsPerRow, tile.rows - 1);
  const int visible = tile.visible(row), end = tile.visible(kRows - 1);
  load_queries(a.q, tile, b.kept_qk.cols, writable(b.kept_qk));
  load_queries(a.dout, tile, b.kept_v.cols, writable(b.kept_v));
  const float2 stats = make_float2(row_of<const float>(a.lse, tile.token(row))[tile.head(row)],
                                   row_delta(a, tile.token(row), tile.head(row)));
  Output<kQk> dq;
  for (int key0 = 0; key0 < end; key0 += kKeys) {
    load_key_rows(a, tile, key0, kKeys, blockIdx.y, b.passing_qk, b.passing_v);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    score_rows(smem.scores, b.kept_qk, b.passing_qk);
    score_rows(smem.dp, b.kept_v, b.passing_v);
    __syncthreads();
    score_gradients(
        smem, a.shape.scale, [&](int c) { return key0 + c < visible; }, [&](int) { return stats; });
    __syncthreads();
    for (int key = 0; key < kKeys && key0 + key < end; key += 16) {
      uint32_t ds[4];
      load_probs(ds, smem.ds, key);
      weigh_rows(dq, b.passing_qk, ds, key);
    }
    __syncthreads();
  }
  const int d_qk = b.kept_qk.cols;
  dq.for_each(d_qk, [&](int r, int c, float x, float y) {
    if (r >= tile.rows) return;
    bf16* to = row_of<bf16>(a.dq, tile.token(r)) + int64_t{tile.head(r)} * d_qk;
    *reinterpret_cast<__nv_bfloat162*>(to + c) = __floats2bfloat162_rn(x, y);
  });
}

// 64 queries of one head, with what belongs to them.
__device__ void load_head(const AttentionBwdArgs& a, const Tile& tile, int head, int q0, Smem& smem,
                          const Blocks& b) {
  const auto* q = static_cast<const bf16*>(a.q.data);
  const auto* dout = static_cast<const bf16*>(a.dout.data);
  for (int i = threadIdx.x / 8; i < kKeys; i += kThreads / 8) {
    const bool exists = q0 + i < tile.seq.q_len;
    const int64_t token = tile.seq.q_begin + (exists ? q0 + i : 0);
    copy_row(writable(b.passing_qk) + i * b.passing_qk.stride,
             q + token * a.q.ld + int64_t{head} * b.passing_qk.cols, b.passing_qk.cols, exists);
    copy_row(writable(b.passing_v) + i * b.passing_v.stride,
             dout + token * a.dout.ld + int64_t{head} * b.passing_v.cols, b.passing_v.cols, exists);
    const float delta = row_delta(a, token, head);
    if (threadIdx.x % 8 == 0) {
      smem.lse[i] = row_of<const float>(a.lse, token)[head];
      smem.delta[i] = delta;
    }
  }
}

// What one head adds to the gradients of the tile's 16 keys.
template <int kQk, int kV>
__device__ void add_head(Output<kQk>& dk, Output<kV>& dv, const AttentionBwdArgs& a, const Tile& tile,
                         int head, Smem& smem, const Blocks& b) {
  const int key = tile.row0 + threadIdx.x / kThreadsPerRow, q_len = tile.seq.q_len;
  for (int q0 = tile.row0 / kKeys * kKeys; q0 < q_len; q0 += kKeys) {
    load_head(a, tile, head, q0, smem, b);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    score_rows(smem.scores, b.kept_qk, b.passing_qk);
    score_rows(smem.dp, b.kept_v, b.passing_v);
    __syncthreads();
    score_gradients(
        smem, a.shape.scale, [&](int c) { return key <= q0 + c && q0 + c < q_len; },
        [&](int c) { return make_float2(smem.lse[c], smem.delta[c]); });
    __syncthreads();
    for (int q = max(tile.row0 - q0, 0); q < kKeys && q0 + q < q_len; q += 16) {
      uint32_t w[4];
      load_probs(w, smem.ds, q);
      weigh_rows(dk, b.passing_qk, w, q);
      load_probs(w, smem.probs, q);
      weigh_rows(dv, b.passing_v, w, q);
    }
    __syncthreads();
  }
}

// Columns of the cache rows that no kv head's key or value has: their gradient is 0.
__device__ bool is_unused(const AttentionShape& s, int64_t c) {
  auto in = [&](int64_t offset, int64_t stride, int64_t width) {
    for (int64_t g = 0; g < s.num_kv_heads; ++g) {
      if (c >= offset + g * stride && c < offset + g * stride + width) return true;
    }
    return false;
  };
  return !in(0, s.k_stride, s.d_qk) && !in(s.v_offset, s.v_stride, s.d_v);
}

struct DkvParams {
  AttentionBwdArgs a;
  int tiles, slices, slice_heads;
  float* open_terms;  // [blocks][levels][kRows][columns of a kv head]
  int levels;
};

// Where the value gradients are in the staged rows, and how wide those are.
__host__ __device__ int staged_value(const AttentionShape& s) {
  return static_cast<int>(values_in_keys(s) ? s.v_offset : s.d_qk);
}
__host__ __device__ int staged_cols(const AttentionShape& s) {
  return static_cast<int>(values_in_keys(s) ? s.d_qk : s.d_qk + s.d_v);
}

// From one staged row to the next: lanes that write pairs of columns of eight rows meet in no bank.
__host__ __device__ int staged_stride(const AttentionShape& s) { return (staged_cols(s) + 31) / 32 * 32 + 8; }

// One term of the tree over slices. The last one leaves the sum in `staged`. Each element has one thread.
__device__ void add_slice(float* staged, const DkvParams& p, int slice) {
  const int cols = staged_cols(p.a.shape), stride = staged_stride(p.a.shape);
  float* open = p.open_terms + int64_t{blockIdx.x} * p.levels * kRows * cols;
  for (int r = threadIdx.x / 32; r < kRows; r += kWarps) {
    for (int c = threadIdx.x % 32; c < cols; c += 32) {
      float x = staged[r * stride + c];
      int level = 0;
      for (int n = slice; n % 2 == 1; n /= 2, ++level) x = open[(level * kRows + r) * cols + c] + x;
      if (slice + 1 < p.slices) {
        open[(level * kRows + r) * cols + c] = x;
      } else {
        staged[r * stride + c] = x;
      }
    }
  }
}

template <class T>
__device__ void store_keys(const AttentionBwdArgs& a, const Tile& tile, int64_t kv_head,
                           const float* staged) {
  const AttentionShape& s = a.shape;
  const int cols = staged_cols(s), stride = staged_stride(s), d_qk = static_cast<int>(s.d_qk);
  for (int r = threadIdx.x / 32; r < tile.rows; r += kWarps) {
    T* row = row_of<T>(a.dkv, cache_row(a, tile, tile.row0 + r));
    for (int c = threadIdx.x % 32; c < cols; c += 32) {
      const int64_t to = c < d_qk ? kv_head * s.k_stride + c : s.v_offset + kv_head * s.v_stride + c - d_qk;
      store_one(row + to, staged[r * stride + c]);
    }
    for (int64_t c = threadIdx.x % 32; kv_head == 0 && c < s.row_width; c += 32) {
      if (is_unused(s, c)) store_one(row + c, 0.0f);
    }
  }
}

// Three small blocks on an SM: left alone, the compiler aims at four and spills.
template <class T, int kQk, int kV>
__global__ void __launch_bounds__(kThreads, kQk == 1 ? 3 : 1)
    attention_dkv_kernel(const __grid_constant__ DkvParams p) {
  extern __shared__ __align__(128) unsigned char memory[];
  Smem& smem = *reinterpret_cast<Smem*>(memory);
  const AttentionBwdArgs& a = p.a;
  const Blocks b = blocks_of(smem, a.shape, Kept::kKeys);
  const int kv_head = static_cast<int>(blockIdx.y);
  for (int t = static_cast<int>(blockIdx.x); t < p.tiles; t += static_cast<int>(gridDim.x)) {
    const Tile tile = find_tile(a, 1, t);
    if (tile.rows == 0) return;
    load_key_rows(a, tile, tile.row0, kRows, kv_head, b.kept_qk, b.kept_v);
    for (int slice = 0; slice < p.slices; ++slice) {
      Output<kQk> dk;
      Output<kV> dv;
      const int first_head = (kv_head * p.slices + slice) * p.slice_heads;
#pragma unroll 1
      for (int h = 0; h < p.slice_heads; ++h) add_head(dk, dv, a, tile, first_head + h, smem, b);
      float* staged = reinterpret_cast<float*>(writable(b.passing_qk));  // the queries are gone by now
      const int stride = staged_stride(a.shape), value = staged_value(a.shape);
      dk.for_each(b.kept_qk.cols, [&](int r, int c, float x, float y) {
        *reinterpret_cast<float2*>(staged + r * stride + c) = make_float2(x, y);
      });
      __syncthreads();
      const bool shared = values_in_keys(a.shape);
      dv.for_each(b.kept_v.cols, [&](int r, int c, float x, float y) {
        float2& to = *reinterpret_cast<float2*>(staged + r * stride + value + c);
        to = shared ? make_float2(to.x + x, to.y + y) : make_float2(x, y);
      });
      __syncthreads();
      add_slice(staged, p, slice);
      __syncthreads();
    }
    store_keys<T>(a, tile, kv_head, reinterpret_cast<float*>(writable(b.passing_qk)));
    __syncthreads();
  }
}

void check_attention_bwd(const AttentionBwdArgs& a, int32_t slices) {
  const AttentionShape& s = a.shape;
  CHECK(s.num_kv_heads >= 1 && s.num_heads % s.num_kv_heads == 0 && slices >= 1 &&
            (slices & (slices - 1)) == 0 && s.num_heads % slices == 0,
        "{} heads, {} kv heads, {} slices", s.num_heads, s.num_kv_heads, slices);
  CHECK(s.page_size >= kAttentionBlock && s.page_size % kAttentionBlock == 0,
        "page size {} is not a multiple of {}", s.page_size, kAttentionBlock);
  CHECK(a.kv.cols == s.row_width && a.dkv.cols == s.row_width && a.dkv.rows == a.kv.rows,
        "kv [{}, {}], dkv [{}, {}], width {}", a.kv.rows, a.kv.cols, a.dkv.rows, a.dkv.cols, s.row_width);
  CHECK((s.num_kv_heads - 1) * s.k_stride + s.d_qk <= s.row_width &&
            s.v_offset + (s.num_kv_heads - 1) * s.v_stride + s.d_v <= s.row_width &&
            (values_in_keys(s) || s.v_offset >= s.d_qk),
        "keys of {} columns, values of {} from column {} on, in rows of {}", s.d_qk, s.d_v, s.v_offset,
        s.row_width);
  CHECK(a.q.cols == s.num_heads * s.d_qk && a.dq.cols == a.q.cols && a.dout.cols == s.num_heads * s.d_v &&
            a.o.cols == a.dout.cols && a.lse.cols == s.num_heads,
        "columns: q {}, dq {}, o {}, dout {}, lse {}", a.q.cols, a.dq.cols, a.o.cols, a.dout.cols,
        a.lse.cols);
  CHECK(a.dq.rows == a.q.rows && a.o.rows == a.q.rows && a.dout.rows == a.q.rows && a.lse.rows == a.q.rows,
        "rows: q {}, dq {}, o {}, dout {}, lse {}", a.q.rows, a.dq.rows, a.o.rows, a.dout.rows, a.lse.rows);
  for (const Tensor* t : {&a.q, &a.kv, &a.o, &a.dout, &a.dq})
    CHECK(t->dtype == DType::kBF16 && in_pieces(*t),
          "{} [{}, {}] with row stride {}: aligned BF16 is expected", dtype_name(t->dtype), t->rows, t->cols,
          t->ld);
  CHECK(a.lse.dtype == DType::kF32, "lse {}", dtype_name(a.lse.dtype));
  CHECK(
      s.d_qk % 8 == 0 && s.d_v % 8 == 0 && s.k_stride % 8 == 0 && s.v_offset % 8 == 0 && s.v_stride % 8 == 0,
      "heads of {} and {}, columns of the cache at multiples of {}, {}, {}: all have to be multiples of 8",
      s.d_qk, s.d_v, s.k_stride, s.v_offset, s.v_stride);
}

// f(pieces of 16 columns that a warp holds of d_qk, and of d_v), as types.
template <class F>
void with_pieces(const AttentionShape& s, const F& f) {
  if (s.d_qk <= 64 && s.d_v <= 64)
    return f(std::integral_constant<int, 1>(), std::integral_constant<int, 1>());
  if (s.d_qk <= 192 && s.d_v <= 128)
    return f(std::integral_constant<int, 3>(), std::integral_constant<int, 2>());
  if (s.d_qk <= 576 && s.d_v <= 512)
    return f(std::integral_constant<int, 9>(), std::integral_constant<int, 8>());
  fail(ExitCode::kConfig, "attention backward with heads of {} and {}, at most 576 and 512", s.d_qk, s.d_v);
}

void launch_dkv(const Exec& exec, const AttentionBwdArgs& a, int32_t slices) {
  const int64_t tiles = a.q.rows / kRows + a.num_seqs;
  int levels = 0;
  while (1 << levels < slices) ++levels;
  const int64_t block_bytes =
      int64_t{levels} * kRows * staged_cols(a.shape) * static_cast<int64_t>(sizeof(float));
  CHECK(exec.workspace_bytes >= block_bytes, "workspace of {} bytes, a block needs {}", exec.workspace_bytes,
        block_bytes);
  const int64_t blocks = levels == 0 ? tiles : std::min(tiles, exec.workspace_bytes / block_bytes);
  const DkvParams params = {.a = a,
                            .tiles = narrow<int>(tiles),
                            .slices = slices,
                            .slice_heads = narrow<int>(a.shape.num_heads / a.shape.num_kv_heads / slices),
                            .open_terms = static_cast<float*>(exec.workspace),
                            .levels = levels};
  with_pieces(a.shape,
              [&]<int kQk, int kV>(std::integral_constant<int, kQk>, std::integral_constant<int, kV>) {
                with_float_type(a.dkv.dtype, [&]<class T>(std::type_identity<T>) {
                  launch_tiles<attention_dkv_kernel<T, kQk, kV>>(stream_of(exec), blocks, a.shape,
                                                                 smem_bytes(a.shape, Kept::kKeys), params);
                });
              });
}

}  // namespace

void attention_bwd(const Exec& exec, const AttentionBwdArgs& a) {
  const int32_t slices = a.shape.num_kv_heads == 1 && a.shape.num_heads > 1 ? a.head_slices : 1;
  check_attention_bwd(a, slices);
  if (a.num_seqs == 0 || a.q.rows == 0) return;
  const int64_t tiles = a.q.rows * (a.shape.num_heads / a.shape.num_kv_heads) / kRows + a.num_seqs;
  with_pieces(a.shape,
              [&]<int kQk, int kV>(std::integral_constant<int, kQk>, std::integral_constant<int, kV>) {
                launch_tiles<attention_dq_kernel<kQk>>(stream_of(exec), tiles, a.shape,
                                                       smem_bytes(a.shape, Kept::kQueries), a);
              });
  launch_dkv(exec, a, slices);
}

}  // namespace contender::cuda
