// Dynamic shared memory beyond the 48 KB that a kernel may use unasked.
#pragma once

#include "cuda/common/check.h"

namespace contender::cuda {

inline constexpr int kMaxSharedMemory = 232448;  // of a block: 227 KB on Hopper

// Asked for once, at a kernel's first launch: later launches may be part of a capture.
template <auto kKernel>
void allow_shared_memory() {
  static const cudaError_t once =
      cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedMemory);
  CUDA_CHECK(once);
}

}  // namespace contender::cuda
