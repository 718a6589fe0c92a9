// Small floating-point formats by their definition: the value of a pattern, and the pattern nearest to an
// exact value found by search.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ptxsim::testing {

using Quad = __float128;

enum class Rounding { kNearest, kZero, kDown, kUp };

struct Format {
  const char* name;
  int mantissa, bias;
  uint32_t infinity;  // the pattern behind the largest value: of infinity, or of NaN where there is none
  uint32_t one;
  int bits = 16;

  uint64_t sign() const { return uint64_t{1} << (bits - 1); }
  bool is_nan(uint64_t x) const { return (x & (sign() - 1)) > infinity; }
  // Of a pattern without sign; that of infinity stands for the value that would come behind the largest one.
  Quad magnitude(int64_t x) const {
    const int64_t exponent = x >> mantissa, fraction = x & ((int64_t{1} << mantissa) - 1);
    const int64_t significand = exponent ? fraction | int64_t{1} << mantissa : fraction;
    return Quad(significand) *
           Quad(std::ldexp(1.0, static_cast<int>(std::max<int64_t>(exponent, 1)) - bias - mantissa));
  }
  double value(uint64_t x) const {
    const double s = x & sign() ? -1 : 1;
    if (is_nan(x)) return std::numeric_limits<double>::quiet_NaN();
    if ((x & (sign() - 1)) == infinity) return s * std::numeric_limits<double>::infinity();
    return s * static_cast<double>(magnitude(static_cast<int64_t>(x & (sign() - 1))));
  }
};
inline constexpr Format kF16{"f16", 10, 15, 0x7c00, 0x3c00};
inline constexpr Format kBf16{"bf16", 7, 127, 0x7f80, 0x3f80};
inline constexpr Format kHalfFormats[] = {kF16, kBf16};

// The exact value s + e, e far below s, finite and not zero.
inline uint64_t rounded(const Format& f, Quad s, Quad e, Rounding mode = Rounding::kNearest,
                        bool to_finite = false) {
  const bool negative = s < 0;
  const uint64_t sign = negative ? f.sign() : 0;
  if (negative) s = -s, e = -e;
  const auto above = [&](Quad v) { return s > v || (s == v && e > 0); };
  const auto equal = [&](Quad v) { return s == v && e == 0; };
  int64_t low = 0, high = f.infinity;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (above(f.magnitude(middle)) || equal(f.magnitude(middle)) ? low : high) = middle;
  }
  const Quad half = (f.magnitude(low) + f.magnitude(high)) / 2;
  bool up = above(half) || (equal(half) && low % 2 == 1);
  if (mode == Rounding::kZero) up = false;
  if (mode == Rounding::kDown) up = negative && !equal(f.magnitude(low));
  if (mode == Rounding::kUp) up = !negative && !equal(f.magnitude(low));
  if (to_finite) up = up && high != f.infinity;
  return sign | static_cast<uint64_t>(up ? high : low);
}

}  // namespace ptxsim::testing
