// A module of about a megabyte of PTX: many kernels, each a few hundred instructions.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "bench/ptxsim/kernels.h"

namespace {

constexpr int kKernels = 128;

template <int kIndex>
__global__ void module_kernel(float* x, unsigned* y) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  float v = x[t];
  unsigned u = y[t] + kIndex;
#pragma unroll
  for (int i = 0; i < 24; ++i) {
    v = fmaf(v, 0.5f + i, float(u >> (i & 7)));
    s[t] = v;
    __syncwarp();
    u = u * (2 * i + kIndex + 3) ^ (__float_as_uint(s[t ^ (i & 15)]) >> 3);
    if (u % (i + 2) == 1) v += __shfl_xor_sync(__activemask(), v, 1);
    __syncwarp();
  }
  x[t] = v;
  y[t] = u;
}

template <int... kIndices>
void launch_all(float* x, unsigned* y, std::integer_sequence<int, kIndices...>) {
  (module_kernel<kIndices><<<1, 32>>>(x, y), ...);
}

size_t ptx_bytes(const char* program) {
  std::ifstream file(program, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  for (size_t at = text.find(".version "); at != std::string::npos; at = text.find(".version ", at + 1)) {
    const size_t end = text.find('\0', at);
    if (text.substr(at, end - at).find("module_kernel") != std::string::npos && end - at > 100000)
      return end - at;
  }
  std::fprintf(stderr, "ptxsim_bench: no PTX found in %s\n", program);
  std::exit(1);
}

}  // namespace

double start_up(const char* program) {
  const double megabytes = double(ptx_bytes(program)) / 1e6;
  cudaError_t error = cudaSuccess;
  const double ms = milliseconds([&] {
    float* x = nullptr;
    unsigned* y = nullptr;
    cudaMalloc(&x, 128);
    cudaMalloc(&y, 128);
    cudaMemset(x, 0, 128);
    cudaMemset(y, 0, 128);
    launch_all(x, y, std::make_integer_sequence<int, kKernels>());
    error = cudaDeviceSynchronize();
  });
  if (error != cudaSuccess) {
    std::fprintf(stderr, "ptxsim_bench: %s\n", cudaGetErrorString(error));
    std::exit(1);
  }
  return ms / megabytes;
}
