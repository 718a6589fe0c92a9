#include "ops/router.h"

#include <gtest/gtest.h>

#include <set>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"
#include "tests/ref/router_ref.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::kEps;
using test::Matrix;
using test::rounded;
using test::same_bits;

struct Routed {
  Matrix scores, weight;
  std::vector<int32_t> expert;
};

Routed route(const RouterShape& shape, DType dtype, const Matrix& logits, const std::vector<float>& bias) {
  const DeviceTensor device_logits(dtype, logits), scores(DType::kF32, logits.rows, shape.num_experts, 4),
      weight(DType::kF32, logits.rows, shape.top_k, 1);
  const DeviceArray<float> device_bias(bias);
  const DeviceArray<int32_t> expert(logits.rows * shape.top_k);
  cuda::router({}, {.shape = shape,
                    .logits = device_logits.tensor(),
                    .bias = bias.empty() ? nullptr : device_bias.data(),
                    .scores = scores.tensor(),
                    .expert = i32_tensor(expert.data(), logits.rows, shape.top_k),
                    .weight = weight.tensor()});
  return {scores.download(), weight.download(), expert.download()};
}

Routed route_on_cpu(const RouterShape& shape, Matrix logits, const std::vector<float>& bias) {
  const int64_t t = logits.rows;
  Routed r = {Matrix::poisoned(t, shape.num_experts, 4), Matrix::poisoned(t, shape.top_k, 1),
              std::vector<int32_t>(static_cast<size_t>(t * shape.top_k), -7)};
  cpu::router({}, {.shape = shape,
                   .logits = logits.tensor(),
                   .bias = bias.empty() ? nullptr : bias.data(),
                   .scores = r.scores.tensor(),
                   .expert = i32_tensor(r.expert.data(), t, shape.top_k),
                   .weight = r.weight.tensor()});
  return r;
}

Matrix backward(const RouterShape& shape, DType dtype, const Routed& r, const Matrix& dweight) {
  const DeviceTensor scores(DType::kF32, r.scores), device_dweight(DType::kF32, dweight),
      dlogits(dtype, r.scores.rows, shape.num_experts, 8);
  const DeviceArray<int32_t> expert(r.expert);
  cuda::router_bwd({}, {.shape = shape,
                        .scores = scores.tensor(),
                        .expert = i32_tensor(expert.data(), r.scores.rows, shape.top_k),
                        .dweight = device_dweight.tensor(),
                        .dlogits = dlogits.tensor()});
  return dlogits.download();
}

std::vector<double> row_of(const Matrix& m, int64_t r) {
  std::vector<double> v(static_cast<size_t>(m.cols));
  for (int64_t c = 0; c < m.cols; ++c) v[c] = m.at(r, c);
  return v;
}

// Of two matrices; padding may be poisoned differently.
bool same_rows(const Matrix& a, const Matrix& b) {
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.cols; ++c) {
      if (!same_bits(a.at(r, c), b.at(r, c))) return false;
    }
  }
  return a.rows == b.rows && a.cols == b.cols;
}

// Logits rounded to quarters: ties are frequent.
Matrix tied_logits(int64_t tokens, int64_t experts, int64_t padding) {
  Matrix logits = Matrix::random(tokens, experts, 1, padding, 0.5);
  for (float& v : logits.values) v = std::isnan(v) ? v : std::round(v * 4) / 4;
  return logits;
}

class CudaRouter : public testing::TestWithParam<std::tuple<RouterShape, DType>> {};

// Against a sort by the scores that the kernel wrote, and weights in double.
TEST_P(CudaRouter, SelectionAndWeights) {
  const auto& [shape, dtype] = GetParam();
  constexpr int64_t kTokens = 13;
  const Matrix logits = rounded(tied_logits(kTokens, shape.num_experts, 8), dtype);
  std::vector<float> bias = test::random_values(shape.num_experts, 2, 0.5, 0.3);
  for (float& v : bias) v = std::round(v * 10) / 10;
  for (const std::vector<float>& b : {std::vector<float>(), bias}) {
    const Routed r = route(shape, dtype, logits, b);
    EXPECT_TRUE(r.scores.padding_untouched() && r.weight.padding_untouched());
    for (int64_t t = 0; t < kTokens; ++t) {
      const auto want_scores = ref::router_scores(shape.score_func, row_of(logits, t));
      std::vector<float> biased;
      for (int64_t e = 0; e < shape.num_experts; ++e) {
        test::expect_close(r.scores.at(t, e), want_scores[e], want_scores[e], 12 * kEps, "score", t, e);
        biased.push_back(b.empty() ? r.scores.at(t, e) : r.scores.at(t, e) + b[e]);
      }
      const std::vector<int32_t> want = ref::select_experts(shape, biased);
      const std::vector<int32_t> got(r.expert.begin() + t * shape.top_k,
                                     r.expert.begin() + (t + 1) * shape.top_k);
      ASSERT_EQ(got, want) << "token " << t;
      const auto want_weights = ref::router_weights(shape, row_of(logits, t), want);
      for (int64_t j = 0; j < shape.top_k; ++j)
        test::expect_close(r.weight.at(t, j), want_weights[j], want_weights[j], 30 * kEps, "weight", t, j);
    }
    if (shape.score_func == ScoreFunc::kSigmoid) {  // the same operations in the same order
      const Routed cpu = route_on_cpu(shape, logits, b);
      EXPECT_TRUE(same_rows(r.scores, cpu.scores) && same_rows(r.weight, cpu.weight) &&
                  r.expert == cpu.expert);
    }
  }
}

