// Log-prob head: forward (partial and finish) and backward, with all rows carrying a gradient.
#include <cmath>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"

namespace contender::bench {
namespace {

struct HeadProblem {
  int64_t m, h, v;
  std::vector<float> x, w, dlogp, dentropy, dh, dw;
  std::vector<int32_t> targets;
  std::vector<HeadPartial> partials;
  std::vector<HeadStats> stats;
  Workspace forward, backward;
  WeightView view;

  explicit HeadProblem(const benchmark::State& state)
      : m(state.range(0)),
        h(state.range(1)),
        v(state.range(2)),
        forward(packed_forward_bytes(v, h)),
        backward(packed_backward_bytes(v, h)) {
    x = random_values(m * h, 1);
    w = random_values(v * h, 2);
    dlogp = random_values(m, 3);
    dentropy = random_values(m, 4);
    dh.resize(x.size());
    dw.resize(w.size());
    for (int64_t r = 0; r < m; ++r) targets.push_back(static_cast<int32_t>(r * 7919 % v));
    partials.resize(static_cast<size_t>(m));
    stats.resize(static_cast<size_t>(m));
    view = {.forward = forward.data(), .backward = backward.data(), .n = v, .k = h, .num_groups = 1};
    cpu::pack_weight({}, {.master = f32_tensor(w.data(), v, h),
                          .forward = forward.data(),
                          .backward = backward.data(),
                          .n = v,
                          .k = h,
                          .num_groups = 1});
  }
  void run_forward(Workspace& workspace) {
    cpu::head_partial(
        workspace.exec(),
        {.h = f32_tensor(x.data(), m, h), .w = view, .targets = targets.data(), .partials = partials.data()});
    cpu::head_finish({}, {.partials = partials.data(), .rows = m, .stats = stats.data()});
  }
  // log-prob of row 0 in double
  double logp() const {
    double sum = 0, target = 0;
    for (int64_t j = 0; j < v; ++j) {
      double z = 0;
      for (int64_t c = 0; c < h; ++c) z += static_cast<double>(x[c]) * w[j * h + c];
      sum += std::exp(z);
      if (j == targets[0]) target = z;
    }
    return target - std::log(sum);
  }
};

void head(benchmark::State& state) {
  HeadProblem p(state);
  Workspace workspace(head_workspace_bytes(p.h, p.v, 1));
  p.run_forward(workspace);
  if (!(std::abs(p.stats[0].logp - p.logp()) < 1e-4)) return state.SkipWithError("wrong result");
  time_calls(state, head_cost(p.m, p.h, p.v), [&] { p.run_forward(workspace); });
  state.counters["workspace MiB"] = static_cast<double>(head_workspace_bytes(p.h, p.v, 1)) / (1 << 20);
}

void backward(benchmark::State& state, int32_t leaves) {
  HeadProblem p(state);
  Workspace forward(head_workspace_bytes(p.h, p.v, 1)),
      workspace(head_bwd_workspace_bytes(p.m, p.h, p.v, 1, leaves));
  p.run_forward(forward);
  std::vector<RowSegment> segments;
  for (int32_t leaf = 0; leaf < leaves; ++leaf) {
    segments.push_back({static_cast<int32_t>(p.m * leaf / leaves),
                        static_cast<int32_t>(p.m * (leaf + 1) / leaves), 0, leaf});
  }
  time_calls(state, head_bwd_cost(p.m, p.h, p.v), [&] {
    cpu::head_bwd(workspace.exec(),
                  {.h = f32_tensor(p.x.data(), p.m, p.h),
                   .w = p.view,
                   .targets = p.targets.data(),
                   .stats = p.stats.data(),
                   .dlogp = p.dlogp.data(),
                   .dentropy = p.dentropy.data(),
                   .dh = f32_tensor(p.dh.data(), p.m, p.h),
                   .dw = f32_tensor(p.dw.data(), p.v, p.h),
                   .segments = {.data = segments.data(), .count = leaves, .num_leaves = leaves}});
  });
  state.counters["workspace MiB"] =
      static_cast<double>(head_bwd_workspace_bytes(p.m, p.h, p.v, 1, leaves)) / (1 << 20);
}
void head_bwd(benchmark::State& state) { backward(state, 1); }
void head_bwd_4_leaves(benchmark::State& state) { backward(state, 4); }

void shapes(benchmark::internal::Benchmark* b) {
  b->Args({1024, 128, 96})
      ->Args({512, 512, 8192})
      ->Args({512, 512, 32768})
      ->Args({64, 512, 8192})
      ->Args({2048, 512, 8192});
}
BENCHMARK(head)->Apply(shapes)->Unit(benchmark::kMicrosecond);
BENCHMARK(head_bwd)->Apply(shapes)->Unit(benchmark::kMicrosecond);
BENCHMARK(head_bwd_4_leaves)->Apply(shapes)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace contender::bench
