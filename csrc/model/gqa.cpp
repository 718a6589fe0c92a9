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

// The heads of a part of qkv, `width` columns of each slice from `offset` of the slice on.
Heads heads_in_qkv(const GqaDims& d, int64_t offset, int64_t width) {
  return {.count = d.slices * width / d.d,
          .stride = d.d,
          .offset = offset,
          .per_slice = width / d.d,
          .slice_stride = d.slice()};
}
// The same heads side by side.
Heads heads_in_row(const GqaDims& d, int64_t width, int64_t offset = 0) {
  return {.count = d.slices * width / d.d, .stride = d.d, .offset = offset};
}

void rotate(const Pass& p, const Tensor& x, const Heads& x_heads, const Tensor& y, const Heads& y_heads,
            bool inverse) {
  p.ops.rope(p.exec, {.x = x,
                      .x_heads = x_heads,
                      .y = y,
                      .y_heads = y_heads,
                      .positions = p.device.positions,
                      .table = p.rope_table,
                      .interleaved = false,
                      .inverse = inverse});
}

AttentionArgs attention_args(const Pass& p, const AttentionSaved& s) {
  return {.shape = p.attention,
          .q = s.q_attn,
          .kv = s.kv,
          .seqs = p.device.seqs,
          .num_seqs = int64_t(p.batch.seqs.size()),
          .page_ids = p.device.page_ids,
          .o = s.o_attn,
          .lse = s.lse};
}

// Rows of a head's gamma gradient: a head is a use of gamma of its own, by its global number.
Tensor head_grads(const Pass& p, int gamma, int64_t count) {
  const int first = static_cast<int>(p.rt.mesh->tp().rank() * count);
  const Tensor grad = p.w.grad(gamma, first);
  const int64_t ld = count > 1 ? p.w.grad(gamma, first + 1).f32() - grad.f32() : grad.ld;
  return {grad.data, DType::kF32, count, grad.cols, ld};
}

}  // namespace

Tensor gqa_forward(const Pass& p, const BlockParams& b, Tensor& x, const Tensor& delta, const Tensor& kv,
                   AttentionSaved& s) {
  const TraceScope trace("attention");
  const GqaDims d = dims(p);
  const int64_t q_cols = d.slices * d.q, kv_cols = d.slices * d.kv;
  s.kv = kv;
  s.y = add_norm(p, p.keep(true), x, delta, b.attn_norm, &s.rstd, form_for(p, b.qkv));
  s.x = x;
  s.y_all = gather_rows(p, p.keep(true), s.y);
  s.qkv = linear(p, p.act(p.m.qk_norm ? p.keep() : p.temp(), p.rows, d.slices * d.slice()), s.y_all, b.qkv, 1,
                 b.qkv_bias >= 0 ? p.w.master(b.qkv_bias).f32() : nullptr);

  // q and k are normed, if at all, and rotated on their way to where attention reads them.
  s.q_attn = p.act(p.keep(), p.rows, q_cols);
  const Tensor kv_row = p.act(p.temp(), p.rows, 2 * kv_cols);
  const Heads q_from = heads_in_qkv(d, 0, d.q), k_from = heads_in_qkv(d, d.q, d.kv),
              v_from = heads_in_qkv(d, d.q + d.kv, d.kv);
  const Heads q_to = heads_in_row(d, d.q), k_to = heads_in_row(d, d.kv);
  if (p.m.qk_norm && p.train) s.qk_rstd = p.arena().f32(q_to.count + k_to.count, p.rows);
  auto place = [&](const Heads& from, const Tensor& to, const Heads& heads, int gamma, int64_t rstd_row) {
    if (gamma < 0) return rotate(p, s.qkv, from, to, heads, false);
    p.ops.head_norm(p.exec, {.x = s.qkv,
                             .x_heads = from,
                             .gamma = p.w.master(gamma),
                             .eps = static_cast<float>(p.m.rms_norm_eps),
                             .y = to,
                             .y_heads = heads,
                             .rstd = p.train ? s.qk_rstd.row(rstd_row) : nullptr});
    rotate(p, to, heads, {}, {}, false);
  };
  place(q_from, s.q_attn, q_to, b.q_norm, 0);
  place(k_from, kv_row, k_to, b.k_norm, q_to.count);
  p.ops.copy_heads(
      p.exec,
      {.x = s.qkv, .x_heads = v_from, .y = kv_row, .y_heads = heads_in_row(d, d.kv, kv_cols), .width = d.d});

  p.ops.scatter_rows(p.exec, {.x = kv_row, .index = p.device.cache_rows, .y = kv});
  s.o_attn = p.act(p.keep(), p.rows, q_cols);
  s.lse = p.keep().f32(p.rows, q_to.count);
  p.ops.attention(p.exec, attention_args(p, s));
  const Tensor out = linear(p, p.partial(p.temp(), p.rows, p.m.hidden_size), s.o_attn, b.o, p.slices);
  return reduce_rows(p, p.temp(), out);
}

