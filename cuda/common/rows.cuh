// Pieces of rows: kVec<T> neighbouring columns that one thread holds as floats. Columns past the end are 0
// and are not written.
#pragma once

#include "base/tensor.h"
#include "cuda/common/dispatch.h"
#include "cuda/common/vec.cuh"

namespace contender::cuda {

template <class T>
__device__ inline T* row_of(const Tensor& t, int64_t r) {
  return static_cast<T*>(t.data) + r * t.ld;
}

template <Access kAccess, class T>
__device__ inline Vec<T> load_piece(const T* row, int c, int cols) {
  Vec<T> v = {};
  if constexpr (kAccess == Access::kVector) {
    if (c < cols) v = load_vec(row + c);
  } else {
#pragma unroll
    for (int k = 0; k < kVec<T>; ++k) {
      if (c + k < cols) v.v[k] = load_one(row + c + k);
    }
  }
  return v;
}

template <Access kAccess, class T>
__device__ inline void store_piece(T* row, int c, int cols, const Vec<T>& v) {
  if constexpr (kAccess == Access::kVector) {
    if (c < cols) store_vec(row + c, v);
  } else {
#pragma unroll
    for (int k = 0; k < kVec<T>; ++k) {
      if (c + k < cols) store_one(row + c + k, v.v[k]);
    }
  }
}

// As many values of an F32 row as a piece of T has.
template <Access kAccess, class T>
__device__ inline Vec<T> load_f32_piece(const float* row, int c, int cols) {
  Vec<T> v = {};
#pragma unroll
  for (int k = 0; k < kVec<T>; k += kVec<float>) {
    const Vec<float> part = load_piece<kAccess>(row, c + k, cols);
#pragma unroll
    for (int i = 0; i < kVec<float>; ++i) v.v[k + i] = part.v[i];
  }
  return v;
}

// What a tensor of T keeps of x.
__device__ inline float round_to(float x, std::type_identity<float>) { return x; }
__device__ inline float round_to(float x, std::type_identity<__nv_bfloat16>) {
  return __bfloat162float(__float2bfloat16_rn(x));
}

// Four neighbouring columns, whatever the type: where F32 results or operands lie beside BF16 ones, so that
// neighbouring lanes touch neighbouring bytes in both.
__device__ inline float4 load_quad(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ inline float4 load_quad(const __nv_bfloat16* p) {
  const uint2 w = *reinterpret_cast<const uint2*>(p);
  return make_float4(__uint_as_float(w.x << 16), __uint_as_float(w.x & 0xffff0000u),
                     __uint_as_float(w.y << 16), __uint_as_float(w.y & 0xffff0000u));
}
__device__ inline void store_quad(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }
__device__ inline void store_quad(__nv_bfloat16* p, float4 x) {
  const __nv_bfloat162 lo = __floats2bfloat162_rn(x.x, x.y), hi = __floats2bfloat162_rn(x.z, x.w);
  *reinterpret_cast<uint2*>(p) =
      make_uint2(*reinterpret_cast<const uint32_t*>(&lo), *reinterpret_cast<const uint32_t*>(&hi));
}
template <Access kAccess, class T>
__device__ inline float4 load_quad_piece(const T* row, int c, int cols) {
  float4 v = make_float4(0, 0, 0, 0);
  if constexpr (kAccess == Access::kVector) {
    if (c < cols) v = load_quad(row + c);
  } else {
    if (c < cols) v.x = load_one(row + c);
    if (c + 1 < cols) v.y = load_one(row + c + 1);
    if (c + 2 < cols) v.z = load_one(row + c + 2);
    if (c + 3 < cols) v.w = load_one(row + c + 3);
  }
  return v;
}
template <Access kAccess, class T>
__device__ inline void store_quad_piece(T* row, int c, int cols, float4 v) {
  if constexpr (kAccess == Access::kVector) {
    if (c < cols) store_quad(row + c, v);
  } else {
    if (c < cols) store_one(row + c, v.x);
    if (c + 1 < cols) store_one(row + c + 1, v.y);
    if (c + 2 < cols) store_one(row + c + 2, v.z);
    if (c + 3 < cols) store_one(row + c + 3, v.w);
  }
}

}  // namespace contender::cuda
