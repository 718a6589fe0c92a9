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

Activation Activation::row_range(int64_t begin, int64_t end) const {
  Activation part;
  if (x) part.x = x.row_range(begin, end);
  if (q.data)
    part.q = {
        .data = q.data.row_range(begin, end), .scale = q.scale.row_range(begin, end), .layout = q.layout};
  return part;
}

int64_t code_row_bytes(int64_t cols) {
  return round_up(round_up(cols, 16) + 4 * ceil_div(cols, kQuantizeBlock), 32);
}
QTensor code_rows(const Tensor& bytes, int64_t cols) {
  char* data = static_cast<char*>(bytes.data);
  return {.data = {data, DType::kE4M3, bytes.rows, cols, bytes.ld},
          .scale = {data + round_up(cols, 16), DType::kF32, bytes.rows, ceil_div(cols, kQuantizeBlock),
                    div_exact(bytes.ld, 4)},
          .layout = QLayout::k1x128};
}
Tensor code_bytes(const QTensor& q) { return {q.data.data, DType::kE4M3, q.data.rows, q.data.ld, q.data.ld}; }

Form form_for(const Pass& p, int param) { return p.w.fp8(param) ? Form::kFp8 : Form::kPlain; }

Activation empty_activation(const Pass& p, Arena& out, int64_t rows, int64_t cols, Form form) {
  Activation a;
  if (form != Form::kFp8) a.x = p.act(out, rows, cols);
  if (form != Form::kPlain) a.q = code_rows(out.tensor(DType::kE4M3, rows, code_row_bytes(cols)), cols);
  return a;
}

namespace {

// x in FP8 along its columns: as it is, or in the scratch arena.
QTensor quantized(const Pass& p, const Activation& x) {
  if (x.q.data) return x.q;
  const QTensor q = empty_activation(p, p.temp(), x.x.rows, x.x.cols, Form::kFp8).q;
  p.ops.quantize(p.exec, {.x = x.x, .q = q});
  return q;
}

// x in FP8 along its rows, as weight gradients contract it, from its codes where it has them; and, from the
// same read, 1 x 128 in q.
QTransposed transposed(const Pass& p, const Activation& x, const RowSegments& leaves, int64_t groups = 1,
                       const QTensor& q = {}) {
  const Tensor& from = x.q.data ? x.q.data : x.x;
  const int64_t ld = round_up(from.rows, 16);  // rows of codes are aligned
  const int64_t blocks = max_row_blocks(from.rows, groups * leaves.num_leaves);
  const QTransposed t = {
      .data = {p.temp().tensor(DType::kE4M3, from.cols, ld).data, DType::kE4M3, from.cols, from.rows, ld},
      .scale = p.temp().f32(blocks, round_up(from.cols, 4)).col_range(0, from.cols)};
  p.ops.quantize_transposed(p.exec, {.x = from,
                                     .x_scale = x.q.data ? x.q.scale : Tensor(),
                                     .t = t,
                                     .q = q,
                                     .num_groups = groups,
                                     .segments = leaves});
  return t;
}

QTensor col_range(const QTensor& q, int64_t begin, int64_t end) {
  return {.data = q.data.col_range(begin, end),
          .scale = q.scale.col_range(begin / kQuantizeBlock, ceil_div(end, kQuantizeBlock)),
          .layout = q.layout};
}

// y = a b^T, the contracted index in virtual slices, each a chain of its own: pairs are added where they are
// made, then to each other.
void fp8_product(const Pass& p, const QTensor& a, const QTensor& b, const Tensor& y, int32_t wanted) {
  const int64_t k = a.data.cols, slices = fp8_slices(k, wanted), width = k / slices;
  if (slices == 1) return p.ops.fp8_gemm(p.exec, {.a = a, .b = b, .d = y});
  const auto pair = [&](int64_t first, const Tensor& sum) {
    for (int64_t s = first; s < first + 2; ++s)
      p.ops.fp8_gemm(p.exec, {.a = col_range(a, s * width, (s + 1) * width),
                              .b = col_range(b, s * width, (s + 1) * width),
                              .d = sum,
                              .accumulate = s > first});
  };
  const ArenaScope scope(p.temp());
  const Tensor sum = y.dtype == DType::kF32 ? y : p.temp().f32(y.rows, y.cols);
  pair(0, sum);
  if (slices == 4) {
    const Tensor right = p.temp().f32(y.rows, y.cols);
    pair(2, right);
    p.ops.add(p.exec, {.a = sum, .b = right, .y = sum});
  }
  if (sum.data != y.data) copy(p, sum, y);
}

}  // namespace

Tensor linear(const Pass& p, const Tensor& y, const Activation& x, int param, int32_t slices,
              const float* bias) {
  if (p.w.fp8(param)) {
    CHECK(bias == nullptr, "{} has a bias, FP8 products have none", p.w.specs()[param].name);
    const ArenaScope scope(p.temp());
    fp8_product(p, quantized(p, x), p.w.fp8_forms(param).forward, y, slices);
  } else {
    p.ops.linear(p.exec, {.x = x.x, .w = p.w.view(param), .y = y, .bias = bias, .slices = slices});
  }
  return y;
}