// Gradient of sum dweight * weight at the chosen experts, against central differences in double.
TEST_P(CudaRouter, BackwardMatchesFiniteDifferences) {
  const auto& [shape, dtype] = GetParam();
  constexpr int64_t kTokens = 5;
  const Matrix logits = rounded(Matrix::random(kTokens, shape.num_experts, 3, 0, 1.0), dtype);
  const Matrix dweight = Matrix::random(kTokens, shape.top_k, 4, 1);
  const Routed r = route(shape, dtype, logits, {});
  const Matrix dlogits = backward(shape, dtype, r, dweight);
  EXPECT_TRUE(dlogits.padding_untouched());
  for (int64_t t = 0; t < kTokens; ++t) {
    const std::vector<int32_t> expert(r.expert.begin() + t * shape.top_k,
                                      r.expert.begin() + (t + 1) * shape.top_k);
    const auto loss = [&](const std::vector<double>& row) {
      const auto w = ref::router_weights(shape, row, expert);
      double sum = 0;
      for (int64_t j = 0; j < shape.top_k; ++j) sum += w[j] * dweight.at(t, j);
      return sum;
    };
    double scale = 0;
    for (int64_t j = 0; j < shape.top_k; ++j) scale += std::abs(dweight.at(t, j)) * shape.scale;
    const std::set<int32_t> chosen(expert.begin(), expert.end());
    for (int64_t e = 0; e < shape.num_experts; ++e) {
      if (e % 7 != 0 && !chosen.contains(static_cast<int32_t>(e))) continue;  // differences are slow
      std::vector<double> up = row_of(logits, t), down = up;
      up[e] += 1e-5;
      down[e] -= 1e-5;
      const double slope = (loss(up) - loss(down)) / 2e-5;
      test::expect_close(dlogits.at(t, e), slope, scale + std::abs(slope),
                         dtype == DType::kBF16 ? 4e-3 : 1e-6, "dlogits", t, e);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaRouter,
    testing::Combine(
        testing::Values(
            RouterShape{.num_experts = 1, .top_k = 1},
            RouterShape{
                .num_experts = 8, .top_k = 2, .score_func = ScoreFunc::kSoftmax, .norm_topk_prob = false},
            RouterShape{.num_experts = 19, .top_k = 5, .scale = 2.5f},
            RouterShape{.num_experts = 256, .top_k = 8, .n_group = 8, .topk_group = 4, .scale = 2.5f},
            RouterShape{.num_experts = 160,
                        .top_k = 6,
                        .n_group = 8,
                        .topk_group = 3,
                        .score_func = ScoreFunc::kSoftmax,
                        .group_score = GroupScore::kMax,
                        .scale = 16.0f},
            RouterShape{.num_experts = 300, .top_k = 7, .n_group = 30, .topk_group = 2},
            RouterShape{.num_experts = 4, .top_k = 2, .n_group = 4, .topk_group = 2}),
        testing::Values(DType::kF32, DType::kBF16)));

// The sigmoid form of the backward has the bits of the CPU.
TEST(CudaRouterBackward, EqualsTheCpu) {
  const RouterShape shape = {.num_experts = 64, .top_k = 8, .n_group = 8, .topk_group = 4, .scale = 2.5f};
  Matrix dweight = Matrix::random(9, 8, 5, 1);
  Routed r = route(shape, DType::kF32, Matrix::random(9, 64, 6, 4), {});
  Matrix want = Matrix::poisoned(9, 64, 8);
  cpu::router_bwd({}, {.shape = shape,
                       .scores = r.scores.tensor(),
                       .expert = i32_tensor(r.expert.data(), 9, 8),
                       .dweight = dweight.tensor(),
                       .dlogits = want.tensor()});
  EXPECT_TRUE(same_rows(backward(shape, DType::kF32, r, dweight), want));
}

TEST(CudaRouter, AllEqualTakesTheLowestIndices) {
  const RouterShape shape = {.num_experts = 16, .top_k = 4, .n_group = 4, .topk_group = 2};
  Matrix logits = Matrix::poisoned(1, 16);
  std::fill(logits.values.begin(), logits.values.end(), 0.5f);
  EXPECT_EQ(route(shape, DType::kF32, logits, {}).expert, (std::vector<int32_t>{0, 1, 2, 3}));
}

// A negative biased score inside a kept group still beats an excluded group's positive one.
TEST(CudaRouter, ExcludedGroupsStayOut) {
  const RouterShape shape = {
      .num_experts = 4, .top_k = 2, .n_group = 2, .topk_group = 1, .group_score = GroupScore::kMax};
  Matrix logits = Matrix::poisoned(1, 4);
  std::fill(logits.values.begin(), logits.values.end(), 0.0f);
  EXPECT_EQ(route(shape, DType::kF32, logits, {1.0f, -5.0f, 0.9f, 0.9f}).expert,
            (std::vector<int32_t>{0, 1}));
}

// Whatever the logits hold, a token's experts exist and are distinct: the plans of the exchange and the
// gathers index with them.
TEST(CudaRouter, NonFiniteLogitsStillGiveDistinctExperts) {
  const RouterShape shapes[] = {{.num_experts = 8, .top_k = 3, .n_group = 2, .topk_group = 1},
                                {.num_experts = 19, .top_k = 19, .score_func = ScoreFunc::kSoftmax},
                                {.num_experts = 256, .top_k = 8, .n_group = 8, .topk_group = 4},
                                {.num_experts = 160,
                                 .top_k = 20,
                                 .n_group = 8,
                                 .topk_group = 1,
                                 .score_func = ScoreFunc::kSoftmax,
                                 .group_score = GroupScore::kMax}};
  for (const RouterShape& shape : shapes) {
    Matrix logits = Matrix::random(5, shape.num_experts, 12);
    const float bad[] = {NAN, NAN, NAN, INFINITY, -INFINITY};  // row t: every (t + 1)th logit
    for (int64_t t = 0; t < logits.rows; ++t) {
      for (int64_t e = 0; e < shape.num_experts; e += t + 1) logits.at(t, e) = bad[t];
    }
    const Routed r = route(shape, DType::kF32, logits, {});
    for (int64_t t = 0; t < logits.rows; ++t) {
      const std::set<int32_t> got(r.expert.begin() + t * shape.top_k,
                                  r.expert.begin() + (t + 1) * shape.top_k);
      EXPECT_EQ(std::ssize(got), shape.top_k) << t;
      EXPECT_TRUE(0 <= *got.begin() && *got.rbegin() < shape.num_experts) << t;
    }
    backward(shape, DType::kF32, r, Matrix::random(5, shape.top_k, 13));
  }
}

// One token at a time, and all again: the same bits.
TEST(CudaRouter, BatchDoesNotMatter) {
  const RouterShape shape = {
      .num_experts = 72, .top_k = 6, .n_group = 8, .topk_group = 3, .score_func = ScoreFunc::kSoftmax};
  const Matrix logits = Matrix::random(11, 72, 7, 0, 0.5), dweight = Matrix::random(11, 6, 8);
  const Routed all = route(shape, DType::kF32, logits, {}), again = route(shape, DType::kF32, logits, {});
  EXPECT_TRUE(same_rows(all.scores, again.scores) && same_rows(all.weight, again.weight) &&
              all.expert == again.expert);
  const Matrix dlogits = backward(shape, DType::kF32, all, dweight);
  for (int64_t t = 0; t < 11; ++t) {
    Matrix row = Matrix::poisoned(1, 72), drow = Matrix::poisoned(1, 6);
    std::copy_n(&logits.values[t * 72], 72, row.values.data());
    std::copy_n(&dweight.values[t * 6], 6, drow.values.data());
    const Routed one = route(shape, DType::kF32, row, {});
    const Matrix done = backward(shape, DType::kF32, one, drow);
    for (int64_t e = 0; e < 72; ++e)
      ASSERT_TRUE(same_bits(one.scores.at(0, e), all.scores.at(t, e)) &&
                  same_bits(done.at(0, e), dlogits.at(t, e)));
    for (int64_t j = 0; j < 6; ++j)
      ASSERT_TRUE(one.expert[j] == all.expert[t * 6 + j] &&
                  same_bits(one.weight.at(0, j), all.weight.at(t, j)));
  }
}

TEST(CudaRouter, NoTokensAndImpossibleShapes) {
  const Matrix logits = Matrix::random(1, 8, 9);
  const Routed none = route({.num_experts = 8, .top_k = 2}, DType::kF32, Matrix::random(0, 8, 9), {});
  EXPECT_TRUE(none.expert.empty());
  EXPECT_EQ(backward({.num_experts = 8, .top_k = 2}, DType::kBF16, none, Matrix::random(0, 2, 10)).rows, 0);
  const auto refused = [&](const RouterShape& s) { EXPECT_THROW(route(s, DType::kF32, logits, {}), Error); };
  refused({.num_experts = 8, .top_k = 3, .n_group = 4, .topk_group = 1});
  refused({.num_experts = 8, .top_k = 2, .n_group = 3});
  refused({.num_experts = 7, .top_k = 2});
}

}  // namespace
}  // namespace contender
