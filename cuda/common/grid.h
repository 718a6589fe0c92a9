// How many blocks to launch. The number of SMs comes from the device, never from a table.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "cuda/common/check.h"

namespace contender::cuda {

// Blocks for `items` of work of which a block does `per_block` at a time: as many as there is work for, at
// most `per_sm` on each SM (0: no limit). Never 0.
inline unsigned grid_size(int64_t items, int64_t per_block, int64_t per_sm = 0) {
  const int64_t blocks = std::max<int64_t>(ceil_div(items, per_block), 1);
  if (per_sm == 0) return static_cast<unsigned>(narrow<int32_t>(blocks));
  int device = 0, sms = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  return static_cast<unsigned>(std::min(blocks, per_sm * sms));
}

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace contender::cuda
