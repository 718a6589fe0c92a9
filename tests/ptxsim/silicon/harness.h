// What the CUDA tests share: device arrays that start poisoned, launches that are checked, random inputs over
// decades, comparison of bits. Tests run unchanged on a GPU and in the simulator.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace silicon {

#define CUDA_OK(call) ASSERT_EQ(cudaSuccess, (call)) << cudaGetErrorString(cudaPeekAtLastError())

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  ADD_FAILURE() << what << ": " << cudaGetErrorName(error) << " " << cudaGetErrorString(error);
  cudaGetLastError();
}

// T[n] on the device, every byte 0xFF (NaN, -1) until written.
template <typename T>
class Array {
 public:
  explicit Array(size_t n) : n_(n) {
    check(cudaMalloc(&p_, n * sizeof(T)), "cudaMalloc");
    check(cudaMemset(p_, 0xFF, n * sizeof(T)), "cudaMemset");
  }
  explicit Array(const std::vector<T>& v) : n_(v.size()) {
    check(cudaMalloc(&p_, n_ * sizeof(T)), "cudaMalloc");
    check(cudaMemcpy(p_, v.data(), n_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { cudaFree(p_); }
  T* get() { return p_; }
  size_t size() const { return n_; }
  std::vector<T> host() const {
    std::vector<T> v(n_);
    check(cudaMemcpy(v.data(), p_, n_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return v;
  }

 private:
  T* p_ = nullptr;
  size_t n_;
};

struct Shape {
  dim3 grid = 1, block = 32, cluster = 1;
  uint32_t shared = 0;  // dynamic bytes
  bool cooperative = false;
};

template <typename... P, typename... A>
cudaError_t try_launch(const Shape& s, void (*kernel)(P...), A... args) {
  if (s.shared > 48 << 10) {
    const cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(s.shared));
    if (e != cudaSuccess) return e;
  }
  cudaLaunchAttribute attribute[2];
  cudaLaunchConfig_t config = {};
  config.gridDim = s.grid;
  config.blockDim = s.block;
  config.dynamicSmemBytes = s.shared;
  config.attrs = attribute;
  if (s.cluster.x * s.cluster.y * s.cluster.z > 1) {
    attribute[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attribute[config.numAttrs++].val.clusterDim = {s.cluster.x, s.cluster.y, s.cluster.z};
  }
  if (s.cooperative) {
    attribute[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attribute[config.numAttrs++].val.cooperative = 1;
  }
  const cudaError_t e = cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
  return e != cudaSuccess ? e : cudaDeviceSynchronize();
}

template <typename... P, typename... A>
void launch(const Shape& s, void (*kernel)(P...), A... args) {
  check(try_launch(s, kernel, args...), "launch");
}

// splitmix64: small, and the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : s_(seed * 0x9E3779B97F4A7C15ull + 1) {}
  uint64_t bits() {
    uint64_t z = (s_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return uint32_t((bits() >> 32) * n >> 32); }
  double unit() { return double(bits() >> 11) * 0x1p-53; }
  // Either sign, magnitude 2^lo .. 2^hi, evenly over the exponents.
  double real(double lo, double hi) { return (bits() & 1 ? -1 : 1) * std::exp2(lo + (hi - lo) * unit()); }
  // An integer of a random width, so that small, large and negative ones all appear.
  uint64_t wide(int bits_of) {
    const uint64_t v = bits() >> (64 - bits_of) >> below(bits_of);
    return bits() & 1 ? v : uint64_t(0) - v;
  }

 private:
  uint64_t s_;
};

template <typename T>
std::string show(T v) {
  char text[64];
  uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof v);
  if constexpr (std::is_floating_point_v<T>)
    std::snprintf(text, sizeof text, "%.9g (0x%llx)", double(v), static_cast<unsigned long long>(bits));
  else
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(bits));
  return text;
}

// The same bits; a NaN equals any NaN.
template <typename T>
bool same(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    if (a != a && b != b) return true;
  return std::memcmp(&a, &b, sizeof a) == 0;
}

template <typename T>
void expect_same(const std::vector<T>& got, const std::vector<T>& want, const char* what = "") {
  ASSERT_EQ(got.size(), want.size());
  int wrong = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (same(got[i], want[i])) continue;
    if (++wrong <= 4)
      ADD_FAILURE() << what << "[" << i << "] = " << show(got[i]) << ", expected " << show(want[i]);
  }
  if (wrong > 4) ADD_FAILURE() << what << ": " << wrong << " of " << got.size() << " differ";
}

// One instruction of a table: its PTX, %0 the result, %1.. the inputs, and the same on the host.
template <typename D, typename S>
struct Op {
  const char* ptx;
  D (*host)(S a, S b, S c);
};

// out[op * n + i]: every op of the table on every triple of inputs. `ok` decides; same() by default.
template <typename D, typename S, size_t N>
void expect_table(const Op<D, S> (&ops)[N], const std::vector<S>& a, const std::vector<S>& b,
                  const std::vector<S>& c, const std::vector<D>& out, bool (*ok)(D got, D want) = same<D>) {
  const size_t n = a.size();
  ASSERT_EQ(out.size(), n * N);
  for (size_t k = 0; k < N; ++k) {
    int wrong = 0;
    for (size_t i = 0; i < n; ++i) {
      const D want = ops[k].host(a[i], b[i], c[i]), got = out[k * n + i];
      if (ok(got, want)) continue;
      if (++wrong <= 2)
        ADD_FAILURE() << ops[k].ptx << "\n  of " << show(a[i]) << ", " << show(b[i]) << ", " << show(c[i])
                      << " gives " << show(got) << ", expected " << show(want);
    }
    if (wrong > 2) ADD_FAILURE() << ops[k].ptx << ": " << wrong << " of " << n << " differ";
  }
}

__device__ inline uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

}  // namespace silicon
