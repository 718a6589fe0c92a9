#include "cpu/vec_math.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace contender::cpu {
namespace {

float from_bits(uint32_t bits) { return std::bit_cast<float>(bits); }

// Every 1031st float of the whole range: all exponents, both signs, subnormals, infinities and NaN.
std::vector<float> sample_floats() {
  std::vector<float> v;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 1031)
    v.push_back(from_bits(static_cast<uint32_t>(bits)));
  while (v.size() % kFloatLanes != 0) v.push_back(0.0f);
  return v;
}

TEST(VecMath, ExpIsWithinItsErrorOverTheWholeRange) {
  double worst = 0;
  for (int i = -2'200'000; i <= 1'800'000; ++i) {
    const float x = static_cast<float>(i) * 5e-5f;  // -110 ... 90
    const double want = std::exp(static_cast<double>(x));
    const float got = scalar_exp(x);
    if (want > std::numeric_limits<float>::max()) {
      ASSERT_GE(got, std::numeric_limits<float>::max()) << x;
      continue;
    }
    const float near = static_cast<float>(want);
    const double ulp = static_cast<double>(std::nextafterf(near, INFINITY)) - near;
    worst = std::max(worst, std::abs(got - want) / ulp);
  }
  EXPECT_LE(worst, 1.1);
}

TEST(VecMath, VectorAndScalarHaveTheSameBits) {
  const FloatTag d;
  const std::vector<float> x = sample_floats();
  alignas(64) float exp[kFloatLanes], sigmoid[kFloatLanes];
  for (size_t i = 0; i < x.size(); i += kFloatLanes) {
    hn::Store(vec_exp(d, hn::LoadU(d, &x[i])), d, exp);
    hn::Store(vec_sigmoid(d, hn::LoadU(d, &x[i])), d, sigmoid);
    for (int64_t lane = 0; lane < kFloatLanes; ++lane) {
      const float v = x[i + lane];
      ASSERT_EQ(std::bit_cast<uint32_t>(exp[lane]), std::bit_cast<uint32_t>(scalar_exp(v))) << v;
      ASSERT_EQ(std::bit_cast<uint32_t>(sigmoid[lane]), std::bit_cast<uint32_t>(scalar_sigmoid(v))) << v;
    }
  }
}

TEST(VecMath, SpecialValues) {
  EXPECT_EQ(scalar_exp(0.0f), 1.0f);
  EXPECT_EQ(scalar_exp(-0.0f), 1.0f);
  EXPECT_EQ(scalar_exp(-INFINITY), 0.0f);
  EXPECT_EQ(scalar_exp(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(scalar_exp(NAN)));
  EXPECT_EQ(scalar_sigmoid(0.0f), 0.5f);
  EXPECT_EQ(scalar_sigmoid(-INFINITY), 0.0f);
  EXPECT_EQ(scalar_sigmoid(INFINITY), 1.0f);
  EXPECT_TRUE(std::isnan(scalar_sigmoid(NAN)));
}

}  // namespace
}  // namespace contender::cpu
