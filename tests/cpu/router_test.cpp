#include "ops/router.h"

#include <gtest/gtest.h>

#include <set>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/router_ref.h"

namespace contender {
namespace {

using test::kEps;
using test::Matrix;
using test::same_bits;

struct Routed {
  Matrix scores, weight;
  std::vector<int32_t> expert;
};

Routed route(const RouterShape& shape, Matrix& logits, const float* bias) {
  const int64_t t = logits.rows;
  Routed r = {Matrix::poisoned(t, shape.num_experts, 1), Matrix::poisoned(t, shape.top_k),
              std::vector<int32_t>(static_cast<size_t>(t * shape.top_k), -7)};
  cpu::router({}, {.shape = shape,
                   .logits = logits.tensor(),
                   .bias = bias,
                   .scores = r.scores.tensor(),
                   .expert = i32_tensor(r.expert.data(), t, shape.top_k),
                   .weight = r.weight.tensor()});
  return r;
}

std::vector<double> row_of(const Matrix& m, int64_t r) {
  std::vector<double> v(static_cast<size_t>(m.cols));
  for (int64_t c = 0; c < m.cols; ++c) v[c] = m.at(r, c);
  return v;
}

class CpuRouter : public testing::TestWithParam<RouterShape> {};

// Logits are rounded to quarters and the bias to tenths, so ties are frequent.
TEST_P(CpuRouter, SelectionAndWeights) {
  const RouterShape& shape = GetParam();
  constexpr int64_t kTokens = 40;
  Matrix logits = Matrix::random(kTokens, shape.num_experts, 1, 1, 0.5);
  for (float& v : logits.values) v = std::isnan(v) ? v : std::round(v * 4) / 4;
  std::vector<float> bias = test::random_values(shape.num_experts, 2, 0.5, 0.3);
  for (float& v : bias) v = std::round(v * 10) / 10;
  for (const float* b : {static_cast<const float*>(nullptr), static_cast<const float*>(bias.data())}) {
    const Routed r = route(shape, logits, b);
    EXPECT_TRUE(r.scores.padding_untouched());
    for (int64_t t = 0; t < kTokens; ++t) {
      const auto want_scores = ref::router_scores(shape.score_func, row_of(logits, t));
      std::vector<float> biased;
      for (int64_t e = 0; e < shape.num_experts; ++e) {
        test::expect_close(r.scores.at(t, e), want_scores[e], want_scores[e], 12 * kEps, "score", t, e);
        biased.push_back(b ? r.scores.at(t, e) + b[e] : r.scores.at(t, e));
      }
      const std::vector<int32_t> want = ref::select_experts(shape, biased);
      const std::vector<int32_t> got(r.expert.begin() + t * shape.top_k,
                                     r.expert.begin() + (t + 1) * shape.top_k);
      ASSERT_EQ(got, want) << "token " << t;
      const auto want_weights = ref::router_weights(shape, row_of(logits, t), want);
      for (int64_t j = 0; j < shape.top_k; ++j) {
        test::expect_close(r.weight.at(t, j), want_weights[j], want_weights[j], 30 * kEps, "weight", t, j);
      }
    }
  }
}

// Gradient of sum dweight * weight at the chosen experts, against central differences in double.
TEST_P(CpuRouter, BackwardMatchesFiniteDifferences) {
  const RouterShape& shape = GetParam();
  constexpr int64_t kTokens = 6;
  Matrix logits = Matrix::random(kTokens, shape.num_experts, 3, 0, 1.0);
  Matrix dweight = Matrix::random(kTokens, shape.top_k, 4, 1),
         dlogits = Matrix::poisoned(kTokens, shape.num_experts, 2);
  Routed r = route(shape, logits, nullptr);
  cpu::router_bwd({}, {.shape = shape,
                       .scores = r.scores.tensor(),
                       .expert = i32_tensor(r.expert.data(), kTokens, shape.top_k),
                       .dweight = dweight.tensor(),
                       .dlogits = dlogits.tensor()});
  for (int64_t t = 0; t < kTokens; ++t) {
    const std::vector<int32_t> expert(r.expert.begin() + t * shape.top_k,
                                      r.expert.begin() + (t + 1) * shape.top_k);
    auto loss = [&](const std::vector<double>& row) {
      const auto w = ref::router_weights(shape, row, expert);
      double sum = 0;
      for (int64_t j = 0; j < shape.top_k; ++j) sum += w[j] * dweight.at(t, j);
      return sum;
    };
    double scale = 0;
    for (int64_t j = 0; j < shape.top_k; ++j) scale += std::abs(dweight.at(t, j)) * shape.scale;
    for (int64_t e = 0; e < shape.num_experts; ++e) {
      std::vector<double> up = row_of(logits, t), down = up;
      up[e] += 1e-5;
      down[e] -= 1e-5;
      test::expect_close(dlogits.at(t, e), (loss(up) - loss(down)) / 2e-5, scale, 1e-6, "dlogits", t, e);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, CpuRouter,
    testing::Values(
        RouterShape{.num_experts = 1, .top_k = 1},
        RouterShape{.num_experts = 8, .top_k = 2, .score_func = ScoreFunc::kSoftmax, .norm_topk_prob = false},
        RouterShape{.num_experts = 19, .top_k = 5, .scale = 2.5f},
        RouterShape{.num_experts = 64, .top_k = 8, .n_group = 8, .topk_group = 4, .scale = 2.5f},
        RouterShape{.num_experts = 32,
                    .top_k = 6,
                    .n_group = 4,
                    .topk_group = 2,
                    .score_func = ScoreFunc::kSoftmax,
                    .group_score = GroupScore::kMax,
                    .scale = 16.0f},
        RouterShape{.num_experts = 4, .top_k = 2, .n_group = 4, .topk_group = 2}));

TEST(CpuRouter, AllEqualTakesTheLowestIndices) {
  const RouterShape shape = {.num_experts = 16, .top_k = 4, .n_group = 4, .topk_group = 2};
  Matrix logits = Matrix::poisoned(1, 16);
  std::fill(logits.values.begin(), logits.values.end(), 0.5f);
  EXPECT_EQ(route(shape, logits, nullptr).expert, (std::vector<int32_t>{0, 1, 2, 3}));
}

// A negative biased score inside a kept group still beats an excluded group's positive one.
TEST(CpuRouter, ExcludedGroupsStayOut) {
  const RouterShape shape = {
      .num_experts = 4, .top_k = 2, .n_group = 2, .topk_group = 1, .group_score = GroupScore::kMax};
  Matrix logits = Matrix::poisoned(1, 4);
  std::fill(logits.values.begin(), logits.values.end(), 0.0f);
  const float bias[4] = {1.0f, -5.0f, 0.9f, 0.9f};
  EXPECT_EQ(route(shape, logits, bias).expert, (std::vector<int32_t>{0, 1}));
}

TEST(CpuRouter, NonFiniteLogitsStillGiveDistinctExperts) {
  const RouterShape shape = {.num_experts = 8, .top_k = 3, .n_group = 2, .topk_group = 1};
  Matrix logits = Matrix::poisoned(1, 8);
  const std::vector<int32_t> got = route(shape, logits, nullptr).expert;
  EXPECT_EQ(std::set<int32_t>(got.begin(), got.end()).size(), 3u);
  for (int32_t e : got) EXPECT_TRUE(0 <= e && e < 8);
}

TEST(CpuRouter, ImpossibleShapesAreRefused) {
  Matrix logits = Matrix::random(1, 8, 9);
  EXPECT_THROW(route({.num_experts = 8, .top_k = 3, .n_group = 4, .topk_group = 1}, logits, nullptr), Error);
  EXPECT_THROW(route({.num_experts = 8, .top_k = 2, .n_group = 3}, logits, nullptr), Error);
  EXPECT_THROW(route({.num_experts = 7, .top_k = 2}, logits, nullptr), Error);
}

}  // namespace
}  // namespace contender
