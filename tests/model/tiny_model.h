// A model small enough to differentiate numerically, on the ranks that are there, on the CPU unless said
// otherwise.
#pragma once

#include <memory>

#include "base/philox.h"
#include "cpu/cpu_ops.h"
#include "grpo/trainer.h"

namespace contender::testing_model {

inline RunConfig tiny_config(const std::string& form) {
  RunConfig c;
  ModelConfig& m = c.model;
  m.vocab_size = 272;
  m.hidden_size = 32;
  m.num_hidden_layers = 2;
  m.num_attention_heads = 4;
  m.intermediate_size = 48;
  m.max_position_embeddings = 64;
  m.initializer_range = 0.3;
  m.kv_lora_rank = 16;
  m.qk_nope_head_dim = 16;
  m.qk_rope_head_dim = 8;
  m.v_head_dim = 16;
  m.q_lora_rank = form == "mla_no_q_lora" ? 0 : 24;
  m.n_routed_experts = form == "dense" ? 0 : 8;
  m.moe_intermediate_size = 16;
  m.n_group = 2;
  m.topk_group = 1;
  m.routed_scaling_factor = 1.5;
  if (form.starts_with("gqa")) {
    m.family = "gqa";
    m.n_routed_experts = 0;
    m.num_key_value_heads = 4;
    m.head_dim = 16;
    m.attention_bias = form == "gqa_bias";
    m.qk_norm = form == "gqa_qk_norm";
    m.tie_word_embeddings = form == "gqa_tied";
  }
  if (form == "softmax") {
    m.scoring_func = "softmax";
    m.topk_method = "group_limited_greedy";
    m.norm_topk_prob = false;
  }
  if (form == "mtp") m.num_nextn_predict_layers = 1;
  if (form == "expanded") m.mla_form = "expanded";
  c.train.token_budget = 256;
  c.rollout.max_tokens_per_step = 256;
  c.rollout.max_sequences = 16;
  return c;
}

struct TinyModel {
  explicit TinyModel(const RunConfig& c, const Ops& ops = cpu_ops(),
                     std::unique_ptr<Device> device = make_cpu_device())
      : config(c),
        machine(config, ops, std::move(device)),
        weights(config, machine.device.get(), machine.ops, machine.runtime().exec, machine.mesh.get(),
                StoreRole::kTrain),
        model(config, machine.runtime(), &weights) {
    weights.initialize(7);
  }
  const RunConfig config;
  Machine machine;
  WeightStore weights;
  Model model;
};

inline std::vector<TrainSequence> random_sequences(int count, uint64_t seed) {
  std::vector<TrainSequence> out;
  PhiloxSequence random(seed, RandomStream::kTest, 1);
  for (int i = 0; i < count; ++i) {
    TrainSequence s{.tokens = {}, .first_target = static_cast<int32_t>(1 + random.below(3)), .id = i};
    const uint32_t len = 4 + random.below(20);
    for (uint32_t t = 0; t < len; ++t) s.tokens.push_back(static_cast<int32_t>(random.below(264)));
    out.push_back(std::move(s));
  }
  return out;
}

// The packs of this rank's tp group.
inline PackedBatch packed(const TinyModel& t, const std::vector<TrainSequence>& sequences) {
  std::vector<int64_t> lengths;
  for (const TrainSequence& s : sequences) lengths.push_back(static_cast<int64_t>(s.tokens.size()));
  const Packs packs = pack_sequences(lengths, t.config.mesh.data_slots, t.config.train.token_budget);
  const Mesh& mesh = *t.machine.mesh;
  const int64_t slots = t.config.mesh.data_slots / mesh.shape().dp;
  std::vector<std::vector<const TrainSequence*>> mine(slots);
  for (int64_t s = 0; s < slots; ++s)
    for (int32_t i : packs[0][mesh.dp().rank() * slots + s]) mine[s].push_back(&sequences[i]);
  return make_packed_batch(mine, mesh.shape().tp);
}

}  // namespace contender::testing_model
