// TMA: boxes of a tensor (tensor_map.h) to and from shared memory, by one thread. Coordinates are elements,
// innermost dimension first; what lies outside the tensor arrives as 0 (its bytes count all the same) and is
// not stored. Shared addresses are multiples of 128 bytes, of 1024 under the 128-byte swizzle.
// Source: PTX ISA 9.0, cp.async.bulk.tensor.
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

// Behind fence_proxy_async_shared of those who wrote the box and a barrier.
__device__ __forceinline__ void tma_store_2d(const CUtensorMap_st* map, const void* src, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
               "r"(smem_address(src)), "r"(x), "r"(y)
               : "memory");
}
__device__ __forceinline__ void tma_store_3d(const CUtensorMap_st* map, const void* src, int x, int y,
                                             int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
      "r"(smem_address(src)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
// F32: global += box, one rounding.
__device__ __forceinline__ void tma_reduce_add_2d(const CUtensorMap_st* map, const void* src, int x, int y) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(
          map),
      "r"(smem_address(src)), "r"(x), "r"(y)
      : "memory");
}
__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// The sources of all but the last kPending groups of this thread have been read and may be written again.
template <int kPending>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// All but the last kPending groups are in global memory.
template <int kPending>
__device__ __forceinline__ void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace contender::cuda
