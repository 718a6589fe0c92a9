// Random values for the benches: uniform, from Philox, so that they do not depend on the grid.
#include <cuda_bf16.h>

#include "bench/cuda/fill.h"
#include "cuda/common/grid.h"
#include "cuda/common/philox.cuh"

namespace contender::bench {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T* data, int64_t n, uint64_t seed, float scale) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i * 4 < n;
       i += int64_t{gridDim.x} * kThreads) {
    const uint4 words = cuda::philox_words(seed, RandomStream::kTest, static_cast<uint64_t>(i), 0, 0);
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
    for (int k = 0; k < 4 && i * 4 + k < n; ++k)
      data[i * 4 + k] =
          static_cast<T>((static_cast<float>(static_cast<int32_t>(word[k])) * 0x1p-31f) * scale);
  }
}

}  // namespace

void fill_random(void* data, DType dtype, int64_t n, uint64_t seed, float scale) {
  const unsigned blocks = cuda::grid_size(ceil_div(n, 4), kThreads, 16);
  if (dtype == DType::kF32) {
    fill_kernel<<<blocks, kThreads>>>(static_cast<float*>(data), n, seed, scale);
  } else {
    CHECK(dtype == DType::kBF16, "random {}", dtype_name(dtype));
    fill_kernel<<<blocks, kThreads>>>(static_cast<__nv_bfloat16*>(data), n, seed, scale);
  }
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::bench
