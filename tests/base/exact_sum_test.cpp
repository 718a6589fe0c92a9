#include "base/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "base/philox.h"

namespace contender {
namespace {

constexpr float kHuge = std::numeric_limits<float>::max();
constexpr float kTiny = std::numeric_limits<float>::denorm_min();

ExactSum sum_of(const std::vector<float>& v) {
  ExactSum s;
  for (float x : v) s.add(x);
  return s;
}

// Any bit pattern that is finite: all exponents, subnormals, both signs.
std::vector<float> any_floats(int n, uint64_t seed) {
  std::vector<float> v;
  for (uint64_t i = 0; v.size() < static_cast<size_t>(n); ++i) {
    const float f = std::bit_cast<float>(philox(seed, RandomStream::kTest, i)[0]);
    if (std::isfinite(f)) v.push_back(f);
  }
  return v;
}

TEST(ExactSum, EmptyAndSigns) {
  EXPECT_EQ(ExactSum().value(), 0.0);
  EXPECT_EQ(sum_of({0.0f, -0.0f}).value(), 0.0);
  EXPECT_EQ(sum_of({1.0f}).value(), 1.0);
  EXPECT_EQ(sum_of({-1.0f}).value(), -1.0);
  EXPECT_EQ(sum_of({1.0f, -1.5f}).value(), -0.5);
  EXPECT_EQ(sum_of({3.0f, -3.0f}).value(), 0.0);
}

TEST(ExactSum, SingleTermsAndSquaresAreExact) {
  std::vector<float> values = any_floats(2000, 1);
  for (float f : {kHuge, -kHuge, kTiny, -kTiny, 1.17549435e-38f, 1.0f, 0.1f}) values.push_back(f);
  for (float f : values) {
    ExactSum one, square;
    one.add(f);
    square.add_square(f);
    EXPECT_EQ(one.value(), static_cast<double>(f));
    EXPECT_EQ(square.value(), static_cast<double>(f) * static_cast<double>(f)) << f;
  }
}

TEST(ExactSum, TinyTermsSurviveHugeOnes) {
  EXPECT_EQ(sum_of({kHuge, kTiny, -kHuge}).value(), static_cast<double>(kTiny));
  EXPECT_EQ(sum_of({-kHuge, -kTiny, kHuge}).value(), -static_cast<double>(kTiny));
  ExactSum s;
  s.add_square(kHuge);
  s.add_square(kTiny);
  ExactSum without;
  without.add_square(kHuge);
  for (int i = 0; i < ExactSum::kDigits; ++i) s.digits[i] -= without.digits[i];
  EXPECT_EQ(s.value(), std::ldexp(1.0, -298));
}

TEST(ExactSum, AnyOrderAndAnyMergeGiveTheSameBits) {
  std::vector<float> v = any_floats(3000, 2);
  const double forward = sum_of(v).value();
  for (uint64_t round = 0; round < 5; ++round) {
    for (size_t i = v.size() - 1; i > 0; --i) {
      std::swap(v[i], v[philox(3, RandomStream::kTest, round * v.size() + i)[0] % (i + 1)]);
    }
    ExactSum parts[3];
    for (size_t i = 0; i < v.size(); ++i) parts[(i * i) % 3].add(v[i]);
    parts[2].merge(parts[0]);
    parts[2].merge(parts[1]);
    EXPECT_EQ(std::bit_cast<uint64_t>(parts[2].value()), std::bit_cast<uint64_t>(forward));
  }
}

// 2^53 + 1 is a tie, broken upwards by anything below it; 2^53 + 3 rounds to even.
TEST(ExactSum, RoundsOnceToNearestEven) {
  const float big = 0x1p53f;
  EXPECT_EQ(sum_of({big, 1.0f}).value(), 0x1p53);
  EXPECT_EQ(sum_of({big, 1.0f, kTiny}).value(), 0x1p53 + 2);
  EXPECT_EQ(sum_of({big, 1.0f, -kTiny}).value(), 0x1p53);
  EXPECT_EQ(sum_of({big, 3.0f}).value(), 0x1p53 + 4);
  EXPECT_EQ(sum_of({-big, -1.0f, -kTiny}).value(), -(0x1p53 + 2));
}

// Integers below 2^24 sum exactly in int64.
TEST(ExactSum, AgreesWithIntegers) {
  ExactSum s, squares;
  int64_t want = 0, want_squares = 0;
  for (uint64_t i = 0; i < 100000; ++i) {
    const int64_t k = static_cast<int64_t>(philox(4, RandomStream::kTest, i)[0] >> 8) - (1 << 23);
    s.add(static_cast<float>(k));
    want += k;
    squares.add_square(static_cast<float>(k >> 6));
    want_squares += (k >> 6) * (k >> 6);
  }
  EXPECT_EQ(s.value(), static_cast<double>(want));
  EXPECT_EQ(squares.value(), static_cast<double>(want_squares));
}

TEST(ExactSum, AddScaledIsManyTerms) {
  ExactSum a, b;
  for (int i = 0; i < 1000; ++i) a.add_square(0x1.8p-40f);  // 9 * 2^-82 each
  b.add_scaled(9000, -82);
  EXPECT_EQ(a.value(), b.value());
  EXPECT_EQ(b.value(), 9000 * 0x1p-82);
  ExactSum c;
  c.add_scaled(~uint64_t{0}, 31);
  EXPECT_EQ(c.value(), 0x1p95);
}

TEST(ExactSum, NonFiniteTermsAreCounted) {
  ExactSum s = sum_of(
      {1.0f, std::nanf(""), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()});
  s.add_square(std::nanf(""));
  EXPECT_EQ(s.non_finite, 4);
  EXPECT_TRUE(std::isnan(s.value()));
  ExactSum t = sum_of({1.0f});
  t.merge(s);
  EXPECT_TRUE(std::isnan(t.value()));
}

}  // namespace
}  // namespace contender
