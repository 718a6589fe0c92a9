// What: ragged causal attention over a paged key/value cache.
// Math: s = scale * (q . k);  p = exp(s - max s);  o = (sum p v) / (sum p);  lse = max s + log(sum p)
// Schedule: the rows that share a kv head are (query, head) pairs, queries first; up to 16 of them lie in
//   the lanes of a vector. For each tile of rows: all scores, the softmax down each lane, then the values.
//   A key is used by a row only if the row sees it, so neighbours in the tile, which follow from the split
//   into calls, leave no trace.
// Precision: FP32. s and p v are chains (features, keys ascending); the sum of p is 16 chains, key k in
//   chain k % 16, joined by the tree of lanes.h.
#include "ops/attention.h"

#include <cmath>
#include <limits>

#include "cpu/attention_tiles.h"
#include "cpu/cpu_ops.h"

namespace contender::cpu {
namespace {

// One sequence's rows of one kv head.
struct Group {
  const AttentionArgs& a;
  const AttentionSeq& seq;
  int64_t kv_head;
  int64_t heads;  // query heads of this kv head

  int64_t rows() const { return seq.q_len * heads; }
  int64_t token(int64_t r) const { return seq.q_begin + r / heads; }
  int64_t head(int64_t r) const { return kv_head * heads + r % heads; }
  int64_t visible(int64_t r) const { return seq.kv_len - seq.q_len + r / heads + 1; }
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

struct TileBuffers {
  float* xt;      // [d_qk][lanes]
  float* scores;  // [kv_len, rounded up to blocks][lanes], then probabilities
  float* sums;    // [16][lanes]
  float* out;     // [lanes][d_v]
};

TileBuffers carve(const Exec& exec, const AttentionShape& s, int64_t max_kv_len) {
  CHECK(exec.workspace_bytes >= attention_workspace_bytes(s, 0, max_kv_len),
        "workspace of {} bytes for {} keys", exec.workspace_bytes, max_kv_len);
  TileBuffers t;
  t.xt = static_cast<float*>(exec.workspace);
  t.sums = t.xt + kFloatLanes * s.d_qk;
  t.out = t.sums + kFloatLanes * kAttentionBlock;
  t.scores = t.out + kFloatLanes * s.d_v;
  return t;
}

// Keys whose rows fill a vector: [key][lanes] is one flat array, so few lanes do not mean short vectors.
constexpr int64_t keys_per_vector(int64_t lanes) { return kFloatLanes / lanes; }

// The largest score of each lane's visible keys.
template <class D>
hn::Vec<D> visible_max(D d, const float* scores, int64_t all_visible, int64_t any_visible,
                       hn::Vec<D> visible) {
  constexpr int64_t kLanesOfD = hn::MaxLanes(D());
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  float several[kFloatLanes];
  auto wide = hn::Set(FloatTag(), -std::numeric_limits<float>::infinity());
  int64_t k = 0;
  for (; k + keys_per_vector(kLanesOfD) <= all_visible; k += keys_per_vector(kLanesOfD)) {
    wide = hn::Max(wide, hn::LoadU(FloatTag(), scores + k * kLanesOfD));
  }
  hn::StoreU(wide, FloatTag(), several);
  auto max = lowest;
  for (int64_t i = 0; i < kFloatLanes; i += kLanesOfD) max = hn::Max(max, hn::LoadU(d, several + i));
  for (; k < any_visible; ++k) {
    const auto sees = hn::Lt(hn::Set(d, static_cast<float>(k)), visible);
    max = hn::Max(max, hn::IfThenElse(sees, hn::LoadU(d, scores + k * kLanesOfD), lowest));
  }
  return max;
}

// Scores become probabilities: unnormalised, 0 where a lane does not see the key and from any_visible to the
// end of its block. Leaves the sums of exponentials in the first row of t.sums and the maxima in `max`.
template <class D>
void softmax_lanes(D d, const TileBuffers& t, int64_t all_visible, int64_t any_visible,
                   const float* visible_lanes, float* max) {
  constexpr int64_t kLanesOfD = hn::MaxLanes(D());
  const FloatTag wide;
  const auto visible = hn::LoadU(d, visible_lanes);
  const auto max_lanes = visible_max(d, t.scores, all_visible, any_visible, visible);
  for (int64_t i = 0; i < kFloatLanes; i += kLanesOfD) hn::StoreU(max_lanes, d, max + i);

  const auto max_wide = hn::LoadU(wide, max);
  const int64_t padded = round_up(any_visible, kAttentionBlock) * kLanesOfD;
  for (int64_t i = 0; i < any_visible * kLanesOfD; i += kFloatLanes) {
    hn::StoreU(vec_exp(wide, hn::Sub(hn::LoadU(wide, t.scores + i), max_wide)), wide, t.scores + i);
  }
  for (int64_t k = all_visible; k < any_visible; ++k) {
    const auto sees = hn::Lt(hn::Set(d, static_cast<float>(k)), visible);
    hn::StoreU(hn::IfThenElseZero(sees, hn::LoadU(d, t.scores + k * kLanesOfD)), d, t.scores + k * kLanesOfD);
  }
  std::fill(t.scores + any_visible * kLanesOfD, t.scores + padded, 0.0f);

  for (int64_t i = 0; i < kAttentionBlock * kLanesOfD; i += kFloatLanes) {
    auto sum = hn::Zero(wide);
    for (int64_t j = i; j < padded; j += kAttentionBlock * kLanesOfD)
      sum = hn::Add(sum, hn::LoadU(wide, t.scores + j));
    hn::StoreU(sum, wide, t.sums + i);
  }
  for (int64_t n = kAttentionBlock / 2; n > 0; n /= 2) {
    for (int64_t i = 0; i < n; ++i) {
      float* sum = t.sums + i * kLanesOfD;
      hn::StoreU(hn::Add(hn::LoadU(d, sum), hn::LoadU(d, sum + n * kLanesOfD)), d, sum);
    }
  }
}

// t.out[row] = sum over the keys that the row sees of p * v.
void weigh_values(const Group& g, const TileBuffers& t, int64_t lanes, int64_t row0, int64_t rows) {
  const AttentionShape& s = g.a.shape;
  const int64_t column = s.v_offset + g.kv_head * s.v_stride;
  std::fill_n(t.out, rows * s.d_v, 0.0f);
  for (int64_t i = 0; i < rows; i += kRowTile) {
    const int64_t n = std::min(kRowTile, rows - i), common = g.visible(row0 + i);
    g.for_each_run(column, 0, common, [&](int64_t key, int64_t count, const float* v, const float*) {
      accumulate_rows({t.scores + key * lanes + i, 1, lanes}, n, v, g.a.kv.ld, count, t.out + i * s.d_v,
                      s.d_v, s.d_v);
    });
    // Keys that only later queries of the tile see, a query (its heads) at a time.
    for (int64_t r = i, next; r < i + n; r = next) {
      next = std::min(r + g.heads - (row0 + r) % g.heads, i + n);
      if (g.visible(row0 + r) == common) continue;
      g.for_each_run(column, common, g.visible(row0 + r),
                     [&](int64_t key, int64_t count, const float* v, const float*) {
                       accumulate_rows({t.scores + key * lanes + r, 1, lanes}, next - r, v, g.a.kv.ld, count,
                                       t.out + r * s.d_v, s.d_v, s.d_v);
                     });
    }
  }
}

template <class D>
void attend_tile(D d, const Group& g, const TileBuffers& t, int64_t row0, int64_t rows) {
  constexpr int64_t kLanesOfD = hn::MaxLanes(D());
  const AttentionShape& s = g.a.shape;
  transpose_rows([&](int64_t r) { return g.a.q.row(g.token(row0 + r)) + g.head(row0 + r) * s.d_qk; }, rows,
                 kLanesOfD, s.d_qk, t.xt);
  float visible[kLanesOfD], max[kFloatLanes];
  for (int64_t r = 0; r < kLanesOfD; ++r)
    visible[r] = static_cast<float>(g.visible(row0 + std::min(r, rows - 1)));
  const int64_t all_visible = g.visible(row0), any_visible = g.visible(row0 + rows - 1);
  g.for_each_run(g.kv_head * s.k_stride, 0, any_visible,
                 [&](int64_t key, int64_t count, const float* k, const float* next) {
                   score_rows(d, t.xt, s.d_qk, k, next, g.a.kv.ld, count, s.scale,
                              t.scores + key * kLanesOfD);
                 });
  softmax_lanes(d, t, all_visible, any_visible, visible, max);
  weigh_values(g, t, kLanesOfD, row0, rows);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = g.token(row0 + r), head = g.head(row0 + r);
    const float inverse = 1.0f / t.sums[r];
    float* o = g.a.o.row(token) + head * s.d_v;
    for (int64_t c = 0; c < s.d_v; ++c) o[c] = t.out[r * s.d_v + c] * inverse;
    if (g.a.lse) {
      g.a.lse.row(token)[head] = max[r] + std::log(t.sums[r]);
    }
  }
}

int64_t check_attention(const AttentionArgs& a) {
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
  CHECK(!a.lse || (a.lse.rows == a.q.rows && a.lse.cols == s.num_heads), "lse [{}, {}]", a.lse.rows,
        a.lse.cols);
  int64_t max_kv_len = 0;
  for (int64_t i = 0; i < a.num_seqs; ++i) {
    const AttentionSeq& seq = a.seqs[i];
    CHECK(
        seq.q_len >= 1 && seq.kv_len >= seq.q_len && seq.q_begin >= 0 && seq.q_begin + seq.q_len <= a.q.rows,
        "sequence {}: queries [{}, +{}) of {}, {} keys", i, seq.q_begin, seq.q_len, a.q.rows, seq.kv_len);
    max_kv_len = std::max<int64_t>(max_kv_len, seq.kv_len);
  }
  return max_kv_len;
}

}  // namespace

void attention(const Exec& exec, const AttentionArgs& a) {
  const TileBuffers t = carve(exec, a.shape, check_attention(a));
  const int64_t heads = a.shape.num_heads / a.shape.num_kv_heads;
  for (int64_t i = 0; i < a.num_seqs; ++i) {
    for (int64_t kv_head = 0; kv_head < a.shape.num_kv_heads; ++kv_head) {
      const Group g = {a, a.seqs[i], kv_head, heads};
      for (int64_t row0 = 0; row0 < g.rows(); row0 += kFloatLanes) {
        const int64_t rows = std::min(kFloatLanes, g.rows() - row0);
        with_lane_tag(rows, [&](auto d) { attend_tile(d, g, t, row0, rows); });
      }
    }
  }
}

}  // namespace contender::cpu
