#include "model/params.h"

#include <utility>

#include "base/error.h"

namespace contender {
namespace {

// Collects the parameters of one rank. Each function names one weight of the paper with its Hugging Face
// tensors.
class SpecList {
 public:
  SpecList(const ModelConfig& m, const ShardPlace& p) : m_(m), p_(p) {}

  ParamSpec& add(const std::string& name, ParamKind kind, int64_t layer, int64_t n, int64_t k) {
    ParamSpec s;
    s.name = name;
    s.kind = kind;
    s.layer = layer;
    s.n = n;
    s.k = k;
    list.push_back(std::move(s));
    return list.back();
  }
  void norm(const std::string& name, const std::string& hf, int64_t layer, int64_t h) {
    ParamSpec& s = add(name, ParamKind::kTokenWise, layer, 1, h);
    s.ones = true;
    s.decay = false;
    s.pieces = {{hf, 1, h, 0, 0, 0, 1, h}};
  }
  // The whole tensor on every rank.
  ParamSpec& whole(const std::string& name, const std::string& hf, int64_t layer, int64_t n, int64_t k) {
    ParamSpec& s = add(name, ParamKind::kTokenWise, layer, n, k);
    s.packed = s.fp8 = true;
    s.pieces = {{hf, n, k, 0, 0, 0, n, k}};
    return s;
  }
  // Rows (output features) split over tp.
  ParamSpec& column_parallel(const std::string& name, const std::string& hf, int64_t layer, int64_t n,
                             int64_t k) {
    const int64_t local = div_exact(n, p_.tp);
    ParamSpec& s = add(name, ParamKind::kTensor, layer, local, k);
    s.packed = s.fp8 = true;
    s.pieces = {{hf, n, k, p_.tp_rank * local, 0, 0, local, k}};
    return s;
  }
  // Columns (input features) split over tp.
  ParamSpec& row_parallel(const std::string& name, const std::string& hf, int64_t layer, int64_t n,
                          int64_t k) {
    const int64_t local = div_exact(k, p_.tp);
    ParamSpec& s = add(name, ParamKind::kTensor, layer, n, local);
    s.packed = s.fp8 = true;
    s.pieces = {{hf, n, k, 0, p_.tp_rank * local, 0, n, local}};
    return s;
  }

  // Several column-parallel tensors [rows, k] as one product. Rows are ordered by virtual slice, [a_s | b_s |
  // ...] for each slice s of the output dimension: a rank holds whole slices, and the sum over the outputs
  // (dgrad) has the same order in every layout.
  ParamSpec& sliced(const std::string& name, int64_t layer,
                    const std::vector<std::pair<std::string, int64_t>>& parts, int64_t k) {
    const int64_t slices = virtual_slices(m_), local_slices = div_exact(slices, p_.tp);
    ParamSpec& s = add(name, ParamKind::kTensor, layer, 0, k);
    s.packed = s.fp8 = true;
    for (int64_t i = 0; i < local_slices; ++i) {
      for (const auto& [hf, rows] : parts) {
        const int64_t slice_rows = div_exact(rows, slices);
        s.pieces.push_back(
            {hf, rows, k, (p_.tp_rank * local_slices + i) * slice_rows, 0, s.n, slice_rows, k});
        s.n += slice_rows;
      }
    }
    return s;
  }

