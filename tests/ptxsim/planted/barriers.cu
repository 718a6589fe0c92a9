// Barriers that are waited for by the wrong threads, or for ever.
#include "bugs.h"

namespace planted {
namespace {

__global__ void half_a_warp(int* y) {
  if (threadIdx.x < 16) {
    asm volatile("bar.sync 0;" ::: "memory");
    y[threadIdx.x] = 1;
  } else {
    asm volatile("bar.sync 0;" ::: "memory");
    y[threadIdx.x] = 2;
  }
}
PLANTED(barrier_diverged, "aligned barrier") { run(1, 32, 0, half_a_warp, zeros<int>(32)); }

__global__ void one_warp_leaves(int* y) {
  if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;" ::: "memory");
  if (threadIdx.x >= 32) asm volatile("bar.sync 2, 64;" ::: "memory");
  y[threadIdx.x] = 1;
}
PLANTED(barrier_never_complete, "[deadlock]") { run(1, 64, 0, one_warp_leaves, zeros<int>(64)); }

__global__ void two_counts(int* y) {
  if (threadIdx.x < 32)
    asm volatile("bar.sync 1, 64;" ::: "memory");
  else
    asm volatile("bar.sync 1, 96;" ::: "memory");
  y[threadIdx.x] = 1;
}
PLANTED(barrier_counts_differ, "[barrier]") { run(1, 96, 0, two_counts, zeros<int>(96)); }

__global__ void odd_count(int* y, int n) {
  asm volatile("bar.sync 1, %0;" ::"r"(n) : "memory");
  y[threadIdx.x] = 1;
}
PLANTED(barrier_odd_count, "[barrier]") { run(1, 64, 0, odd_count, zeros<int>(64), 48); }

__global__ void half_shuffle(int* y) {
  if (threadIdx.x < 16)
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, int(threadIdx.x), 1);
  else
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, int(threadIdx.x), 2);
}
PLANTED(shuffle_without_the_others, "shfl.sync") { run(1, 32, 0, half_shuffle, zeros<int>(32)); }

__global__ void shuffle_from_outside(int* y) {
  if (threadIdx.x < 16)
    y[threadIdx.x] = __shfl_down_sync(0xffffu, int(threadIdx.x), 1);  // lane 15 asks lane 16
}
PLANTED(shuffle_from_a_lane_outside, "[lanes]") { run(1, 32, 0, shuffle_from_outside, zeros<int>(32)); }

__global__ void too_many_bytes(const int* x, int* y) {
  __shared__ alignas(128) int tile[32];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    mbarrier_expect_tx(&full, 256);  // 128
    bulk_load(tile, x, 128, &full);
  }
  __syncthreads();
  mbarrier_wait(&full, 0);
  y[threadIdx.x] = tile[threadIdx.x];
}
PLANTED(mbarrier_waits_for_too_many_bytes, "[deadlock]") {
  run(1, 32, 0, too_many_bytes, zeros<int>(32), zeros<int>(32));
}

__global__ void wrong_parity(int* y) {
  __shared__ uint64_t full;
  if (threadIdx.x == 0) mbarrier_init(&full, 32);
  __syncthreads();
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem(&full)) : "memory");
  mbarrier_wait(&full, 0);
  mbarrier_wait(&full, 1);  // nobody completes the second phase
  y[threadIdx.x] = 1;
}
PLANTED(mbarrier_wrong_parity, "mbarrier.try_wait") { run(1, 32, 0, wrong_parity, zeros<int>(32)); }

__global__ void __launch_bounds__(256, 1) greedy() { asm volatile("setmaxnreg.inc.sync.aligned.u32 256;"); }
PLANTED(setmaxnreg_over_budget, "setmaxnreg") { run(1, 256, 0, greedy); }

}  // namespace
}  // namespace planted
