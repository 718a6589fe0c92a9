// The mixture-of-experts sublayer (DeepSeek-V3, arXiv 2412.19437, section 2.1.2): shared experts on the
// rank's own tokens, routed experts spread over the ep group. Tokens travel in `moe_chunks` chunks: while one
// is on its way, others are computed.
//
// Rows of a chunk are sent sorted by (expert, token); what arrives is sorted by (expert, peer, token), which
// is (expert, slot, token), because peers own ascending slots. The first message carries the counts of all
// chunks, so that everything can be laid out at once.
#include <algorithm>
#include <utility>

#include "base/timer.h"
#include "model/layers.h"

namespace contender {
namespace {

struct MoeDims {
  int64_t h, i, top_k, ep, experts, slots, chunks, capacity;  // experts: local ones; slots: owned by one rank
};
MoeDims dims(const Pass& p) {
  const MeshConfig& mc = p.mesh_config;
  const int64_t ep = p.rt.mesh->ep().size(), experts = p.m.n_routed_experts / ep,
                top_k = p.m.num_experts_per_tok;
  const int64_t chunk_tokens = ceil_div(p.max_own, mc.moe_chunks);
  int64_t capacity = chunk_tokens * std::min(top_k, experts);
  if (mc.capacity_factor > 0)
    capacity = std::min(
        capacity, static_cast<int64_t>(mc.capacity_factor * double(chunk_tokens * top_k) / double(ep)) + 1);
  return {p.m.hidden_size, p.m.moe_intermediate_size,       top_k,         ep,
          experts,         int64_t(p.own_slots.size()) - 1, mc.moe_chunks, capacity};
}

int64_t chunk_row(int64_t rows, int64_t c, int64_t chunks) { return rows * c / chunks; }

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

// The sending order: for each chunk, (token, j) sorted by expert, then token. Fills pos, source, send_counts,
// and the header with the number of rows per (chunk, expert, slot) for each peer:
// [ep][chunks][experts][slots].
std::vector<int32_t> plan_sending(const Pass& p, const MoeDims& d, MoeSaved& s) {
  const int64_t all_experts = d.ep * d.experts;
  const int32_t* expert = s.expert.i32();
  int32_t* pos = s.pos.i32();
  std::vector<int32_t> header(d.ep * d.chunks * d.experts * d.slots, 0);
  s.source.resize(p.own * d.top_k);
  s.send_counts.assign(d.chunks * d.ep, 0);
  std::vector<int64_t> next(all_experts);
  for (int64_t c = 0; c < d.chunks; ++c) {
    const int64_t begin = chunk_row(p.own, c, d.chunks), end = chunk_row(p.own, c + 1, d.chunks);
    std::fill(next.begin(), next.end(), 0);
    int64_t slot = 0;
    for (int64_t t = begin; t < end; ++t) {
      while (slot + 1 < d.slots && t >= p.own_slots[slot + 1]) ++slot;
      for (int64_t j = 0; j < d.top_k; ++j) {
        const int64_t e = expert[t * d.top_k + j], peer = e / d.experts;
        ++next[e];
        ++header[((peer * d.chunks + c) * d.experts + e % d.experts) * d.slots + slot];
        ++s.send_counts[c * d.ep + peer];
      }
    }
    int64_t row = begin * d.top_k;
    for (int64_t& n : next) row += std::exchange(n, row);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t j = 0; j < d.top_k; ++j) {
        const int64_t at = next[expert[t * d.top_k + j]]++;
        pos[t * d.top_k + j] = static_cast<int32_t>(at);
        s.source[at] = static_cast<int32_t>(t);
      }
    }
  }
  return header;
}

