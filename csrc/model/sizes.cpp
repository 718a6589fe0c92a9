#include "model/sizes.h"

#include <algorithm>

#include "model/kv_cache.h"
#include "model/layers.h"
#include "model/weights.h"
#include "ops/ops.h"

namespace contender {
namespace {

// Column counts of one rank, once for all formulas below. Tensors are listed in the order in which the layers
// make them; a formula gives bytes, `a` of them for an element of an activation, 4 for statistics and
// indices.
struct Widths {
  const ModelConfig& m;
  int64_t a, h, heads, vocab, slots, own, rows, kv_rows, ffn, expert_i, shared_i;
  bool fp8;  // what products read is codes, scales behind them
  DispatchShape dispatch;
  int64_t sent, sorted;  // rows of the blocked buffers of all chunks, and of the sorted ones
  AttentionShape attention;
  bool sharded;  // tp > 1: gathered copies exist beside the own rows, and partial sums in FP32

  Widths(const RunConfig& c, const MeshShape& mesh) : m(c.model) {
    a = dtype_size(activation_dtype(c));
    fp8 = c.train.precision == "fp8";
    h = m.hidden_size;
    heads = m.num_attention_heads / mesh.tp;
    vocab = m.vocab_size / mesh.tp;
    slots = std::max<int64_t>(1, c.mesh.data_slots / mesh.np());
    own = max_own_tokens(c, mesh.np());
    rows = max_group_rows(c, mesh);
    kv_rows = 2 * rows;  // every sequence ends in a partly filled page
    attention = attention_shape(m, mesh.tp, kAttentionBlock);
    sharded = mesh.tp > 1;
    ffn = m.intermediate_size / mesh.tp;
    expert_i = m.moe_intermediate_size;
    shared_i = m.n_shared_experts * expert_i;
    dispatch = dispatch_shape(m, c.mesh, mesh.ep, own, own, slots);
    sent = dispatch.chunks * dispatch.ep * dispatch.capacity;
    sorted = dispatch.chunks * dispatch_room(dispatch, own, own);
  }

  int64_t partial() const { return sharded ? 4 : a; }
  int64_t read(int64_t cols) const { return fp8 ? code_row_bytes(cols) : a * cols; }
  int64_t latents() const { return m.q_lora_rank + m.kv_lora_rank + m.qk_rope_head_dim; }
  int64_t q_dim() const { return m.qk_nope_head_dim + m.qk_rope_head_dim; }
  int64_t kv_bytes() const { return a * kv_rows * attention.row_width; }

