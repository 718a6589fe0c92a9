#include "numeric/float_formats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace ptxsim::numeric {
namespace {

// The value of a code, from the definition of the format.
double decode(const Format& f, uint32_t code) {
  const int top = f.exponent_bits + f.mantissa_bits;
  const uint32_t magnitude = code & ((1u << top) - 1);
  const double sign = code >> top & 1 ? -1 : 1;
  if (f.infinity == f.nan ? magnitude == f.nan : magnitude > f.infinity) return NAN;
  if (f.infinity != f.nan && magnitude == f.infinity) return sign * INFINITY;
  const int exponent = static_cast<int>(magnitude >> f.mantissa_bits);
  const double fraction = std::ldexp(magnitude & ((1u << f.mantissa_bits) - 1), -f.mantissa_bits);
  return sign *
         (exponent == 0 ? std::ldexp(fraction, 1 - f.bias) : std::ldexp(1 + fraction, exponent - f.bias));
}

// Values of the finite positive codes of a format, ascending; made once per format.
const std::vector<double>& values(const Format& f) {
  static std::vector<double> tables[9][11];
  std::vector<double>& table = tables[f.exponent_bits][f.mantissa_bits];
  for (uint32_t c = static_cast<uint32_t>(table.size()); c <= f.max_finite; ++c)
    table.push_back(decode(f, c));
  return table;
}

// Rounds by searching the neighbours among the codes of the format, which ascend with the magnitude.
uint32_t expected(const Format& f, Round round, Overflow overflow, double x) {
  const uint32_t sign = std::signbit(x) ? 1u << (f.exponent_bits + f.mantissa_bits) : 0;
  if (std::isnan(x)) return f.nan;
  const double m = std::fabs(x);
  if (std::isinf(m)) return sign | (overflow == Overflow::kFinite ? f.max_finite : f.infinity);
  const std::vector<double>& value = values(f);
  const uint32_t low =
      static_cast<uint32_t>(std::upper_bound(value.begin(), value.end(), m) - value.begin()) - 1;
  const uint32_t high = low + 1;  // the next code, or the place of 2^(emax + 1)
  const double below = value[low];
  const double above = high <= f.max_finite ? value[high] : 2 * below - value[low - 1];
  bool up = false;
  if (m != below) {
    const double middle = (below + above) / 2;
    switch (round) {
      case Round::kNearestEven:
        up = m > middle || (m == middle && (low & 1));
        break;
      case Round::kNearestAway:
        up = m >= middle;
        break;
      case Round::kZero:
        break;
      case Round::kDown:
        up = sign != 0;
        break;
      case Round::kUp:
        up = sign == 0;
        break;
    }
  }
  if (up && high > f.max_finite) return sign | (overflow == Overflow::kFinite ? f.max_finite : f.infinity);
  return sign | (up ? high : low);
}

// Every finite code, its neighbours at a quarter and three quarters of the way, the exact middle and one f32
// step beside.
std::vector<float> interesting(const Format& f) {
  std::vector<float> values;
  const uint32_t step = f.max_finite > 0x8000 ? 7 : 1;  // tf32: every seventh code
  for (uint32_t c = 0; c <= f.max_finite; c += step) {
    const double low = decode(f, c);
    const double high = c < f.max_finite ? decode(f, c + 1) : 2 * low - decode(f, c - 1);
    for (double t : {0.0, 0.25, 0.5, 0.75}) {
      const float v = static_cast<float>(low + t * (high - low));
      for (float w : {v, std::nextafterf(v, 0.0f), std::nextafterf(v, INFINITY)}) {
        values.push_back(w);
        values.push_back(-w);
      }
    }
  }
  for (float v :
       {0.0f, 1e-45f, 1e-39f, 1e38f, 3.4e38f, 65519.99f, 65520.0f, 464.0f, 465.0f, 61440.0f, INFINITY, NAN}) {
    values.push_back(v);
    values.push_back(-v);
  }
  return values;
}

template <Format F, Round kRound, Overflow kOverflow>
void check_narrow() {
  for (float v : interesting(F)) {
    const uint32_t bits = std::bit_cast<uint32_t>(v);
    const uint32_t want = expected(F, kRound, kOverflow, v);
    ASSERT_EQ((narrow<F, kRound, kOverflow>(bits)), want)
        << std::hexfloat << v << " mode " << static_cast<int>(kRound);
  }
}

template <Format F>
void check_all_modes() {
  check_narrow<F, Round::kNearestEven, Overflow::kInfinity>();
  check_narrow<F, Round::kNearestEven, Overflow::kFinite>();
  check_narrow<F, Round::kZero, Overflow::kInfinity>();
  check_narrow<F, Round::kZero, Overflow::kFinite>();
  check_narrow<F, Round::kDown, Overflow::kInfinity>();
  check_narrow<F, Round::kUp, Overflow::kInfinity>();
  check_narrow<F, Round::kNearestAway, Overflow::kInfinity>();
}

TEST(FloatFormats, NarrowF16EveryCodeAndMode) { check_all_modes<kF16>(); }
TEST(FloatFormats, NarrowBf16EveryCodeAndMode) { check_all_modes<kBf16>(); }
TEST(FloatFormats, NarrowTf32EveryMode) { check_all_modes<kTf32>(); }
TEST(FloatFormats, NarrowE5m2EveryCodeAndMode) { check_all_modes<kE5m2>(); }
TEST(FloatFormats, NarrowE4m3EveryCodeAndMode) {
  check_narrow<kE4m3, Round::kNearestEven, Overflow::kFinite>();
  check_narrow<kE4m3, Round::kNearestEven, Overflow::kInfinity>();  // beyond 464: NaN
  check_narrow<kE4m3, Round::kZero, Overflow::kFinite>();
}

template <Format F>
void check_widen() {
  for (uint32_t c = 0; c < 2u << (F.exponent_bits + F.mantissa_bits); ++c) {
    const double want = decode(F, c);
    const uint32_t got = widen<F>(c);
    if (std::isnan(want)) {
      ASSERT_TRUE(is_nan_f32(got)) << c;
      if (F.exponent_bits < 8) {
        ASSERT_EQ(got, kCanonicalNanF32);
      }
    } else {
      ASSERT_EQ(got, std::bit_cast<uint32_t>(static_cast<float>(want))) << c;
      ASSERT_EQ((narrow<F, Round::kUp, Overflow::kInfinity>(got)), c);
    }
  }
}

TEST(FloatFormats, WidenEveryCodeAndBack) {
  check_widen<kF16>();
  check_widen<kBf16>();
  check_widen<kTf32>();
  check_widen<kE4m3>();
  check_widen<kE5m2>();
}

TEST(FloatFormats, Bf16KeepsNanPayload) { EXPECT_EQ(widen<kBf16>(0xff81), 0xff810000u); }

TEST(FloatFormats, Fp8ToF16EveryCode) {
  for (int c = 0; c < 256; ++c) {
    for (const bool e5m2 : {false, true}) {
      const double want = decode(e5m2 ? kE5m2 : kE4m3, c);
      const uint8_t code = static_cast<uint8_t>(c);
      const uint16_t got = e5m2 ? fp8_to_f16<kE5m2>(code) : fp8_to_f16<kE4m3>(code);
      if (std::isnan(want)) {
        EXPECT_EQ(got, 0x7fff);
      } else {
        EXPECT_EQ(decode(kF16, got), want);
        EXPECT_EQ(got >> 15, c >> 7);
      }
    }
  }
}

// Values whose f32 rounding lies on a tie or changes sides: a second rounding would go wrong.
TEST(FloatFormats, DoubleRoundsOnce) {
  std::mt19937_64 random(7);
  std::vector<double> values = {1e300, -1e300, 1e-300, 5e-324, 0.0, -0.0, INFINITY, -INFINITY, 3.5e38};
  for (int i = 0; i < 20000; ++i) {
    const uint32_t code = random() % (kF16.max_finite + 1);
    const double middle = (decode(kF16, code) + decode(kF16, std::min(code + 1, kF16.max_finite))) / 2;
    values.push_back(std::nextafter(middle, i % 2 ? 1e9 : -1e9) * (i % 3 ? 1 : -1));
    values.push_back(std::ldexp(static_cast<double>(random()), static_cast<int>(random() % 400) - 260));
  }
  for (double v : values) {
    const uint32_t odd = round_to_odd(std::bit_cast<uint64_t>(v));
    ASSERT_EQ((narrow<kF16, Round::kNearestEven, Overflow::kInfinity>(odd)),
              expected(kF16, Round::kNearestEven, Overflow::kInfinity, v))
        << std::hexfloat << v;
    ASSERT_EQ((narrow<kBf16, Round::kNearestEven, Overflow::kInfinity>(odd)),
              expected(kBf16, Round::kNearestEven, Overflow::kInfinity, v))
        << std::hexfloat << v;
    ASSERT_EQ((narrow<kBf16, Round::kUp, Overflow::kInfinity>(odd)),
              expected(kBf16, Round::kUp, Overflow::kInfinity, v))
        << std::hexfloat << v;
    ASSERT_EQ((narrow<kE5m2, Round::kZero, Overflow::kFinite>(odd)),
              expected(kE5m2, Round::kZero, Overflow::kFinite, v))
        << std::hexfloat << v;
  }
  EXPECT_EQ(round_to_odd(0x7ff0000000000001), kCanonicalNanF32);
}

TEST(FloatFormats, Tf32InItsRegister) {
  constexpr auto kRna = Round::kNearestAway;
  EXPECT_EQ((to_tf32<kRna, Overflow::kInfinity>(0x3f801000)), 0x3f802000u);
  EXPECT_EQ((to_tf32<kRna, Overflow::kInfinity>(0x3f800fff)), 0x3f800000u);
  EXPECT_EQ((to_tf32<kRna, Overflow::kInfinity>(0xbf801000)), 0xbf802000u);
  EXPECT_EQ((to_tf32<kRna, Overflow::kInfinity>(0x7f7fffff)), 0x7f800000u);
  EXPECT_EQ((to_tf32<kRna, Overflow::kFinite>(0x7f7fffff)), 0x7f7fe000u);
  EXPECT_EQ((to_tf32<kRna, Overflow::kFinite>(0xff800000)), 0xff7fe000u);
  EXPECT_EQ((to_tf32<kRna, Overflow::kInfinity>(0x7fc12345)), 0x7fc12000u);
  EXPECT_EQ((to_tf32<Round::kNearestEven, Overflow::kInfinity>(0x3f801000)), 0x3f800000u);
  EXPECT_EQ((to_tf32<Round::kZero, Overflow::kInfinity>(0x3f803fff)), 0x3f802000u);
  EXPECT_EQ((to_tf32<Round::kZero, Overflow::kInfinity>(0xffc00000)), kCanonicalNanF32);
  // Random finite values against the format's own rounding.
  std::mt19937 random(3);
  for (int i = 0; i < 10000; ++i) {
    const uint32_t bits = static_cast<uint32_t>(random());
    if ((bits & 0x7f800000) == 0x7f800000) continue;
    ASSERT_EQ((to_tf32<kRna, Overflow::kInfinity>(bits)),
              (narrow<kTf32, kRna, Overflow::kInfinity>(bits) << 13));
  }
}

TEST(FloatFormats, ReluClearsNegativesOnly) {
  EXPECT_EQ(relu_f32(std::bit_cast<uint32_t>(-1.5f)), 0u);
  EXPECT_EQ(relu_f32(0x80000000), 0u);
  EXPECT_EQ(relu_f32(std::bit_cast<uint32_t>(1.5f)), std::bit_cast<uint32_t>(1.5f));
  EXPECT_TRUE(is_nan_f32(relu_f32(0xffc00000)));
  EXPECT_EQ(relu_f32(std::bit_cast<uint32_t>(-INFINITY)), 0u);
}

}  // namespace
}  // namespace ptxsim::numeric
