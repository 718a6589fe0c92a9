// Grouped-query attention as in Llama, Qwen2 (bias on q, k, v) and Qwen3 (RMSNorm on each head of q and k).
#include "base/timer.h"
#include "model/layers.h"

namespace contender {
namespace {

// qkv columns are [q_s | k_s | v_s] for each virtual slice s of this rank; heads are local.
struct GqaDims {
  int64_t d, slices, q, kv;  // head size; slices; columns of q and of k (or v) in one slice
  int64_t slice() const { return q + 2 * kv; }
};
GqaDims dims(const Pass& p) {
  const int64_t tp = p.rt.mesh->shape().tp, d = p.m.head_dim;
  return {d, p.slices, p.m.num_attention_heads / tp / p.slices * d,
          p.m.num_key_value_heads / tp / p.slices * d};
}

// Calls f(source columns in qkv, destination columns, use) head by head for q (in q_attn) and k (in kv_row),
// and for v as one piece.
struct HeadPlace {
  int64_t from, to, head;
};
std::vector<HeadPlace> heads_of(const GqaDims& d, int64_t slice_offset, int64_t width) {
  std::vector<HeadPlace> places;
  for (int64_t s = 0; s < d.slices; ++s)
    for (int64_t c = 0; c < width; c += d.d)
      places.push_back({s * d.slice() + slice_offset + c, s * width + c, (s * width + c) / d.d});
  return places;
}

RopeArgs rope_args(const Pass& p, const Tensor& x, int64_t heads, bool inverse) {
  return {.x = x,
          .x_heads = {.count = heads, .stride = p.m.head_dim},
          .positions = p.batch.positions.data(),
          .table = p.rope_table,
          .interleaved = false,
          .inverse = inverse};
}

}  // namespace

Tensor gqa_forward(const Pass& p, const BlockParams& b, const Tensor& x, const Tensor& kv,
                   AttentionSaved& s) {
  const TraceScope trace("attention");
  const GqaDims d = dims(p);
  const int64_t q_cols = d.slices * d.q, kv_cols = d.slices * d.kv;
  s.x = x;
  s.kv = kv;
  s.y = norm(p, p.keep(true), x, {}, b.attn_norm, &s.rstd);
  s.y_all = gather_rows(p, p.keep(true), s.y);
  s.qkv = linear(p, p.m.qk_norm ? p.keep() : p.temp(), s.y_all, b.qkv, 1,
                 b.qkv_bias >= 0 ? p.w.master(b.qkv_bias).f32() : nullptr);

  s.q_attn = p.keep().f32(p.rows, q_cols);
  const Tensor kv_row = p.temp().f32(p.rows, 2 * kv_cols);
  const auto q_heads = heads_of(d, 0, d.q), k_heads = heads_of(d, d.q, d.kv),
             v_heads = heads_of(d, d.q + d.kv, d.kv);
  if (p.m.qk_norm && p.train) s.qk_rstd = p.arena().f32(int64_t(q_heads.size() + k_heads.size()), p.rows);
  auto place = [&](const std::vector<HeadPlace>& heads, const Tensor& to, int64_t offset, int gamma,
                   int64_t rstd_row) {
    for (const HeadPlace& h : heads) {
      const Tensor from = s.qkv.col_range(h.from, h.from + d.d),
                   out = to.col_range(offset + h.to, offset + h.to + d.d);
      if (gamma < 0) {
        copy(p, from, out);
      } else {
        p.ops.rms_norm(p.exec, {.x = from,
                                .gamma = p.w.master(gamma),
                                .eps = static_cast<float>(p.m.rms_norm_eps),
                                .y = out,
                                .rstd = p.train ? s.qk_rstd.row(rstd_row + h.head) : nullptr});
      }
    }
  };
  place(q_heads, s.q_attn, 0, b.q_norm, 0);
  place(k_heads, kv_row, 0, b.k_norm, int64_t(q_heads.size()));
  place(v_heads, kv_row, kv_cols, -1, 0);
  p.ops.rope(p.exec, rope_args(p, s.q_attn, q_cols / d.d, false));
  p.ops.rope(p.exec, rope_args(p, kv_row.col_range(0, kv_cols), kv_cols / d.d, false));

  p.ops.scatter_rows(p.exec, {.x = kv_row, .index = p.batch.cache_rows.data(), .y = kv});
  s.o_attn = p.keep().f32(p.rows, q_cols);
  s.lse = p.keep().f32(p.rows, q_cols / d.d);
  p.ops.attention(p.exec, {.shape = p.attention,
                           .q = s.q_attn,
                           .kv = kv,
                           .seqs = p.batch.seqs.data(),
                           .num_seqs = int64_t(p.batch.seqs.size()),
                           .page_ids = p.batch.page_ids.data(),
                           .o = s.o_attn,
                           .lse = s.lse});
  return reduce_rows(p, p.temp(), linear(p, p.temp(), s.o_attn, b.o, p.slices));
}

void gqa_backward(const Pass& p, const BlockParams& b, const AttentionSaved& s, const Tensor& dx) {
  const TraceScope trace("attention_grad");
  const ArenaScope scope(p.temp());
  Arena& temp = p.temp();
  const GqaDims d = dims(p);
  const int64_t q_cols = d.slices * d.q, kv_cols = d.slices * d.kv;
  const RowSegments leaves = p.group_leaves();

  const Tensor dout = gather_rows(p, temp, dx);
  const Tensor d_o = temp.f32(p.rows, q_cols);
  linear_backward(p, dout, s.o_attn, b.o, d_o, leaves);
  const Tensor dq = temp.f32(p.rows, q_cols);
  const Tensor dkv = temp.f32(s.kv.rows, s.kv.cols);
  p.ops.attention_bwd(p.exec, {.shape = p.attention,
                               .q = s.q_attn,
                               .kv = s.kv,
                               .seqs = p.batch.seqs.data(),
                               .num_seqs = int64_t(p.batch.seqs.size()),
                               .page_ids = p.batch.page_ids.data(),
                               .o = s.o_attn,
                               .lse = s.lse,
                               .dout = d_o,
                               .dq = dq,
                               .dkv = dkv});
  const Tensor dkv_row = temp.f32(p.rows, 2 * kv_cols);
  p.ops.gather_rows(p.exec, {.x = dkv, .index = p.batch.cache_rows.data(), .y = dkv_row});
  p.ops.rope(p.exec, rope_args(p, dq, q_cols / d.d, true));
  p.ops.rope(p.exec, rope_args(p, dkv_row.col_range(0, kv_cols), kv_cols / d.d, true));

  const Tensor dqkv = temp.f32(p.rows, d.slices * d.slice());
  const auto q_heads = heads_of(d, 0, d.q), k_heads = heads_of(d, d.q, d.kv),
             v_heads = heads_of(d, d.q + d.kv, d.kv);
  auto place = [&](const std::vector<HeadPlace>& heads, const Tensor& from, int64_t offset, int gamma,
                   int64_t rstd_row) {
    for (const HeadPlace& h : heads) {
      const Tensor dy = from.col_range(offset + h.to, offset + h.to + d.d),
                   out = dqkv.col_range(h.from, h.from + d.d);
      if (gamma < 0) {
        copy(p, dy, out);
      } else {
        const int64_t first = p.rt.mesh->tp().rank() *
                              int64_t(heads.size());  // a head is a use of its own, by its global number
        norm_backward(p, dy, s.qkv.col_range(h.from, h.from + d.d),
                      f32_tensor(s.qk_rstd.row(rstd_row + h.head), 1, p.rows), gamma, out, false, leaves,
                      static_cast<int>(first + h.head));
      }
    }
  };
  place(q_heads, dq, 0, b.q_norm, 0);
  place(k_heads, dkv_row, 0, b.k_norm, int64_t(q_heads.size()));
  place(v_heads, dkv_row, kv_cols, -1, 0);

  if (b.qkv_bias >= 0)
    p.ops.column_sum(
        p.exec,
        {.dy = dqkv, .sum = f32_tensor(p.w.grad(b.qkv_bias).f32(), 1, dqkv.cols), .segments = leaves});
  const Tensor y_all = p.recompute == Recompute::kSelective
                           ? gather_rows(p, temp, norm(p, temp, s.x, {}, b.attn_norm, nullptr))
                           : s.y_all;
  const Tensor dy_all = temp.f32(p.rows, p.m.hidden_size);
  linear_backward(p, dqkv, y_all, b.qkv, dy_all, leaves, p.slices);
  norm_backward(p, reduce_rows(p, temp, dy_all), s.x, s.rstd, b.attn_norm, dx, true, p.own_leaves());
}

}  // namespace contender
