// What: ragged causal attention over a paged key/value cache, forward.
// Math: s = scale * (q . k);  p = exp(s - max s);  o = (sum p v) / (sum p);  lse = max s + log(sum p)
// Shapes: q [T, num_heads * d_qk], kv [rows of pages, row_width], o [T, num_heads * d_v], lse [T, num_heads].
// Layouts: rows of 16-byte pieces at aligned addresses: d_qk, d_v and all column offsets are multiples of 8.
//   Where the value is part of the key row (absorbed MLA) it is read once. seqs and page_ids are in device
//   memory.
// Precision: q, k, v, o BF16; scores, softmax and sums FP32; p is rounded to BF16 for p v, not for the sum
//   of p.
// Schedule: one launch. The rows that share a kv head are (query, head) pairs, queries first; a block takes
//   16 of them, a tile, and walks over the keys 64 at a time from position 0. Warp w computes the scores of
//   keys 16 w.. of the 64; eight threads a row do the online softmax; then warp w owns columns 16 w.. of
//   every 64 of the output. The host knows no lengths: the grid is a bound on the number of tiles, and each
//   block finds its own from the lengths. A row's sums run over the same blocks in the same order whatever
//   shares its tile: keys that it does not see are -inf in its maximum, 0 in its sum, and leave its output
//   untouched. In the last blocks, where the rows of a tile see different keys, p v is made once for each
//   query with the keys that this query sees, and kept in its rows alone, so that not even a NaN of a later
//   key reaches an earlier query.
// Roofline: 2 (d_qk + d_v) flops for each (row, key); each tile reads the keys anew, (d_qk + d_v) * 2 bytes
//   for 16 rows, mostly from L2: 16 flops a byte, bound by L2 and by shared memory, far from the tensor
//   cores.
// Limits: d_v <= 512; d_qk and d_v together within shared memory.
// Source: Dao et al., arXiv 2205.14135; Milakov and Gimelshein, arXiv 1805.02867 (online softmax).
#include <cmath>

#include "cuda/attention/tiles.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/attention.h"

