#include "cpu/machine_peak.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/timer.h"
#include "cpu/vec_math.h"

namespace contender::cpu {
namespace {

// Best rate of `work`, which returns how much it did, over about `budget_ns`: interruptions only ever slow a
// sample down.
template <class F>
double best_rate(int64_t budget_ns, const F& work) {
  double best = 0;
  const int64_t start = now_ns();
  for (int64_t now = start; now < start + budget_ns;) {
    const double amount = work();
    const int64_t end = now_ns();
    best = std::max(best, amount / static_cast<double>(end - now));
    now = end;
  }
  return best;
}

}  // namespace

double measured_matrix_gflops() {
  constexpr int kChains = 12;  // more than latency times throughput, and they fit AVX2's registers
  constexpr int64_t kSteps = 100'000;
  const FloatTag d;
  volatile float opaque = 0.5f;  // keeps the compiler from knowing the values
  const FloatVec scale = hn::Set(d, opaque), offset = hn::Set(d, opaque);
  FloatVec acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = hn::Set(d, opaque);
  const double rate = best_rate(50'000'000, [&] {
    for (int64_t step = 0; step < kSteps; ++step) {
      for (int i = 0; i < kChains; ++i) acc[i] = hn::MulAdd(acc[i], scale, offset);
    }
    float sink = 0;
    for (int i = 0; i < kChains; ++i) sink += hn::GetLane(acc[i]);
    opaque = sink / kChains;
    return 2.0 * kChains * static_cast<double>(kFloatLanes * kSteps);
  });
  return rate;
}

double measured_copy_gbps() {
  constexpr size_t kBytes = size_t{64} << 20;
  const auto src = std::make_unique_for_overwrite<char[]>(kBytes),
             dst = std::make_unique_for_overwrite<char[]>(kBytes);
  std::memset(src.get(), 1, kBytes);  // touch the pages
  std::memset(dst.get(), 2, kBytes);
  return best_rate(50'000'000, [&] {
    std::memcpy(dst.get(), src.get(), kBytes);
    return 2.0 * kBytes;
  });
}

}  // namespace contender::cpu
