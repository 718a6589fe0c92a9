#include "model/sizes.h"

#include <algorithm>

#include "model/kv_cache.h"
#include "model/weights.h"
#include "ops/ops.h"

namespace contender {
namespace {

// Column counts of one rank, once for all formulas below. Tensors are listed in the order in which the layers
// make them.
struct Widths {
  const ModelConfig& m;
  int64_t h, heads, vocab, slots, own, rows, kv_rows, received, sent, ffn, expert_i, shared_i, recv_buffer;
  AttentionShape attention;
  bool sharded;  // tp > 1: gathered copies exist beside the own rows

  Widths(const RunConfig& c, const MeshShape& mesh) : m(c.model) {
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
    sent = own * m.num_experts_per_tok;
    const int64_t local = std::max<int64_t>(1, m.n_routed_experts / mesh.ep),
                  per_peer = std::min(m.num_experts_per_tok, local);
    received = std::min(own * mesh.ep * per_peer, 2 * sent + 256);  // at most twice the balanced load
    recv_buffer = mesh.ep * (ceil_div(own, c.mesh.moe_chunks) * per_peer) * h;
  }

  int64_t attention_saved(bool selective) const {
    const int64_t cheap = selective ? 0 : 1;
    if (m.mla()) {
      const int64_t latents = m.q_lora_rank + m.kv_lora_rank + m.qk_rope_head_dim,
                    q = m.qk_nope_head_dim + m.qk_rope_head_dim;
      return own * (cheap * h + 3 + 2 * latents) +
             rows * ((sharded ? latents : 0) + (m.q_lora_rank == 0 && sharded ? h : 0)) +
             rows * heads * (q + attention.d_qk + attention.d_v + 1 + m.v_head_dim) +
             kv_rows * attention.row_width;
    }
    const int64_t kv = 2 * attention.num_kv_heads * attention.d_v, q = heads * attention.d_qk;
    return own * (cheap * h + 1) +
           rows * (cheap * (sharded ? h : 0) + (m.qk_norm ? q + kv + heads * 2 : 0) + 2 * q + heads) +
           kv_rows * attention.row_width;
  }
  int64_t ffn_saved(bool moe, bool selective) const {
    const int64_t cheap = selective ? 0 : 1;
    if (!moe) return own * (cheap * h + 1) + rows * (cheap * (sharded ? h : 0) + 2 * ffn + cheap * ffn);
    return own * (cheap * h + 1 + m.n_routed_experts + 3 * m.num_experts_per_tok + 2 * shared_i +
                  cheap * shared_i) +
           sent * h + received * (h + 2 * expert_i + cheap * expert_i);
  }
  int64_t attention_scratch() const {
    if (m.mla()) {
      const int64_t latents = m.q_lora_rank + m.kv_lora_rank + m.qk_rope_head_dim,
                    q = m.qk_nope_head_dim + m.qk_rope_head_dim;
      return rows * (3 * h + heads * (m.v_head_dim + attention.d_v + attention.d_qk + q) + latents) +
             kv_rows * attention.row_width + own * (4 * h + 3 * latents);
    }
    const int64_t kv = 2 * attention.num_kv_heads * attention.d_v, q = heads * attention.d_qk;
    return rows * (4 * h + 3 * (q + kv)) + kv_rows * attention.row_width + own * 3 * h;
  }
  int64_t ffn_scratch(bool moe, int64_t chunks) const {
    if (!moe) return rows * (3 * h + 5 * ffn) + own * 3 * h;
    return own * (4 * h + 2 * m.n_routed_experts + 3 * m.num_experts_per_tok + 4 * shared_i) + 2 * sent * h +
           received * (2 * h + 5 * expert_i + h) + 2 * chunks * recv_buffer;
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
        2 * w.own * w.h + w.attention_saved(selective) + w.ffn_saved(w.m.moe_layer(l), selective);
    largest = std::max(largest, saved);
    blocks += full ? w.own * w.h : saved;
  }
  if (full) blocks += largest;
  // Embedding, final norm, head rows, and the rollout's logits.
  const int64_t ends = (w.rows + 6 * w.own) * w.h + 3 * w.rows * w.h;
  const int64_t rollout = 3 * c.rollout.max_sequences * w.m.vocab_size;
  return 4 * (blocks + ends + rollout) + kSlack;
}

int64_t scratch_bytes(const RunConfig& c, const MeshShape& mesh) {
  const Widths w(c, mesh);
  int64_t forward = w.attention_saved(false) + w.attention_scratch(), backward = w.attention_scratch();
  int64_t ffn = 0;
  for (int64_t l = 0; l < w.m.num_hidden_layers; ++l)
    ffn = std::max(ffn,
                   w.ffn_saved(w.m.moe_layer(l), false) + w.ffn_scratch(w.m.moe_layer(l), c.mesh.moe_chunks));
  return 4 * (std::max(forward, backward) + ffn + 4 * w.rows * w.h) + kSlack;
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
    const int64_t m = std::max(w.rows, w.received);
    if (s.packed)
      need(linear_workspace_bytes(m, s.n, s.k, slices)), need(linear_workspace_bytes(m, s.k, s.n, slices));
    if (s.packed) need(linear_wgrad_workspace_bytes(m, s.n, s.k, leaves));
    if (s.ones) need(rms_norm_bwd_workspace_bytes(w.rows, s.k, leaves));
    if (s.k == 1) need(column_sum_workspace_bytes(s.n, leaves));
  }
  const int64_t longest = w.m.max_position_embeddings;
  need(attention_workspace_bytes(w.attention, longest, longest));
  need(attention_bwd_workspace_bytes(w.attention, longest, slices));
  need(embedding_bwd_workspace_bytes(w.vocab, w.h, leaves));
  need(head_workspace_bytes(w.h, w.vocab, slices));
  need(head_bwd_workspace_bytes(w.h, w.vocab, slices, leaves));
  need(sample_workspace_bytes(w.m.vocab_size));
  return bytes;
}

}  // namespace contender
