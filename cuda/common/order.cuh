// Floats as unsigned integers of the same order, for selections with a stated rule for ties.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace contender::cuda {

inline constexpr uint32_t kNoKey = 0;   // below every key
inline constexpr uint32_t kNanKey = 1;  // below every number

// Monotone; -0 and +0 are equal.
__device__ inline uint32_t order_key(float x) {
  const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));
  if (isnan(x)) return kNanKey;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
// The float of a key that is not one of the two above.
__device__ inline float key_value(uint32_t key) {
  if (key == kNanKey) return __uint_as_float(0x7FFFFFFFu);
  return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

}  // namespace contender::cuda
