// The three matrix products beside OpenBLAS on one thread. Weights rotate through a set larger than the L2
// cache, as the layers of a model do.
#include <cblas.h>

#include <cmath>
#include <memory>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"

extern "C" void openblas_set_num_threads(int);

namespace contender::bench {
namespace {

constexpr int64_t kWeightSetBytes = int64_t{8} << 20;

struct Problem {
  int64_t m, n, k;
  int64_t copies;
  std::vector<float> x, dy, y, dx, dw;
  std::vector<float> master;                        // [copies][n, k]
  std::vector<std::unique_ptr<Workspace>> storage;  // packed forms
  std::vector<WeightView> weights;

  explicit Problem(const benchmark::State& state)
      : m(state.range(0)),
        n(state.range(1)),
        k(state.range(2)),
        copies(std::max<int64_t>(1, kWeightSetBytes / (n * k * 4))) {
    openblas_set_num_threads(1);
    x = random_values(m * k, 1);
    dy = random_values(m * n, 2);
    y.resize(static_cast<size_t>(m * n));
    dx.resize(static_cast<size_t>(m * k));
    dw.resize(static_cast<size_t>(n * k));
    master = random_values(copies * n * k, 3);
    for (int64_t c = 0; c < copies; ++c) {
      storage.push_back(std::make_unique<Workspace>(packed_forward_bytes(n, k)));
      void* forward = storage.back()->data();
      storage.push_back(std::make_unique<Workspace>(packed_backward_bytes(n, k)));
      void* backward = storage.back()->data();
      cpu::pack_weight({}, {.master = f32_tensor(&master[c * n * k], n, k),
                            .forward = forward,
                            .backward = backward,
                            .n = n,
                            .k = k,
                            .num_groups = 1});
      weights.push_back({.forward = forward, .backward = backward, .n = n, .k = k, .num_groups = 1});
    }
  }
  Tensor x_tensor() { return f32_tensor(x.data(), m, k); }
  Tensor dy_tensor() { return f32_tensor(dy.data(), m, n); }
  Tensor y_tensor() { return f32_tensor(y.data(), m, n); }
  Tensor dx_tensor() { return f32_tensor(dx.data(), m, k); }
  Tensor dw_tensor() { return f32_tensor(dw.data(), n, k); }
};

// Times `run(copy)` after its first result was found right at element 0.
template <class F>
void time_product(benchmark::State& state, const Problem& p, const float& result, double want, const F& run) {
  run(0);
  if (!(std::abs(result - want) <= 1e-3 * (1 + std::abs(want)))) return state.SkipWithError("wrong result");
  int64_t copy = 0;
  time_calls(state, linear_cost(p.m, p.n, p.k), [&] {
    run(copy);
    copy = copy + 1 == p.copies ? 0 : copy + 1;
  });
}

double dot(const float* a, int64_t stride_a, const float* b, int64_t stride_b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i * stride_a]) * b[i * stride_b];
  return sum;
}

void linear(benchmark::State& state) {
  Problem p(state);
  Workspace workspace(linear_workspace_bytes(p.m, p.n, p.k, 1));
  time_product(state, p, p.y[0], dot(p.x.data(), 1, p.master.data(), 1, p.k), [&](int64_t c) {
    cpu::linear(workspace.exec(), {.x = p.x_tensor(), .w = p.weights[c], .y = p.y_tensor()});
  });
}
void linear_4_slices(benchmark::State& state) {
  Problem p(state);
  Workspace workspace(linear_workspace_bytes(p.m, p.n, p.k, 4));
  time_product(state, p, p.y[0], dot(p.x.data(), 1, p.master.data(), 1, p.k), [&](int64_t c) {
    cpu::linear(workspace.exec(), {.x = p.x_tensor(), .w = p.weights[c], .y = p.y_tensor(), .slices = 4});
  });
}
void linear_openblas(benchmark::State& state) {
  Problem p(state);
  time_product(state, p, p.y[0], dot(p.x.data(), 1, p.master.data(), 1, p.k), [&](int64_t c) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p.m, p.n, p.k, 1.0f, p.x.data(), p.k,
                &p.master[c * p.n * p.k], p.k, 0.0f, p.y.data(), p.n);
  });
}

