// What: gradients of causal attention for whole sequences (q_len == kv_len), p recomputed from lse.
// Math: p = exp(s - lse);  delta = dout . o;  ds = p * (dout . v - delta) * scale
//       dq = sum over keys of ds k;  dk = sum over rows of ds q;  dv = sum over rows of p dout
// Schedule: for each virtual slice of the heads, heads ascending, tiles of up to 16 queries ascending:
//   scores and dout . v of all keys that the tile sees, then the three gradients. Masked pairs have
//   p = ds = 0; tiles are anchored at the sequence's start, so they are the same in every layout.
// Precision: FP32. dq: one chain over keys. dk and dv: one chain each over the slice's heads, then queries.
//   Where key and value share columns the slice's result is dk + dv; slices are joined by the fixed binary
//   tree, so heads sharded over ranks give the same bits.
#include "cpu/attention_tiles.h"
#include "cpu/cpu_ops.h"
#include "cpu/lanes.h"
#include "cpu/tree_sum.h"
#include "ops/attention.h"

namespace contender::cpu {
namespace {

struct Buffers {
  float* qt;     // [d_qk][lanes]
  float* doutt;  // [d_v][lanes]
  float* p;      // [kv_len][lanes]
  float* ds;     // [kv_len][lanes]
  float* dv;     // [kv_len][d_v]
  float* cache;  // [kv_len][row_width], then the levels of the tree
};

Buffers carve(const Exec& exec, const AttentionShape& s, int64_t max_kv_len, int32_t slices) {
  CHECK(exec.workspace_bytes >= attention_bwd_workspace_bytes(s, max_kv_len, slices),
        "workspace of {} bytes for {} keys", exec.workspace_bytes, max_kv_len);
  Buffers b;
  b.qt = static_cast<float*>(exec.workspace);
  b.doutt = b.qt + kFloatLanes * s.d_qk;
  b.p = b.doutt + kFloatLanes * s.d_v;
  b.ds = b.p + kFloatLanes * max_kv_len;
  b.dv = b.ds + kFloatLanes * max_kv_len;
  b.cache = b.dv + round_up(max_kv_len * s.d_v, kLanes);
  return b;
}

// One query head of one sequence: position i is row q_begin + i.
struct Head {
  const AttentionBwdArgs& a;
  const AttentionSeq& seq;
  int64_t head;
  int64_t kv_head;
  float* dk;  // [kv_len][row_width] at this kv head's key columns