namespace contender::cuda {
namespace {

// The fixed part of shared memory. Behind it: q [kRows], keys [kKeys] and, unless they are part of the keys,
// values [kKeys], in rows of row_stride().
struct Smem {
  alignas(128) Scores scores;
  alignas(128) Probs probs;
  float rescale[kRows];  // what the output so far is multiplied by
};

// Of the keys so far, the same in the eight threads of a row.
struct RowState {
  float max = -INFINITY, sum = 0;
};

// Scores become probabilities; `visible` of the block's keys are seen by the row.
__device__ void softmax_row(Smem& smem, RowState& state, float scale, int visible) {
  const int row = threadIdx.x / kThreadsPerRow, key = threadIdx.x % kThreadsPerRow * 8;
  float x[8];
  load_scores(x, smem.scores[row], key);
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

// The first `visible` of 16 keys, for the rows of one query: `low` and `high` say whether this lane's two
// rows are.
template <int kPieces>
__device__ void weigh_some(Output<kPieces>& out, const Block& values, const uint32_t (&p)[4], int key,
                           int visible, bool low, bool high) {
  const int k = threadIdx.x % 4 * 2;
  uint32_t keep[2];  // of the keys in the first and in the second register of a fragment
#pragma unroll
  for (int h = 0; h < 2; ++h)
    keep[h] = (k + 8 * h < visible ? 0xffffu : 0) | (k + 8 * h + 1 < visible ? 0xffff0000u : 0);
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    if (piece_column(i) >= values.cols) continue;
    uint32_t b[4];
    load_piece_fragments(b, values, key, i);
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
template <int kPieces>
__device__ void weigh_values(Output<kPieces>& out, const Smem& smem, const Block& values, const Tile& tile,
                             int key0) {
  const int lane = threadIdx.x % 32, last = tile.query(kRows - 1);
  out.multiply(smem.rescale);
  for (int key = 0; key < kKeys && key0 + key < tile.visible_to_query(last); key += 16) {
    uint32_t p[4];
    load_probs(p, smem.probs, key);
    if (key0 + key + 16 <= tile.visible(0)) {
      weigh_rows(out, values, p, key);
      continue;
    }
    const int low = tile.query(lane / 4), high = tile.query(lane / 4 + 8);
    for (int query = tile.query(0); query <= last; ++query) {
      const int visible = tile.visible_to_query(query) - key0 - key;
      if (visible > 0) weigh_some(out, values, p, key, visible, query == low, query == high);
    }
  }
}

template <int kPieces>
__device__ void store_output(const Output<kPieces>& out, const AttentionArgs& a, const Tile& tile) {
  const int d_v = static_cast<int>(a.shape.d_v);
  out.for_each(d_v, [&](int r, int c, float x, float y) {
    if (r >= tile.rows) return;
    bf16* row = row_of<bf16>(a.o, tile.token(r)) + int64_t{tile.head(r)} * d_v;
    *reinterpret_cast<__nv_bfloat162*>(row + c) = __floats2bfloat162_rn(x, y);
  });
}

template <int kPieces>
__global__ void __launch_bounds__(kThreads) attention_kernel(const __grid_constant__ AttentionArgs a) {
  extern __shared__ __align__(128) unsigned char memory[];
  Smem& smem = *reinterpret_cast<Smem*>(memory);
  const int d_qk = static_cast<int>(a.shape.d_qk), d_v = static_cast<int>(a.shape.d_v);
  bf16* q = reinterpret_cast<bf16*>(&smem + 1);
  bf16* keys = q + kRows * row_stride(d_qk);
  const bool shared_values = values_in_keys(a.shape);
  bf16* own_values = keys + kKeys * row_stride(d_qk);
  const Block query_block = {q, row_stride(d_qk), d_qk}, key_block = {keys, row_stride(d_qk), d_qk};
  const Block values = {shared_values ? keys + a.shape.v_offset : own_values,
                        row_stride(shared_values ? d_qk : d_v), d_v};
  const Tile tile =
      find_tile(a, static_cast<int>(a.shape.num_heads / a.shape.num_kv_heads), static_cast<int>(blockIdx.x));
  if (tile.rows == 0) return;

  const int row = threadIdx.x / kThreadsPerRow, visible = tile.visible(row), end = tile.visible(kRows - 1);
  Output<kPieces> out;
  RowState state;
  load_queries(a.q, tile, d_qk, q);
  for (int key0 = 0; key0 < end; key0 += kKeys) {
    load_keys(a, tile, key0, kKeys, end, blockIdx.y * a.shape.k_stride, d_qk, keys);
    cp_async_commit();
    if (!shared_values)
      load_keys(a, tile, key0, kKeys, end, a.shape.v_offset + blockIdx.y * a.shape.v_stride, d_v, own_values);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    score_rows(smem.scores, query_block, key_block);
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
        "not all multiples of 8: heads of {} and {}, cache columns {}, {}, {}, row strides {}, {}, {}",
        s.d_qk, s.d_v, s.k_stride, s.v_offset, s.v_stride, a.q.ld, a.kv.ld, a.o.ld);
}

int64_t smem_bytes(const AttentionShape& s) {
  const int64_t k = row_stride(narrow<int>(s.d_qk)),
                v = values_in_keys(s) ? 0 : row_stride(narrow<int>(s.d_v));
  return static_cast<int64_t>(sizeof(Smem)) +
         static_cast<int64_t>(sizeof(bf16)) * (kRows * k + kKeys * (k + v));
}

// f(std::integral_constant<int, pieces that a warp holds>()).
template <class F>
void with_pieces(int64_t d_v, const F& f) {
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
  with_pieces(s.d_v, [&]<int kPieces>(std::integral_constant<int, kPieces>) {
    launch_tiles<attention_kernel<kPieces>>(stream_of(exec), tiles, s, bytes, a);
  });
}

}  // namespace contender::cuda
