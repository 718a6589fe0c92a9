// Block-scaled E4M3 as ops/quantize.h defines it, bit for bit: scale = amax / 448, of activations rounded up
// to a power of two; code = rn(x / scale). Of a NaN's code only the sign is not kept.
#pragma once

#include <cuda_fp16.h>

#include "cuda/common/rows.cuh"

namespace contender::cuda {

inline constexpr int kQuantizeBlock = 128;
inline constexpr float kE4m3Max = 448.0f;

// Two floats to two codes, `low` in the low byte; saturating, to nearest even.
__device__ inline uint16_t cvt_e4m3x2(float low, float high) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  return codes;
}
// Two codes to two halves, the low byte in the low one; exact.
__device__ inline uint32_t cvt_f16x2(uint16_t codes) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
  return halves;
}

__device__ inline float2 decode_e4m3x2(uint16_t codes) {
  const uint32_t halves = cvt_f16x2(codes);
  return __half22float2(*reinterpret_cast<const __half2*>(&halves));
}

// Codes of kCount quotients, four to a word.
template <int kCount>
__device__ inline void encode_quotients(const float* x, uint32_t* words) {
#pragma unroll
  for (int k = 0; k < kCount; k += 4)
    words[k / 4] = cvt_e4m3x2(x[k], x[k + 1]) | uint32_t{cvt_e4m3x2(x[k + 2], x[k + 3])} << 16;
}

// Of activations. To multiply by the inverse of a power of two is to divide.
class E4m3Scale {
 public:
  __device__ explicit E4m3Scale(float amax) {
    const float scale = __fdiv_rn(amax, kE4m3Max);
    constexpr uint32_t kMantissa = 0x7FFFFF, kSmallest = 0x00800000;
    const uint32_t up = max((__float_as_uint(scale) + kMantissa) & ~kMantissa, kSmallest);
    scale_ = scale == 0 ? 1.0f : __uint_as_float(up);
    inverse_ = __frcp_rn(scale_);
  }
  __device__ float value() const { return scale_; }
  __device__ float divide(float x) const { return x * inverse_; }
  template <int kCount>
  __device__ void encode(const float* x, uint32_t* words) const {
    float quotient[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) quotient[k] = divide(x[k]);
    encode_quotients<kCount>(quotient, words);
  }

 private:
  float scale_, inverse_;
};

// Of weights. Division by a scale, correctly rounded, with one reciprocal for all its quotients. The two
// corrections below are exact to the last bit (Markstein 1990) as long as no remainder that matters
// underflows and the divisor's mantissa is not all ones; other scales divide the long way.
class E4m3WeightScale {
 public:
  __device__ explicit E4m3WeightScale(float amax) {
    scale_ = __fdiv_rn(amax, kE4m3Max);
    if (scale_ == 0) scale_ = 1;
    inverse_ = __frcp_rn(scale_);
    short_ = scale_ > 0x1p-90f && scale_ < 0x1p90f && (__float_as_uint(scale_) & 0x7fffffu) != 0x7fffffu;
  }
  __device__ float value() const { return scale_; }
  __device__ float divide(float x) const {
    if (!short_) return __fdiv_rn(x, scale_);
    const float first = x * inverse_;
    const float second = fmaf(fmaf(-first, scale_, x), inverse_, first);
    return copysignf(fmaf(fmaf(-second, scale_, x), inverse_, second), x);  // -0 stays -0
  }
  template <int kCount>
  __device__ void encode(const float* x, uint32_t* words) const {
    float quotient[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) quotient[k] = divide(x[k]);
    encode_quotients<kCount>(quotient, words);
  }

 private:
  float scale_, inverse_;
  bool short_;
};

template <int kCount>
__device__ inline float abs_max(const float* x, float amax = 0) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) amax = fmaxf(amax, fabsf(x[k]));  // a NaN is not part of it
  return amax;
}

// Codes of columns [c, c + kCount) of a row.
template <Access kAccess, int kCount>
__device__ inline void store_codes(uint8_t* row, int c, int cols, const uint32_t* words) {
  if constexpr (kAccess == Access::kVector) {
    if (c >= cols) return;
    if constexpr (kCount == 4) *reinterpret_cast<uint32_t*>(row + c) = words[0];
    if constexpr (kCount == 8) *reinterpret_cast<uint2*>(row + c) = make_uint2(words[0], words[1]);
    if constexpr (kCount == 16)
      *reinterpret_cast<uint4*>(row + c) = make_uint4(words[0], words[1], words[2], words[3]);
  } else {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (c + k < cols) row[c + k] = static_cast<uint8_t>(words[k / 4] >> (8 * (k % 4)));
    }
  }
}

// One piece of a row of which 128 / kVec<T> neighbouring lanes hold a block: its codes, and by the first of
// those lanes its scale. All lanes of the warp come here.
template <Access kAccess, class T>
__device__ inline void quantize_piece(const Vec<T>& v, int c, int cols, uint8_t* codes, float* scales) {
  constexpr int kLanes = kQuantizeBlock / kVec<T>;
  float amax = abs_max<kVec<T>>(v.v);
#pragma unroll
  for (int o = kLanes / 2; o > 0; o >>= 1) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, o));
  const E4m3Scale scale(amax);
  uint32_t words[kVec<T> / 4];
  scale.template encode<kVec<T>>(v.v, words);
  store_codes<kAccess, kVec<T>>(codes, c, cols, words);
  if (c % kQuantizeBlock == 0 && c < cols) scales[c / kQuantizeBlock] = scale.value();
}

}  // namespace contender::cuda
