// The rollout engine: what the host does per token beside the forward.
#include <benchmark/benchmark.h>

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

}  // namespace
}  // namespace contender
