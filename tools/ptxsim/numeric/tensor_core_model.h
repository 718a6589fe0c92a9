// How the tensor cores of Hopper add, as numbers: the only file to change when it is compared with silicon
// again.
//
// One aligned sum: the exact products of up to `chunk` pairs and the accumulator are shifted to the largest
// exponent among them (that of a product is the sum of its factors' exponents, its significand in [1, 4)),
// each cut towards zero to `fraction_bits` bits behind the point, added exactly, normalised, and cut towards
// zero to `result_bits` fraction bits (f32 accumulators) or rounded to nearest even (f16 accumulators). A
// deeper product is a chain of such sums. Zeros take no part in the choice of the exponent; subnormals keep
// the smallest exponent of their format, and the f32 accumulator counts as 2^-126 at least. A sum of zero is
// +0. NaN results are 0x7fffffff (0x7fff). Sources: Xie, Wang, Yang, Yang 2025, "MMA-Sim: Bit-Accurate
// Reference Model of Tensor Cores and Matrix Cores" (their parameters for Hopper); Fasi, Higham, Mikaitis,
// Pranesh 2021, "Numerical behavior of NVIDIA tensor cores".
#pragma once

#include <cstdint>

namespace ptxsim::numeric {

struct SumModel {
  int chunk;          // products per aligned sum
  int fraction_bits;  // kept by every addend
  int result_bits;    // fraction bits of an f32 result
};

// wgmma, and mma.sync with 16- and 32-bit inputs, by input type.
inline constexpr SumModel kSum16Bit{16, 25, 23};  // f16, bf16
inline constexpr SumModel kSumTf32{8, 25, 23};
inline constexpr SumModel kSumFp8{32, 13, 13};  // wgmma only

// mma.sync with FP8 inputs has no instruction of its own on sm_90: the compiler converts to f16, multiplies
// the elements with k % 4 < 2, chains those with k % 4 >= 2 behind them from zero, and adds C with one
// rounding to nearest.
inline constexpr SumModel kSumFp8Mma = kSum16Bit;

// The two 32-bit partial sums of the implementation must hold half a chunk each and the accumulator.
constexpr bool fits(const SumModel& m) {
  const int64_t product = int64_t{4} << m.fraction_bits;
  return (m.chunk + 1) / 2 * product + product / 2 <= int64_t{1} << 31 && m.result_bits <= 23;
}
static_assert(fits(kSum16Bit) && fits(kSumTf32) && fits(kSumFp8));

}  // namespace ptxsim::numeric
