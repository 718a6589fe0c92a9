// Sampling one token for each of B rows of logits.
#include <cmath>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"

namespace contender::bench {
namespace {

void time_sampling(benchmark::State& state, const SampleParams& params) {
  const int64_t rows = state.range(0), vocab = state.range(1);
  std::vector<float> logits = random_values(rows * vocab, 1);
  for (float& l : logits) l *= 12;
  const std::vector<SampleParams> all(static_cast<size_t>(rows), params);
  std::vector<SampleKey> keys;
  for (int64_t r = 0; r < rows; ++r) keys.push_back({.seed = 1, .sample = static_cast<uint32_t>(r)});
  std::vector<int32_t> token(all.size());
  std::vector<float> logp(all.size()), logp_sampled(all.size());
  Workspace workspace(sample_workspace_bytes(vocab));
  const auto run = [&] {
    cpu::sample(workspace.exec(), {.logits = f32_tensor(logits.data(), rows, vocab),
                                   .params = all.data(),
                                   .keys = keys.data(),
                                   .token = token.data(),
                                   .logp = logp.data(),
                                   .logp_sampled = logp_sampled.data()});
  };
  run();
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]));
  if (!(std::abs(logits[token[0]] - std::log(sum) - logp[0]) < 1e-4))
    return state.SkipWithError("wrong result");
  time_calls(state, sample_cost(rows, vocab), run);
}
void sample(benchmark::State& state) { time_sampling(state, {}); }
void sample_greedy(benchmark::State& state) { time_sampling(state, {.temperature = 0}); }
void sample_top_k(benchmark::State& state) { time_sampling(state, {.top_k = 50}); }
void sample_top_p(benchmark::State& state) { time_sampling(state, {.top_p = 0.95f}); }
void sample_min_p(benchmark::State& state) { time_sampling(state, {.min_p = 0.05f}); }

void shapes(benchmark::internal::Benchmark* b) { b->Args({64, 96})->Args({64, 8192})->Args({64, 32768}); }
BENCHMARK(sample)->Apply(shapes)->Unit(benchmark::kMicrosecond);
BENCHMARK(sample_greedy)->Apply(shapes)->Unit(benchmark::kMicrosecond);
BENCHMARK(sample_top_k)->Apply(shapes)->Unit(benchmark::kMicrosecond);
BENCHMARK(sample_top_p)->Apply(shapes)->Unit(benchmark::kMicrosecond);
BENCHMARK(sample_min_p)->Apply(shapes)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace contender::bench
