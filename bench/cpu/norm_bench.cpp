// RMSNorm with its residual addition, and its backward with the canonical sum of dgamma.
#include <cmath>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"
#include "ops/norm.h"

namespace contender::bench {
namespace {

struct Problem {
  int64_t m, h;
  std::vector<float> x, delta, gamma, y, dy, dx, dgamma, rstd;

  explicit Problem(const benchmark::State& state) : m(state.range(0)), h(state.range(1)) {
    x = random_values(m * h, 1);
    delta = random_values(m * h, 2);
    gamma = random_values(h, 3);
    dy = random_values(m * h, 4);
    y.resize(x.size());
    dx.resize(x.size());
    dgamma.resize(gamma.size());
    rstd.resize(static_cast<size_t>(m));
  }
  Tensor wide(std::vector<float>& v) { return f32_tensor(v.data(), m, h); }
  Tensor row(std::vector<float>& v) { return f32_tensor(v.data(), 1, h); }
  RmsNormArgs args() { return {.x = wide(x), .gamma = row(gamma), .y = wide(y), .rstd = rstd.data()}; }
  bool right() const {
    double sum = 0;
    for (int64_t c = 0; c < h; ++c) sum += static_cast<double>(x[c]) * x[c];
    return std::abs(y[0] - x[0] / std::sqrt(sum / static_cast<double>(h) + 1e-6) * gamma[0]) < 1e-5;
  }
};

void rms_norm(benchmark::State& state) {
  Problem p(state);
  cpu::rms_norm({}, p.args());
  if (!p.right()) return state.SkipWithError("wrong result");
  time_calls(state, rms_norm_cost(p.m, p.h), [&] { cpu::rms_norm({}, p.args()); });
}
void rms_norm_residual(benchmark::State& state) {
  Problem p(state);
  RmsNormArgs args = p.args();
  args.delta = p.wide(p.delta);
  cpu::rms_norm({}, args);
  if (!p.right()) return state.SkipWithError("wrong result");
  std::fill(p.delta.begin(), p.delta.end(), 0.0f);  // x stays bounded
  time_calls(state, rms_norm_residual_cost(p.m, p.h), [&] { cpu::rms_norm({}, args); });
}
void rms_norm_bwd(benchmark::State& state) {
  Problem p(state);
  cpu::rms_norm({}, p.args());
  if (!p.right()) return state.SkipWithError("wrong result");
  std::vector<RowSegment> segments;
  for (int32_t leaf = 0; leaf < 4; ++leaf) {
    segments.push_back(
        {static_cast<int32_t>(p.m * leaf / 4), static_cast<int32_t>(p.m * (leaf + 1) / 4), 0, leaf});
  }
  Workspace workspace(rms_norm_bwd_workspace_bytes(p.m, p.h, 4));
  const RmsNormBwdArgs args = {.dy = p.wide(p.dy),
                               .x = p.wide(p.x),
                               .gamma = p.row(p.gamma),
                               .rstd = p.rstd.data(),
                               .dx = p.wide(p.dx),
                               .dgamma = p.row(p.dgamma),
                               .segments = {.data = segments.data(), .count = 4, .num_leaves = 4}};
  time_calls(state, rms_norm_bwd_cost(p.m, p.h), [&] { cpu::rms_norm_bwd(workspace.exec(), args); });
}

void shapes(benchmark::internal::Benchmark* b) {
  b->Args({64, 128})->Args({1024, 128})->Args({1024, 512})->Args({256, 7168});
}
BENCHMARK(rms_norm)->Apply(shapes);
BENCHMARK(rms_norm_residual)->Apply(shapes);
BENCHMARK(rms_norm_bwd)->Apply(shapes);

}  // namespace
}  // namespace contender::bench
