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

namespace {

// Room in the scratch arena for x in FP8, 1 x 128; and x there.
QTensor empty_rows(const Pass& p, const Tensor& x) {
  return {.data = p.temp().tensor(DType::kE4M3, x.rows, x.cols),
          .scale = p.temp().f32(x.rows, ceil_div(x.cols, kQuantizeBlock)),
          .layout = QLayout::k1x128};
}
QTensor quantized(const Pass& p, const Tensor& x) {
  const QTensor q = empty_rows(p, x);
  p.ops.quantize(p.exec, {.x = x, .q = q});
  return q;
}

// x in FP8 along its rows, as weight gradients contract it; and, from the same read, 1 x 128 in q.
QTransposed transposed(const Pass& p, const Tensor& x, const QTensor& q = {}, int64_t groups = 1,
                       const int32_t* offsets = nullptr) {
  const int64_t ld = round_up(x.rows, 16);  // rows of codes are aligned
  const QTransposed t = {
      .data = {p.temp().tensor(DType::kE4M3, x.cols, ld).data, DType::kE4M3, x.cols, x.rows, ld},
      .scale = p.temp().f32(max_row_blocks(x.rows, groups), round_up(x.cols, 4)).col_range(0, x.cols)};
  p.ops.quantize_transposed(p.exec, {.x = x, .t = t, .q = q, .num_groups = groups, .offsets = offsets});
  return t;
}

}  // namespace

Tensor linear(const Pass& p, const Tensor& y, const Tensor& x, int param, int32_t slices, const float* bias) {
  if (p.w.fp8(param)) {
    const ArenaScope scope(p.temp());
    p.ops.fp8_gemm(p.exec, {.a = quantized(p, x), .b = p.w.fp8_forms(param).forward, .d = y});
  } else {
    p.ops.linear(p.exec, {.x = x, .w = p.w.view(param), .y = y, .bias = bias, .slices = slices});
  }
  return y;
}

void grouped_linear(const Pass& p, const Tensor& y, const Tensor& x, int param, const int32_t* offsets) {
  if (!p.w.fp8(param))
    return p.ops.grouped_linear(p.exec, {.x = x, .w = p.w.view(param), .y = y, .offsets = offsets});
  const ArenaScope scope(p.temp());
  p.ops.fp8_grouped_gemm(p.exec, {.a = quantized(p, x),
                                  .b = p.w.fp8_forms(param).forward,
                                  .d = y,
                                  .num_groups = p.w.specs()[param].groups,
                                  .offsets = offsets});
}

void grouped_linear_dgrad(const Pass& p, const Tensor& dx, const Tensor& dy, int param,
                          const int32_t* offsets) {
  if (!p.w.fp8(param))
    return p.ops.grouped_linear_dgrad(p.exec, {.dy = dy, .w = p.w.view(param), .dx = dx, .offsets = offsets});
  const ArenaScope scope(p.temp());
  p.ops.fp8_grouped_gemm(p.exec, {.a = quantized(p, dy),
                                  .b = p.w.fp8_forms(param).backward,
                                  .d = dx,
                                  .num_groups = p.w.specs()[param].groups,
                                  .offsets = offsets});
}

void linear_backward(const Pass& p, const Tensor& dy, const Tensor& x, int param, const Tensor& dx,
                     const RowSegments& leaves, int32_t slices) {
  if (p.w.fp8(param)) {
    const ArenaScope scope(p.temp());
    const QTensor q = empty_rows(p, dy);
    const QTransposed dy_t = transposed(p, dy, q);
    p.ops.fp8_gemm(p.exec, {.a = q, .b = p.w.fp8_forms(param).backward, .d = dx});
    p.ops.fp8_wgrad(p.exec, {.dy = dy_t, .x = transposed(p, x), .dw = p.w.grad(param), .accumulate = false});
    return;
  }
  p.ops.linear_dgrad(p.exec, {.dy = dy, .w = p.w.view(param), .dx = dx, .slices = slices});
  p.ops.linear_wgrad(p.exec, {.dy = dy, .x = x, .dw = p.w.grad(param), .segments = leaves});
}

