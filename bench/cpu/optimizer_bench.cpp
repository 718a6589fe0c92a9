// AdamW with FP32 and BF16 moments, and the exact sum of squares of the gradient norm.
#include <cmath>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"
#include "ops/optimizer.h"

namespace contender::bench {
namespace {

void adamw(benchmark::State& state, DType moments) {
  const int64_t n = state.range(0);
  std::vector<float> w = random_values(n, 1), both(static_cast<size_t>(2 * n));
  const std::vector<float> grad = random_values(n, 2);
  const float before = w[0];
  AdamwArgs args = {.n = n,
                    .master = w.data(),
                    .grad = grad.data(),
                    .m = both.data(),
                    .v = both.data() + n,
                    .moment_dtype = moments,
                    .lr = 1e-3f,
                    .bias_correction1 = 0.1f,
                    .bias_correction2 = 0.05f};
  cpu::adamw({}, args);
  const double want = before - 1e-3 * (grad[0] > 0 ? 1 : -1);  // the first step has length lr
  if (!(std::abs(w[0] - want) < 1e-5)) return state.SkipWithError("wrong result");
  args.lr = 1e-6f;
  time_calls(state, adamw_cost(n, moments), [&] { cpu::adamw({}, args); });
}
void adamw_f32(benchmark::State& state) { adamw(state, DType::kF32); }
void adamw_bf16(benchmark::State& state) { adamw(state, DType::kBF16); }

void square_sum(benchmark::State& state) {
  const int64_t n = state.range(0);
  const std::vector<float> x = random_values(n, 1);
  ExactSum sum;
  double want = 0;
  for (float v : x) want += static_cast<double>(v) * v;
  cpu::square_sum({}, {.x = x.data(), .n = n, .sum = &sum});
  if (!(std::abs(sum.value() - want) < 1e-9 * want)) return state.SkipWithError("wrong result");
  const Cost cost = {.flops = 2.0 * static_cast<double>(n), .bytes = 4.0 * static_cast<double>(n)};
  time_calls(state, cost, [&] {
    ExactSum s;
    cpu::square_sum({}, {.x = x.data(), .n = n, .sum = &s});
    benchmark::DoNotOptimize(s);
  });
}

BENCHMARK(adamw_f32)->Arg(1 << 14)->Arg(1 << 22);
BENCHMARK(adamw_bf16)->Arg(1 << 14)->Arg(1 << 22);
BENCHMARK(square_sum)->Arg(1 << 10)->Arg(1 << 14)->Arg(1 << 22);

}  // namespace
}  // namespace contender::bench
