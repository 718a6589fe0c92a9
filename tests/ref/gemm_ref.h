// FP8 products, plainly: dequantised in double; the same sum with the tensor core's additions one at a time;
// and the measure of kernel_bars.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/gemm.h"

namespace contender::ref {

// sum over k of a b, each code times its scales.  a_at(i, k) -> code, sa(i, block); likewise b.
struct Fp8Operand {
  const uint8_t* codes;  // row i at codes + i * ld
  int64_t ld;
  const float* scale;  // of row i and block b at scale[i / rows_per_scale * scale_ld + b * scale_step]
  int64_t scale_ld;
  int64_t scale_step = 1;
  int64_t rows_per_scale = 1;

  uint8_t code(int64_t i, int64_t k) const { return codes[i * ld + k]; }
  float scale_at(int64_t i, int64_t block) const {
    return scale[i / rows_per_scale * scale_ld + block * scale_step];
  }
  double value(int64_t i, int64_t k, int64_t block) const {
    return double{e4m3_to_float(code(i, k))} * double{scale_at(i, block)};
  }
};

// Contracted indices [begin, end), blocks counted from begin.
inline double fp8_dot(const Fp8Operand& a, const Fp8Operand& b, int64_t i, int64_t j, int64_t begin,
                      int64_t end) {
  double sum = 0;
  for (int64_t k = begin; k < end; ++k)
    sum += a.value(i, k, (k - begin) / 128) * b.value(j, k, (k - begin) / 128);
  return sum;
}

// One addition of Hopper's tensor core: `count` products to `sum`. Cut towards zero 13 bits below the largest
// exponent (a product's is the sum of its factors'), and again behind 13 fraction bits of the result.
inline int e4m3_exponent(uint8_t code) { return std::max((code & 0x7F) >> 3, 1) - 7; }
inline double tensor_core_step(const uint8_t* a, const uint8_t* b, int64_t count, double sum) {
  int largest = sum == 0 ? -126 : std::ilogb(sum);
  for (int64_t k = 0; k < count; ++k) {
    if ((a[k] & 0x7F) != 0 && (b[k] & 0x7F) != 0)
      largest = std::max(largest, e4m3_exponent(a[k]) + e4m3_exponent(b[k]));
  }
  const auto cut = [](double x, int unit) { return std::ldexp(std::trunc(std::ldexp(x, -unit)), unit); };
  double total = cut(sum, largest - 13);
  for (int64_t k = 0; k < count; ++k)
    total += cut(double{e4m3_to_float(a[k])} * double{e4m3_to_float(b[k])}, largest - 13);
  return total == 0 ? 0 : cut(total, std::ilogb(total) - 13);
}

// The chain of the contract, promoted every `promote` of k. 128 is the contract; more is what a kernel that
// forgets the promotion computes, right only where all scales are equal.
inline float fp8_chain(const Fp8Operand& a, const Fp8Operand& b, int64_t i, int64_t j, int64_t begin,
                       int64_t end, int64_t promote = 128) {
  float d = 0;
  for (int64_t k = begin; k < end; k += promote) {
    const int64_t last = std::min(k + promote, end);
    double part = 0;
    for (int64_t s = k; s < last; s += 32)
      part = tensor_core_step(a.codes + i * a.ld + s, b.codes + j * b.ld + s, std::min<int64_t>(32, last - s),
                              part);
    const int64_t block = (k - begin) / 128;
    d = std::fma(static_cast<float>(part), a.scale_at(i, block) * b.scale_at(j, block), d);
  }
  return d;
}

// 1 - 2 <x, y> / (<x, x> + <y, y>)
inline double calc_diff(const std::vector<double>& x, const std::vector<double>& y) {
  double difference = 0, squares = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    difference += (x[i] - y[i]) * (x[i] - y[i]);
    squares += x[i] * x[i] + y[i] * y[i];
  }
  return squares == 0 ? 0 : difference / squares;
}

}  // namespace contender::ref
