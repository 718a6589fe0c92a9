// Kernels that are wrong on purpose. Each must be caught by `tools/sim --check` with the words that it names;
// the program lists them (`planted_bugs --list`) and runs one by name.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace planted {

struct Bug {
  const char* name;
  const char* words;  // what the report must contain
  void (*run)();
};
std::vector<Bug>& bugs();

// A bug that nobody caught returns and the process ends with 0; a CUDA error ends it with 1.
inline void ok(cudaError_t e) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorName(e));
  std::exit(1);
}

#define PLANTED(name, words)                                                 \
  void name();                                                               \
  const bool name##_listed = (bugs().push_back({#name, words, name}), true); \
  void name()

// n zeros on the device.
template <class T>
T* zeros(size_t n) {
  T* p;
  ok(cudaMalloc(&p, n * sizeof(T)));
  ok(cudaMemset(p, 0, n * sizeof(T)));
  return p;
}

template <class... P, class... A>
void run(dim3 grid, dim3 block, uint32_t shared, void (*kernel)(P...), A... args) {
  if (shared > 48 << 10)
    ok(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
  kernel<<<grid, block, shared>>>(static_cast<P>(args)...);
  ok(cudaGetLastError());
  ok(cudaDeviceSynchronize());
}

__device__ inline uint32_t smem(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ inline void mbarrier_init(uint64_t* b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem(b)), "r"(count) : "memory");
}
__device__ inline void mbarrier_expect_tx(uint64_t* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem(b)), "r"(bytes)
               : "memory");
}
__device__ inline void mbarrier_wait(uint64_t* b, int parity) {
  asm volatile(
      "{\n .reg .pred p;\n WAIT:\n mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n @!p bra "
      "WAIT;\n}\n" ::"r"(smem(b)),
      "r"(parity)
      : "memory");
}
__device__ inline void bulk_load(void* to, const void* from, int bytes, uint64_t* b) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          smem(to)),
      "l"(from), "r"(bytes), "r"(smem(b))
      : "memory");
}
__device__ inline void bulk_store(void* to, const void* from, int bytes) {
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n cp.async.bulk.commit_group;" ::"l"(to),
      "r"(smem(from)), "r"(bytes)
      : "memory");
}

}  // namespace planted