void grouped_wgrad(const Pass& p, const Tensor& dy, const Tensor& x, int param, const RowSegments& leaves,
                   const int32_t* offsets, int64_t chunks) {
  const int64_t groups = p.w.specs()[param].groups, room = x.rows / chunks;
  if (!p.w.fp8(param)) {
    p.ops.linear_wgrad(p.exec,
                       {.dy = dy, .x = x, .dw = p.w.grad(param), .segments = leaves, .num_groups = groups});
    return;
  }
  for (int64_t c = 0; c < chunks; ++c) {
    const ArenaScope scope(p.temp());
    const int32_t* rows = offsets + c * (groups + 1);
    const auto in_chunk = [&](const Tensor& t) {
      return transposed(p, t.row_range(c * room, (c + 1) * room), {}, groups, rows);
    };
    const QTransposed dy_t = in_chunk(dy), x_t = in_chunk(x);
    p.ops.fp8_wgrad(p.exec, {.dy = dy_t,
                             .x = x_t,
                             .dw = p.w.grad(param),
                             .accumulate = c > 0,
                             .num_groups = groups,
                             .offsets = rows});
  }
}

namespace {

void run_norm(const Pass& p, const Tensor& x, const Tensor& delta, const Tensor& sum, int param,
              const Tensor& y, Tensor* rstd) {
  if (rstd && p.train) *rstd = p.arena().f32(1, x.rows);
  p.ops.rms_norm(p.exec, {.x = x,
                          .delta = delta,
                          .sum = sum,
                          .gamma = p.w.master(param),
                          .eps = static_cast<float>(p.m.rms_norm_eps),
                          .y = y,
                          .rstd = rstd && p.train ? rstd->f32() : nullptr});
}

}  // namespace

Tensor norm(const Pass& p, Arena& out, const Tensor& x, int param, Tensor* rstd) {
  const Tensor y = p.act(out, x.rows, x.cols);
  run_norm(p, x, {}, {}, param, y, rstd);
  return y;
}

void norm_into(const Pass& p, const Tensor& x, int param, const Tensor& y, Tensor* rstd) {
  run_norm(p, x, {}, {}, param, y, rstd);
}

Tensor add_norm(const Pass& p, Arena& out, Tensor& x, const Tensor& delta, int param, Tensor* rstd) {
  const Tensor y = p.act(out, x.rows, x.cols);
  const Tensor sum = p.train && delta ? p.act(p.arena(), x.rows, x.cols) : Tensor();
  run_norm(p, x, delta, sum, param, y, rstd);
  if (sum) x = sum;
  return y;
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
  if (p.alone()) return own;
  const Tensor all = out.tensor(own.dtype, p.rows, own.cols);
  p.rt.mesh->tp().all_gather_rows("tp_gather", own, all, p.batch.counts.data()).wait();
  return all;
}

Tensor reduce_rows(const Pass& p, Arena& out, const Tensor& rows) {
  if (p.alone()) return rows;
  const Tensor own = p.act(out, p.own, rows.cols);
  reduce_rows_into(p, rows, own);
  return own;
}

void reduce_rows_into(const Pass& p, const Tensor& rows, const Tensor& own) {
  if (p.alone()) return copy(p, rows, own);
  const ArenaScope scope(p.temp());
  const Tensor sum = own.dtype == DType::kF32 ? own : p.temp().f32(own.rows, own.cols);
  p.rt.mesh->tp().reduce_scatter_rows("tp_reduce", rows, sum, p.batch.counts.data()).wait();
  if (sum.data != own.data) copy(p, sum, own);
}

int64_t used_rows(const Pass& p, const int32_t* count, int64_t room) {
  return p.rt.device->host_memory() ? *count : room;
}

Tensor block_forward(const Pass& p, int64_t layer, const BlockParams& b, Tensor x, const Tensor& delta,
                     const Tensor& kv, BlockSaved& s) {
  const ArenaScope scope(p.temp());
  const Tensor attn =
      p.m.mla() ? mla_forward(p, b, x, delta, kv, s.attn) : gqa_forward(p, b, x, delta, kv, s.attn);
  s.input = x;
  if (p.m.moe_layer(layer)) {
    moe_forward(p, b, layer, x, attn, s.moe);
  } else {
    ffn_forward(p, b, x, attn, s.ffn);
  }
  return x;
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
