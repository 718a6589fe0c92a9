// ExactSum: a sum of floats (or of their squares) whose value does not depend on the order of the terms.
//
// Every term is an integer multiple of 2^-298 below 2^257 (float squares are exact in double), so it is
// added, without rounding, into 32-bit digits held in 64-bit integers (a Kulisch accumulator). Integer
// addition is associative: ranks and threads may add in any order and merge with an integer all-reduce of
// `digits`, and the result is the same to the bit.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace contender {

class ExactSum {
 public:
  static constexpr int kDigits = 20;       // 640 bits
  static constexpr int kLowestBit = -320;  // weight of bit 0 of digit 0
  std::array<int64_t, kDigits> digits{};
  int64_t non_finite = 0;  // count of terms that were NaN or infinite

  void add(float v) { add_exact(static_cast<double>(v)); }
  void add_square(float v) { add_exact(static_cast<double>(v) * static_cast<double>(v)); }
  void merge(const ExactSum& o) {
    for (int i = 0; i < kDigits; ++i) digits[i] += o.digits[i];
    non_finite += o.non_finite;
  }
  // Adds value * 2^exponent, exponent >= kLowestBit: many terms of one exponent at once.
  void add_scaled(uint64_t value, int exponent) {
    add_digits(static_cast<unsigned __int128>(value), exponent - kLowestBit, 1);
  }
  // The sum rounded once to double, to nearest even; NaN when a term was not finite.
  double value() const {
    if (non_finite != 0) return std::nan("");
    std::array<int64_t, kDigits> d = carried(digits);
    const bool negative = d[kDigits - 1] < 0;
    if (negative) {
      for (int64_t& digit : d) digit = -digit;
      d = carried(d);
    }
    int top = kDigits - 1;
    while (top > 2 && d[top] == 0) --top;
    unsigned __int128 leading = 0;  // three digits; all below only decide a tie
    for (int i = top; i > top - 3; --i) leading = leading << 32 | static_cast<uint64_t>(d[i]);
    for (int i = top - 3; i >= 0; --i) leading |= d[i] != 0;
    const double magnitude = std::ldexp(static_cast<double>(leading), kLowestBit + 32 * (top - 2));
    return negative ? -magnitude : magnitude;
  }

 private:
  // v must be representable with its lowest bit >= 2^kLowestBit (any float, or the square of one). Up to 2^30
  // terms.
  void add_exact(double v) {
    const uint64_t bits = std::bit_cast<uint64_t>(v);
    const int exponent = static_cast<int>((bits >> 52) & 0x7FF);
    if (exponent == 0x7FF) [[unlikely]] {
      ++non_finite;
      return;
    }
    if (exponent == 0) return;  // zero: a square of a float is never subnormal in double
    const uint64_t mantissa = (bits & ((uint64_t{1} << 52) - 1)) | (uint64_t{1} << 52);
    const int shift = exponent - 1075 - kLowestBit;  // below 0 only where that many low bits are zero
    const int64_t sign = (bits >> 63) ? -1 : 1;
    if (shift >= 0) {
      add_digits(mantissa, shift, sign);
    } else {
      add_digits(mantissa >> -shift, 0, sign);
    }
  }
  void add_digits(unsigned __int128 value, int shift, int64_t sign) {
    const unsigned __int128 wide = value << (shift & 31);
    int64_t* digit = &digits[static_cast<size_t>(shift >> 5)];
    for (int i = 0; i < 3; ++i)
      digit[i] += sign * static_cast<int64_t>(static_cast<uint32_t>(wide >> (32 * i)));
  }
  // The same number with every digit but the last in [0, 2^32).
  static std::array<int64_t, kDigits> carried(std::array<int64_t, kDigits> d) {
    for (int i = 0; i + 1 < kDigits; ++i) {
      d[i + 1] += d[i] >> 32;
      d[i] &= 0xFFFFFFFF;
    }
    return d;
  }
};

}  // namespace contender
