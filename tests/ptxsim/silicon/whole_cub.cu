// Kernels that others wrote and that are known to be right on a GPU: reduce, scan (decoupled look-back
// between blocks) and radix sort of the toolkit's own CUB. What the simulator reports here is its own
// mistake.
#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_reduce.cuh>
#include <cub/device/device_scan.cuh>
#include <numeric>

#include "harness.h"

namespace silicon {
namespace {

// Calls f once for the size of its workspace and once for the work.
template <class F>
void with_workspace(F f) {
  size_t bytes = 0;
  check(f(nullptr, bytes), "size");
  Array<char> workspace(bytes);
  check(f(workspace.get(), bytes), "run");
  check(cudaDeviceSynchronize(), "synchronize");
}

std::vector<uint32_t> numbers(size_t n) {
  Random random(n);
  std::vector<uint32_t> v(n);
  for (uint32_t& x : v) x = uint32_t(random.bits());
  return v;
}

TEST(WholeCub, Reduce) {
  for (const int n : {1, 100, 20011}) {
    const std::vector<uint32_t> x = numbers(n);
    Array<uint32_t> d(x), sum(1);
    with_workspace(
        [&](void* w, size_t& bytes) { return cub::DeviceReduce::Sum(w, bytes, d.get(), sum.get(), n); });
    expect_same(sum.host(), {std::accumulate(x.begin(), x.end(), 0u)});
  }
}

TEST(WholeCub, Scan) {
  for (const int n : {1, 1000, 30011}) {
    const std::vector<uint32_t> x = numbers(n);
    std::vector<uint32_t> want(n);
    std::partial_sum(x.begin(), x.end(), want.begin());
    Array<uint32_t> d(x), sums(n);
    with_workspace([&](void* w, size_t& bytes) {
      return cub::DeviceScan::InclusiveSum(w, bytes, d.get(), sums.get(), n);
    });
    expect_same(sums.host(), want);
  }
}

TEST(WholeCub, RadixSort) {
  for (const int n : {1, 500, 9001}) {
    const std::vector<uint32_t> x = numbers(n);
    std::vector<uint32_t> want = x;
    std::sort(want.begin(), want.end());
    Array<uint32_t> d(x), sorted(n);
    with_workspace([&](void* w, size_t& bytes) {
      return cub::DeviceRadixSort::SortKeys(w, bytes, d.get(), sorted.get(), n);
    });
    expect_same(sorted.host(), want);
  }
}

}  // namespace
}  // namespace silicon