  void attention_mla(const std::string& name, const std::string& hf, int64_t layer) {
    const int64_t h = m_.hidden_size, heads = m_.num_attention_heads, local_heads = div_exact(heads, p_.tp);
    const int64_t latent = m_.kv_lora_rank, rope = m_.qk_rope_head_dim, nope = m_.qk_nope_head_dim,
                  v = m_.v_head_dim;
    const int64_t q_lora = m_.q_lora_rank;
    // Both down-projections are one product on the rank's own tokens.
    ParamSpec& a = add(name + ".qkv_a", ParamKind::kTokenWise, layer, q_lora + latent + rope, h);
    a.packed = a.fp8 = true;
    if (q_lora > 0) a.pieces.push_back({hf + ".q_a_proj.weight", q_lora, h, 0, 0, 0, q_lora, h});
    a.pieces.push_back({hf + ".kv_a_proj_with_mqa.weight", latent + rope, h, 0, 0, q_lora, latent + rope, h});
    if (q_lora > 0) {
      norm(name + ".q_a_norm", hf + ".q_a_layernorm.weight", layer, q_lora);
      column_parallel(name + ".q_b", hf + ".q_b_proj.weight", layer, heads * (nope + rope), q_lora);
    } else {
      column_parallel(name + ".q_b", hf + ".q_proj.weight", layer, heads * (nope + rope), h);
    }
    norm(name + ".kv_a_norm", hf + ".kv_a_layernorm.weight", layer, latent);
    // kv_b_proj holds [k_nope; v] of each head; W_UK and W_UV are stored apart because the absorbed form uses
    // them apart.
    const std::string kv_b = hf + ".kv_b_proj.weight";
    ParamSpec& uk = add(name + ".w_uk", ParamKind::kTensor, layer, nope, latent);
    uk.groups = local_heads;
    uk.packed = true;
    ParamSpec uv = uk;
    uk.forward_transposed = true;
    uv.name = name + ".w_uv";
    uv.n = v;
    for (int64_t i = 0; i < local_heads; ++i) {
      const int64_t row = (p_.tp_rank * local_heads + i) * (nope + v);
      uk.pieces.push_back({kv_b, heads * (nope + v), latent, row, 0, i * nope, nope, latent});
      uv.pieces.push_back({kv_b, heads * (nope + v), latent, row + nope, 0, i * v, v, latent});
    }
    list.push_back(std::move(uv));
    row_parallel(name + ".o", hf + ".o_proj.weight", layer, h, heads * v);
  }

  void attention_gqa(const std::string& name, const std::string& hf, int64_t layer) {
    const int64_t h = m_.hidden_size, d = m_.head_dim;
    const int64_t q = m_.num_attention_heads * d, kv = m_.num_key_value_heads * d;
    sliced(name + ".qkv", layer,
           {{hf + ".q_proj.weight", q}, {hf + ".k_proj.weight", kv}, {hf + ".v_proj.weight", kv}}, h);
    if (m_.attention_bias) {
      ParamSpec& b =
          sliced(name + ".qkv_bias", layer,
                 {{hf + ".q_proj.bias", q}, {hf + ".k_proj.bias", kv}, {hf + ".v_proj.bias", kv}}, 1);
      b.packed = b.fp8 = b.decay = false;
      list[list.size() - 2].fp8 = false;  // FP8 products add no bias
      b.zeros = true;
    }
    if (m_.qk_norm) {  // one gamma for all heads: each head is a use of its own, so that heads on other ranks
                       // sum in head order
      norm(name + ".q_norm", hf + ".q_norm.weight", layer, d);
      list.back().uses = m_.num_attention_heads;
      norm(name + ".k_norm", hf + ".k_norm.weight", layer, d);
      list.back().uses = m_.num_key_value_heads;
    }
    row_parallel(name + ".o", hf + ".o_proj.weight", layer, h, q);
  }

  void dense_ffn(const std::string& name, const std::string& hf, int64_t layer) {
    const int64_t h = m_.hidden_size, i = m_.intermediate_size;
    sliced(name + ".gate_up", layer, {{hf + ".gate_proj.weight", i}, {hf + ".up_proj.weight", i}}, h);
    row_parallel(name + ".down", hf + ".down_proj.weight", layer, h, i);
  }

