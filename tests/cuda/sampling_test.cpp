#include "ops/sampling.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"
#include "tests/ref/sampling_ref.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::Matrix;
using test::same_bits;

struct Drawn {
  std::vector<int32_t> token;
  std::vector<float> logp, logp_sampled;
};

std::vector<SampleKey> keys_of(int64_t rows, uint32_t prompt) {
  std::vector<SampleKey> keys;
  for (int64_t r = 0; r < rows; ++r) {
    keys.push_back({.seed = 0x123456789ABCDEFu,
                    .step = 3,
                    .prompt = prompt,
                    .sample = 1,
                    .position = static_cast<uint32_t>(r)});
  }
  return keys;
}

// Rows [begin, end) of a call with these logits; the key's position is the row.
Drawn draw(const Matrix& logits, const std::vector<SampleParams>& params, int32_t slices = 1,
           int64_t limit = 0, uint32_t prompt = 0, int64_t begin = 0, int64_t end = -1) {
  if (end < 0) end = logits.rows;
  const DeviceTensor device_logits(DType::kF32, logits);
  const DeviceArray<SampleParams> device_params(params);
  const DeviceArray<SampleKey> keys(keys_of(logits.rows, prompt));
  const DeviceArray<int32_t> token(end - begin);
  const DeviceArray<float> logp(end - begin), logp_sampled(end - begin);
  cuda::sample({}, {.logits = device_logits.tensor().row_range(begin, end),
                    .params = device_params.data() + begin,
                    .keys = keys.data() + begin,
                    .slices = slices,
                    .vocab_limit = limit,
                    .token = token.data(),
                    .logp = logp.data(),
                    .logp_sampled = logp_sampled.data()});
  return {token.download(), logp.download(), logp_sampled.download()};
}

Drawn draw_on_cpu(Matrix logits, const std::vector<SampleParams>& params, int32_t slices, int64_t limit) {
  const auto n = static_cast<size_t>(logits.rows);
  const std::vector<SampleKey> keys = keys_of(logits.rows, 0);
  Drawn d = {std::vector<int32_t>(n, -1), test::poisoned(logits.rows), test::poisoned(logits.rows)};
  test::Workspace workspace(sample_workspace_bytes(logits.cols));
  cpu::sample(workspace.exec(), {.logits = logits.tensor(),
                                 .params = params.data(),
                                 .keys = keys.data(),
                                 .slices = slices,
                                 .vocab_limit = limit,
                                 .token = d.token.data(),
                                 .logp = d.logp.data(),
                                 .logp_sampled = d.logp_sampled.data()});
  return d;
}

std::vector<SampleParams> same_params(int64_t rows, const SampleParams& p) {
  return std::vector<SampleParams>(static_cast<size_t>(rows), p);
}
// A bit of everything, another mixture for each row.
std::vector<SampleParams> mixed_params(int64_t rows) {
  std::vector<SampleParams> params;
  for (int64_t r = 0; r < rows; ++r) {
    params.push_back({.temperature = r % 11 == 10 ? 0.0f : 0.4f + 0.2f * static_cast<float>(r % 7),
                      .top_k = static_cast<int32_t>(r % 4 == 1 ? 1 + r * r : 0),
                      .top_p = r % 3 == 1 ? 0.95f - 0.01f * static_cast<float>(r) : 1.0f,
                      .min_p = r % 5 == 2 ? 0.02f : 0.0f});
  }
  return params;
}

struct SampleCase {
  int64_t vocab;
  int32_t slices;
  int64_t limit;
  int64_t padding;
  double scale;    // of the logits: 0.01 makes them nearly equal, 8 sharp
  float grid = 0;  // logits are multiples of it: ties
};
class CudaSample : public testing::TestWithParam<SampleCase> {};

