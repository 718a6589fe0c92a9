// The dense feed-forward sublayer, tensor parallel: y = down(silu(gate(n)) * up(n)), n = norm(x).
#include "base/timer.h"
#include "model/layers.h"

namespace contender {
namespace {

// gate_up holds [gate_s | up_s] for each virtual slice s of this rank; act holds the slices side by side.
template <class F>
void for_slices(const Pass& p, const Tensor& gate_up, const Tensor& act, F f) {
  const int64_t i = act.cols / p.slices;
  for (int64_t s = 0; s < p.slices; ++s)
    f(gate_up.col_range(2 * s * i, 2 * (s + 1) * i), act.col_range(s * i, (s + 1) * i));
}

Tensor activate(const Pass& p, Arena& out, const Tensor& gate_up) {
  const Tensor act = out.f32(gate_up.rows, gate_up.cols / 2);
  for_slices(p, gate_up, act,
             [&](const Tensor& g, const Tensor& a) { p.ops.swiglu(p.exec, {.gate_up = g, .y = a}); });
  return act;
}

}  // namespace

Tensor ffn_forward(const Pass& p, const BlockParams& b, const Tensor& x, const Tensor& delta, FfnSaved& s) {
  const TraceScope trace("ffn");
  s.x = x;
  s.y = norm(p, p.keep(true), x, delta, b.ffn_norm, &s.rstd);
  s.y_all = gather_rows(p, p.keep(true), s.y);
  s.gate_up = linear(p, p.keep(), s.y_all, b.gate_up);
  s.act = activate(p, p.keep(true), s.gate_up);
  return reduce_rows(p, p.temp(), linear(p, p.temp(), s.act, b.down, p.slices));
}

void ffn_backward(const Pass& p, const BlockParams& b, const FfnSaved& s, const Tensor& dx) {
  const TraceScope trace("ffn_grad");
  const ArenaScope scope(p.temp());
  Arena& temp = p.temp();
  const bool again = p.recompute == Recompute::kSelective;
  const Tensor act = again ? activate(p, temp, s.gate_up) : s.act;
  const Tensor y_all = again ? gather_rows(p, temp, norm(p, temp, s.x, {}, b.ffn_norm, nullptr)) : s.y_all;

  const Tensor dout = gather_rows(p, temp, dx);
  const Tensor dact = temp.f32(act.rows, act.cols);
  linear_backward(p, dout, act, b.down, dact, p.group_leaves());
  const Tensor dgate_up = temp.f32(s.gate_up.rows, s.gate_up.cols);
  const int64_t i = act.cols / p.slices;
  for (int64_t k = 0; k < p.slices; ++k)
    p.ops.swiglu_bwd(p.exec, {.dy = dact.col_range(k * i, (k + 1) * i),
                              .gate_up = s.gate_up.col_range(2 * k * i, 2 * (k + 1) * i),
                              .dgate_up = dgate_up.col_range(2 * k * i, 2 * (k + 1) * i)});
  const Tensor dy_all = temp.f32(p.rows, p.m.hidden_size);
  linear_backward(p, dgate_up, y_all, b.gate_up, dy_all, p.group_leaves(), p.slices);
  const Tensor dy = reduce_rows(p, temp, dy_all);
  norm_backward(p, dy, s.x, s.rstd, b.ffn_norm, dx, true, p.own_leaves());
}

}  // namespace contender