  int64_t attention_saved(bool selective) const {
    if (m.mla()) {
      const int64_t y_all = m.q_lora_rank == 0 && sharded ? read(h) : 0;
      const int64_t q_latent = m.q_lora_rank > 0 && fp8 ? code_row_bytes(m.q_lora_rank) : 0;
      const int64_t normed = latents() - (fp8 ? m.q_lora_rank : 0);
      return own * ((selective ? 0 : read(h)) + 12 + a * (latents() + normed)) +
             rows * ((sharded ? a * normed : 0) + y_all + q_latent) +
             rows * heads * (a * (q_dim() + attention.d_qk + attention.d_v + m.v_head_dim) + 4) + kv_bytes();
    }
    const int64_t kv = 2 * attention.num_kv_heads * attention.d_v, q = heads * attention.d_qk;
    const int64_t y = selective ? 0 : m.attention_bias ? a * h : read(h);
    return own * (y + 4) +
           rows * ((sharded ? y : 0) + (m.qk_norm ? a * (q + kv) + heads * 8 : 0) + 2 * a * q + 4 * heads) +
           kv_bytes();
  }
  int64_t plan_bytes() const {
    const int64_t header = dispatch.ep * dispatch.chunks * dispatch.experts * dispatch.slots;
    return 4 * (sent + sorted + 8 * header + dispatch.chunks * (2 * dispatch.ep + dispatch.experts + 2));
  }
  int64_t ffn_saved(bool moe, bool selective) const {
    const auto cheap = [&](int64_t bytes) { return selective ? 0 : bytes; };
    if (!moe)
      return own * (cheap(read(h)) + 4) +
             rows * (cheap(sharded ? read(h) : 0) + 2 * a * ffn + cheap(read(ffn)));
    const int64_t y = a * h + (fp8 ? code_row_bytes(h) : 0);  // the router reads it too
    return own * (cheap(y) + 4 + 4 * m.n_routed_experts + 12 * m.num_experts_per_tok + 2 * a * shared_i +
                  cheap(read(shared_i))) +
           plan_bytes() + a * sent * h + sorted * (read(h) + a * 2 * expert_i + cheap(read(expert_i)));
  }
  int64_t attention_scratch() const {
    if (m.mla()) {
      const int64_t per_head = m.v_head_dim + attention.d_v + attention.d_qk + q_dim();
      return rows * (a * (2 * h + heads * per_head) + partial() * (h + latents())) +
             partial() * kv_rows * attention.row_width + a * own * (4 * h + 3 * latents());
    }
    const int64_t kv = 2 * attention.num_kv_heads * attention.d_v, q = heads * attention.d_qk;
    return rows * ((3 * a + partial()) * h + 3 * a * (q + kv)) + kv_bytes() + a * own * 3 * h;
  }
  int64_t ffn_scratch(bool moe) const {
    if (!moe) return rows * ((2 * a + partial()) * h + 5 * a * ffn) + a * own * 3 * h;
    const int64_t tokens = own * (a * (4 * h + m.n_routed_experts + 4 * shared_i) + 4 * m.n_routed_experts +
                                  12 * m.num_experts_per_tok);
    return tokens + a * (4 * sent * h + sorted * (2 * h + 5 * expert_i + h));
  }
};

constexpr int64_t kSlack = 1 << 20;  // alignment of many small tensors

}  // namespace

MeshShape mesh_shape(const RunConfig& c, int np) {
  MeshShape s;
  s.tp = static_cast<int>(c.mesh.tp);
  s.dp = static_cast<int>(c.mesh.dp > 0 ? c.mesh.dp : np / c.mesh.tp);
  s.ep = static_cast<int>(c.mesh.ep);
  s.edp = std::max(1, s.np() / s.ep);
  return s;
}

int64_t max_own_tokens(const RunConfig& c, int np) {
  return std::max(std::max<int64_t>(1, c.mesh.data_slots / np) * c.train.token_budget,
                  c.rollout.max_tokens_per_step);
}

DType activation_dtype(const RunConfig& c) { return c.device == "cuda" ? DType::kBF16 : DType::kF32; }
WeightFormat weight_format(const RunConfig& c) { return c.device == "cuda" ? kCudaWeights : kCpuWeights; }

DispatchShape dispatch_shape(const ModelConfig& m, const MeshConfig& mesh, int64_t ep, int64_t own,
                             int64_t max_own, int64_t slots) {
  DispatchShape s{
      .ep = ep, .experts = m.n_routed_experts / ep, .top_k = m.num_experts_per_tok, .slots = slots};
  if (ep == 1) {  // nothing travels
    s.capacity = own * s.top_k;
    return s;
  }
  s.chunks = mesh.moe_chunks;
  const int64_t tokens = ceil_div(max_own, s.chunks);
  s.capacity = tokens * std::min(s.top_k, s.experts);
  if (mesh.capacity_factor > 0)
    s.capacity = std::min(
        s.capacity, static_cast<int64_t>(mesh.capacity_factor * double(tokens * s.top_k) / double(ep)) + 1);
  return s;
}

int64_t dispatch_room(const DispatchShape& s, int64_t own, int64_t max_own) {
  if (s.ep == 1) return own * s.top_k;
  return std::min(s.ep * s.capacity, 2 * ceil_div(max_own, s.chunks) * s.top_k + 256);
}

void check_dispatch_overflow(int32_t wanted) {
  if (wanted > 0)
    fail(ExitCode::kInternal,
         "expert exchange: {} rows of a chunk wanted a place where there are fewer; raise "
         "mesh.capacity_factor "
         "(0: worst case), or balance the router (model.bias_update_speed)",
         wanted);
}

int64_t max_group_rows(const RunConfig& c, const MeshShape& mesh) {
  return std::max(std::max<int64_t>(1, c.mesh.data_slots / mesh.dp) * c.train.token_budget,
                  c.rollout.max_tokens_per_step);
}

int64_t activation_bytes(const RunConfig& c, const MeshShape& mesh) {
  const Widths w(c, mesh);
  const bool selective = c.train.recompute == "selective", full = c.train.recompute == "full";
  int64_t blocks = 0, largest = 0;
  for (int64_t l = 0; l < w.m.num_hidden_layers + w.m.num_nextn_predict_layers; ++l) {
    const int64_t saved =
        w.a * 2 * w.own * w.h + w.attention_saved(selective) + w.ffn_saved(w.m.moe_layer(l), selective);
    largest = std::max(largest, saved);
    blocks += full ? w.a * w.own * w.h : saved;
  }
  if (full) blocks += largest;
  // Embedding, final norm, head rows, what is sent of a batch and its loss, and the rollout's logits.
  const int64_t ends =
      w.partial() * w.rows * w.h + w.a * (7 * w.own + 3 * w.rows) * w.h + 4 * 32 * (w.rows + w.slots);
  const int64_t rollout = 4 * 3 * c.rollout.max_sequences * w.m.vocab_size;
  return blocks + ends + rollout + kSlack;
}

int64_t scratch_bytes(const RunConfig& c, const MeshShape& mesh) {
  const Widths w(c, mesh);
  int64_t forward = w.attention_saved(false) + w.attention_scratch(), backward = w.attention_scratch();
  int64_t ffn = 0;
  for (int64_t l = 0; l < w.m.num_hidden_layers; ++l)
    ffn = std::max(ffn, w.ffn_saved(w.m.moe_layer(l), false) + w.ffn_scratch(w.m.moe_layer(l)));
  // Codes of one product and of its weight gradient, what they are made from, its sliced sums.
  int64_t codes = 0;
  for (const ParamSpec& s : param_specs(c.model, {mesh.tp, 0, mesh.ep, 0})) {
    if (!w.fp8 || !s.fp8) continue;
    const bool expert = s.kind == ParamKind::kExpert;
    const int64_t m = expert ? w.sorted : w.rows, sharers = expert ? mesh.edp : mesh.dp;
    const int64_t chains = s.groups * std::max<int64_t>(1, c.mesh.data_slots / sharers);
    const int64_t turned = (s.n + s.k) * round_up(m, 16),
                  scales = 4 * max_row_blocks(m, chains) * (s.n + s.k);
    const int64_t sums = s.kind == ParamKind::kTensor ? 8 * m * std::max(s.n, s.k) : 0;
    codes = std::max(codes, m * (code_row_bytes(s.n) + code_row_bytes(s.k)) + turned + scales + sums +
                                chains * int64_t{sizeof(RowPlace)});
  }
  // The two ends: gradients of head rows and of the gathered stream; in tp, sums of partials.
  return std::max(forward, backward) + ffn + codes + (2 * w.a + 2 * w.partial()) * w.rows * w.h + kSlack;
}

int64_t workspace_bytes(const RunConfig& c, const MeshShape& mesh) {
  const Widths w(c, mesh);
  const int32_t group_leaves = static_cast<int32_t>(std::max<int64_t>(1, c.mesh.data_slots / mesh.dp));
  const int32_t ep_leaves = static_cast<int32_t>(std::max<int64_t>(1, c.mesh.data_slots / mesh.edp));
  const int32_t leaves = std::max(group_leaves, ep_leaves),
                slices = static_cast<int32_t>(virtual_slices(c.model) / mesh.tp);
  int64_t bytes = 1 << 16;
  auto need = [&](int64_t b) { bytes = std::max(bytes, b); };
  for (const ParamSpec& s : param_specs(c.model, {mesh.tp, 0, mesh.ep, 0})) {
    const int64_t m = std::max(w.rows, w.sorted);
    if (s.packed)
      need(linear_workspace_bytes(m, s.n, s.k, slices)), need(linear_workspace_bytes(m, s.k, s.n, slices));
    if (s.packed) need(linear_wgrad_workspace_bytes(m, s.n, s.k, leaves));
    if (s.ones) need(rms_norm_bwd_workspace_bytes(w.rows, s.k, leaves));
    if (s.ones && s.uses > 1) need(head_norm_bwd_workspace_bytes(w.rows, s.k, s.uses, leaves));
    if (s.k == 1) need(column_sum_workspace_bytes(s.n, leaves));
  }
  const int64_t longest = w.m.max_position_embeddings;
  need(attention_workspace_bytes(w.attention, longest, longest));
  need(attention_bwd_workspace_bytes(w.attention, longest, slices));
  need(embedding_bwd_workspace_bytes(w.vocab, w.h, leaves));
  need(head_workspace_bytes(w.h, w.vocab, slices));
  need(head_bwd_workspace_bytes(w.rows, w.h, w.vocab, slices, leaves));
  need(sample_workspace_bytes(w.m.vocab_size));
  need(send_plan_workspace_bytes(w.own, w.dispatch));
  need(arrival_plan_workspace_bytes(w.dispatch));
  return bytes;
}

}  // namespace contender
