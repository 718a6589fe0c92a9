// mbarriers in shared memory: arrivals and bytes of TMA that complete a phase, and waits for it. A phase is
// named by its parity, that of the first one being 0; on a fresh barrier a wait for parity 1 returns at once.
// Source: PTX ISA 9.0, mbarrier.
#pragma once

#include "cuda/common/ptx.cuh"
#include "cuda/common/stall.h"

namespace contender::cuda {

using Mbarrier = uint64_t;

__device__ __forceinline__ void mbarrier_init(Mbarrier* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(b)), "r"(arrivals) : "memory");
}
// Behind all inits, by the thread that made them; a barrier of the block or cluster has to follow.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void mbarrier_arrive(Mbarrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_address(b)) : "memory");
}
// At the same barrier of block `rank` of the cluster.
__device__ __forceinline__ void mbarrier_arrive_cluster(Mbarrier* b, uint32_t rank) {
  asm volatile(
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(mapa(smem_address(b), rank))
      : "memory");
}
// Arrives, and has the phase wait for so many bytes of TMA as well.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(Mbarrier* b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(b)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ bool mbarrier_try_wait(Mbarrier* b, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(smem_address(b)), "r"(parity)
      : "memory");
  return done != 0;
}

__device__ __forceinline__ uint64_t global_timer_ns() {
  uint64_t t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}

// Who waits for what, for the record of a wait in vain.
struct WaitPlace {
  StallRecord* record;
  uint64_t kernel, phase;  // stall_word("...")
};
inline constexpr uint64_t kStallTimeoutNs = 20'000'000'000;
inline constexpr uint32_t kPollsPerLook = 1 << 16;  // at the clock

// The last words of a kernel that cannot go on.
__device__ __forceinline__ void trap_with(StallRecord* to, const StallRecord& words) {
  if (to != nullptr) {
    *to = words;
    __threadfence_system();
  }
  __trap();
}

__device__ __forceinline__ void mbarrier_wait(Mbarrier* b, uint32_t parity, const WaitPlace& place) {
  uint64_t begin = 0;
  for (uint32_t polls = 0; !mbarrier_try_wait(b, parity); ++polls) {
    if (polls % kPollsPerLook != kPollsPerLook - 1) [[likely]]
      continue;
    const uint64_t now = global_timer_ns();
    if (begin == 0) begin = now;
    if (now - begin < kStallTimeoutNs) continue;
    const uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    trap_with(place.record, {place.kernel, place.phase, block, threadIdx.x, smem_address(b), parity});
  }
}

}  // namespace contender::cuda
