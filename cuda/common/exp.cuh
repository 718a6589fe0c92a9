// exp and sigmoid in FP32 with the bits of the CPU backend (csrc/cpu/vec_math.h): every operation is rounded
// once and every fused multiply-add is written out. Where a selection or a draw hangs on the value, so that
// both backends choose alike.
#pragma once

#include <cuda_runtime.h>

namespace contender::cuda {

// x = n ln2 + r; exp(r) = 1 + r + r^2 q(r), q a minimax polynomial of degree 5.
struct ReducedExp {
  float exp_r;
  int n;  // in the low bits, below those of 1.5 * 2^23
};
__device__ inline ReducedExp reduced_exp(float x) {
  constexpr float kShift = 0x1.8p23f;  // adding it rounds to an integer, which stands in the low bits
  const float shifted = fmaf(x, 0x1.715476p0f, kShift);
  const float n = __fsub_rn(shifted, kShift);
  float r = fmaf(-n, 0x1.62e4p-1f, x);
  r = fmaf(-n, 0x1.7f7d1cp-20f, r);
  float q = 0x1.9f077ap-13f;
  q = fmaf(q, r, 0x1.6d8e6ep-10f);
  q = fmaf(q, r, 0x1.111274p-7f);
  q = fmaf(q, r, 0x1.55548cp-5f);
  q = fmaf(q, r, 0x1.555554p-3f);
  q = fmaf(q, r, 0x1p-1f);
  return {__fadd_rn(fmaf(__fmul_rn(r, r), q, r), 1.0f), __float_as_int(shifted)};
}

// Within 1.1 ulp, subnormal results included; exp(0) = 1, exp(-inf) = 0, exp(NaN) = NaN.
__device__ inline float exp_f32(float x) {
  x = x > 89.0f ? 89.0f : x;  // a NaN passes both
  x = x < -105.0f ? -105.0f : x;
  const ReducedExp e = reduced_exp(x);
  // 2^n in two factors, so that subnormal results are rounded once and overflow is infinity.
  const int k = e.n - 0x4B400000, half = k >> 1;
  return __fmul_rn(__fmul_rn(e.exp_r, __int_as_float((half + 127) << 23)),
                   __int_as_float((k - half + 127) << 23));
}

// The same for x <= 0 that is not a NaN, with fewer instructions: what would be below e^-87 is 0.
__device__ inline float exp_below_one(float x) {
  const ReducedExp e = reduced_exp(x);
  const float y = __int_as_float(__float_as_int(e.exp_r) + (e.n << 23));  // n goes into the exponent
  return x < -87.0f ? 0.0f : y;
}

__device__ inline float sigmoid_f32(float x) { return __fdiv_rn(1.0f, __fadd_rn(1.0f, exp_f32(-x))); }

}  // namespace contender::cuda
