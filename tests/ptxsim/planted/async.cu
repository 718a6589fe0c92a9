// Engines that read or write while threads do.
#include "bugs.h"

namespace planted {
namespace {

__global__ void cp_async_not_waited(const int* x, int* y) {
  __shared__ alignas(16) int tile[128];
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;\n cp.async.commit_group;" ::"r"(
                   smem(tile + 4 * threadIdx.x)),
               "l"(x + 4 * threadIdx.x)
               : "memory");
  y[threadIdx.x] = tile[4 * threadIdx.x];  // cp.async.wait_group 0
}
PLANTED(cp_async_read_too_early, "[race.shared]") {
  run(1, 32, 0, cp_async_not_waited, zeros<int>(128), zeros<int>(32));
}

__global__ void bulk_not_waited(const int* x, int* y) {
  __shared__ alignas(128) int tile[32];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    mbarrier_expect_tx(&full, 128);
    bulk_load(tile, x, 128, &full);
  }
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];  // mbarrier_wait(&full, 0)
}
PLANTED(bulk_load_read_too_early, "[race.shared]") {
  run(1, 32, 0, bulk_not_waited, zeros<int>(32), zeros<int>(32));
}

__global__ void no_proxy_fence(int* y) {
  __shared__ alignas(128) int tile[32];
  tile[threadIdx.x] = int(threadIdx.x);
  // fence.proxy.async: the engine does not see what threads wrote
  __syncthreads();
  if (threadIdx.x == 0) {
    bulk_store(y, tile, 128);
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}
PLANTED(bulk_store_without_proxy_fence, "[proxy]") { run(1, 32, 0, no_proxy_fence, zeros<int>(32)); }

__global__ void overwritten_while_stored(int* y) {
  __shared__ alignas(128) int tile[32];
  for (int k = 0; k < 2; ++k) {
    tile[threadIdx.x] = int(threadIdx.x) + k;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (threadIdx.x == 0) bulk_store(y + 32 * k, tile, 128);
    // cp.async.bulk.wait_group.read 0
    __syncthreads();
  }
  if (threadIdx.x == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
PLANTED(bulk_store_source_overwritten, "[race.shared]") {
  run(1, 32, 0, overwritten_while_stored, zeros<int>(64));
}

__global__ void odd_size(const int* x, int* y) {
  __shared__ alignas(128) int tile[32];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    mbarrier_expect_tx(&full, 120);
    bulk_load(tile, x, 120, &full);
    mbarrier_wait(&full, 0);
  }
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}
PLANTED(bulk_size_not_of_16, "16") { run(1, 32, 0, odd_size, zeros<int>(32), zeros<int>(32)); }

__global__ void not_initialised(int* y) {
  __shared__ uint64_t full;
  if (threadIdx.x == 0)
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem(&full)) : "memory");
  y[threadIdx.x] = 1;
}
PLANTED(mbarrier_not_initialised, "mbarrier") { run(1, 32, 0, not_initialised, zeros<int>(32)); }

// --- wgmma m64n8k16, bf16, both operands in shared memory without a swizzle ---
__device__ uint64_t descriptor(const void* p) {
  return (smem(p) & 0x3ffff) >> 4 | uint64_t(128 >> 4) << 16 | uint64_t(256 >> 4) << 32;
}

template <bool kFence, bool kWait, bool kOverwrite, bool kProxy>
__global__ void wgmma_product(float* y) {
  __shared__ alignas(1024) uint16_t a[64 * 16], b[8 * 16];
  for (int k = threadIdx.x; k < 64 * 16; k += 128) a[k] = 0x3f80;
  if (threadIdx.x < 128) b[threadIdx.x] = 0x3f80;
  if (kProxy) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float d[4];
  for (int k = 0; k < 4; ++k) d[k] = y[threadIdx.x] + float(k);
  if (kFence) asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "l"(descriptor(a)), "l"(descriptor(b)));
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  if (kOverwrite) a[threadIdx.x] = 0;
  if (kWait) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int k = 0; k < 4; ++k) y[512 + threadIdx.x * 4 + k] = d[k] * 2;
  if (!kWait) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
PLANTED(wgmma_read_before_wait, "[registers]") {
  run(1, 128, 0, wgmma_product<true, false, false, true>, zeros<float>(1024));
}
PLANTED(wgmma_without_fence, "[registers]") {
  run(1, 128, 0, wgmma_product<false, true, false, true>, zeros<float>(1024));
}
PLANTED(wgmma_operand_overwritten, "[race.shared]") {
  run(1, 128, 0, wgmma_product<true, true, true, true>, zeros<float>(1024));
}
PLANTED(wgmma_without_proxy_fence, "[proxy]") {
  run(1, 128, 0, wgmma_product<true, true, false, false>, zeros<float>(1024));
}

}  // namespace
}  // namespace planted
