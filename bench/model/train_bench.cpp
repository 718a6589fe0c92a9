// Training on one rank: forward, backward and AdamW of a pack, against the measured matrix rate. The flops
// are those of the products with the active parameters: 2 per weight and token forward, 4 backward; attention
// and everything else count as overhead.
#include <benchmark/benchmark.h>

#include "bench/cpu/op_bench.h"
#include "plan/plan.h"
#include "tests/model/tiny_model.h"

namespace contender {
namespace {

RunConfig train_config(const char* family, int64_t hidden) {
  RunConfig c;
  ModelConfig& m = c.model;
  m.family = family;
  m.vocab_size = 2048;
  m.hidden_size = hidden;
  m.num_hidden_layers = 4;
  m.num_attention_heads = 8;
  m.intermediate_size = 4 * hidden;
  m.max_position_embeddings = 512;
  m.q_lora_rank = hidden / 2;
  m.kv_lora_rank = hidden / 8;
  m.qk_nope_head_dim = m.v_head_dim = hidden / 8;
  m.qk_rope_head_dim = hidden / 16;
  m.num_key_value_heads = 4;
  m.head_dim = hidden / 8;
  if (m.mla()) m.n_routed_experts = 8;
  m.moe_intermediate_size = 2 * hidden;
  c.train.token_budget = 512;
  c.rollout.max_tokens_per_step = 1024;
  return c;
}

void train_step(benchmark::State& state, const char* family) {
  const RunConfig config = train_config(family, state.range(0));
  testing_model::TinyModel t(config);
  std::vector<TrainSequence> sequences(4 * (config.train.token_budget / 128));
  PhiloxSequence random(1, RandomStream::kTest, 1);
  for (size_t i = 0; i < sequences.size(); ++i) {
    sequences[i].id = static_cast<int32_t>(i);
    for (int k = 0; k < 128; ++k) sequences[i].tokens.push_back(static_cast<int32_t>(random.below(2048)));
  }
  const PackedBatch batch = testing_model::packed(t, sequences);
  const std::vector<float> dlogp(batch.head_rows.size(), -1.0f / static_cast<float>(batch.head_rows.size()));
  int64_t step = 0;
  const double tokens = static_cast<double>(batch.tokens.num_tokens());
  bench::time_calls(state, {.flops = 6.0 * model_size(config.model).active * tokens}, [&] {
    t.weights.begin_step();
    t.weights.begin_round();
    t.model.forward_train(batch, 1.0f);
    t.model.backward(dlogp, {});
    t.weights.finish_reduce();
    t.weights.adamw_step({.lr = 1e-4f,
                          .beta1 = 0.9f,
                          .beta2 = 0.95f,
                          .eps = 1e-8f,
                          .weight_decay = 0,
                          .grad_scale = 1,
                          .t = ++step});
  });
  state.SetItemsProcessed(static_cast<int64_t>(tokens) * state.iterations());
}
BENCHMARK_CAPTURE(train_step, gqa, "gqa")->Arg(128)->Arg(512)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(train_step, deepseek_v3, "deepseek_v3")->Arg(128)->Arg(512)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace contender
