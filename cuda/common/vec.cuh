// 16-byte pieces of rows as floats, whatever the dtype of the row.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace contender::cuda {

// Elements of T in 16 bytes.
template <class T>
inline constexpr int kVec = 16 / sizeof(T);

template <class T>
struct Vec {
  float v[kVec<T>];
};

__device__ inline Vec<float> load_vec(const float* p) {
  const float4 x = *reinterpret_cast<const float4*>(p);
  return {{x.x, x.y, x.z, x.w}};
}
__device__ inline Vec<__nv_bfloat16> unpack_vec(uint4 x) {
  const uint32_t w[4] = {x.x, x.y, x.z, x.w};
  Vec<__nv_bfloat16> out;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    out.v[2 * k] = __uint_as_float(w[k] << 16);
    out.v[2 * k + 1] = __uint_as_float(w[k] & 0xffff0000u);
  }
  return out;
}
__device__ inline Vec<__nv_bfloat16> load_vec(const __nv_bfloat16* p) {
  return unpack_vec(*reinterpret_cast<const uint4*>(p));
}
__device__ inline void store_vec(float* p, const Vec<float>& x) {
  *reinterpret_cast<float4*>(p) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
}
__device__ inline void store_vec(__nv_bfloat16* p, const Vec<__nv_bfloat16>& x) {
  uint32_t w[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x.v[2 * k], x.v[2 * k + 1]);
    w[k] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  *reinterpret_cast<uint4*>(p) = make_uint4(w[0], w[1], w[2], w[3]);
}

__device__ inline float load_one(const float* p) { return *p; }
__device__ inline float load_one(const __nv_bfloat16* p) { return __bfloat162float(*p); }
__device__ inline void store_one(float* p, float x) { *p = x; }
__device__ inline void store_one(__nv_bfloat16* p, float x) { *p = __float2bfloat16_rn(x); }

// Fixed trees: the same bits for the same values, whatever runs beside.
__device__ inline float warp_reduce_sum(float x) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
  return x;
}
__device__ inline float warp_reduce_max(float x) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
  return x;
}

}  // namespace contender::cuda
