// The rollout engine: what the host does per token beside the forward, and generation against what the
// machine can do.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"
#include "model/model.h"
#include "rollout/engine.h"
#include "rollout/scheduler.h"

namespace contender {
namespace {

RolloutRequest request(uint64_t id, int32_t prompt_len, int32_t num_samples, int32_t max_new_tokens) {
  return {.id = id,
          .prompt_index = static_cast<uint32_t>(id),
          .prompt = std::vector<int32_t>(static_cast<size_t>(prompt_len), 3),
          .num_samples = num_samples,
          .max_new_tokens = max_new_tokens,
          .stop_tokens = {256}};
}

// Plans and commits of a rollout of the demo's shape, without any forward: `sequences` in flight in groups
// of 16.
void rollout_host(benchmark::State& state) {
  const int64_t sequences = state.range(0);
  Scheduler scheduler({.max_sequences = sequences,
                       .max_tokens_per_step = 4096,
                       .page_size = 16,
                       .num_pages = sequences * 8 + 1,
                       .max_positions = 128});
  const std::vector<int32_t> token(static_cast<size_t>(sequences), 7);
  const std::vector<float> logp(static_cast<size_t>(sequences), -1.0f);
  int64_t forwards = 0, tokens = 0;
  for (auto _ : state) {
    for (int64_t g = 0; g < sequences / 16; ++g) scheduler.submit(request(g, 20, 16, 40));
    while (!scheduler.idle()) {
      scheduler.plan();
      scheduler.commit(token.data(), logp.data(), logp.data(), 0);
    }
    benchmark::DoNotOptimize(scheduler.take_completions());
    const RolloutStats stats = scheduler.take_stats();
    forwards += stats.forwards;
    tokens += stats.tokens_generated;
  }
  state.SetItemsProcessed(tokens);
  state.counters["per_token"] = benchmark::Counter(static_cast<double>(tokens),
                                                   benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["per_forward"] = benchmark::Counter(
      static_cast<double>(forwards), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(rollout_host)->Arg(64)->Arg(512)->Unit(benchmark::kMillisecond);

RunConfig generation_config(const char* family, int64_t hidden, int64_t vocab, int64_t sequences) {
  RunConfig config;
  ModelConfig& m = config.model;
  m.family = family;
  m.vocab_size = vocab;
  m.hidden_size = hidden;
  m.num_hidden_layers = 4;
  m.num_attention_heads = hidden / 64;
  m.intermediate_size = 3 * hidden;
  m.max_position_embeddings = 256;
  m.kv_lora_rank = hidden / 4;
  m.qk_nope_head_dim = 64;
  m.qk_rope_head_dim = 32;
  m.v_head_dim = 64;
  m.num_key_value_heads = std::min<int64_t>(4, m.num_attention_heads);
  m.head_dim = 64;
  if (m.mla()) {
    m.n_routed_experts = 8;
    m.moe_intermediate_size = hidden;
  }
  config.rollout.max_sequences = sequences;
  config.train.token_budget = 256;
  return config;
}

// What one token costs at least: products with the weights it meets, and attention over `context` keys.
double flops_per_token(const RunConfig& config, const std::vector<ParamSpec>& specs, int64_t context) {
  const ModelConfig& m = config.model;
  double flops = 0;
  for (const ParamSpec& s : specs) {
    if (!s.packed || s.layer > m.num_hidden_layers) continue;
    const double share =
        s.kind == ParamKind::kExpert ? double(m.num_experts_per_tok) / double(m.n_routed_experts) : 1;
    flops += 2 * share * static_cast<double>(s.numel());
  }
  const AttentionSeq seq{.q_len = 1, .kv_len = static_cast<int32_t>(context)};
  const AttentionShape shape = attention_shape(m, 1, config.rollout.page_size);
  return flops + static_cast<double>(m.num_hidden_layers) * attention_cost(shape, &seq, 1).flops;
}

double weight_bytes(const std::vector<ParamSpec>& specs) {
  double bytes = 0;
  for (const ParamSpec& s : specs) bytes += s.packed ? 4.0 * static_cast<double>(s.numel()) : 0;
  return bytes;
}

// One model and what it runs on; a process has one rank.
struct Generation {
  RunConfig config;
  std::unique_ptr<Device> device = make_cpu_device();
  Mesh mesh{MeshShape{}};
  Arena arena{device.get(), 256 << 20, "bench arena", "nothing"};
  Arena temp{device.get(), 256 << 20, "bench arena", "nothing"};
  Buffer workspace{device.get(), 64 << 20, "bench workspace"};
  Runtime runtime{.device = device.get(),
                  .ops = &cpu_ops(),
                  .mesh = &mesh,
                  .arena = &arena,
                  .temp = &temp,
                  .exec = {device->compute_stream(), workspace.data(), workspace.bytes()}};
  WeightStore weights;
  Model model;
  explicit Generation(const RunConfig& c)
      : config(c),
        weights(config, device.get(), &cpu_ops(), runtime.exec, &mesh, StoreRole::kTrain),
        model(config, runtime, &weights) {
    weights.initialize(1);
  }
};

// `sequences` prompts of 32 tokens, 64 new tokens each. %bound: the larger of the matrix time (flops /
// measured matrix rate) and the memory time (bytes of all weights per forward / measured copy rate), over the
// time it took.
void rollout_generate(benchmark::State& state, const char* family) {
  const int64_t hidden = state.range(0), sequences = state.range(2);
  constexpr int32_t kPrompt = 32, kNew = 64;
  Generation g(generation_config(family, hidden, state.range(1), sequences));
  RolloutEngine engine(g.config, &g.model, 1);
  double seconds_at_least = 0;
  int64_t tokens = 0;
  for (auto _ : state) {
    for (int64_t i = 0; i < sequences; ++i) {
      engine.submit(request(i, kPrompt, 1, kNew));
    }
    while (engine.step()) {
    }
    const std::vector<Completion> completions = engine.poll();
    if (std::ssize(completions) != sequences) state.SkipWithError("sequences are missing");
    const RolloutStats stats = engine.take_stats();
    tokens += stats.tokens_generated;
    const double computed = static_cast<double>(stats.tokens_generated + stats.tokens_prefilled);
    const double flops = computed * flops_per_token(g.config, g.weights.specs(), (kPrompt + kNew) / 2);
    const double bytes = static_cast<double>(stats.forwards) * weight_bytes(g.weights.specs());
    seconds_at_least += std::max(flops * 1e-9 / bench::matrix_gflops(), bytes * 1e-9 / bench::copy_gbps());
  }
  state.counters["tok/s"] = benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
  state.counters["%bound"] = benchmark::Counter(100 * seconds_at_least, benchmark::Counter::kIsRate);
}
BENCHMARK_CAPTURE(rollout_generate, gqa, "gqa")
    ->Args({512, 4096, 64})
    ->Args({128, 272, 256})
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(rollout_generate, deepseek_v3, "deepseek_v3")
    ->Args({512, 4096, 64})
    ->Args({128, 272, 256})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace contender