  float* q(int64_t i) const { return a.q.row(seq.q_begin + i) + head * a.shape.d_qk; }
  float* dq(int64_t i) const { return a.dq.row(seq.q_begin + i) + head * a.shape.d_qk; }
  float* o(int64_t i) const { return a.o.row(seq.q_begin + i) + head * a.shape.d_v; }
  float* dout(int64_t i) const { return a.dout.row(seq.q_begin + i) + head * a.shape.d_v; }
  float lse(int64_t i) const { return a.lse.row(seq.q_begin + i)[head]; }
  // f(key, count, rows of these keys, rows of the keys that follow), each at `column`
  template <class F>
  void for_each_run(int64_t column, int64_t begin, int64_t end, const F& f) const {
    cpu::for_each_run(a.page_ids + seq.page_table, a.shape.page_size, begin, end, [&](const KeyRun& r) {
      CHECK(0 <= r.row && r.row + r.count <= a.kv.rows, "keys {} to {} in rows {} to {} of {}", r.key,
            r.key + r.count, r.row, r.row + r.count, a.kv.rows);
      f(r.key, r.count, a.kv.row(r.row) + column, a.kv.row(r.next) + column);
    });
  }
};

// Probabilities and score gradients of queries [q0, q0 + n), keys [0, q0 + n).
template <class D>
void score_gradients(D d, const Head& h, const Buffers& b, int64_t q0, int64_t n) {
  constexpr int64_t kLanesOfD = hn::MaxLanes(D());
  const AttentionShape& s = h.a.shape;
  transpose_rows([&](int64_t r) { return h.q(q0 + r); }, n, kLanesOfD, s.d_qk, b.qt);
  transpose_rows([&](int64_t r) { return h.dout(q0 + r); }, n, kLanesOfD, s.d_v, b.doutt);
  h.for_each_run(h.kv_head * s.k_stride, 0, q0 + n,
                 [&](int64_t key, int64_t count, const float* k, const float* next) {
                   score_rows(d, b.qt, s.d_qk, k, next, h.a.kv.ld, count, s.scale, b.p + key * kLanesOfD);
                 });
  h.for_each_run(s.v_offset + h.kv_head * s.v_stride, 0, q0 + n,
                 [&](int64_t key, int64_t count, const float* v, const float* next) {
                   score_rows(d, b.doutt, s.d_v, v, next, h.a.kv.ld, count, 1.0f, b.ds + key * kLanesOfD);
                 });
  float lse[kLanesOfD] = {}, delta[kLanesOfD] = {};
  for (int64_t r = 0; r < n; ++r) {
    lse[r] = h.lse(q0 + r);
    delta[r] = row_dot(h.dout(q0 + r), h.o(q0 + r), s.d_v);
  }
  const auto lse_v = hn::LoadU(d, lse), delta_v = hn::LoadU(d, delta), scale = hn::Set(d, s.scale);
  const auto query = hn::Iota(d, static_cast<float>(q0));
  for (int64_t k = 0; k < q0 + n; ++k) {
    auto p = vec_exp(d, hn::Sub(hn::LoadU(d, b.p + k * kLanesOfD), lse_v));
    auto ds = hn::Mul(hn::Mul(p, hn::Sub(hn::LoadU(d, b.ds + k * kLanesOfD), delta_v)), scale);
    if (k > q0) {
      const auto sees = hn::Le(hn::Set(d, static_cast<float>(k)), query);
      p = hn::IfThenElseZero(sees, p);
      ds = hn::IfThenElseZero(sees, ds);
    }
    hn::StoreU(p, d, b.p + k * kLanesOfD);
    hn::StoreU(ds, d, b.ds + k * kLanesOfD);
  }
}

// dq of queries [q0, q0 + n).
void query_gradients(const Head& h, const Buffers& b, int64_t lanes, int64_t q0, int64_t n) {
  const AttentionShape& s = h.a.shape;
  for (int64_t i = 0; i < n; i += kRowTile) {
    const int64_t rows = std::min(kRowTile, n - i);
    for (int64_t r = i; r < i + rows; ++r) std::fill_n(h.dq(q0 + r), s.d_qk, 0.0f);
    h.for_each_run(h.kv_head * s.k_stride, 0, q0 + i + rows,
                   [&](int64_t key, int64_t count, const float* k, const float*) {
                     accumulate_rows({b.ds + key * lanes + i, 1, lanes}, rows, k, h.a.kv.ld, count,
                                     h.dq(q0 + i), h.a.dq.ld, s.d_qk);
                   });
  }
}

// Continues to[key] += sum over queries [q0, q0 + n) of w[key][query] * x[query], from the first query that
// sees a key of the tile.
void key_gradients(const float* w, int64_t lanes, const float* x, int64_t ldx, int64_t q0, int64_t n,
                   float* to, int64_t ldto, int64_t cols) {
  for (int64_t key = 0; key < q0 + n; key += kRowTile) {
    const int64_t keys = std::min(kRowTile, q0 + n - key), first = std::max<int64_t>(key - q0, 0);
    accumulate_rows({w + key * lanes + first, lanes, 1}, keys, x + first * ldx, ldx, n - first,
                    to + key * ldto, ldto, cols);
  }
}

void head_gradients(const Head& h, const Buffers& b) {
  const AttentionShape& s = h.a.shape;
  for (int64_t q0 = 0; q0 < h.seq.q_len; q0 += kFloatLanes) {
    const int64_t n = std::min<int64_t>(kFloatLanes, h.seq.q_len - q0);
    with_lane_tag(n, [&](auto d) {
      constexpr int64_t kLanesOfD = hn::MaxLanes(decltype(d)());
      score_gradients(d, h, b, q0, n);
      query_gradients(h, b, kLanesOfD, q0, n);
      key_gradients(b.ds, kLanesOfD, h.q(q0), h.a.q.ld, q0, n, h.dk, s.row_width, s.d_qk);
      key_gradients(b.p, kLanesOfD, h.dout(q0), h.a.dout.ld, q0, n, b.dv, s.d_v, s.d_v);
    });
  }
}

// Cache-row gradients of query heads [head0, head0 + count), which share kv_head, into rows[key][row_width].
void slice_gradients(const AttentionBwdArgs& a, const AttentionSeq& seq, const Buffers& b, int64_t kv_head,
                     int64_t head0, int64_t count, float* rows) {
  const AttentionShape& s = a.shape;
  std::fill_n(b.dv, seq.kv_len * s.d_v, 0.0f);
  for (int64_t h = head0; h < head0 + count; ++h)
    head_gradients({a, seq, h, kv_head, rows + kv_head * s.k_stride}, b);
  for (int64_t key = 0; key < seq.kv_len; ++key) {
    float* value = rows + key * s.row_width + s.v_offset + kv_head * s.v_stride;
    for (int64_t c = 0; c < s.d_v; ++c) value[c] += b.dv[key * s.d_v + c];
  }
}

void sequence_gradients(const AttentionBwdArgs& a, const AttentionSeq& seq, const Buffers& b,
                        int32_t slices) {
  const AttentionShape& s = a.shape;
  TreeSum tree(b.cache, s.row_width, seq.kv_len, s.row_width,
               b.cache + round_up(seq.kv_len * s.row_width, kLanes));
  const int64_t slice_heads = s.num_heads / s.num_kv_heads / slices;
  for (int32_t slice = 0; slice < slices; ++slice) {
    float* rows = tree.next().data;
    std::fill_n(rows, seq.kv_len * s.row_width, 0.0f);
    for (int64_t g = 0; g < s.num_kv_heads; ++g) {
      slice_gradients(a, seq, b, g, (g * slices + slice) * slice_heads, slice_heads, rows);
    }
    tree.push(true);
  }
  tree.finish();
  cpu::for_each_run(a.page_ids + seq.page_table, s.page_size, 0, seq.kv_len, [&](const KeyRun& r) {
    for (int64_t j = 0; j < r.count; ++j)
      std::copy_n(b.cache + (r.key + j) * s.row_width, s.row_width, a.dkv.row(r.row + j));
  });
}

int64_t check_attention_bwd(const AttentionBwdArgs& a, int32_t slices) {
  const AttentionShape& s = a.shape;
  CHECK(s.num_kv_heads >= 1 && s.num_heads % s.num_kv_heads == 0 && slices >= 1 && s.num_heads % slices == 0,
        "{} heads, {} kv heads, {} slices", s.num_heads, s.num_kv_heads, slices);
  CHECK(a.kv.cols == s.row_width && a.dkv.cols == s.row_width && a.dkv.rows == a.kv.rows,
        "kv [{}, {}], dkv [{}, {}], width {}", a.kv.rows, a.kv.cols, a.dkv.rows, a.dkv.cols, s.row_width);
  CHECK(a.q.cols == s.num_heads * s.d_qk && a.dq.cols == a.q.cols && a.dout.cols == s.num_heads * s.d_v &&
            a.o.cols == a.dout.cols && a.lse.cols == s.num_heads,
        "columns: q {}, dq {}, o {}, dout {}, lse {}", a.q.cols, a.dq.cols, a.o.cols, a.dout.cols,
        a.lse.cols);
  CHECK(a.dq.rows == a.q.rows && a.o.rows == a.q.rows && a.dout.rows == a.q.rows && a.lse.rows == a.q.rows,
        "rows: q {}, dq {}, o {}, dout {}, lse {}", a.q.rows, a.dq.rows, a.o.rows, a.dout.rows, a.lse.rows);
  int64_t max_kv_len = 0;
  for (int64_t i = 0; i < a.num_seqs; ++i) {
    const AttentionSeq& seq = a.seqs[i];
    CHECK(
        seq.q_len >= 1 && seq.q_len == seq.kv_len && seq.q_begin >= 0 && seq.q_begin + seq.q_len <= a.q.rows,
        "sequence {}: queries [{}, +{}) of {}, {} keys", i, seq.q_begin, seq.q_len, a.q.rows, seq.kv_len);
    max_kv_len = std::max<int64_t>(max_kv_len, seq.kv_len);
  }
  return max_kv_len;
}

}  // namespace

void attention_bwd(const Exec& exec, const AttentionBwdArgs& a) {
  const int32_t slices = a.shape.num_kv_heads == 1 ? a.head_slices : 1;
  const Buffers b = carve(exec, a.shape, check_attention_bwd(a, slices), slices);
  for (int64_t i = 0; i < a.num_seqs; ++i) sequence_gradients(a, a.seqs[i], b, slices);
}

}  // namespace contender::cpu
