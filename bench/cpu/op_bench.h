// What the operator benches share: random data, the machine's measured rates, and the counters of a row.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <ctime>
#include <vector>

#include "base/philox.h"
#include "cpu/machine_peak.h"
#include "ops/exec.h"

namespace contender::bench {

inline double matrix_gflops() {
  static const double rate = cpu::measured_matrix_gflops();
  return rate;
}
inline double copy_gbps() {
  static const double rate = cpu::measured_copy_gbps();
  return rate;
}

inline std::vector<float> random_values(int64_t n, uint64_t seed) {
  std::vector<float> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; i += 4) {
    const PhiloxBlock b = philox(seed, RandomStream::kTest, static_cast<uint64_t>(i));
    for (int64_t j = 0; j < 4 && i + j < n; ++j) v[i + j] = uniform01(b[j]) - 0.5f;
  }
  return v;
}

// Scratch of an operator, aligned.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : storage_(static_cast<size_t>(bytes / 4 + 16)), bytes_(bytes) {}
  void* data() {
    const auto at = reinterpret_cast<uintptr_t>(storage_.data());
    return storage_.data() + ((64 - at % 64) % 64) / 4;
  }
  Exec exec() { return {.stream = nullptr, .workspace = data(), .workspace_bytes = bytes_}; }

 private:
  std::vector<float> storage_;
  int64_t bytes_;
};

// Times `call` and shows GFLOP/s and GB/s of its cost, by processor time, and the shares of what this core
// was measured to do.
template <class F>
void time_calls(benchmark::State& state, const Cost& cost, const F& call) {
  const std::clock_t start = std::clock();
  for (auto _ : state) call();
  const double ns = static_cast<double>(std::clock() - start) * (1e9 / CLOCKS_PER_SEC) /
                    static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = cost.flops / ns;
  state.counters["%matrix"] = 100 * cost.flops / ns / matrix_gflops();
  state.counters["GB/s"] = cost.bytes / ns;
  state.counters["%copy"] = 100 * cost.bytes / ns / copy_gbps();
}

}  // namespace contender::bench
