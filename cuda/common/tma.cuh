// TMA: boxes of a tensor (tensor_map.h) to shared memory, by one thread. Coordinates are elements, innermost
// dimension first; what lies outside the tensor arrives as 0 (its bytes count all the same). Shared addresses
// are multiples of 128 bytes, of 1024 under the 128-byte swizzle. Source: PTX ISA 9.0, cp.async.bulk.tensor.
#pragma once

#include "cuda/common/mbarrier.cuh"

// As in cuda.h, which device code does not need.
struct CUtensorMap_st;

namespace contender::cuda {

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap_st* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void tma_load_2d(void* dst, const CUtensorMap_st* map, Mbarrier* full, int x,
                                            int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], [%2];" ::"r"(smem_address(dst)),
      "l"(map), "r"(smem_address(full)), "r"(x), "r"(y)
      : "memory");
}
__device__ __forceinline__ void tma_load_3d(void* dst, const CUtensorMap_st* map, Mbarrier* full, int x,
                                            int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5}], [%2];" ::"r"(smem_address(dst)),
      "l"(map), "r"(smem_address(full)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
// To the same place in every block of the cluster whose bit is set; the bytes count at each one's barrier.
__device__ __forceinline__ void tma_load_2d_multicast(void* dst, const CUtensorMap_st* map, Mbarrier* full,
                                                      int x, int y, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(smem_address(dst)),
      "l"(map), "r"(smem_address(full)), "r"(x), "r"(y), "h"(blocks)
      : "memory");
}
__device__ __forceinline__ void tma_load_3d_multicast(void* dst, const CUtensorMap_st* map, Mbarrier* full,
                                                      int x, int y, int z, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(smem_address(dst)),
      "l"(map), "r"(smem_address(full)), "r"(x), "r"(y), "r"(z), "h"(blocks)
      : "memory");
}

}  // namespace contender::cuda
