// ExactSum: a sum of floats (or of their squares) whose value does not depend on the order of the terms.
//
// Every term is an integer multiple of 2^-298 below 2^257 (float squares are exact in double), so it is added, without
// rounding, into 32-bit digits held in 64-bit integers (a Kulisch accumulator). Integer addition is associative: ranks and
// threads may add in any order and merge with an integer all-reduce of `digits`, and the result is the same to the bit.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace contender {

class ExactSum {
 public:
  static constexpr int kDigits = 20;      // 640 bits
  static constexpr int kLowestBit = -320;  // weight of bit 0 of digit 0
  std::array<int64_t, kDigits> digits{};
  int64_t non_finite = 0;  // count of terms that were NaN or infinite

  void add(float v) { add_exact(static_cast<double>(v)); }
  void add_square(float v) { add_exact(static_cast<double>(v) * static_cast<double>(v)); }
  void merge(const ExactSum& o) {
    for (int i = 0; i < kDigits; ++i) digits[i] += o.digits[i];
    non_finite += o.non_finite;
  }
  // The sum rounded once to double; NaN when a term was not finite.
  double value() const {
    if (non_finite != 0) return std::nan("");
    std::array<int64_t, kDigits> d = digits;  // carry, so that all digits but the last lie in [0, 2^32)
    for (int i = 0; i + 1 < kDigits; ++i) {
      d[i + 1] += d[i] >> 32;
      d[i] &= 0xFFFFFFFF;
    }
    double sum = 0;  // most significant first; a fixed order, so the rounding is the same everywhere
    for (int i = kDigits - 1; i >= 0; --i) sum += std::ldexp(static_cast<double>(d[i]), kLowestBit + 32 * i);
    return sum;
  }

 private:
  // v must be representable with its lowest bit >= 2^kLowestBit (any float, or the square of one). Up to 2^30 terms.
  void add_exact(double v) {
    const uint64_t bits = std::bit_cast<uint64_t>(v);
    const int exponent = static_cast<int>((bits >> 52) & 0x7FF);
    if (exponent == 0x7FF) [[unlikely]] {
      ++non_finite;
      return;
    }
    if (exponent == 0) return;  // zero: a square of a float is never subnormal in double
    const uint64_t mantissa = (bits & ((uint64_t{1} << 52) - 1)) | (uint64_t{1} << 52);
    const int shift = exponent - 1075 - kLowestBit;  // position of the mantissa's lowest bit, may be below 0 with zeros there
    const unsigned __int128 wide = shift >= 0 ? static_cast<unsigned __int128>(mantissa) << (shift & 31)
                                              : static_cast<unsigned __int128>(mantissa >> -shift);
    const int digit = shift >= 0 ? shift >> 5 : 0;
    const int64_t sign = (bits >> 63) ? -1 : 1;
    digits[digit] += sign * static_cast<int64_t>(static_cast<uint32_t>(wide));
    digits[digit + 1] += sign * static_cast<int64_t>(static_cast<uint32_t>(wide >> 32));
    digits[digit + 2] += sign * static_cast<int64_t>(static_cast<uint32_t>(wide >> 64));
  }
};

}  // namespace contender
