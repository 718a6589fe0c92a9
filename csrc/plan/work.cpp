#include "plan/work.h"

#include "model/kv_cache.h"
#include "model/params.h"
#include "ops/head.h"
#include "ops/linear.h"
#include "plan/plan.h"

namespace contender {
namespace {

AttentionSeq whole_sequence(double length) {
  return {.q_begin = 0,
          .q_len = static_cast<int32_t>(length),
          .kv_len = static_cast<int32_t>(length),
          .page_table = 0};
}

}  // namespace

ModelWork::ModelWork(const ModelConfig& model) : m_(model) {
  const double routed = static_cast<double>(m_.num_experts_per_tok);
  for (const ParamSpec& s : param_specs(m_, {})) {
    if (!s.packed || s.name == "head" || s.name == "embed") continue;
    const double uses = s.kind == ParamKind::kExpert ? routed : static_cast<double>(s.groups);
    (s.layer > m_.num_hidden_layers ? mtp_block_flops_ : block_flops_) +=
        uses * linear_cost(1, s.n, s.k).flops;
  }
  head_flops_ = head_cost(1, m_.hidden_size, m_.vocab_size).flops;
  head_backward_flops_ = head_bwd_cost(1, m_.hidden_size, m_.vocab_size).flops;
}

double ModelWork::attention_flops(double begin, double end) const {
  const AttentionShape shape = attention_shape(m_, 1, kAttentionBlock);
  const auto whole = [&](double length) {
    const AttentionSeq s = whole_sequence(length);
    return length > 0 ? attention_cost(shape, &s, 1).flops : 0.0;
  };
  return static_cast<double>(m_.num_hidden_layers) * (whole(end) - whole(begin));
}

double ModelWork::attention_backward_flops(double length) const {
  const AttentionSeq s = whole_sequence(length);
  const AttentionShape shape = attention_shape(m_, 1, kAttentionBlock);
  return static_cast<double>(m_.num_hidden_layers) * attention_bwd_cost(shape, &s, 1).flops;
}

ModelSize model_size(const ModelConfig& m) {
  ModelSize size;
  const double share = m.n_routed_experts > 0 ? static_cast<double>(m.num_experts_per_tok) /
                                                    static_cast<double>(m.n_routed_experts)
                                              : 0;
  for (const ParamSpec& s : param_specs(m, {})) {
    if (s.layer > m.num_hidden_layers) continue;
    const double n = static_cast<double>(s.numel());
    const bool table = s.name == "embed" && !m.tie_word_embeddings;
    size.total += n;
    size.active += s.kind == ParamKind::kExpert ? n * share : table ? 0 : n;
  }
  return size;
}

}  // namespace contender
