// Philox4x32-10 on the device: the words of base/philox.h.
#pragma once

#include <cuda_runtime.h>

#include "base/philox.h"

namespace contender::cuda {

__device__ inline uint4 philox_block(uint4 counter, uint32_t k0, uint32_t k1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
    const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
    counter = make_uint4(high1 ^ counter.y ^ k0, low1, high0 ^ counter.w ^ k1, low0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

__device__ inline uint4 philox_words(uint64_t seed, RandomStream stream, uint64_t c0, uint32_t c1,
                                     uint32_t c2) {
  return philox_block(make_uint4(static_cast<uint32_t>(c0), static_cast<uint32_t>(c0 >> 32), c1, c2),
                      static_cast<uint32_t>(seed),
                      static_cast<uint32_t>(seed >> 32) ^ (static_cast<uint32_t>(stream) * 0x85EBCA6Bu));
}

}  // namespace contender::cuda