// From the headers of all peers, [ep][chunks][experts][slots]: the sorted order of what arrives, and its
// (expert, slot) leaves.
void plan_arrival(const MoeDims& d, const std::vector<int32_t>& header, MoeSaved& s) {
  auto count = [&](int64_t peer, int64_t c, int64_t e, int64_t slot) {
    return header[((peer * d.chunks + c) * d.experts + e) * d.slots + slot];
  };
  s.recv_counts.assign(d.chunks * d.ep, 0);
  s.arrival.clear();
  s.chunk_begin.assign(1, 0);
  s.offsets.clear();
  s.segments.clear();
  for (int64_t c = 0; c < d.chunks; ++c) {
    std::vector<int64_t> at(d.ep);  // next row of each peer in its part of the receive buffer
    for (int64_t peer = 0; peer < d.ep; ++peer) at[peer] = peer * d.capacity;
    for (int64_t e = 0; e < d.experts; ++e) {
      s.offsets.push_back(static_cast<int32_t>(s.arrival.size()) - s.chunk_begin.back());
      for (int64_t peer = 0; peer < d.ep; ++peer) {
        for (int64_t slot = 0; slot < d.slots; ++slot) {
          const int32_t n = count(peer, c, e, slot), begin = static_cast<int32_t>(s.arrival.size());
          if (n == 0) continue;
          for (int32_t i = 0; i < n; ++i) s.arrival.push_back(static_cast<int32_t>(at[peer]++));
          s.segments.push_back(
              {begin, begin + n, static_cast<int32_t>(e), static_cast<int32_t>(peer * d.slots + slot)});
        }
      }
    }
    for (int64_t peer = 0; peer < d.ep; ++peer) {
      s.recv_counts[c * d.ep + peer] = static_cast<int32_t>(at[peer] - peer * d.capacity);
      if (at[peer] - peer * d.capacity > d.capacity)
        fail(ExitCode::kInternal,
             "expert exchange: {} rows from member {} exceed the capacity of {}; raise mesh.capacity_factor "
             "(0: worst case)",
             at[peer] - peer * d.capacity, peer, d.capacity);
    }
    s.offsets.push_back(static_cast<int32_t>(s.arrival.size()) - s.chunk_begin.back());
    s.chunk_begin.push_back(static_cast<int32_t>(s.arrival.size()));
  }
  // Leaves are chains over chunks too: order by (expert, slot), chunks ascending inside.
  std::stable_sort(s.segments.begin(), s.segments.end(), [](const RowSegment& a, const RowSegment& b) {
    return std::pair(a.group, a.leaf) < std::pair(b.group, b.leaf);
  });
}

// One chunk on its way to the experts: rows of `from` (own rows) or of `sorted` (already in sending order).
struct Flight {
  Tensor recv;
  Pending pending;
};
Flight send_chunk(const Pass& p, const MoeDims& d, const MoeSaved& s, int64_t c, const char* name,
                  const Tensor& rows, const std::vector<int32_t>* header, std::vector<int32_t>* recv_header,
                  std::vector<int32_t>& recv_counts) {
  Flight f{p.temp().f32(d.ep * d.capacity, d.h), {}};
  recv_counts.assign(d.ep, 0);
  f.pending =
      p.rt.mesh->ep().exchange({.name = name,
                                .send_rows = rows,
                                .send_counts = s.send_counts.data() + c * d.ep,
                                .send_header = header ? header->data() : nullptr,
                                .header_len = header ? static_cast<int32_t>(header->size() / d.ep) : 0,
                                .recv_rows = f.recv,
                                .capacity = d.capacity,
                                .recv_counts = recv_counts.data(),
                                .recv_header = recv_header ? recv_header->data() : nullptr});
  return f;
}

Tensor chunk(const MoeSaved& s, const Tensor& x, int64_t c) {
  return x.row_range(s.chunk_begin[c], s.chunk_begin[c + 1]);
}

void shared_forward(const Pass& p, const BlockParams& b, const MoeSaved& s, const Tensor& out, int64_t begin,
                    int64_t end) {
  if (b.shared_gate_up < 0 || begin == end) return;
  const TraceScope trace("shared");
  const Tensor gate_up = s.shared_gate_up.row_range(begin, end), act = s.shared_act.row_range(begin, end);
  p.ops.linear(p.exec, {.x = s.y.row_range(begin, end), .w = p.w.view(b.shared_gate_up), .y = gate_up});
  p.ops.swiglu(p.exec, {.gate_up = gate_up, .y = act});
  p.ops.linear(p.exec, {.x = act, .w = p.w.view(b.shared_down), .y = out.row_range(begin, end)});
}

