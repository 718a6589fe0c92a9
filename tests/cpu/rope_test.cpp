#include "ops/rope.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/rope_ref.h"

namespace contender {
namespace {

using test::kEps;
using test::Matrix;

// dim, heads, interleaved, YaRN factor
class CpuRope : public testing::TestWithParam<std::tuple<int, int, bool, double>> {
 protected:
  static constexpr int64_t kPositions = 300;
  static constexpr int64_t kTokens = 7;
  int64_t dim() const { return std::get<0>(GetParam()); }
  int64_t heads() const { return std::get<1>(GetParam()); }
  bool interleaved() const { return std::get<2>(GetParam()); }
  RopeConfig config() const {
    return {.dim = dim(),
            .theta = 10000,
            .yarn_factor = std::get<3>(GetParam()),
            .original_max_position = 64,
            .mscale = 0.7};
  }
  RopeArgs args(Matrix& x, const std::vector<int32_t>& positions, std::vector<float>& table) const {
    return {.x = x.tensor(),
            .x_heads = {.count = heads(), .stride = dim() + 3, .offset = 2},
            .positions = positions.data(),
            .table = f32_tensor(table.data(), kPositions, dim()),
            .interleaved = interleaved()};
  }
  const std::vector<int32_t> positions_ = {0, 1, 299, 17, 63, 64, 128};
};

TEST_P(CpuRope, Rotates) {
  std::vector<float> table = rope_table(config(), kPositions);
  Matrix before = Matrix::random(kTokens, heads() * (dim() + 3), 1, 1), x = before;
  cpu::rope({}, args(x, positions_, table));
  const double factor = config().yarn_factor;
  const double mscale = factor > 1 ? (0.1 * 0.7 * std::log(factor) + 1) / (0.1 * std::log(factor) + 1) : 1.0;
  const std::vector<double> inv_freq = ref::yarn_inv_freq(config());
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t h = 0; h < heads(); ++h) {
      const int64_t begin = h * (dim() + 3);
      std::vector<double> head(static_cast<size_t>(dim()));
      for (int64_t c = 0; c < dim(); ++c) head[c] = before.at(t, begin + 2 + c);
      const auto want = ref::rope(head, inv_freq, positions_[t], interleaved(), mscale);
      for (int64_t c = 0; c < dim(); ++c) {
        const int64_t pair = interleaved() ? c ^ 1 : (c + dim() / 2) % dim();
        test::expect_close(x.at(t, begin + 2 + c), want[c], std::abs(head[c]) + std::abs(head[pair]),
                           4 * kEps, "x", t, c);
      }
      for (int64_t c : {begin, begin + 1, begin + dim() + 2}) EXPECT_EQ(x.at(t, c), before.at(t, c));
    }
  }
}

// <dy, rope(x)> == <rope_inverse(dy), x>: the inverse is the transpose, scale included.
TEST_P(CpuRope, BackwardIsTheTranspose) {
  std::vector<float> table = rope_table(config(), kPositions);
  Matrix x = Matrix::random(kTokens, heads() * (dim() + 3), 2),
         dy = Matrix::random(kTokens, heads() * (dim() + 3), 3);
  Matrix y = x, dx = dy;
  cpu::rope({}, args(y, positions_, table));
  RopeArgs backward = args(dx, positions_, table);
  backward.inverse = true;
  cpu::rope({}, backward);
  for (int64_t t = 0; t < kTokens; ++t) {
    double left = 0, right = 0, scale = 0;
    for (int64_t c = 0; c < x.cols; ++c) {
      left += static_cast<double>(dy.at(t, c)) * y.at(t, c);
      right += static_cast<double>(dx.at(t, c)) * x.at(t, c);
      scale += std::abs(static_cast<double>(dy.at(t, c)) * y.at(t, c)) +
               std::abs(static_cast<double>(dx.at(t, c)) * x.at(t, c));
    }
    test::expect_close(left, right, scale, 4 * kEps, "inner product", t);
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuRope,
                         testing::Values(std::tuple(16, 4, true, 1.0), std::tuple(64, 1, false, 40.0),
                                         std::tuple(2, 3, true, 8.0), std::tuple(6, 2, false, 1.0),
                                         std::tuple(64, 2, true, 40.0)));

// DeepSeek-V3's setting: factor 40, original 4096, beta 32/1. Pairs up to 10 keep their frequency, from 23 on
// they are divided.
TEST(CpuRope, YarnRampOfDeepSeekV3) {
  const RopeConfig config = {.dim = 64, .yarn_factor = 40, .original_max_position = 4096};
  const std::vector<float> yarn = rope_table(config, 2), plain = rope_table({.dim = 64}, 2);
  auto angle = [](const std::vector<float>& t, int64_t i) { return std::atan2(t[64 + 32 + i], t[64 + i]); };
  for (int64_t i = 0; i <= 10; ++i) EXPECT_NEAR(angle(yarn, i), angle(plain, i), 1e-7) << i;
  for (int64_t i = 11; i < 23; ++i) EXPECT_LT(angle(yarn, i), angle(plain, i)) << i;
  for (int64_t i = 23; i < 32; ++i) EXPECT_NEAR(angle(yarn, i), angle(plain, i) / 40, 1e-7) << i;
  EXPECT_NEAR(yarn_softmax_scale(config), std::pow(0.1 * std::log(40.0) + 1, 2), 1e-12);
  EXPECT_EQ(yarn_softmax_scale({.dim = 64}), 1.0);
  EXPECT_FLOAT_EQ(yarn[0], 1.0f);  // mscale and mscale_all_dim cancel
}

// Into another layout: the bits of the rotation in place, x and other columns untouched.
TEST(CpuRope, MovesHeads) {
  const Heads from = {.count = 4, .stride = 9, .offset = 2, .per_slice = 2, .slice_stride = 20};
  const Heads to = {.count = 4, .stride = 6, .offset = 1};
  std::vector<float> table = rope_table({.dim = 6}, 8);
  const std::vector<int32_t> positions = {3, 0, 7};
  const Matrix before = Matrix::random(3, 40, 5, 1);
  Matrix x = before, in_place = before, y = Matrix::poisoned(3, 26);
  RopeArgs args = {.x = x.tensor(),
                   .x_heads = from,
                   .y = y.tensor(),
                   .y_heads = to,
                   .positions = positions.data(),
                   .table = f32_tensor(table.data(), 8, 6)};
  cpu::rope({}, args);
  args.x = in_place.tensor();
  args.y = {};
  cpu::rope({}, args);
  EXPECT_TRUE(test::same_bits(x.values, before.values));
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t h = 0; h < 4; ++h) {
      for (int64_t c = 0; c < 6; ++c)
        EXPECT_TRUE(test::same_bits(y.at(t, 1 + 6 * h + c), in_place.at(t, 2 + h / 2 * 20 + h % 2 * 9 + c)));
    }
    EXPECT_TRUE(std::isnan(y.at(t, 0)) && std::isnan(y.at(t, 25)));
  }
  args.y = y.tensor();
  args.y_heads.offset = 3;
  EXPECT_THROW(cpu::rope({}, args), Error);
}

TEST(CpuRope, PositionsAreChecked) {
  std::vector<float> table = rope_table({.dim = 4}, 8);
  Matrix x = Matrix::random(1, 4, 4);
  const int32_t position = 8;
  RopeArgs a = {.x = x.tensor(), .positions = &position, .table = f32_tensor(table.data(), 8, 4)};
  EXPECT_THROW(cpu::rope({}, a), Error);
  a.x.rows = 0;
  cpu::rope({}, a);
}

}  // namespace
}  // namespace contender
