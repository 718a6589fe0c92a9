// Two threads, one place, no order between them.
#include "bugs.h"

namespace planted {
namespace {

__global__ void reverse(int* y) {
  __shared__ int tile[128];
  tile[threadIdx.x] = 0;
  __syncthreads();
  tile[threadIdx.x] = y[threadIdx.x];
  // __syncthreads()
  y[threadIdx.x] = tile[127 - threadIdx.x];
}
PLANTED(shared_no_barrier, "[race.shared]") { run(1, 128, 0, reverse, zeros<int>(128)); }

__global__ void shift(int* y, int rounds) {
  __shared__ int tile[128];
  int v = y[threadIdx.x];
  for (int k = 0; k < rounds; ++k) {
    tile[threadIdx.x] = v;
    __syncthreads();
    v = tile[(threadIdx.x + 33) % 128];
    // __syncthreads(): the next round overwrites what others may still read
  }
  y[threadIdx.x] = v;
}
PLANTED(shared_overwritten_while_read, "[race.shared]") { run(1, 128, 0, shift, zeros<int>(128), 3); }

__global__ void neighbours(int* y) {
  __shared__ int tile[32];
  tile[threadIdx.x] = 0;
  __syncwarp();
  tile[threadIdx.x] = y[threadIdx.x];
  // __syncwarp(): lanes of a warp need not run in step
  y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
PLANTED(shared_no_syncwarp, "[race.shared]") { run(1, 32, 0, neighbours, zeros<int>(32)); }

__global__ void sum_wrong(int* y) { *y += 1; }
PLANTED(global_not_atomic, "[race.global]") { run(4, 1, 0, sum_wrong, zeros<int>(1)); }

// Block 0 writes data and raises a flag; block 1 waits for the flag and reads the data.
template <int kFence>  // 0: none; 1: of the block only; 2: right
__global__ void pass_message(int* data, volatile int* flag, int* out) {
  if (blockIdx.x == 0) {
    *data = 42;
    if (kFence == 1) __threadfence_block();
    if (kFence == 2) __threadfence();
    *flag = 1;
  } else {
    while (*flag == 0) {
    }
    if (kFence == 1) __threadfence_block();
    if (kFence == 2) __threadfence();
    *out = *data;
  }
}
PLANTED(global_flag_without_fence, "[race.global]") {
  run(2, 1, 0, pass_message<0>, zeros<int>(1), zeros<int>(1), zeros<int>(1));
}
PLANTED(global_fence_of_the_block, "[race.global]") {
  run(2, 1, 0, pass_message<1>, zeros<int>(1), zeros<int>(1), zeros<int>(1));
}

__global__ void last_block(int* parts, unsigned* count, int* out) {
  if (threadIdx.x == 0) parts[blockIdx.x] = int(blockIdx.x);
  // __threadfence()
  if (threadIdx.x == 0 && atomicAdd(count, 1) == gridDim.x - 1) {
    int sum = 0;
    for (unsigned k = 0; k < gridDim.x; ++k) sum += parts[k];
    *out = sum;
  }
}
PLANTED(global_counter_without_fence, "[race.global]") {
  run(4, 32, 0, last_block, zeros<int>(4), zeros<unsigned>(1), zeros<int>(1));
}

}  // namespace
}  // namespace planted