void grouped_linear(const Pass& p, const Tensor& y, const Activation& x, int param, const int32_t* offsets) {
  if (!p.w.fp8(param))
    return p.ops.grouped_linear(p.exec, {.x = x.x, .w = p.w.view(param), .y = y, .offsets = offsets});
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

void grouped_linear_backward(const Pass& p, const Tensor& dy, const Activation& x, int param,
                             const Tensor& dx, const int32_t* offsets, const RowSegments& leaves) {
  if (!p.w.fp8(param)) {
    grouped_linear_dgrad(p, dx, dy, param, offsets);
    return grouped_wgrad(p, dy, x, param, leaves);
  }
  const int64_t groups = p.w.specs()[param].groups;
  const ArenaScope scope(p.temp());
  const QTensor q = empty_activation(p, p.temp(), dy.rows, dy.cols, Form::kFp8).q;
  const QTransposed dy_t = transposed(p, dy, leaves, groups, q);
  p.ops.fp8_grouped_gemm(
      p.exec,
      {.a = q, .b = p.w.fp8_forms(param).backward, .d = dx, .num_groups = groups, .offsets = offsets});
  p.ops.fp8_wgrad(p.exec, {.dy = dy_t,
                           .x = transposed(p, x, leaves, groups),
                           .dw = p.w.grad(param),
                           .accumulate = false,
                           .num_groups = groups,
                           .segments = leaves});
}

void linear_backward(const Pass& p, const Tensor& dy, const Activation& x, int param, const Tensor& dx,
                     const RowSegments& leaves, int32_t slices) {
  if (p.w.fp8(param)) {
    const ArenaScope scope(p.temp());
    const QTensor q = empty_activation(p, p.temp(), dy.rows, dy.cols, Form::kFp8).q;
    const QTransposed dy_t = transposed(p, dy, leaves, 1, q);
    fp8_product(p, q, p.w.fp8_forms(param).backward, dx, slices);
    p.ops.fp8_wgrad(p.exec, {.dy = dy_t,
                             .x = transposed(p, x, leaves),
                             .dw = p.w.grad(param),
                             .accumulate = false,
                             .segments = leaves});
    return;
  }
  p.ops.linear_dgrad(p.exec, {.dy = dy, .w = p.w.view(param), .dx = dx, .slices = slices});
  p.ops.linear_wgrad(p.exec, {.dy = dy, .x = x.x, .dw = p.w.grad(param), .segments = leaves});
}

void grouped_wgrad(const Pass& p, const Tensor& dy, const Activation& x, int param,
                   const RowSegments& leaves) {
  const int64_t groups = p.w.specs()[param].groups;
  if (!p.w.fp8(param)) {
    p.ops.linear_wgrad(p.exec,
                       {.dy = dy, .x = x.x, .dw = p.w.grad(param), .segments = leaves, .num_groups = groups});
    return;
  }
  const ArenaScope scope(p.temp());
  const QTransposed dy_t = transposed(p, dy, leaves, groups);
  p.ops.fp8_wgrad(p.exec, {.dy = dy_t,
                           .x = transposed(p, x, leaves, groups),
                           .dw = p.w.grad(param),
                           .accumulate = false,
                           .num_groups = groups,
                           .segments = leaves});
}

namespace {

void run_norm(const Pass& p, const Tensor& x, const Tensor& delta, const Tensor& sum, int param,
              const Activation& y, Tensor* rstd) {
  if (rstd && p.train) *rstd = p.arena().f32(1, x.rows);
  const RmsNormArgs args = {.x = x,
                            .delta = delta,
                            .sum = sum,
                            .gamma = p.w.master(param),
                            .eps = static_cast<float>(p.m.rms_norm_eps),
                            .y = y.x,
                            .rstd = rstd && p.train ? rstd->f32() : nullptr};
  if (y.q.data) {
    p.ops.rms_norm_quantize(p.exec, {.norm = args, .q = y.q});
  } else {
    p.ops.rms_norm(p.exec, args);
  }
}

}  // namespace

Tensor norm(const Pass& p, Arena& out, const Tensor& x, int param, Tensor* rstd) {
  return norm(p, out, x, param, rstd, Form::kPlain).x;
}

void norm_into(const Pass& p, const Tensor& x, int param, const Activation& y, Tensor* rstd) {
  run_norm(p, x, {}, {}, param, y, rstd);
}

Activation norm(const Pass& p, Arena& out, const Tensor& x, int param, Tensor* rstd, Form form) {
  const Activation y = empty_activation(p, out, x.rows, x.cols, form);
  run_norm(p, x, {}, {}, param, y, rstd);
  return y;
}

Activation add_norm(const Pass& p, Arena& out, Tensor& x, const Tensor& delta, int param, Tensor* rstd,
                    Form form) {
  const Activation y = empty_activation(p, out, x.rows, x.cols, form);
  const Tensor sum = p.train && delta ? p.act(p.arena(), x.rows, x.cols) : Tensor();
  run_norm(p, x, delta, sum, param, y, rstd);
  if (sum) x = sum;
  return y;
}

void swiglu(const Pass& p, const Tensor& gate_up, const Activation& y, int32_t slices) {
  const SwigluArgs args = {.gate_up = gate_up, .y = y.x, .slices = slices};
  if (y.q.data) {
    p.ops.swiglu_quantize(p.exec, {.swiglu = args, .q = y.q});
  } else {
    p.ops.swiglu(p.exec, args);
  }
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

Activation gather_rows(const Pass& p, Arena& out, const Activation& own) {
  Activation all;
  if (own.x) all.x = gather_rows(p, out, own.x);
  if (own.q.data) all.q = code_rows(gather_rows(p, out, code_bytes(own.q)), own.q.data.cols);
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
