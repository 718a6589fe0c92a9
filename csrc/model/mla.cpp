// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).
//
// Absorbed form (exact, the same in rollout and training): queries are taken into the latent space by W_UK,
// attend to [latent | rope key] rows shared by all heads, and W_UV takes the latent outputs to values.
// Expanded form (fast path of full sequences): keys and values are made for every head, with d_qk = nope +
// rope and d_v = v.
#include "base/timer.h"
#include "model/layers.h"

namespace contender {
namespace {

struct MlaDims {
  int64_t heads, q_lora, latent, rope, nope, v, q,
      q_attn;  // q, q_attn: columns per head of the query and of the absorbed query
  int64_t kv_end() const { return q_lora + latent; }
};
MlaDims dims(const Pass& p) {
  const ModelConfig& m = p.m;
  return {m.num_attention_heads / p.rt.mesh->shape().tp,
          m.q_lora_rank,
          m.kv_lora_rank,
          m.qk_rope_head_dim,
          m.qk_nope_head_dim,
          m.v_head_dim,
          m.qk_nope_head_dim + m.qk_rope_head_dim,
          m.kv_lora_rank + m.qk_rope_head_dim};
}

// Rotates the rope part of every head of the query, from one layout of heads to another or in place.
void rotate_heads(const Pass& p, const MlaDims& d, const Tensor& x, int64_t x_stride, int64_t x_offset,
                  const Tensor& y, int64_t y_stride, int64_t y_offset, bool inverse) {
  p.ops.rope(p.exec, {.x = x,
                      .x_heads = {.count = d.heads, .stride = x_stride, .offset = x_offset},
                      .y = y,
                      .y_heads = {.count = d.heads, .stride = y_stride, .offset = y_offset},
                      .positions = p.device.positions,
                      .table = p.rope_table,
                      .inverse = inverse});
}
// [latent | rope key]: the last columns of a tensor of latents, which may have the query's before them.
Tensor kv_columns(const MlaDims& d, const Tensor& latents) {
  return latents.col_range(latents.cols - d.latent - d.rope, latents.cols);
}
// The one rope key of each own row, between two tensors of latents.
void rotate_key(const Pass& p, const MlaDims& d, const Tensor& x, const Tensor& y, bool inverse) {
  p.ops.rope(p.exec, {.x = x,
                      .x_heads = {.offset = x.cols - d.rope},
                      .y = y,
                      .y_heads = {.offset = y.cols - d.rope},
                      .positions = p.own_positions(),
                      .table = p.rope_table,
                      .inverse = inverse});
}

AttentionArgs attention_args(const Pass& p, const AttentionSaved& s, const AttentionShape& shape) {
  return {.shape = shape,
          .q = s.q_attn,
          .kv = s.kv,
          .seqs = p.device.seqs,
          .num_seqs = int64_t(p.batch.seqs.size()),
          .page_ids = p.device.page_ids,
          .o = s.o_attn,
          .lse = s.lse};
}
AttentionBwdArgs attention_bwd_args(const Pass& p, const AttentionSaved& s, const AttentionShape& shape,
                                    const Tensor& dout, const Tensor& dq, const Tensor& dkv) {
  return {.shape = shape,
          .q = s.q_attn,
          .kv = s.kv,
          .seqs = p.device.seqs,
          .num_seqs = int64_t(p.batch.seqs.size()),
          .page_ids = p.device.page_ids,
          .o = s.o_attn,
          .lse = s.lse,
          .dout = dout,
          .dq = dq,
          .dkv = dkv,
          .head_slices = p.slices};
}

// From s.q (before RoPE) and the cache to s.o.
void attend_absorbed(const Pass& p, const BlockParams& b, const MlaDims& d, AttentionSaved& s) {
  s.q_attn = p.act(p.keep(), p.rows, d.heads * d.q_attn);
  p.ops.heads_linear(p.exec, {.x = s.q,
                              .x_stride = d.q,
                              .w = p.w.view(b.w_uk),
                              .y = s.q_attn,
                              .y_stride = d.q_attn,
                              .transposed = true});
  rotate_heads(p, d, s.q, d.q, d.nope, s.q_attn, d.q_attn, d.latent, false);
  p.ops.scatter_rows(p.exec, {.x = kv_columns(d, s.latents_all), .index = p.device.cache_rows, .y = s.kv});
  s.o_attn = p.act(p.keep(), p.rows, d.heads * d.latent);
  s.lse = p.keep().f32(p.rows, d.heads);
  p.ops.attention(p.exec, attention_args(p, s, p.attention));
  s.o = p.act(p.keep(), p.rows, d.heads * d.v);
  p.ops.heads_linear(p.exec,
                     {.x = s.o_attn, .x_stride = d.latent, .w = p.w.view(b.w_uv), .y = s.o, .y_stride = d.v});
}

// From d_o to dq (before RoPE) and the gradient of the [latent | rope key] columns of dlatents_all.
void attend_absorbed_backward(const Pass& p, const BlockParams& b, const MlaDims& d, const AttentionSaved& s,
                              const Tensor& d_o, const Tensor& dq, const Tensor& dkey) {
  Arena& temp = p.temp();
  const RowSegments& leaves = p.group_leaves;
  const Tensor d_o_attn = p.act(temp, p.rows, s.o_attn.cols);
  p.ops.heads_linear(p.exec, {.x = d_o,
                              .x_stride = d.v,
                              .w = p.w.view(b.w_uv),
                              .y = d_o_attn,
                              .y_stride = d.latent,
                              .transposed = true});
  p.ops.heads_wgrad(p.exec, {.dy = d_o,
                             .dy_stride = d.v,
                             .x = s.o_attn,
                             .x_stride = d.latent,
                             .dw = p.w.grad(b.w_uv),
                             .num_heads = d.heads,
                             .segments = leaves});
  const Tensor dq_attn = p.act(temp, p.rows, s.q_attn.cols), dkv = p.partial(temp, s.kv.rows, s.kv.cols);
  p.ops.attention_bwd(p.exec, attention_bwd_args(p, s, p.attention, d_o_attn, dq_attn, dkv));
  p.ops.gather_rows(p.exec, {.x = dkv, .index = p.device.cache_rows, .y = dkey});
  p.ops.heads_linear(p.exec,
                     {.x = dq_attn, .x_stride = d.q_attn, .w = p.w.view(b.w_uk), .y = dq, .y_stride = d.q});
  rotate_heads(p, d, dq_attn, d.q_attn, d.latent, dq, d.q, d.nope, true);
  p.ops.heads_wgrad(p.exec, {.dy = s.q,
                             .dy_stride = d.q,
                             .x = dq_attn,
                             .x_stride = d.q_attn,
                             .dw = p.w.grad(b.w_uk),
                             .num_heads = d.heads,
                             .segments = leaves});
}

AttentionShape expanded_shape(const Pass& p, const MlaDims& d) {
  AttentionShape a = p.attention;
  a.num_kv_heads = d.heads;
  a.d_qk = a.k_stride = d.q;
  a.d_v = a.v_stride = d.v;
  a.v_offset = d.heads * d.q;
  a.row_width = d.heads * (d.q + d.v);
  return a;
}

// Keys and values of every head, in cache rows of their own.
void attend_expanded(const Pass& p, const BlockParams& b, const MlaDims& d, AttentionSaved& s) {
  const AttentionShape shape = expanded_shape(p, d);
  const Tensor rows = p.act(p.temp(), p.rows, shape.row_width), key = kv_columns(d, s.latents_all),
               latent = key.col_range(0, d.latent);
  p.ops.heads_linear(p.exec, {.x = latent,
                              .x_stride = 0,
                              .w = p.w.view(b.w_uk),
                              .y = rows.col_range(0, shape.v_offset),
                              .y_stride = d.q});
  p.ops.copy_heads(p.exec, {.x = key,
                            .x_heads = {.count = d.heads, .offset = d.latent},
                            .y = rows,
                            .y_heads = {.count = d.heads, .stride = d.q, .offset = d.nope},
                            .width = d.rope});
  p.ops.heads_linear(p.exec, {.x = latent,
                              .x_stride = 0,
                              .w = p.w.view(b.w_uv),
                              .y = rows.col_range(shape.v_offset, shape.row_width),
                              .y_stride = d.v});
  s.kv = p.act(p.keep(), s.kv.rows, shape.row_width);
  p.ops.scatter_rows(p.exec, {.x = rows, .index = p.device.cache_rows, .y = s.kv});
  rotate_heads(p, d, s.q, d.q, d.nope, {}, 0, 0, false);
  s.q_attn = s.q;
  s.o = s.o_attn = p.act(p.keep(), p.rows, d.heads * d.v);
  s.lse = p.keep().f32(p.rows, d.heads);
  p.ops.attention(p.exec, attention_args(p, s, shape));
}

void attend_expanded_backward(const Pass& p, const BlockParams& b, const MlaDims& d, const AttentionSaved& s,
                              const Tensor& d_o, const Tensor& dq, const Tensor& dkey) {
  Arena& temp = p.temp();
  const RowSegments& leaves = p.group_leaves;
  const AttentionShape shape = expanded_shape(p, d);
  const Tensor dkv = p.act(temp, s.kv.rows, s.kv.cols), rows = p.act(temp, p.rows, s.kv.cols);
  p.ops.attention_bwd(p.exec, attention_bwd_args(p, s, shape, d_o, dq, dkv));
  p.ops.gather_rows(p.exec, {.x = dkv, .index = p.device.cache_rows, .y = rows});
  rotate_heads(p, d, dq, d.q, d.nope, {}, 0, 0, true);
  const Tensor latent = kv_columns(d, s.latents_all).col_range(0, d.latent),
               rope_sum = p.act(temp, p.rows, d.rope);
  // The latent and the rope key serve all heads: their gradients are sums over heads, in head order.
  for (int64_t h = 0; h < d.heads; ++h) {
    const Tensor dk = rows.col_range(h * d.q, h * d.q + d.nope),
                 dv = rows.col_range(shape.v_offset + h * d.v, shape.v_offset + (h + 1) * d.v);
    const Tensor drope = rows.col_range(h * d.q + d.nope, (h + 1) * d.q);
    p.ops.linear_dgrad(
        p.exec,
        {.dy = dk, .w = p.w.view(b.w_uk).group(h), .dx = dkey.col_range(0, d.latent), .accumulate = h > 0});
    p.ops.linear_dgrad(
        p.exec,
        {.dy = dv, .w = p.w.view(b.w_uv).group(h), .dx = dkey.col_range(0, d.latent), .accumulate = true});
    h == 0 ? copy(p, drope, rope_sum) : p.ops.add(p.exec, {.a = rope_sum, .b = drope, .y = rope_sum});
    p.ops.linear_wgrad(p.exec, {.dy = dk,
                                .x = latent,
                                .dw = p.w.grad(b.w_uk).row_range(h * d.nope, (h + 1) * d.nope),
                                .segments = leaves});
    p.ops.linear_wgrad(p.exec, {.dy = dv,
                                .x = latent,
                                .dw = p.w.grad(b.w_uv).row_range(h * d.v, (h + 1) * d.v),
                                .segments = leaves});
  }
  copy(p, rope_sum, dkey.col_range(d.latent, d.latent + d.rope));
}

}  // namespace

Tensor mla_forward(const Pass& p, const BlockParams& b, Tensor& x, const Tensor& delta, const Tensor& kv,
                   AttentionSaved& s) {
  const TraceScope trace("attention");
  const MlaDims d = dims(p);
  s.kv = kv;
  s.y = add_norm(p, p.keep(true), x, delta, b.attn_norm, &s.rstd, form_for(p, b.qkv_a));
  s.x = x;

  // Token-wise: both down-projections, their norms, the rope key. Then every tp rank gets the latents of all
  // rows.
  const int64_t kv_end = d.kv_end();
  s.latents = linear(p, p.act(p.keep(), p.own, kv_end + d.rope), s.y, b.qkv_a);
  const bool fp8 = p.w.fp8(b.q_b);  // what q is projected from is then quantised, and apart from the latents
  Arena& own_latents = p.alone() ? p.keep() : p.temp();
  const Tensor normed = p.act(own_latents, p.own, s.latents.cols - (fp8 ? d.q_lora : 0));
  if (d.q_lora > 0) {
    const Activation q_latent = fp8 ? empty_activation(p, own_latents, p.own, d.q_lora, Form::kFp8)
                                    : Activation(normed.col_range(0, d.q_lora));
    norm_into(p, s.latents.col_range(0, d.q_lora), b.q_a_norm, q_latent, &s.q_rstd);
    if (fp8) s.q_latent = gather_rows(p, p.keep(), q_latent);
  }
  norm_into(p, s.latents.col_range(d.q_lora, kv_end), b.kv_a_norm,
            kv_columns(d, normed).col_range(0, d.latent), &s.kv_rstd);
  rotate_key(p, d, s.latents, normed, false);
  s.latents_all = gather_rows(p, p.keep(), normed);
  if (d.q_lora > 0 && !fp8) s.q_latent = s.latents_all.col_range(0, d.q_lora);

  // This rank's heads.
  if (d.q_lora == 0) s.y_all = gather_rows(p, p.keep(), s.y);
  s.q = linear(p, p.act(p.keep(), p.rows, d.heads * d.q), d.q_lora > 0 ? s.q_latent : s.y_all, b.q_b);
  p.expanded ? attend_expanded(p, b, d, s) : attend_absorbed(p, b, d, s);
  const Tensor out = linear(p, p.partial(p.temp(), p.rows, p.m.hidden_size), s.o, b.o, p.slices);
  return reduce_rows(p, p.temp(), out);
}

void mla_backward(const Pass& p, const BlockParams& b, const AttentionSaved& s, const Tensor& dx) {
  const TraceScope trace("attention_grad");
  const ArenaScope scope(p.temp());
  Arena& temp = p.temp();
  const MlaDims d = dims(p);
  const RowSegments& leaves = p.group_leaves;
  const int64_t kv_end = d.kv_end();

  const Tensor dout = gather_rows(p, temp, dx);
  const Tensor d_o = p.act(temp, p.rows, s.o.cols);
  linear_backward(p, dout, s.o, b.o, d_o, leaves);
  const Tensor dq = p.act(temp, p.rows, s.q.cols), dlatents_all = p.partial(temp, p.rows, kv_end + d.rope);
  const Tensor dkey = dlatents_all.col_range(d.q_lora, kv_end + d.rope);
  p.expanded ? attend_expanded_backward(p, b, d, s, d_o, dq, dkey)
             : attend_absorbed_backward(p, b, d, s, d_o, dq, dkey);

  const Activation y = p.recompute == Recompute::kSelective
                           ? norm(p, temp, s.x, b.attn_norm, nullptr, form_for(p, b.qkv_a))
                           : s.y;
  Tensor dy_q;
  if (d.q_lora > 0) {
    linear_backward(p, dq, s.q_latent, b.q_b, dlatents_all.col_range(0, d.q_lora), leaves, p.slices);
  } else {
    const Tensor dy_all = p.partial(temp, p.rows, p.m.hidden_size);
    linear_backward(p, dq, p.alone() ? y : s.y_all, b.q_b, dy_all, leaves, p.slices);
    dy_q = reduce_rows(p, temp, dy_all);
  }

  const Tensor dnormed = reduce_rows(p, temp, dlatents_all);
  const Tensor dlatents = p.act(temp, p.own, s.latents.cols), dy = p.act(temp, p.own, p.m.hidden_size);
  rotate_key(p, d, dnormed, dlatents, true);
  if (d.q_lora > 0)
    norm_backward(p, dnormed.col_range(0, d.q_lora), s.latents.col_range(0, d.q_lora), s.q_rstd, b.q_a_norm,
                  dlatents.col_range(0, d.q_lora), false, p.own_leaves);
  norm_backward(p, dnormed.col_range(d.q_lora, kv_end), s.latents.col_range(d.q_lora, kv_end), s.kv_rstd,
                b.kv_a_norm, dlatents.col_range(d.q_lora, kv_end), false, p.own_leaves);
  linear_backward(p, dlatents, y, b.qkv_a, dy, p.own_leaves);
  if (dy_q) p.ops.add(p.exec, {.a = dy, .b = dy_q, .y = dy});
  norm_backward(p, dy, s.x, s.rstd, b.attn_norm, dx, true, p.own_leaves);
}

}  // namespace contender
