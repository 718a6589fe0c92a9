// The mixture-of-experts sublayer (DeepSeek-V3, arXiv 2412.19437, section 2.1.2): shared experts on the
// rank's own tokens, routed experts spread over the ep group. Tokens travel in `moe_chunks` chunks: while one
// is on its way, others are computed.
//
// Where a row travels is planned on the device (ops/dispatch.h); the host needs to know no count, except
// where it moves the rows itself. A rank that has all experts sends nothing: the order of sending is the
// order of the experts.
#include <algorithm>

#include "base/timer.h"
#include "model/layers.h"
#include "model/sizes.h"

namespace contender {
namespace {

struct MoeDims {
  int64_t h, i;
  DispatchShape shape;
  int64_t room;  // rows of a chunk, sorted
  bool alone() const { return shape.ep == 1; }
  int64_t block_rows() const { return shape.ep * shape.capacity; }  // of a chunk that travels
  int64_t sent_rows() const { return shape.chunks * block_rows(); }
  int64_t sorted_rows() const { return shape.chunks * room; }
};
MoeDims dims(const Pass& p) {
  const DispatchShape shape =
      dispatch_shape(p.m, p.mesh_config, p.rt.mesh->ep().size(), p.own, p.max_own, p.own_slots);
  return {p.m.hidden_size, p.m.moe_intermediate_size, shape, dispatch_room(shape, p.own, p.max_own)};
}

int64_t chunk_begin(const Pass& p, const MoeDims& d, int64_t c) { return p.own * c / d.shape.chunks; }

RouterShape router_shape(const ModelConfig& m) {
  return {.num_experts = m.n_routed_experts,
          .top_k = m.num_experts_per_tok,
          .n_group = m.n_group,
          .topk_group = m.topk_group,
          .score_func = m.scoring_func == "softmax" ? ScoreFunc::kSoftmax : ScoreFunc::kSigmoid,
          .group_score = m.topk_method == "noaux_tc" ? GroupScore::kTop2Sum : GroupScore::kMax,
          .norm_topk_prob = m.norm_topk_prob,
          .scale = static_cast<float>(m.routed_scaling_factor)};
}

int32_t* ints(Arena& arena, int64_t n) { return arena.i32(1, n).i32(); }

MoePlan new_plan(const Pass& p, const MoeDims& d) {
  const DispatchShape& s = d.shape;
  Arena& keep = p.keep();
  const int64_t header = s.ep * s.chunks * s.experts * s.slots;
  MoePlan plan = {.source = ints(keep, d.sent_rows()),
                  .sent = ints(keep, s.chunks * s.ep),
                  .header = ints(p.temp(), header),
                  .received = ints(keep, s.chunks * s.ep),
                  .rows = ints(keep, s.chunks),
                  .offsets = ints(keep, s.chunks * (s.experts + 1)),
                  .leaves = static_cast<RowSegment*>(keep.bytes(header * int64_t{sizeof(RowSegment)}))};
  plan.arrived = d.alone() ? plan.header : ints(p.temp(), header);
  plan.arrival = d.alone() ? nullptr : ints(keep, d.sorted_rows());
  return plan;
}

// The rows of each expert by leaf; for FP8, with their places.
RowSegments leaves_of(const Pass& p, const BlockParams& b, const MoeDims& d, const MoeSaved& s) {
  const DispatchShape& n = d.shape;
  RowSegments leaves = {s.plan.leaves, int32_t(n.experts * n.ep * n.slots * n.chunks),
                        int32_t(n.ep * n.slots)};
  if (!p.w.fp8(b.experts_gate_up)) return leaves;
  auto* places =
      static_cast<RowPlace*>(p.temp().bytes((n.experts * leaves.num_leaves + 1) * int64_t{sizeof(RowPlace)}));
  p.ops.row_places(p.exec,
                   {.segments = leaves, .num_groups = n.experts, .rows = d.sorted_rows(), .places = places});
  leaves.places = places;
  return leaves;
}

// The router reads the normed input in the activation dtype too.
Form with_plain(Form form) { return form == Form::kFp8 ? Form::kBoth : form; }

// Experts of every own token, and the order in which their rows are sent.
void route(const Pass& p, const BlockParams& b, int64_t layer, const MoeDims& d, MoeSaved& s) {
  const int64_t n = p.own, top_k = d.shape.top_k;
  const Tensor logits = linear(p, p.temp().f32(n, p.m.n_routed_experts), s.y.x, b.router);
  s.scores = p.keep().f32(n, p.m.n_routed_experts);
  s.expert = p.keep().i32(n, top_k);
  s.weight = p.keep().f32(n, top_k);
  s.pos = p.keep().i32(n, top_k);
  p.ops.router(p.exec, {.shape = router_shape(p.m),
                        .logits = logits,
                        .bias = b.router_bias >= 0 ? p.w.master(b.router_bias).f32() : nullptr,
                        .scores = s.scores,
                        .expert = s.expert,
                        .weight = s.weight});
  s.plan = new_plan(p, d);
  p.ops.send_plan(p.exec, {.shape = d.shape,
                           .expert = s.expert,
                           .slot_begin = p.device.slot_begin,
                           .pos = s.pos,
                           .source = s.plan.source,
                           .counts = s.plan.sent,
                           .header = s.plan.header,
                           .load = p.load ? p.load + layer * p.m.n_routed_experts : nullptr,
                           .overflow = p.overflow});
}

void plan_arrival(const Pass& p, const MoeDims& d, const MoeSaved& s) {
  p.ops.arrival_plan(p.exec, {.shape = d.shape,
                              .header = s.plan.arrived,
                              .room = d.room,
                              .arrival = s.plan.arrival,
                              .counts = s.plan.received,
                              .rows = s.plan.rows,
                              .offsets = s.plan.offsets,
                              .segments = s.plan.leaves,
                              .overflow = p.overflow});
  if (p.rt.device->host_memory()) check_dispatch_overflow(*p.overflow);
}

// f(first row, rows) for the used rows of each block of a chunk: block by block where the host can read the
// counts, else all at once.
template <class F>
void for_blocks(const Pass& p, const MoeDims& d, const int32_t* counts, F f) {
  if (!p.rt.device->host_memory()) return f(int64_t{0}, d.block_rows());
  for (int64_t peer = 0; peer < d.shape.ep; ++peer)
    f(peer * d.shape.capacity, used_rows(p, counts + peer, d.shape.capacity));
}

// One chunk on its way to the experts, or back.
struct Flight {
  Tensor recv;
  Pending pending;
};
Flight start(const Pass& p, const MoeDims& d, const char* name, const Tensor& send, const int32_t* counts,
             const Tensor& recv) {
  return {
      recv,
      p.rt.mesh->ep().exchange_blocks(
          {.name = name, .send = send, .send_counts = counts, .recv = recv, .capacity = d.shape.capacity})};
}

Tensor blocks_of(const MoeDims& d, const Tensor& sent, int64_t c) {
  return sent.row_range(c * d.block_rows(), (c + 1) * d.block_rows());
}
// The rows of chunk c, sorted.
template <class Rows>
Rows sorted(const Pass& p, const MoeDims& d, const MoeSaved& s, const Rows& x, int64_t c) {
  return x.row_range(c * d.room, c * d.room + used_rows(p, s.plan.rows + c, d.room));
}

// What travels to the experts and back into them: codes where they read FP8, else activations.
Tensor rows_of(const Activation& a) { return a.q.data ? code_bytes(a.q) : a.x; }
// Those of `cols` columns without the padding behind them, which nobody writes: for copies from row to row.
Tensor unpadded(const Tensor& rows, int64_t cols) {
  if (rows.dtype != DType::kE4M3) return rows;
  const QTensor q = code_rows(rows, cols);
  return {rows.data, DType::kF32, rows.rows, div_exact(round_up(cols, 16), 4) + q.scale.cols, q.scale.ld};
}
Tensor new_rows(const Pass& p, const BlockParams& b, int64_t rows, int64_t cols) {
  return rows_of(empty_activation(p, p.temp(), rows, cols, form_for(p, b.experts_gate_up)));
}

void shared_forward(const Pass& p, const BlockParams& b, const MoeSaved& s, int64_t begin, int64_t end) {
  if (b.shared_gate_up < 0 || begin == end) return;
  const TraceScope trace("shared");
  const Tensor gate_up = s.shared_gate_up.row_range(begin, end);
  const Activation act = s.shared_act.row_range(begin, end);
  linear(p, gate_up, s.y.row_range(begin, end), b.shared_gate_up);
  swiglu(p, gate_up, act);
  linear(p, p.update.row_range(begin, end), act, b.shared_down);
}

// From x_in to y, both sorted.
void experts_forward(const Pass& p, const MoeDims& d, const BlockParams& b, const MoeSaved& s, int64_t c,
                     const Tensor& y) {
  const int32_t* offsets = s.plan.offsets + c * (d.shape.experts + 1);
  const Tensor gate_up = sorted(p, d, s, s.gate_up, c);
  const Activation act = sorted(p, d, s, s.act, c);
  grouped_linear(p, gate_up, sorted(p, d, s, s.x_in, c), b.experts_gate_up, offsets);
  swiglu(p, gate_up, act);
  grouped_linear(p, y, act, b.experts_down, offsets);
}

void combine(const Pass& p, const MoeDims& d, const MoeSaved& s, int64_t c) {
  const int64_t begin = chunk_begin(p, d, c), end = chunk_begin(p, d, c + 1);
  p.ops.combine(p.exec, {.x = s.returned,
                         .pos = s.pos.row_range(begin, end),
                         .weight = s.weight.row_range(begin, end),
                         .y = p.update.row_range(begin, end),
                         .accumulate = true});
}

void routed_forward_alone(const Pass& p, const BlockParams& b, const MoeDims& d, MoeSaved& s) {
  const TraceScope trace("experts");
  plan_arrival(p, d, s);
  p.ops.gather_rows(
      p.exec,
      {.x = unpadded(rows_of(s.y), d.h), .index = s.plan.source, .y = unpadded(rows_of(s.x_in), d.h)});
  experts_forward(p, d, b, s, 0, s.returned);
  combine(p, d, s, 0);
}

void routed_forward(const Pass& p, const BlockParams& b, const MoeDims& d, MoeSaved& s) {
  Group& ep = p.rt.mesh->ep();
  const int64_t chunks = d.shape.chunks;
  Pending header =
      ep.all_to_all("dispatch_plan", s.plan.header, s.plan.arrived, chunks * d.shape.experts * d.shape.slots);
  std::vector<Flight> there, back;
  const Tensor from = unpadded(rows_of(s.y), d.h);
  for (int64_t c = 0; c < chunks; ++c) {
    const Tensor rows = new_rows(p, b, d.block_rows(), d.h), recv = new_rows(p, b, d.block_rows(), d.h);
    const int32_t *counts = s.plan.sent + c * d.shape.ep, *source = s.plan.source + c * d.block_rows();
    for_blocks(p, d, counts, [&](int64_t first, int64_t n) {
      const Tensor to = unpadded(rows.row_range(first, first + n), d.h);
      p.ops.gather_rows(p.exec, {.x = from, .index = source + first, .y = to});
    });
    there.push_back(start(p, d, "dispatch", rows, counts, recv));
  }
  const int64_t first_end = chunk_begin(p, d, 1);
  shared_forward(p, b, s, 0, first_end);
  header.wait();
  plan_arrival(p, d, s);
  for (int64_t c = 0; c < chunks; ++c) {
    there[c].pending.wait();
    const TraceScope trace("experts");
    const Tensor out = p.act(p.temp(), d.block_rows(), d.h), x = sorted(p, d, s, rows_of(s.x_in), c);
    {
      const ArenaScope scope(p.temp());
      const Tensor y = p.act(p.temp(), x.rows, d.h);
      p.ops.gather_rows(
          p.exec,
          {.x = unpadded(there[c].recv, d.h), .index = s.plan.arrival + c * d.room, .y = unpadded(x, d.h)});
      experts_forward(p, d, b, s, c, y);
      p.ops.scatter_rows(p.exec, {.x = y, .index = s.plan.arrival + c * d.room, .y = out});
    }
    back.push_back(
        start(p, d, "combine", out, s.plan.received + c * d.shape.ep, blocks_of(d, s.returned, c)));
  }
  shared_forward(p, b, s, first_end, p.own);
  for (int64_t c = 0; c < chunks; ++c) {
    back[c].pending.wait();
    combine(p, d, s, c);
  }
}

}  // namespace

void moe_forward(const Pass& p, const BlockParams& b, int64_t layer, Tensor& x, const Tensor& delta,
                 MoeSaved& s) {
  const MoeDims d = dims(p);
  const int64_t n = p.own, shared_i = p.m.n_shared_experts * d.i;
  const Form form = form_for(p, b.experts_gate_up);
  s.y = add_norm(p, p.keep(true), x, delta, b.ffn_norm, &s.rstd, with_plain(form));
  s.x = x;
  route(p, b, layer, d, s);
  if (b.shared_gate_up >= 0) {
    s.shared_gate_up = p.act(p.keep(), n, 2 * shared_i);
    s.shared_act = empty_activation(p, p.keep(true), n, shared_i, form);
  } else {
    p.rt.device->zero(p.exec.stream, p.update.data, p.update.numel() * dtype_size(p.update.dtype));
  }
  s.returned = p.act(p.keep(), d.sent_rows(), d.h);
  s.x_in = empty_activation(p, p.keep(), d.sorted_rows(), d.h, form);
  s.gate_up = p.act(p.keep(), d.sorted_rows(), 2 * d.i);
  s.act = empty_activation(p, p.keep(true), d.sorted_rows(), d.i, form);
  if (d.alone()) {
    shared_forward(p, b, s, 0, n);
    routed_forward_alone(p, b, d, s);
  } else {
    routed_forward(p, b, d, s);
  }
}

namespace {

// From the gradient of the expert outputs (dy, sorted) to that of their inputs (dx); keeps d(gate_up) for the
// weight gradients.
void experts_backward(const Pass& p, const MoeDims& d, const BlockParams& b, const MoeSaved& s, int64_t c,
                      const Tensor& dy, const Tensor& dgate_up, const Tensor& dx) {
  const int32_t* offsets = s.plan.offsets + c * (d.shape.experts + 1);
  const ArenaScope scope(p.temp());
  const Tensor dg = sorted(p, d, s, dgate_up, c), dact = p.act(p.temp(), dy.rows, d.i);
  grouped_linear_dgrad(p, dact, dy, b.experts_down, offsets);
  p.ops.swiglu_bwd(p.exec, {.dy = dact, .gate_up = sorted(p, d, s, s.gate_up, c), .dgate_up = dg});
  grouped_linear_dgrad(p, dx, dg, b.experts_gate_up, offsets);
}

// The same where all rows are here: weight gradients too.
void experts_backward_alone(const Pass& p, const MoeDims& d, const BlockParams& b, const MoeSaved& s,
                            const Activation& act, const Tensor& dy, const Tensor& dgate_up,
                            const Tensor& dx) {
  const TraceScope trace("experts_grad");
  const ArenaScope scope(p.temp());
  const RowSegments leaves = leaves_of(p, b, d, s);
  const Tensor dact = p.act(p.temp(), dy.rows, d.i);
  grouped_linear_backward(p, dy, act, b.experts_down, dact, s.plan.offsets, leaves);
  p.ops.swiglu_bwd(p.exec, {.dy = dact, .gate_up = s.gate_up, .dgate_up = dgate_up});
  grouped_linear_backward(p, dgate_up, s.x_in, b.experts_gate_up, dx, s.plan.offsets, leaves);
}

Tensor shared_backward(const Pass& p, const BlockParams& b, const MoeSaved& s, const Activation& y,
                       const Tensor& dx, const Tensor& dy) {
  const TraceScope trace("shared_grad");
  const ArenaScope scope(p.temp());
  const int64_t rows = s.shared_gate_up.rows, cols = s.shared_gate_up.cols;
  Activation act = s.shared_act;
  if (p.recompute == Recompute::kSelective) {
    act = empty_activation(p, p.temp(), rows, cols / 2, form_for(p, b.shared_down));
    swiglu(p, s.shared_gate_up, act);
  }
  const Tensor dact = p.act(p.temp(), rows, cols / 2), dgate_up = p.act(p.temp(), rows, cols);
  linear_backward(p, dx, act, b.shared_down, dact, p.own_leaves);
  p.ops.swiglu_bwd(p.exec, {.dy = dact, .gate_up = s.shared_gate_up, .dgate_up = dgate_up});
  linear_backward(p, dgate_up, y, b.shared_gate_up, dy, p.own_leaves);
  return dy;
}

// Gradients of what chunk c sent, in the places of what it got back.
void combine_backward(const Pass& p, const MoeDims& d, const MoeSaved& s, int64_t c, const Tensor& dx,
                      const Tensor& dreturned, const Tensor& dweight) {
  const int64_t begin = chunk_begin(p, d, c), end = chunk_begin(p, d, c + 1);
  p.ops.combine_bwd(p.exec, {.dy = dx.row_range(begin, end),
                             .x = s.returned,
                             .pos = s.pos.row_range(begin, end),
                             .weight = s.weight.row_range(begin, end),
                             .dx = dreturned,
                             .dweight = dweight.row_range(begin, end)});
}

// d of the normed input through router and shared experts.
Tensor token_wise_backward(const Pass& p, const BlockParams& b, const MoeSaved& s, const Activation& y,
                           const Tensor& dx, const Tensor& dweight) {
  Arena& temp = p.temp();
  const int64_t n = p.own;
  const Tensor dy = p.act(temp, n, dx.cols), dlogits = p.act(temp, n, p.m.n_routed_experts);
  p.ops.router_bwd(p.exec, {.shape = router_shape(p.m),
                            .scores = s.scores,
                            .expert = s.expert,
                            .dweight = dweight,
                            .dlogits = dlogits});
  linear_backward(p, dlogits, y.x, b.router, dy, p.own_leaves);
  if (b.shared_gate_up >= 0) {
    const Tensor part = shared_backward(p, b, s, y, dx, p.act(temp, n, dx.cols));
    p.ops.add(p.exec, {.a = dy, .b = part, .y = dy});
  }
  return dy;
}

}  // namespace

void moe_backward(const Pass& p, const BlockParams& b, const MoeSaved& s, const Tensor& dx) {
  const ArenaScope scope(p.temp());
  Arena& temp = p.temp();
  const MoeDims d = dims(p);
  const int64_t chunks = d.shape.chunks;
  const bool again = p.recompute == Recompute::kSelective;
  const Form form = form_for(p, b.experts_gate_up);
  const Activation y = again ? norm(p, temp, s.x, b.ffn_norm, nullptr, with_plain(form)) : s.y;
  const Tensor dreturned = p.act(temp, d.sent_rows(), d.h), dsent = p.act(temp, d.sent_rows(), d.h),
               dweight = temp.f32(p.own, d.shape.top_k), dgate_up = p.act(temp, d.sorted_rows(), 2 * d.i);
  const Tensor dout = d.alone() ? dreturned : p.act(temp, d.sorted_rows(), d.h);

  // The gradients of the outputs go to the experts, chunk by chunk.
  std::vector<Flight> there, back;
  for (int64_t c = 0; c < chunks; ++c) {
    combine_backward(p, d, s, c, dx, dreturned, dweight);
    if (d.alone()) continue;
    there.push_back(start(p, d, "dispatch_grad", blocks_of(d, dreturned, c), s.plan.sent + c * d.shape.ep,
                          p.act(temp, d.block_rows(), d.h)));
  }
  const Tensor dy = token_wise_backward(p, b, s, y, dx, dweight);  // meanwhile

  Activation act = s.act;
  if (again) {
    act = empty_activation(p, temp, d.sorted_rows(), d.i, form);
    for (int64_t c = 0; c < chunks; ++c) swiglu(p, sorted(p, d, s, s.gate_up, c), sorted(p, d, s, act, c));
  }
  if (d.alone()) experts_backward_alone(p, d, b, s, act, dout, dgate_up, dsent);
  for (int64_t c = 0; c < chunks && !d.alone(); ++c) {
    there[c].pending.wait();
    const TraceScope trace("experts_grad");
    const Tensor out = p.act(temp, d.block_rows(), d.h), dy_c = sorted(p, d, s, dout, c);
    {
      const ArenaScope chunk_scope(temp);
      const Tensor dx_c = p.act(temp, dy_c.rows, d.h);
      p.ops.gather_rows(p.exec, {.x = there[c].recv, .index = s.plan.arrival + c * d.room, .y = dy_c});
      experts_backward(p, d, b, s, c, dy_c, dgate_up, dx_c);
      p.ops.scatter_rows(p.exec, {.x = dx_c, .index = s.plan.arrival + c * d.room, .y = out});
    }
    back.push_back(
        start(p, d, "combine_grad", out, s.plan.received + c * d.shape.ep, blocks_of(d, dsent, c)));
  }
  if (!d.alone()) {
    const RowSegments leaves = leaves_of(p, b, d, s);
    grouped_wgrad(p, dout, act, b.experts_down, leaves);
    grouped_wgrad(p, dgate_up, s.x_in, b.experts_gate_up, leaves);
  }
  for (Flight& f : back) f.pending.wait();
  p.ops.combine(p.exec, {.x = dsent, .pos = s.pos, .y = dy, .accumulate = true});
  norm_backward(p, dy, s.x, s.rstd, b.ffn_norm, dx, true, p.own_leaves);
}

}  // namespace contender
