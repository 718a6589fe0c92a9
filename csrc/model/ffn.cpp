// The dense feed-forward sublayer, tensor parallel: y = down(silu(gate(n)) * up(n)), n = norm(x).
#include "base/timer.h"
#include "model/layers.h"

namespace contender {
namespace {

// gate_up holds [gate_s | up_s] for each virtual slice s of this rank; act holds the slices side by side.
Activation activate(const Pass& p, Arena& out, const Tensor& gate_up, int down) {
  const Activation act = empty_activation(p, out, gate_up.rows, gate_up.cols / 2, form_for(p, down));
  swiglu(p, gate_up, act, p.slices);
  return act;
}

}  // namespace

void ffn_forward(const Pass& p, const BlockParams& b, Tensor& x, const Tensor& delta, FfnSaved& s) {
  const TraceScope trace("ffn");
  s.y = add_norm(p, p.keep(true), x, delta, b.ffn_norm, &s.rstd, form_for(p, b.gate_up));
  s.x = x;
  s.y_all = gather_rows(p, p.keep(true), s.y);
  s.gate_up = linear(p, p.act(p.keep(), p.rows, p.w.specs()[b.gate_up].n), s.y_all, b.gate_up);
  s.act = activate(p, p.keep(true), s.gate_up, b.down);
  if (p.alone()) {
    linear(p, p.update, s.act, b.down, p.slices);
  } else {
    reduce_rows_into(p, linear(p, p.temp().f32(p.rows, p.m.hidden_size), s.act, b.down, p.slices), p.update);
  }
}

void ffn_backward(const Pass& p, const BlockParams& b, const FfnSaved& s, const Tensor& dx) {
  const TraceScope trace("ffn_grad");
  const ArenaScope scope(p.temp());
  Arena& temp = p.temp();
  const bool again = p.recompute == Recompute::kSelective;
  const Activation act = again ? activate(p, temp, s.gate_up, b.down) : s.act;
  const Activation y_all =
      again ? gather_rows(p, temp, norm(p, temp, s.x, b.ffn_norm, nullptr, form_for(p, b.gate_up))) : s.y_all;

  const Tensor dout = gather_rows(p, temp, dx);
  const Tensor dact = p.act(temp, p.rows, s.gate_up.cols / 2), dgate_up = p.act(temp, p.rows, s.gate_up.cols);
  linear_backward(p, dout, act, b.down, dact, p.group_leaves);
  p.ops.swiglu_bwd(p.exec, {.dy = dact, .gate_up = s.gate_up, .dgate_up = dgate_up, .slices = p.slices});
  const Tensor dy_all = p.partial(temp, p.rows, p.m.hidden_size);
  linear_backward(p, dgate_up, y_all, b.gate_up, dy_all, p.group_leaves, p.slices);
  norm_backward(p, reduce_rows(p, temp, dy_all), s.x, s.rstd, b.ffn_norm, dx, true, p.own_leaves);
}

}  // namespace contender
