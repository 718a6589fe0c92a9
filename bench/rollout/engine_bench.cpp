// The rollout engine: what the host does per token beside the forward, and generation against what the
// machine can do.
#include <benchmark/benchmark.h>

#include "bench/cpu/op_bench.h"
#include "bench/rollout/generation.h"
#include "rollout/scheduler.h"

namespace contender {
namespace {

using bench::Generation, bench::request;

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
    const double flops = computed * bench::flops_per_token(g.config, g.weights.specs(), (kPrompt + kNew) / 2);
    const double bytes = static_cast<double>(stats.forwards) * bench::weight_bytes(g.weights.specs());
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
