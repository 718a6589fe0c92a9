// Moving rows for the experts and bringing them back, and sums over rows.
#include <cmath>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"
#include "ops/permute.h"

namespace contender::bench {
namespace {

// tokens x top_k rows of the experts, in a scattered order.
struct Problem {
  int64_t tokens, top_k, h;
  std::vector<float> x, rows, y, weight, drows, dweight;
  std::vector<int32_t> source, pos;

  explicit Problem(const benchmark::State& state)
      : tokens(state.range(0)), top_k(state.range(1)), h(state.range(2)) {
    const int64_t n = tokens * top_k;
    x = random_values(tokens * h, 1);
    rows = random_values(n * h, 2);
    weight = random_values(n, 3);
    y.resize(x.size());
    drows.resize(rows.size());
    dweight.resize(weight.size());
    for (int64_t i = 0; i < n; ++i) pos.push_back(static_cast<int32_t>((i % top_k) * tokens + i / top_k));
    source.resize(pos.size());
    for (int64_t i = 0; i < n; ++i) source[static_cast<size_t>(pos[i])] = static_cast<int32_t>(i / top_k);
  }
  Tensor token_rows(std::vector<float>& v) { return f32_tensor(v.data(), tokens, h); }
  Tensor expert_rows(std::vector<float>& v) { return f32_tensor(v.data(), tokens * top_k, h); }
  Tensor pairs(std::vector<float>& v) { return f32_tensor(v.data(), tokens, top_k); }
  Tensor positions() { return i32_tensor(pos.data(), tokens, top_k); }
};

void gather_rows(benchmark::State& state) {
  Problem p(state);
  const GatherRowsArgs args = {.x = p.token_rows(p.x), .index = p.source.data(), .y = p.expert_rows(p.rows)};
  cpu::gather_rows({}, args);
  if (p.rows[p.pos[1] * p.h] != p.x[(1 / p.top_k) * p.h]) return state.SkipWithError("wrong result");
  time_calls(state, rows_cost(p.tokens * p.top_k, p.h, 2), [&] { cpu::gather_rows({}, args); });
}
void combine(benchmark::State& state) {
  Problem p(state);
  const CombineArgs args = {
      .x = p.expert_rows(p.rows), .pos = p.positions(), .weight = p.pairs(p.weight), .y = p.token_rows(p.y)};
  cpu::combine({}, args);
  double want = 0;
  for (int64_t j = 0; j < p.top_k; ++j) want += static_cast<double>(p.weight[j]) * p.rows[p.pos[j] * p.h];
  if (!(std::abs(p.y[0] - want) < 1e-5)) return state.SkipWithError("wrong result");
  time_calls(state, rows_cost(p.tokens * (p.top_k + 1), p.h, 1), [&] { cpu::combine({}, args); });
}
void combine_bwd(benchmark::State& state) {
  Problem p(state);
  const CombineBwdArgs args = {.dy = p.token_rows(p.x),
                               .x = p.expert_rows(p.rows),
                               .pos = p.positions(),
                               .weight = p.pairs(p.weight),
                               .dx = p.expert_rows(p.drows),
                               .dweight = p.pairs(p.dweight)};
  cpu::combine_bwd({}, args);
  if (p.drows[p.pos[0] * p.h] != p.weight[0] * p.x[0]) return state.SkipWithError("wrong result");
  time_calls(state, rows_cost(p.tokens * (2 * p.top_k + 1), p.h, 1), [&] { cpu::combine_bwd({}, args); });
}
void column_sum(benchmark::State& state) {
  Problem p(state);
  const RowSegment segment = {0, static_cast<int32_t>(p.tokens), 0, 0};
  std::vector<float> sum(static_cast<size_t>(p.h));
  const ColumnSumArgs args = {.dy = p.token_rows(p.x),
                              .sum = f32_tensor(sum.data(), 1, p.h),
                              .segments = {.data = &segment, .count = 1, .num_leaves = 1}};
  cpu::column_sum({}, args);
  double want = 0;
  for (int64_t t = 0; t < p.tokens; ++t) want += p.x[t * p.h];
  if (!(std::abs(sum[0] - want) < 1e-3)) return state.SkipWithError("wrong result");
  time_calls(state, rows_cost(p.tokens, p.h, 1), [&] { cpu::column_sum({}, args); });
}

void shapes(benchmark::internal::Benchmark* b) { b->Args({1024, 2, 128})->Args({1024, 8, 512}); }
BENCHMARK(gather_rows)->Apply(shapes);
BENCHMARK(combine)->Apply(shapes);
BENCHMARK(combine_bwd)->Apply(shapes);
BENCHMARK(column_sum)->Apply(shapes);

}  // namespace
}  // namespace contender::bench
