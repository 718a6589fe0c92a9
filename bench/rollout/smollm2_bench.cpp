// A released model's shape, SmolLM2-135M, with random weights, on one rank: prompts against the matrix rates
// of this core, decoding of 16 sequences against the time in which it can read the weights once. The best of
// several, by processor time: other work on the machine only ever slows a sample down.
//
// torch beside it: tools/torch_inference.py.
#include <benchmark/benchmark.h>
#include <cblas.h>

#include <array>
#include <ctime>
#include <limits>

#include "bench/cpu/op_bench.h"
#include "bench/rollout/generation.h"

extern "C" void openblas_set_num_threads(int);

namespace contender::bench {
namespace {

constexpr int64_t kMaxSequences = 16;

RunConfig smollm2_config() {
  RunConfig c;
  ModelConfig& m = c.model;
  m.family = "gqa";
  m.vocab_size = 49152;
  m.hidden_size = 576;
  m.num_hidden_layers = 30;
  m.num_attention_heads = 9;
  m.num_key_value_heads = 3;
  m.head_dim = 64;
  m.intermediate_size = 1536;
  m.max_position_embeddings = 2048;
  m.rope_theta = 1e5;
  m.tie_word_embeddings = true;
  c.train.token_budget = 256;
  c.rollout.max_sequences = kMaxSequences;
  c.rollout.max_tokens_per_step = 2048;
  c.rollout.kv_pages = 1024;
  return c;
}

// One for both benches: to initialise it takes longer than to run it.
Generation& model() {
  static Generation g(smollm2_config());
  return g;
}

double seconds_of_process() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

template <class F>
double best_seconds(benchmark::State& state, const F& call) {
  double best = std::numeric_limits<double>::infinity();
  for (auto _ : state) {
    const double start = seconds_of_process();
    call();
    const double seconds = seconds_of_process() - start;
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  return best;
}

// Of one thread, 1024^3: what a program on a BLAS can have.
double sgemm_gflops() {
  constexpr int kSize = 1024;
  openblas_set_num_threads(1);
  const std::vector<float> a = random_values(kSize * kSize, 1), b = random_values(kSize * kSize, 2);
  std::vector<float> c(a.size());
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    const double start = seconds_of_process();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kSize, kSize, kSize, 1, a.data(), kSize, b.data(),
                kSize, 0, c.data(), kSize);
    best = std::max(best, 2e-9 * kSize * kSize * kSize / (seconds_of_process() - start));
  }
  return best;
}

// Of reading memory, which is what weights in decoding ask for: many sums over 256 MiB.
double read_gbps() {
  constexpr int64_t kFloats = int64_t{64} << 20, kLanes = 16;
  const std::vector<float> data(kFloats, 1.0f);
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    const double start = seconds_of_process();
    std::array<float, 8 * kLanes> sum = {};
    for (int64_t at = 0; at < kFloats; at += std::ssize(sum))
      for (int64_t j = 0; j < std::ssize(sum); ++j) sum[j] += data[at + j];
    benchmark::DoNotOptimize(sum);
    best = std::max(best, 4e-9 * kFloats / (seconds_of_process() - start));
  }
  return best;
}

void submit(RolloutEngine& engine, int64_t count, int32_t prompt_tokens, int32_t new_tokens) {
  for (int64_t i = 0; i < count; ++i) engine.submit(request(i, prompt_tokens, 1, new_tokens));
}

// Four prompts of range(0) tokens in one forward, and the first token of each.
void smollm2_prefill(benchmark::State& state) {
  constexpr int64_t kPrompts = 4;
  const int64_t tokens = state.range(0);
  Generation& g = model();
  RolloutEngine engine(g.config, &g.model, 1);
  const double seconds = best_seconds(state, [&] {
    submit(engine, kPrompts, static_cast<int32_t>(tokens), 1);
    while (engine.step()) {
    }
    if (engine.poll().size() != kPrompts) state.SkipWithError("sequences are missing");
  });
  double flops = 0;  // the head is for the last row of a prompt
  for (const ParamSpec& s : g.weights.specs())
    if (s.packed)
      flops += 2.0 * double(kPrompts) *
               double(s.layer < g.config.model.num_hidden_layers && s.layer >= 0 ? tokens : 1) *
               double(s.numel());
  const AttentionSeq seq{.q_len = static_cast<int32_t>(tokens), .kv_len = static_cast<int32_t>(tokens)};
  const AttentionShape shape = attention_shape(g.config.model, 1, g.config.rollout.page_size);
  flops += double(kPrompts * g.config.model.num_hidden_layers) * attention_cost(shape, &seq, 1).flops;
  state.counters["tok/s"] = double(kPrompts * tokens) / seconds;
  state.counters["%matrix"] = 100e-9 * flops / seconds / matrix_gflops();
  state.counters["%sgemm"] = 100e-9 * flops / seconds / sgemm_gflops();
}
BENCHMARK(smollm2_prefill)->Arg(128)->Arg(512)->UseManualTime()->Unit(benchmark::kMillisecond);

// A step of range(0) sequences behind prompts of range(1) tokens. 16 on two ranks are 8 on each.
void smollm2_decode(benchmark::State& state) {
  constexpr int32_t kSteps = 200;
  const int64_t sequences = state.range(0);
  Generation& g = model();
  RolloutEngine engine(g.config, &g.model, 1);
  submit(engine, sequences, static_cast<int32_t>(state.range(1)), kSteps);
  while (engine.take_stats().tokens_generated == 0) engine.step();
  const double seconds = best_seconds(state, [&] {
    engine.step();
    if (engine.take_stats().tokens_generated != sequences) state.SkipWithError("not all sequences advance");
  });
  const double bytes = weight_bytes(g.weights.specs());
  const double flops = double(sequences) * flops_per_token(g.config, g.weights.specs(), state.range(1));
  state.counters["tok/s"] = double(sequences) / seconds;
  state.counters["GB/s"] = 1e-9 * bytes / seconds;
  state.counters["%read"] = 100e-9 * bytes / seconds / read_gbps();
  state.counters["%matrix"] = 100e-9 * flops / seconds / matrix_gflops();
}
BENCHMARK(smollm2_decode)
    ->Args({8, 64})
    ->Args({16, 64})
    ->Iterations(40)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace contender::bench