void experts_forward(const Pass& p, const MoeDims& d, const BlockParams& b, const MoeSaved& s, int64_t c,
                     const Tensor& recv, const Tensor& back) {
  const TraceScope trace("experts");
  const int32_t* offsets = s.offsets.data() + c * (d.experts + 1);
  const int32_t* arrival = s.arrival.data() + s.chunk_begin[c];
  const Tensor x = chunk(s, s.x_in, c), gate_up = chunk(s, s.gate_up, c), act = chunk(s, s.act, c);
  p.ops.gather_rows(p.exec, {.x = recv, .index = arrival, .y = x});
  p.ops.grouped_linear(p.exec, {.x = x, .w = p.w.view(b.experts_gate_up), .y = gate_up, .offsets = offsets});
  p.ops.swiglu(p.exec, {.gate_up = gate_up, .y = act});
  const ArenaScope scope(p.temp());
  const Tensor y = p.temp().f32(x.rows, d.h);
  p.ops.grouped_linear(p.exec, {.x = act, .w = p.w.view(b.experts_down), .y = y, .offsets = offsets});
  p.ops.scatter_rows(p.exec, {.x = y, .index = arrival, .y = back});
}

}  // namespace

Tensor moe_forward(const Pass& p, const BlockParams& b, const Tensor& x, const Tensor& delta, MoeSaved& s) {
  const MoeDims d = dims(p);
  const int64_t n = p.own;
  s.x = x;
  s.y = norm(p, p.keep(true), x, delta, b.ffn_norm, &s.rstd);

  // Route every own token; then the chunks leave one after the other.
  const Tensor logits = linear(p, p.temp(), s.y, b.router);
  s.scores = p.keep().f32(n, p.m.n_routed_experts);
  s.expert = p.keep().i32(n, d.top_k);
  s.weight = p.keep().f32(n, d.top_k);
  s.pos = p.keep().i32(n, d.top_k);
  p.ops.router(p.exec, {.shape = router_shape(p.m),
                        .logits = logits,
                        .bias = b.router_bias >= 0 ? p.w.master(b.router_bias).f32() : nullptr,
                        .scores = s.scores,
                        .expert = s.expert,
                        .weight = s.weight});
  const std::vector<int32_t> header = plan_sending(p, d, s);
  std::vector<int32_t> recv_header(header.size());
  const Tensor out = p.temp().f32(n, d.h);
  const int64_t shared_i = p.m.n_shared_experts * d.i;
  if (b.shared_gate_up >= 0) {
    s.shared_gate_up = p.keep().f32(n, 2 * shared_i);
    s.shared_act = p.keep(true).f32(n, shared_i);
  } else {
    p.rt.device->zero(p.exec.stream, out.data, n * d.h * 4);
  }
  s.returned = p.keep().f32(n * d.top_k, d.h);

  std::vector<Flight> there, back(d.chunks);
  std::vector<std::vector<int32_t>> counts(d.chunks);
  for (int64_t c = 0; c < d.chunks; ++c) {
    const int64_t begin = chunk_row(n, c, d.chunks) * d.top_k, end = chunk_row(n, c + 1, d.chunks) * d.top_k;
    const Tensor rows = p.temp().f32(end - begin, d.h);
    p.ops.gather_rows(p.exec, {.x = s.y, .index = s.source.data() + begin, .y = rows});
    there.push_back(send_chunk(p, d, s, c, "dispatch", rows, c == 0 ? &header : nullptr,
                               c == 0 ? &recv_header : nullptr, counts[c]));
  }
  shared_forward(p, b, s, out, 0, chunk_row(n, 1, d.chunks));
  for (int64_t c = 0; c < d.chunks; ++c) {
    there[c].pending.wait();
    if (c == 0) {
      plan_arrival(d, recv_header, s);
      const int64_t received = s.chunk_begin.back();
      s.x_in = p.keep().f32(received, d.h);
      s.gate_up = p.keep().f32(received, 2 * d.i);
      s.act = p.keep(true).f32(received, d.i);
      for (Flight& f : back) f.recv = p.temp().f32(d.ep * d.capacity, d.h);
    }
    experts_forward(p, d, b, s, c, there[c].recv, back[c].recv);
    back[c].pending = p.rt.mesh->ep().exchange_back(
        "combine", back[c].recv, s.recv_counts.data() + c * d.ep, d.capacity,
        s.returned.row_range(chunk_row(n, c, d.chunks) * d.top_k, chunk_row(n, c + 1, d.chunks) * d.top_k),
        s.send_counts.data() + c * d.ep);
  }
  shared_forward(p, b, s, out, chunk_row(n, 1, d.chunks), n);
  for (int64_t c = 0; c < d.chunks; ++c) {
    back[c].pending.wait();
    const int64_t begin = chunk_row(n, c, d.chunks), end = chunk_row(n, c + 1, d.chunks);
    p.ops.combine(p.exec, {.x = s.returned,
                           .pos = s.pos.row_range(begin, end),
                           .weight = s.weight.row_range(begin, end),
                           .y = out.row_range(begin, end),
                           .accumulate = true});
  }
  return out;
}