  void moe(const std::string& name, const std::string& hf, int64_t layer) {
    const int64_t h = m_.hidden_size, e = m_.n_routed_experts, i = m_.moe_intermediate_size;
    whole(name + ".router", hf + ".gate.weight", layer, e, h).fp8 = false;
    if (m_.topk_method == "noaux_tc") {
      ParamSpec& bias = add(name + ".router_bias", ParamKind::kTokenWise, layer, 1, e);
      bias.decay = false;
      bias.zeros = bias.frozen = true;
      bias.pieces = {{hf + ".gate.e_score_correction_bias", 1, e, 0, 0, 0, 1, e}};
    }
    if (m_.n_shared_experts > 0) {  // token-wise: each rank runs it on its own tokens, with no exchange
      const int64_t s = m_.n_shared_experts * i;
      ParamSpec& gu = add(name + ".shared_gate_up", ParamKind::kTokenWise, layer, 2 * s, h);
      gu.packed = gu.fp8 = true;
      gu.pieces = {{hf + ".shared_experts.gate_proj.weight", s, h, 0, 0, 0, s, h},
                   {hf + ".shared_experts.up_proj.weight", s, h, 0, 0, s, s, h}};
      whole(name + ".shared_down", hf + ".shared_experts.down_proj.weight", layer, h, s);
    }
    const int64_t local = div_exact(e, p_.ep);
    ParamSpec& gu = add(name + ".experts_gate_up", ParamKind::kExpert, layer, 2 * i, h);
    gu.groups = local;
    gu.packed = gu.fp8 = true;
    ParamSpec down = gu;
    down.name = name + ".experts_down";
    down.n = h;
    down.k = i;
    for (int64_t x = 0; x < local; ++x) {
      const std::string expert = fmt::format("{}.experts.{}", hf, p_.ep_rank * local + x);
      gu.pieces.push_back({expert + ".gate_proj.weight", i, h, 0, 0, x * 2 * i, i, h});
      gu.pieces.push_back({expert + ".up_proj.weight", i, h, 0, 0, x * 2 * i + i, i, h});
      down.pieces.push_back({expert + ".down_proj.weight", h, i, 0, 0, x * h, h, i});
    }
    list.push_back(std::move(down));
  }

  void block(const std::string& name, const std::string& hf, int64_t layer) {
    norm(name + ".attn_norm", hf + ".input_layernorm.weight", layer, m_.hidden_size);
    if (m_.mla()) {
      attention_mla(name + ".attn", hf + ".self_attn", layer);
    } else {
      attention_gqa(name + ".attn", hf + ".self_attn", layer);
    }
    norm(name + ".ffn_norm", hf + ".post_attention_layernorm.weight", layer, m_.hidden_size);
    if (m_.moe_layer(layer)) {
      moe(name + ".moe", hf + ".mlp", layer);
    } else {
      dense_ffn(name + ".ffn", hf + ".mlp", layer);
    }
  }

  std::vector<ParamSpec> list;

 private:
  const ModelConfig& m_;
  const ShardPlace& p_;
};

}  // namespace

std::vector<ParamSpec> param_specs(const ModelConfig& m, const ShardPlace& place) {
  SpecList s(m, place);
  const int64_t h = m.hidden_size, layers = m.num_hidden_layers, mtp = m.num_nextn_predict_layers;
  // The embedding and the head are used once by the model and once by the MTP module; a tied table serves as
  // both.
  ParamSpec& embed = s.column_parallel("embed", "model.embed_tokens.weight", -1, m.vocab_size, h);
  embed.packed = m.tie_word_embeddings;
  embed.fp8 = false;
  embed.uses = (1 + mtp) * (m.tie_word_embeddings ? 2 : 1);
  for (int64_t l = 0; l < layers; ++l)
    s.block(fmt::format("layers.{}", l), fmt::format("model.layers.{}", l), l);
  s.norm("final_norm", "model.norm.weight", layers, h);
  if (!m.tie_word_embeddings) {
    ParamSpec& head = s.column_parallel("head", "lm_head.weight", layers, m.vocab_size, h);
    head.uses = 1 + mtp;
    head.fp8 = false;
  }
  if (mtp > 0) {
    const std::string hf = fmt::format("model.layers.{}", layers);
    s.norm("mtp.hidden_norm", hf + ".hnorm.weight", layers + 1, h);
    s.norm("mtp.embed_norm", hf + ".enorm.weight", layers + 1, h);
    s.whole("mtp.proj", hf + ".eh_proj.weight", layers + 1, h, 2 * h);
    s.block("mtp.block", hf, layers);
    for (ParamSpec& p : s.list)
      if (p.name.starts_with("mtp.")) p.layer = layers + 1;
    s.norm("mtp.final_norm", hf + ".shared_head.norm.weight", layers + 1, h);
  }
  return std::move(s.list);
}

}  // namespace contender
