// Routing with the demo's, a 64-expert and DeepSeek-V3's shape.
#include <cmath>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"
#include "ops/router.h"

namespace contender::bench {
namespace {

struct Problem {
  RouterShape shape;
  int64_t tokens;
  std::vector<float> logits, bias, scores, weight, dlogits;
  std::vector<int32_t> expert;

  Problem(const RouterShape& s, int64_t t) : shape(s), tokens(t) {
    logits = random_values(t * s.num_experts, 1);
    bias = random_values(s.num_experts, 2);
    scores.resize(logits.size());
    dlogits.resize(logits.size());
    weight.resize(static_cast<size_t>(t * s.top_k));
    expert.resize(weight.size());
  }
  void forward() {
    cpu::router({}, {.shape = shape,
                     .logits = f32_tensor(logits.data(), tokens, shape.num_experts),
                     .bias = bias.data(),
                     .scores = f32_tensor(scores.data(), tokens, shape.num_experts),
                     .expert = i32_tensor(expert.data(), tokens, shape.top_k),
                     .weight = f32_tensor(weight.data(), tokens, shape.top_k)});
  }
  void backward() {
    cpu::router_bwd({}, {.shape = shape,
                         .scores = f32_tensor(scores.data(), tokens, shape.num_experts),
                         .expert = i32_tensor(expert.data(), tokens, shape.top_k),
                         .dweight = f32_tensor(weight.data(), tokens, shape.top_k),
                         .dlogits = f32_tensor(dlogits.data(), tokens, shape.num_experts)});
  }
  bool right() const {  // weights of the first token sum to the scale
    double sum = 0;
    for (int64_t j = 0; j < shape.top_k; ++j) sum += weight[j];
    return std::abs(sum - shape.scale) < 1e-4;
  }
};

void forward(benchmark::State& state, const RouterShape& shape) {
  Problem p(shape, state.range(0));
  p.forward();
  if (!p.right()) return state.SkipWithError("wrong result");
  time_calls(state, router_cost(p.tokens, shape), [&] { p.forward(); });
}

constexpr RouterShape kDemo = {.num_experts = 8, .top_k = 2};
constexpr RouterShape kMoonlight = {.num_experts = 64, .top_k = 6, .scale = 2.446f};
constexpr RouterShape kV3 = {.num_experts = 256, .top_k = 8, .n_group = 8, .topk_group = 4, .scale = 2.5f};

void router_demo(benchmark::State& state) { forward(state, kDemo); }
void router_64(benchmark::State& state) { forward(state, kMoonlight); }
void router_v3(benchmark::State& state) { forward(state, kV3); }
void router_bwd_v3(benchmark::State& state) {
  Problem p(kV3, state.range(0));
  p.forward();
  if (!p.right()) return state.SkipWithError("wrong result");
  time_calls(state, router_cost(p.tokens, kV3), [&] { p.backward(); });
}
BENCHMARK(router_demo)->Arg(1024);
BENCHMARK(router_64)->Arg(1024);
BENCHMARK(router_v3)->Arg(1024);
BENCHMARK(router_bwd_v3)->Arg(1024);

}  // namespace
}  // namespace contender::bench
