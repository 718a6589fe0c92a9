// Number formats on the host, from their definitions: a double to and from f16, bf16, tf32, e4m3, e5m2 in any
// rounding.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace silicon {

struct Format {
  int bits, exponent, mantissa;  // widths
  bool has_infinity;             // e4m3 has none: all ones is its only NaN
  int bias() const { return (1 << (exponent - 1)) - 1; }
};
constexpr Format kF32{32, 8, 23, true}, kF16{16, 5, 10, true}, kBf16{16, 8, 7, true}, kTf32{19, 8, 10, true},
    kE5m2{8, 5, 2, true}, kE4m3{8, 4, 3, false};

inline double decode(const Format& f, uint32_t v) {
  const uint32_t m = v & ((1u << f.mantissa) - 1), e = v >> f.mantissa & ((1u << f.exponent) - 1);
  const double sign = v >> (f.bits - 1) & 1 ? -1 : 1;
  const uint32_t top = (1u << f.exponent) - 1;
  if (f.has_infinity && e == top) return m ? std::copysign(NAN, sign) : sign * INFINITY;
  if (!f.has_infinity && e == top && m == (1u << f.mantissa) - 1) return std::copysign(NAN, sign);
  return sign * (e ? std::ldexp(m + double(1u << f.mantissa), int(e) - f.bias() - f.mantissa)
                   : std::ldexp(double(m), 1 - f.bias() - f.mantissa));
}

inline double largest(const Format& f) {
  const uint32_t top = (1u << f.exponent) - 1;
  return decode(f, f.has_infinity ? ((top - 1) << f.mantissa | ((1u << f.mantissa) - 1))
                                  : (top << f.mantissa | ((1u << f.mantissa) - 2)));
}

enum class Round { kNearestEven, kNearestAway, kZero, kDown, kUp };

// The bits of x in format f. `saturate`: to the largest finite number instead of infinity (or e4m3's NaN).
inline uint32_t encode(const Format& f, double x, Round mode = Round::kNearestEven, bool saturate = false) {
  const uint32_t sign = uint32_t(std::signbit(x)) << (f.bits - 1);
  const uint32_t ones = (1u << (f.bits - 1)) - 1;
  const uint32_t infinity = ((1u << f.exponent) - 1) << f.mantissa;
  if (x != x) return f.bits == 8 ? 0x7F : ones;
  const double a = std::fabs(x);
  const uint32_t beyond = sign | (f.has_infinity ? infinity : ones);
  if (a == INFINITY && !saturate) return beyond;
  int e = 0;
  std::frexp(a, &e);
  const double unit = std::ldexp(1.0, std::max(e - 1, 1 - f.bias()) - f.mantissa);
  const double scaled = a / unit;  // exact: unit is a power of two
  double r = std::floor(scaled);
  const double rest = scaled - r;
  switch (mode) {
    case Round::kNearestEven:
      r += rest > 0.5 || (rest == 0.5 && std::fmod(r, 2) == 1);
      break;
    case Round::kNearestAway:
      r += rest >= 0.5;
      break;
    case Round::kZero:
      break;
    case Round::kDown:
      r += rest > 0 && sign;
      break;
    case Round::kUp:
      r += rest > 0 && !sign;
      break;
  }
  const double rounded = r * unit, max = largest(f);
  if (a == INFINITY || rounded > max) {
    const bool toward_zero =
        mode == Round::kZero || (mode == Round::kDown && !sign) || (mode == Round::kUp && sign);
    if (!saturate && !(toward_zero && a != INFINITY)) return beyond;
    return encode(f, std::copysign(max, x));
  }
  if (rounded == 0) return sign;
  std::frexp(rounded, &e);
  const int exponent = e - 1 + f.bias();
  if (exponent < 1) return sign | uint32_t(std::ldexp(rounded, f.bias() - 1 + f.mantissa));
  return sign | uint32_t(exponent) << f.mantissa |
         (uint32_t(std::ldexp(rounded, f.mantissa - e + 1)) & ((1u << f.mantissa) - 1));
}

// a + b as a double whose last bit is set when the sum is not exact, so that rounding it once more, to a
// shorter format, gives what rounding the exact sum gives.
inline double add_sticky(double a, double b) {
  const double s = a + b;
  if (!std::isfinite(s)) return s;
  const double t = s - a, error = (a - (s - t)) + (b - t);
  uint64_t bits;
  std::memcpy(&bits, &s, 8);
  if (error == 0 || bits & 1) return s;
  bits += (error > 0) == (s > 0) ? 1 : -1;
  double r;
  std::memcpy(&r, &bits, 8);
  return r;
}

// min and max of the ISA: a number beats a NaN, -0 is below +0.
template <typename T>
T minimum(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  return a == b ? (std::signbit(a) ? a : b) : std::min(a, b);
}
template <typename T>
T maximum(T a, T b) {
  return -minimum(-a, -b);
}
// .NaN: a NaN wins.
template <typename T>
T nan_or(T v, T a, T b) {
  return a != a || b != b ? T(NAN) : v;
}
// .xorsign: the sign of the product.
template <typename T>
T xorsign(T v, T a, T b) {
  return std::copysign(v, std::signbit(a) != std::signbit(b) ? T(-1) : T(1));
}

}  // namespace silicon