void gqa_backward(const Pass& p, const BlockParams& b, const AttentionSaved& s, const Tensor& dx) {
  const TraceScope trace("attention_grad");
  const ArenaScope scope(p.temp());
  Arena& temp = p.temp();
  const GqaDims d = dims(p);
  const int64_t q_cols = d.slices * d.q, kv_cols = d.slices * d.kv;
  const RowSegments& leaves = p.group_leaves;

  const Tensor dout = gather_rows(p, temp, dx);
  const Tensor d_o = p.act(temp, p.rows, q_cols), dq = p.act(temp, p.rows, q_cols),
               dkv = p.act(temp, s.kv.rows, s.kv.cols), dkv_row = p.act(temp, p.rows, 2 * kv_cols),
               dqkv = p.act(temp, p.rows, d.slices * d.slice());
  linear_backward(p, dout, s.o_attn, b.o, d_o, leaves);
  const AttentionArgs a = attention_args(p, s);
  p.ops.attention_bwd(p.exec, {.shape = a.shape,
                               .q = a.q,
                               .kv = a.kv,
                               .seqs = a.seqs,
                               .num_seqs = a.num_seqs,
                               .page_ids = a.page_ids,
                               .o = a.o,
                               .lse = a.lse,
                               .dout = d_o,
                               .dq = dq,
                               .dkv = dkv});
  p.ops.gather_rows(p.exec, {.x = dkv, .index = p.device.cache_rows, .y = dkv_row});

  const Heads q_to = heads_in_qkv(d, 0, d.q), k_to = heads_in_qkv(d, d.q, d.kv),
              v_to = heads_in_qkv(d, d.q + d.kv, d.kv);
  const Heads q_from = heads_in_row(d, d.q), k_from = heads_in_row(d, d.kv);
  auto place = [&](const Tensor& dy, const Heads& from, const Heads& to, int gamma, int64_t rstd_row) {
    if (gamma < 0) return rotate(p, dy, from, dqkv, to, true);
    rotate(p, dy, from, {}, {}, true);
    p.ops.head_norm_bwd(p.exec, {.dy = dy,
                                 .dy_heads = from,
                                 .x = s.qkv,
                                 .x_heads = to,
                                 .gamma = p.w.master(gamma),
                                 .rstd = s.qk_rstd.row(rstd_row),
                                 .dx = dqkv,
                                 .dx_heads = to,
                                 .dgamma = head_grads(p, gamma, from.count),
                                 .segments = leaves});
  };
  place(dq, q_from, q_to, b.q_norm, 0);
  place(dkv_row, k_from, k_to, b.k_norm, q_from.count);
  p.ops.copy_heads(
      p.exec,
      {.x = dkv_row, .x_heads = heads_in_row(d, d.kv, kv_cols), .y = dqkv, .y_heads = v_to, .width = d.d});

  if (b.qkv_bias >= 0)
    p.ops.column_sum(
        p.exec,
        {.dy = dqkv, .sum = f32_tensor(p.w.grad(b.qkv_bias).f32(), 1, dqkv.cols), .segments = leaves});
  const Activation y_all =
      p.recompute == Recompute::kSelective
          ? gather_rows(p, temp, norm(p, temp, s.x, b.attn_norm, nullptr, form_for(p, b.qkv)))
          : s.y_all;
  const Tensor dy_all = p.partial(temp, p.rows, p.m.hidden_size);
  linear_backward(p, dqkv, y_all, b.qkv, dy_all, leaves, p.slices);
  norm_backward(p, reduce_rows(p, temp, dy_all), s.x, s.rstd, b.attn_norm, dx, true, p.own_leaves);
}

}  // namespace contender