namespace {

// dx_in of one chunk from the gradient of its expert outputs; keeps d(gate_up) and d(out) for the weight
// gradients.
void experts_backward(const Pass& p, const MoeDims& d, const BlockParams& b, const MoeSaved& s, int64_t c,
                      const Tensor& recv, const Tensor& dout, const Tensor& dgate_up, const Tensor& back) {
  const TraceScope trace("experts_grad");
  const int32_t* offsets = s.offsets.data() + c * (d.experts + 1);
  const int32_t* arrival = s.arrival.data() + s.chunk_begin[c];
  const ArenaScope scope(p.temp());
  const Tensor dy = chunk(s, dout, c), dg = chunk(s, dgate_up, c);
  const Tensor dact = p.temp().f32(dy.rows, d.i), dx = p.temp().f32(dy.rows, d.h);
  p.ops.gather_rows(p.exec, {.x = recv, .index = arrival, .y = dy});
  p.ops.grouped_linear_dgrad(p.exec,
                             {.dy = dy, .w = p.w.view(b.experts_down), .dx = dact, .offsets = offsets});
  p.ops.swiglu_bwd(p.exec, {.dy = dact, .gate_up = chunk(s, s.gate_up, c), .dgate_up = dg});
  p.ops.grouped_linear_dgrad(p.exec,
                             {.dy = dg, .w = p.w.view(b.experts_gate_up), .dx = dx, .offsets = offsets});
  p.ops.scatter_rows(p.exec, {.x = dx, .index = arrival, .y = back});
}

Tensor shared_backward(const Pass& p, const BlockParams& b, const MoeSaved& s, const Tensor& y,
                       const Tensor& dx, const Tensor& dy) {
  const TraceScope trace("shared_grad");
  const ArenaScope scope(p.temp());
  Tensor act = s.shared_act;
  if (p.recompute == Recompute::kSelective) {
    act = p.temp().f32(act.rows, act.cols);
    p.ops.swiglu(p.exec, {.gate_up = s.shared_gate_up, .y = act});
  }
  const Tensor dact = p.temp().f32(act.rows, act.cols), dgate_up = p.temp().f32(act.rows, 2 * act.cols);
  linear_backward(p, dx, act, b.shared_down, dact, p.own_leaves());
  p.ops.swiglu_bwd(p.exec, {.dy = dact, .gate_up = s.shared_gate_up, .dgate_up = dgate_up});
  linear_backward(p, dgate_up, y, b.shared_gate_up, dy, p.own_leaves());
  return dy;
}

}  // namespace