// The tokens of the CPU. Log-probs: the log-sum-exp is a sum of up to V terms in another order (trees of 20
// levels, two roundings each), and logp a difference of numbers of the size of z and lse.
TEST_P(CudaSample, TokensEqualTheCpu) {
  const SampleCase& c = GetParam();
  const int64_t rows = c.vocab > 100'000 ? 2 : 22;
  Matrix logits = Matrix::poisoned(rows, c.vocab, c.padding);
  const std::vector<float> values = test::random_values(rows * c.vocab, 3, 0.5, c.scale);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t v = 0; v < c.vocab; ++v) {
      const float x = values[r * c.vocab + v];
      logits.at(r, v) = c.grid > 0 ? std::round(x / c.grid) * c.grid : x;
    }
  }
  const std::vector<SampleParams> params = mixed_params(rows);
  const Drawn got = draw(logits, params, c.slices, c.limit),
              want = draw_on_cpu(logits, params, c.slices, c.limit);
  const bool whole = c.limit == 0 || c.limit == c.vocab;
  for (int64_t r = 0; r < rows; ++r) {
    ASSERT_EQ(got.token[r], want.token[r]) << "row " << r;
    const double size = 1 + std::abs(want.logp[r]) +
                        2 * std::abs(logits.at(r, want.token[r]) / std::max(params[r].temperature, 0.4f));
    test::expect_close(got.logp[r], want.logp[r], size, 40 * test::kEps, "logp", r);
    if (same_bits(want.logp_sampled[r], want.logp[r]) && whole) {
      EXPECT_TRUE(same_bits(got.logp_sampled[r], got.logp[r])) << "row " << r << ": nothing was cut";
    } else {
      test::expect_close(got.logp_sampled[r], want.logp_sampled[r], size, 4 * test::kEps, "logp_sampled", r);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaSample,
                         testing::Values(SampleCase{1, 1, 0, 0, 1.0}, SampleCase{5, 1, 0, 3, 1.0},
                                         SampleCase{52, 4, 50, 0, 2.0}, SampleCase{250, 2, 0, 1, 2.0},
                                         SampleCase{1000, 4, 999, 0, 3.0}, SampleCase{4096, 8, 0, 0, 3.0},
                                         SampleCase{4096, 1, 0, 0, 8.0}, SampleCase{4100, 1, 4001, 0, 0.01},
                                         SampleCase{3000, 1, 0, 0, 2.0, 0.25f},
                                         SampleCase{5000, 2, 4500, 4, 0.5, 0.5f},
                                         SampleCase{133'000, 8, 0, 0, 2.0}));

// Chi-square of `draws` tokens against the reference; the bound is exceeded by chance with probability below
// 1e-6.
void expect_distribution(const std::vector<float>& logits, int64_t limit, const SampleParams& params,
                         int64_t draws) {
  const std::vector<double> want = ref::sampling_probabilities(logits, limit, params);
  Matrix rows = Matrix::poisoned(draws, static_cast<int64_t>(logits.size()));
  for (int64_t r = 0; r < draws; ++r) std::copy(logits.begin(), logits.end(), &rows.at(r, 0));
  const Drawn d = draw(rows, same_params(draws, params), 1, limit);
  std::map<int32_t, int64_t> count;
  for (int64_t r = 0; r < draws; ++r) {
    const int32_t t = d.token[r];
    ++count[t];
    ASSERT_GT(want[t], 0) << "token " << t << " was cut";
    ASSERT_NEAR(d.logp_sampled[r], std::log(want[t]), 1e-5 * (1 + std::abs(std::log(want[t]))));
  }
  double chi2 = 0, rare_want = 0, rare_count = 0;  // cells with few expected draws are joined
  int64_t cells = 0;
  for (size_t t = 0; t < want.size(); ++t) {
    const double expected = want[t] * static_cast<double>(draws),
                 got = static_cast<double>(count[static_cast<int32_t>(t)]);
    if (expected < 8) {
      rare_want += expected;
      rare_count += got;
      continue;
    }
    chi2 += (got - expected) * (got - expected) / expected;
    ++cells;
  }
  if (rare_want > 8) chi2 += (rare_count - rare_want) * (rare_count - rare_want) / rare_want;
  const double dof = static_cast<double>(cells);
  EXPECT_LE(chi2, dof + 5 * std::sqrt(2 * dof) + 15) << cells << " cells";  // Laurent & Massart at e^-14
}
std::vector<float> random_logits(int64_t vocab, uint64_t seed) {
  return test::random_values(vocab, seed, 0.5, 2.0);
}

TEST(CudaSampleDistribution, Plain) {
  expect_distribution(random_logits(30, 53), 30, {.temperature = 0.6f}, 400);
}
TEST(CudaSampleDistribution, AllTogetherAndPadding) {
  expect_distribution(random_logits(64, 60), 50,
                      {.temperature = 1.3f, .top_k = 30, .top_p = 0.9f, .min_p = 0.02f}, 150);
}

// The kept set is exact at its edges: every token drawn is in it, and logp_sampled tells its mass.
TEST(CudaSampleTruncation, Edges) {
  constexpr int64_t kRows = 12;
  // With a tie between 0 and 2.
  const std::vector<double> probability = {1.0 / 16, 1.0 / 2, 1.0 / 16, 1.0 / 4, 1.0 / 8};
  Matrix rows = Matrix::poisoned(kRows, 5);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t v = 0; v < 5; ++v) rows.at(r, v) = static_cast<float>(std::log(16 * probability[v]));
  }
  const auto expect_kept = [&](const SampleParams& p, const std::set<int32_t>& ids) {
    double mass = 0;
    for (int32_t id : ids) mass += probability[id];
    const Drawn d = draw(rows, same_params(kRows, p));
    for (int64_t r = 0; r < kRows; ++r) {
      EXPECT_TRUE(ids.contains(d.token[r])) << d.token[r];
      EXPECT_NEAR(probability[d.token[r]] / std::exp(d.logp_sampled[r]), mass, 1e-5);
    }
  };
  expect_kept({}, {0, 1, 2, 3, 4});
  expect_kept({.top_k = 1}, {1});
  expect_kept({.top_k = 4}, {0, 1, 3, 4});  // of the tie, the lower id
  expect_kept({.top_k = 5}, {0, 1, 2, 3, 4});
  expect_kept({.top_p = 0.49f}, {1});
  expect_kept({.top_p = 0.51f}, {1, 3});
  expect_kept({.top_p = 0.9f}, {0, 1, 3, 4});
  expect_kept({.top_p = 0.95f}, {0, 1, 2, 3, 4});
  expect_kept({.min_p = 1.0f}, {1});
  expect_kept({.min_p = 0.2f}, {1, 3, 4});
  expect_kept({.top_k = 2, .top_p = 0.6f}, {1});  // 1/2 of 3/4 is more than 0.6
  expect_kept({.top_p = 1e-6f}, {1});
}

TEST(CudaSampleGreedy, LowestIdWinsAndPaddingIsNeverDrawn) {
  Matrix logits = Matrix::poisoned(2, 6);
  const float rows[2][6] = {{1, 3, 2, 3, 0, 9}, {-5, -7, -5, -6, -5, 0}};
  for (int64_t r = 0; r < 2; ++r) std::copy_n(rows[r], 6, &logits.at(r, 0));
  const Drawn d = draw(logits, same_params(2, {.temperature = 0.0f}), 2, 5);
  EXPECT_EQ(d.token, (std::vector<int32_t>{1, 0}));
  EXPECT_NEAR(d.logp[0], 3 - std::log(std::exp(1) + 2 * std::exp(3) + std::exp(2) + 1 + std::exp(9)), 1e-5);
  EXPECT_EQ(d.logp_sampled[0], 0.0f);
}

// A token is a function of its row and its key alone; twice the same call is the same.
TEST(CudaSampleInvariance, BatchDoesNotMatter) {
  constexpr int64_t kRows = 24;
  const Matrix logits = Matrix::random(kRows, 640, 62, 0, 0.5);
  const std::vector<SampleParams> params = mixed_params(kRows);
  const Drawn all = draw(logits, params, 4), again = draw(logits, params, 4);
  EXPECT_TRUE(all.token == again.token && same_bits(all.logp, again.logp) &&
              same_bits(all.logp_sampled, again.logp_sampled));
  for (int64_t r = kRows - 1; r >= 0; --r) {
    const Drawn one = draw(logits, params, 4, 0, 0, r, r + 1);
    ASSERT_EQ(one.token[0], all.token[r]);
    ASSERT_TRUE(same_bits(one.logp[0], all.logp[r]) && same_bits(one.logp_sampled[0], all.logp_sampled[r]));
  }
  EXPECT_NE(draw(logits, params, 4, 0, 1).token, all.token);  // another prompt draws other tokens
}

// A row that cannot be sampled says so in its own outputs; the others are drawn.
TEST(CudaSampleErrors, NonFiniteRowsAreMarked) {
  Matrix logits = Matrix::random(5, 300, 63, 0, 0.5);
  const std::vector<SampleParams> params(5);
  const Drawn good = draw(logits, params);
  logits.at(1, 299) = NAN;
  logits.at(2, 7) = INFINITY;
  for (int64_t v = 0; v < 300; ++v) logits.at(3, v) = -INFINITY;
  logits.at(4, 11) = -INFINITY;  // one impossible token is fine
  const Drawn d = draw(logits, params);
  EXPECT_EQ(d.token[0], good.token[0]);
  for (int r : {1, 2, 3}) {
    EXPECT_EQ(d.token[r], -1) << r;
    EXPECT_TRUE(std::isnan(d.logp[r]) && std::isnan(d.logp_sampled[r])) << r;
  }
  EXPECT_TRUE(d.token[4] >= 0 && d.token[4] != 11);
}

TEST(CudaSampleErrors, WrongShapesAreRefused) {
  const Matrix logits = Matrix::random(1, 8, 64);
  EXPECT_TRUE(draw(Matrix::random(0, 8, 64), {}).token.empty());
  EXPECT_THROW(draw(logits, {{}}, 3), Error);
  EXPECT_THROW(draw(logits, {{}}, 1, 9), Error);
}

TEST(CudaSampleDeathTest, BadParamsTrap) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto status_of = [](const SampleParams& p) {
    try {
      draw(Matrix::random(1, 8, 65), {p});
    } catch (const Error&) {
      return 3;
    }
    return 0;
  };
  EXPECT_EXIT(std::_Exit(status_of({})), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(std::_Exit(status_of({.temperature = -1.0f})), testing::ExitedWithCode(3), "");
  EXPECT_EXIT(std::_Exit(status_of({.top_p = 0.0f})), testing::ExitedWithCode(3), "");
}

}  // namespace
}  // namespace contender