void linear_dgrad(benchmark::State& state) {
  Problem p(state);
  Workspace workspace(linear_workspace_bytes(p.m, p.n, p.k, 1));
  time_product(state, p, p.dx[0], dot(p.dy.data(), 1, p.master.data(), p.k, p.n), [&](int64_t c) {
    cpu::linear_dgrad(workspace.exec(), {.dy = p.dy_tensor(), .w = p.weights[c], .dx = p.dx_tensor()});
  });
}
void linear_dgrad_openblas(benchmark::State& state) {
  Problem p(state);
  time_product(state, p, p.dx[0], dot(p.dy.data(), 1, p.master.data(), p.k, p.n), [&](int64_t c) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, p.m, p.k, p.n, 1.0f, p.dy.data(), p.n,
                &p.master[c * p.n * p.k], p.k, 0.0f, p.dx.data(), p.k);
  });
}

void wgrad(benchmark::State& state, int32_t leaves) {
  Problem p(state);
  std::vector<RowSegment> segments;
  for (int32_t leaf = 0; leaf < leaves; ++leaf) {
    segments.push_back({static_cast<int32_t>(p.m * leaf / leaves),
                        static_cast<int32_t>(p.m * (leaf + 1) / leaves), 0, leaf});
  }
  Workspace workspace(linear_wgrad_workspace_bytes(p.m, p.n, p.k, leaves));
  time_product(state, p, p.dw[0], dot(p.dy.data(), p.n, p.x.data(), p.k, p.m), [&](int64_t) {
    cpu::linear_wgrad(workspace.exec(),
                      {.dy = p.dy_tensor(),
                       .x = p.x_tensor(),
                       .dw = p.dw_tensor(),
                       .segments = {.data = segments.data(), .count = leaves, .num_leaves = leaves},
                       .num_groups = 1});
  });
}
void linear_wgrad(benchmark::State& state) { wgrad(state, 1); }
void linear_wgrad_8_leaves(benchmark::State& state) { wgrad(state, 8); }
void linear_wgrad_openblas(benchmark::State& state) {
  Problem p(state);
  time_product(state, p, p.dw[0], dot(p.dy.data(), p.n, p.x.data(), p.k, p.m), [&](int64_t) {
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, p.n, p.k, p.m, 1.0f, p.dy.data(), p.n, p.x.data(),
                p.k, 0.0f, p.dw.data(), p.k);
  });
}

void rows_of_512(benchmark::internal::Benchmark* b) {
  for (int64_t m : {1, 2, 4, 6, 8, 12, 16, 31, 64, 128, 512, 2048}) b->Args({m, 512, 512});
}
// Products of the demo's model and its kin: narrow, shallow, MLA's heads, a router.
void small_shapes(benchmark::internal::Benchmark* b) {
  for (int64_t m : {1, 8, 64, 1024}) {
    b->Args({m, 128, 128})->Args({m, 256, 64})->Args({m, 64, 256})->Args({m, 32, 16})->Args({m, 16, 128});
  }
}
void large_shapes(benchmark::internal::Benchmark* b) {
  for (int64_t m : {8, 512}) b->Args({m, 1024, 1024})->Args({m, 1408, 512})->Args({m, 512, 2048});
}
void training_shapes(benchmark::internal::Benchmark* b) {
  b->Args({1024, 512, 512})
      ->Args({4096, 512, 512})
      ->Args({128, 512, 512})
      ->Args({1024, 1408, 512})
      ->Args({1024, 128, 128});
  b->Args({1024, 32, 256})->Args({64, 128, 128});
}

BENCHMARK(linear)->Apply(rows_of_512)->Apply(small_shapes)->Apply(large_shapes);
BENCHMARK(linear_openblas)->Apply(rows_of_512)->Apply(small_shapes);
BENCHMARK(linear_4_slices)->Args({8, 512, 512})->Args({512, 512, 512})->Args({1024, 128, 128});
BENCHMARK(linear_dgrad)->Apply(rows_of_512);
BENCHMARK(linear_dgrad_openblas)->Args({8, 512, 512})->Args({512, 512, 512});
BENCHMARK(linear_wgrad)->Apply(training_shapes);
BENCHMARK(linear_wgrad_8_leaves)->Apply(training_shapes);
BENCHMARK(linear_wgrad_openblas)->Apply(training_shapes);

}  // namespace
}  // namespace contender::bench
