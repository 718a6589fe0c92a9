// How many blocks to launch: the SM count comes from the device, never from a table.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "cuda/common/check.h"

namespace contender::cuda {

inline int64_t sm_count() {
  int device = 0, count = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// Blocks for `items` of work of which a block does `per_block` at a time: as many as there is work for, at
// most `per_sm` on each SM (0: no limit). Never 0.
inline unsigned grid_size(int64_t items, int64_t per_block, int64_t per_sm = 0) {
  const int64_t blocks = std::max<int64_t>((items + per_block - 1) / per_block, 1);
  return static_cast<unsigned>(per_sm == 0 ? narrow<int32_t>(blocks) : std::min(blocks, per_sm * sm_count()));
}

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace contender::cuda