void moe_backward(const Pass& p, const BlockParams& b, const MoeSaved& s, const Tensor& dx) {
  const ArenaScope scope(p.temp());
  Arena& temp = p.temp();
  const MoeDims d = dims(p);
  const int64_t n = p.own, received = s.chunk_begin.back();
  const bool again = p.recompute == Recompute::kSelective;
  const Tensor y = again ? norm(p, temp, s.x, {}, b.ffn_norm, nullptr) : s.y;

  // The same journey backwards: gradients of the outputs go to the experts, gradients of their inputs come
  // back.
  const Tensor dreturned = temp.f32(n * d.top_k, d.h), dweight = temp.f32(n, d.top_k);
  std::vector<Flight> there, back(d.chunks);
  std::vector<std::vector<int32_t>> counts(d.chunks);
  for (int64_t c = 0; c < d.chunks; ++c) {
    const int64_t begin = chunk_row(n, c, d.chunks), end = chunk_row(n, c + 1, d.chunks);
    p.ops.combine_bwd(p.exec, {.dy = dx.row_range(begin, end),
                               .x = s.returned,
                               .pos = s.pos.row_range(begin, end),
                               .weight = s.weight.row_range(begin, end),
                               .dx = dreturned,
                               .dweight = dweight.row_range(begin, end)});
    there.push_back(send_chunk(p, d, s, c, "dispatch_grad",
                               dreturned.row_range(begin * d.top_k, end * d.top_k), nullptr, nullptr,
                               counts[c]));
  }

  // Meanwhile the token-wise parts: router and shared experts.
  const Tensor dy = temp.f32(n, d.h), dlogits = temp.f32(n, p.m.n_routed_experts);
  p.ops.router_bwd(p.exec, {.shape = router_shape(p.m),
                            .scores = s.scores,
                            .expert = s.expert,
                            .dweight = dweight,
                            .dlogits = dlogits});
  linear_backward(p, dlogits, y, b.router, dy, p.own_leaves());
  if (b.shared_gate_up >= 0) {
    const Tensor part = shared_backward(p, b, s, y, dx, temp.f32(n, d.h));
    p.ops.add(p.exec, {.a = dy, .b = part, .y = dy});
  }

  Tensor act = s.act;
  if (again) {
    act = temp.f32(received, d.i);
    p.ops.swiglu(p.exec, {.gate_up = s.gate_up, .y = act});
  }
  const Tensor dout = temp.f32(received, d.h), dgate_up = temp.f32(received, 2 * d.i);
  const Tensor dsent = temp.f32(n * d.top_k, d.h);
  for (int64_t c = 0; c < d.chunks; ++c) {
    there[c].pending.wait();
    back[c].recv = temp.f32(d.ep * d.capacity, d.h);
    experts_backward(p, d, b, s, c, there[c].recv, dout, dgate_up, back[c].recv);
    back[c].pending = p.rt.mesh->ep().exchange_back(
        "combine_grad", back[c].recv, s.recv_counts.data() + c * d.ep, d.capacity,
        dsent.row_range(chunk_row(n, c, d.chunks) * d.top_k, chunk_row(n, c + 1, d.chunks) * d.top_k),
        s.send_counts.data() + c * d.ep);
  }
  const RowSegments leaves{s.segments.data(), int32_t(s.segments.size()), int32_t(d.ep * d.slots)};
  p.ops.linear_wgrad(
      p.exec,
      {.dy = dout, .x = act, .dw = p.w.grad(b.experts_down), .segments = leaves, .num_groups = d.experts});
  p.ops.linear_wgrad(p.exec, {.dy = dgate_up,
                              .x = s.x_in,
                              .dw = p.w.grad(b.experts_gate_up),
                              .segments = leaves,
                              .num_groups = d.experts});

  const Tensor ones = temp.f32(n, d.top_k);
  std::fill_n(ones.f32(), ones.numel(), 1.0f);
  for (Flight& f : back) f.pending.wait();
  p.ops.combine(p.exec, {.x = dsent, .pos = s.pos, .weight = ones, .y = dy, .accumulate = true});
  norm_backward(p, dy, s.x, s.rstd, b.ffn_norm, dx, true, p.own_leaves());
}

}  // namespace contender
