#include "model/layers.h"

namespace contender {

BlockParams find_block(const WeightStore& w, const std::string& name) {
  auto find = [&](const char* suffix) {
    const auto& specs = w.specs();
    for (int p = 0; p < static_cast<int>(specs.size()); ++p)
      if (specs[p].name == name + suffix) return p;
    return -1;
  };
  BlockParams b;
  b.attn_norm = find(".attn_norm");
  b.ffn_norm = find(".ffn_norm");
  b.o = find(".attn.o");
  b.qkv_a = find(".attn.qkv_a");
  b.q_a_norm = find(".attn.q_a_norm");
  b.q_b = find(".attn.q_b");
  b.kv_a_norm = find(".attn.kv_a_norm");
  b.w_uk = find(".attn.w_uk");
  b.w_uv = find(".attn.w_uv");
  b.qkv = find(".attn.qkv");
  b.qkv_bias = find(".attn.qkv_bias");
  b.q_norm = find(".attn.q_norm");
  b.k_norm = find(".attn.k_norm");
  b.gate_up = find(".ffn.gate_up");
  b.down = find(".ffn.down");
  b.router = find(".moe.router");
  b.router_bias = find(".moe.router_bias");
  b.shared_gate_up = find(".moe.shared_gate_up");
  b.shared_down = find(".moe.shared_down");
  b.experts_gate_up = find(".moe.experts_gate_up");
  b.experts_down = find(".moe.experts_down");
  return b;
}

Tensor linear(const Pass& p, Arena& out, const Tensor& x, int param, int32_t slices, const float* bias) {
  const WeightView w = p.w.view(param);
  const Tensor y = out.f32(x.rows, w.n);
  p.ops.linear(p.exec, {.x = x, .w = w, .y = y, .bias = bias, .slices = slices});
  return y;
}

void linear_backward(const Pass& p, const Tensor& dy, const Tensor& x, int param, const Tensor& dx,
                     const RowSegments& leaves, int32_t slices, bool accumulate) {
  p.ops.linear_dgrad(p.exec,
                     {.dy = dy, .w = p.w.view(param), .dx = dx, .slices = slices, .accumulate = accumulate});
  p.ops.linear_wgrad(p.exec, {.dy = dy, .x = x, .dw = p.w.grad(param), .segments = leaves});
}

Tensor norm(const Pass& p, Arena& out, const Tensor& x, const Tensor& delta, int param, Tensor* rstd) {
  const Tensor y = out.f32(x.rows, x.cols);
  norm_into(p, x, delta, param, y, rstd);
  return y;
}

void norm_into(const Pass& p, const Tensor& x, const Tensor& delta, int param, const Tensor& y,
               Tensor* rstd) {
  if (rstd && p.train) *rstd = p.arena().f32(1, x.rows);
  p.ops.rms_norm(p.exec, {.x = x,
                          .delta = delta,
                          .gamma = p.w.master(param),
                          .eps = static_cast<float>(p.m.rms_norm_eps),
                          .y = y,
                          .rstd = rstd && p.train ? rstd->f32() : nullptr});
}

void norm_backward(const Pass& p, const Tensor& dy, const Tensor& x, const Tensor& rstd, int param,
                   const Tensor& dx, bool accumulate, const RowSegments& leaves, int use) {
  p.ops.rms_norm_bwd(p.exec, {.dy = dy,
                              .x = x,
                              .gamma = p.w.master(param),
                              .rstd = rstd.f32(),
                              .dx = dx,
                              .accumulate = accumulate,
                              .dgamma = p.w.grad(param, use),
                              .segments = leaves});
}

void copy(const Pass& p, const Tensor& from, const Tensor& to) {
  p.ops.gather_rows(p.exec, {.x = from, .y = to});
}

Tensor gather_rows(const Pass& p, Arena& out, const Tensor& own) {
  if (p.batch.counts.size() == 1) return own;
  const Tensor all = out.f32(p.rows, own.cols);
  p.rt.mesh->tp().all_gather_rows("tp_gather", own, all, p.batch.counts.data()).wait();
  return all;
}

Tensor reduce_rows(const Pass& p, Arena& out, const Tensor& rows) {
  if (p.batch.counts.size() == 1) return rows;
  const Tensor own = out.f32(p.own, rows.cols);
  p.rt.mesh->tp().reduce_scatter_rows("tp_reduce", rows, own, p.batch.counts.data()).wait();
  return own;
}

Tensor block_forward(const Pass& p, int64_t layer, const BlockParams& b, const Tensor& x, const Tensor& kv,
                     BlockSaved& s) {
  const ArenaScope scope(p.temp());
  s.input = x;
  const Tensor attn = p.m.mla() ? mla_forward(p, b, x, kv, s.attn) : gqa_forward(p, b, x, kv, s.attn);
  Tensor h = x;  // the residual stream is updated in place, except where the backward needs the old one
  if (p.train) {
    h = p.arena().f32(x.rows, x.cols);
    copy(p, x, h);
  }
  const Tensor out =
      p.m.moe_layer(layer) ? moe_forward(p, b, h, attn, s.moe) : ffn_forward(p, b, h, attn, s.ffn);
  const Tensor y = p.train ? p.arena().f32(x.rows, x.cols) : h;
  p.ops.add(p.exec, {.a = h, .b = out, .y = y});
  return y;
}

void block_backward(const Pass& p, int64_t layer, const BlockParams& b, const BlockSaved& s,
                    const Tensor& dx) {
  if (p.m.moe_layer(layer)) {
    moe_backward(p, b, s.moe, dx);
  } else {
    ffn_backward(p, b, s.ffn, dx);
  }
  if (p.m.mla()) {
    mla_backward(p, b, s.attn, dx);
  } else {
    gqa_backward(p, b, s.attn, dx);
  }
}

}  // namespace contender
