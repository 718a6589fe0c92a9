// SwiGLU forward and backward: an exponential and a division for each element.
#include <cmath>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"
#include "ops/swiglu.h"

namespace contender::bench {
namespace {

struct Problem {
  int64_t m, n;
  std::vector<float> gate_up, y, dy, dgate_up;

  explicit Problem(const benchmark::State& state) : m(state.range(0)), n(state.range(1)) {
    gate_up = random_values(m * 2 * n, 1);
    dy = random_values(m * n, 2);
    y.resize(dy.size());
    dgate_up.resize(gate_up.size());
  }
  void forward() {
    cpu::swiglu({}, {.gate_up = f32_tensor(gate_up.data(), m, 2 * n), .y = f32_tensor(y.data(), m, n)});
  }
  void backward() {
    cpu::swiglu_bwd({}, {.dy = f32_tensor(dy.data(), m, n),
                         .gate_up = f32_tensor(gate_up.data(), m, 2 * n),
                         .dgate_up = f32_tensor(dgate_up.data(), m, 2 * n)});
  }
  bool right() const { return std::abs(y[0] - gate_up[0] / (1 + std::exp(-gate_up[0])) * gate_up[n]) < 1e-6; }
};

void swiglu(benchmark::State& state) {
  Problem p(state);
  p.forward();
  if (!p.right()) return state.SkipWithError("wrong result");
  time_calls(state, swiglu_cost(p.m, p.n), [&] { p.forward(); });
}
void swiglu_bwd(benchmark::State& state) {
  Problem p(state);
  p.forward();
  if (!p.right()) return state.SkipWithError("wrong result");
  time_calls(state, swiglu_bwd_cost(p.m, p.n), [&] { p.backward(); });
}

void shapes(benchmark::internal::Benchmark* b) { b->Args({64, 128})->Args({1024, 384})->Args({1024, 1408}); }
BENCHMARK(swiglu)->Apply(shapes);
BENCHMARK(swiglu_bwd)->Apply(shapes);

}  // namespace
}  // namespace contender::bench
