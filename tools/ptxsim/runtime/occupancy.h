// How many blocks and clusters of a kernel the GPU holds at once.
// Source: CUDA C++ programming guide, technical specifications of compute capability 9.0; cuda_occupancy.h.
#pragma once

#include <cstdint>

namespace ptxsim::runtime {

struct BlockNeeds {
  int threads = 0;
  int registers = 0;          // per thread
  uint64_t shared_bytes = 0;  // static and dynamic
};

// Blocks per SM; 0 where not even one fits.
int blocks_per_sm(const BlockNeeds& needs);
// True where one block's registers fit into an SM.
bool registers_fit(int threads, int registers);
// Clusters of `size` blocks on the whole GPU: the blocks of one stay within a GPC.
int clusters_per_gpu(const BlockNeeds& needs, int size);

}  // namespace ptxsim::runtime
