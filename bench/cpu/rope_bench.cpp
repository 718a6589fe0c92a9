// Rotary embedding of all heads in place, both pairings.
#include <cmath>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"
#include "ops/rope.h"

namespace contender::bench {
namespace {

void rope(benchmark::State& state, bool interleaved) {
  const int64_t tokens = state.range(0), heads = state.range(1), dim = state.range(2);
  std::vector<float> x = random_values(tokens * heads * dim, 1), table = rope_table({.dim = dim}, tokens);
  std::vector<int32_t> positions;
  for (int64_t t = 0; t < tokens; ++t) positions.push_back(static_cast<int32_t>(t));
  const RopeArgs args = {.x = f32_tensor(x.data(), tokens, heads * dim),
                         .x_heads = {.count = heads, .stride = dim},
                         .positions = positions.data(),
                         .table = f32_tensor(table.data(), tokens, dim),
                         .interleaved = interleaved};
  const float* first = &x[static_cast<size_t>(heads * dim)];  // position 1 turns by one radian
  const double a = first[0], b = first[interleaved ? 1 : dim / 2],
               want = a * std::cos(1.0) - b * std::sin(1.0);
  cpu::rope({}, args);
  if (!(std::abs(*first - want) < 1e-6)) return state.SkipWithError("wrong result");
  time_calls(state, rope_cost(tokens, heads, dim), [&] { cpu::rope({}, args); });
}
void rope_interleaved(benchmark::State& state) { rope(state, true); }
void rope_halves(benchmark::State& state) { rope(state, false); }
BENCHMARK(rope_interleaved)->Args({1024, 4, 16})->Args({1024, 16, 64});
BENCHMARK(rope_halves)->Args({1024, 4, 16})->Args({1024, 16, 64});

}  // namespace
}  // namespace contender::bench
