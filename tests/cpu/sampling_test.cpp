#include "ops/sampling.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "cpu/cpu_ops.h"
#include "ops/head.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/sampling_ref.h"

namespace contender {
namespace {

using test::Matrix;
using test::same_bits;
using test::Workspace;

struct Drawn {
  std::vector<int32_t> token;
  std::vector<float> logp, logp_sampled;
};

// Samples every row of `logits`; the key's position is the row.
Drawn draw(Matrix& logits, const std::vector<SampleParams>& params, int32_t slices = 1, int64_t limit = 0,
           const SampleKey& key = {.seed = 7, .step = 3, .sample = 1}) {
  const auto n = static_cast<size_t>(logits.rows);
  std::vector<SampleKey> keys(n, key);
  for (size_t r = 0; r < n; ++r) keys[r].position = static_cast<uint32_t>(r);
  Drawn d = {std::vector<int32_t>(n, -1), test::poisoned(logits.rows), test::poisoned(logits.rows)};
  Workspace workspace(sample_workspace_bytes(logits.cols));
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

// The recorded logp is the head's, bit for bit: logits by the same product, statistics by the same code.
class CpuSampleLogp : public testing::TestWithParam<std::tuple<int, int, int, float>> {};

TEST_P(CpuSampleLogp, EqualsTheHead) {
  const auto [rows, vocab, slices, temperature] = GetParam();
  constexpr int64_t kHidden = 19;
  Matrix h = Matrix::random(rows, kHidden, 51, 0, 1.0), w = Matrix::random(vocab, kHidden, 52, 0, 1.0),
         logits = Matrix::poisoned(rows, vocab, 5);
  Workspace packed(packed_forward_bytes(vocab, kHidden));
  const WeightView view = {.forward = packed.exec().workspace, .n = vocab, .k = kHidden, .num_groups = 1};
  cpu::pack_weight(
      {},
      {.master = w.tensor(), .forward = packed.exec().workspace, .n = vocab, .k = kHidden, .num_groups = 1});
  Workspace linear(linear_workspace_bytes(rows, vocab, kHidden, 1));
  cpu::linear(linear.exec(), {.x = h.tensor(), .w = view, .y = logits.tensor()});
  const Drawn d = draw(logits, same_params(rows, {.temperature = temperature}), slices);

  std::vector<HeadPartial> partials(static_cast<size_t>(rows * slices));
  std::vector<HeadStats> stats(static_cast<size_t>(rows));
  Workspace head(head_workspace_bytes(kHidden, vocab, slices));
  cpu::head_partial(head.exec(), {.h = h.tensor(),
                                  .w = view,
                                  .targets = d.token.data(),
                                  .inv_temperature = temperature == 0 ? 1.0f : 1.0f / temperature,
                                  .slices = slices,
                                  .partials = partials.data()});
  cpu::head_finish({}, {.partials = partials.data(), .rows = rows, .slices = slices, .stats = stats.data()});
  for (int64_t r = 0; r < rows; ++r) {
    ASSERT_TRUE(d.token[r] >= 0 && d.token[r] < vocab);
    ASSERT_TRUE(same_bits(d.logp[r], stats[r].logp)) << d.logp[r] << " " << stats[r].logp;
    ASSERT_TRUE(same_bits(d.logp_sampled[r], temperature == 0 ? 0.0f : d.logp[r]));
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuSampleLogp,
                         testing::Combine(testing::Values(1, 13, 140), testing::Values(4, 52, 96, 1000),
                                          testing::Values(1, 2, 4), testing::Values(0.0f, 0.3f, 1.0f, 1.7f)));

// Chi-square of `draws` tokens against the reference; the bound is exceeded by chance with probability below
// 1e-6.
void expect_distribution(const std::vector<float>& logits, int64_t limit, const SampleParams& params,
                         int64_t draws = 20'000) {
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
  double chi2 = 0;
  int64_t cells = 0;
  double rare_want = 0, rare_count = 0;  // cells with few expected draws are joined
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
  EXPECT_LE(chi2, dof + 5 * std::sqrt(2 * dof) + 15)
      << cells << " cells";  // Laurent & Massart's tail bound at e^-14
}

std::vector<float> random_logits(int64_t vocab, uint64_t seed) {
  return test::random_values(vocab, seed, 0.5, 2.0);
}

TEST(CpuSampleDistribution, Plain) { expect_distribution(random_logits(30, 53), 30, {}); }
TEST(CpuSampleDistribution, Temperature) {
  expect_distribution(random_logits(30, 54), 30, {.temperature = 0.6f});
}
TEST(CpuSampleDistribution, SeveralBlocks) { expect_distribution(random_logits(700, 55), 700, {}); }
TEST(CpuSampleDistribution, TopK) { expect_distribution(random_logits(40, 56), 40, {.top_k = 7}); }
TEST(CpuSampleDistribution, TopP) { expect_distribution(random_logits(40, 57), 40, {.top_p = 0.8f}); }
TEST(CpuSampleDistribution, TopPOfManyTokens) {
  expect_distribution(random_logits(500, 58), 500, {.temperature = 1.5f, .top_p = 0.95f}, 5000);
}
TEST(CpuSampleDistribution, MinP) { expect_distribution(random_logits(40, 59), 40, {.min_p = 0.1f}); }
TEST(CpuSampleDistribution, AllTogetherAndPadding) {
  expect_distribution(random_logits(64, 60), 50,
                      {.temperature = 1.3f, .top_k = 30, .top_p = 0.9f, .min_p = 0.02f});
}
TEST(CpuSampleDistribution, PaddingOnly) { expect_distribution(random_logits(64, 61), 40, {}); }

// The kept set is exact at its edges.
TEST(CpuSampleTruncation, Edges) {
  constexpr int64_t kVocab = 5, kRows = 400;
  // Probabilities 1/16, 1/2, 1/16, 1/4, 1/8: exact, with a tie between 0 and 2.
  const float ln2 = std::log(2.0f);
  const std::vector<float> logits = {0, 3 * ln2, 0, 2 * ln2, ln2};
  const auto kept = [&](const SampleParams& p) {
    Matrix rows = Matrix::poisoned(kRows, kVocab);
    for (int64_t r = 0; r < kRows; ++r) std::copy(logits.begin(), logits.end(), &rows.at(r, 0));
    const Drawn d = draw(rows, same_params(kRows, p));
    return std::set<int32_t>(d.token.begin(), d.token.end());
  };
  using Ids = std::set<int32_t>;
  EXPECT_EQ(kept({}), (Ids{0, 1, 2, 3, 4}));
  EXPECT_EQ(kept({.top_k = 1}), Ids{1});
  EXPECT_EQ(kept({.top_k = 4}), (Ids{0, 1, 3, 4}));  // of the tie, the lower id
  EXPECT_EQ(kept({.top_k = 5}), (Ids{0, 1, 2, 3, 4}));
  EXPECT_EQ(kept({.top_p = 0.49f}), Ids{1});
  EXPECT_EQ(kept({.top_p = 0.51f}), (Ids{1, 3}));
  EXPECT_EQ(kept({.top_p = 0.9f}), (Ids{0, 1, 3, 4}));
  EXPECT_EQ(kept({.top_p = 0.95f}), (Ids{0, 1, 2, 3, 4}));
  EXPECT_EQ(kept({.min_p = 1.0f}), Ids{1});
  EXPECT_EQ(kept({.min_p = 0.2f}), (Ids{1, 3, 4}));
  EXPECT_EQ(kept({.top_k = 2, .top_p = 0.6f}), Ids{1});  // 1/2 of 3/4 is more than 0.6
  EXPECT_EQ(kept({.top_p = 1e-6f}), Ids{1});
}

TEST(CpuSampleGreedy, LowestIdWinsAndPaddingIsNeverDrawn) {
  Matrix logits = Matrix::poisoned(2, 6);
  const float rows[2][6] = {{1, 3, 2, 3, 0, 9}, {-5, -7, -5, -6, -5, 0}};
  for (int64_t r = 0; r < 2; ++r) std::copy_n(rows[r], 6, &logits.at(r, 0));
  const Drawn d = draw(logits, same_params(2, {.temperature = 0.0f}), 2, 5);
  EXPECT_EQ(d.token, (std::vector<int32_t>{1, 0}));
  EXPECT_NEAR(d.logp[0], 3 - std::log(std::exp(1) + 2 * std::exp(3) + std::exp(2) + 1 + std::exp(9)), 1e-5);
}

// A token is a function of its row and its key alone.
TEST(CpuSampleInvariance, BatchDoesNotMatter) {
  constexpr int64_t kRows = 60, kVocab = 128;
  Matrix logits = Matrix::random(kRows, kVocab, 62, 0, 0.5);
  std::vector<SampleParams> params;
  for (int64_t r = 0; r < kRows; ++r) {
    params.push_back({.temperature = 0.5f + 0.1f * static_cast<float>(r % 7),
                      .top_k = static_cast<int32_t>(r % 5 * 10),
                      .top_p = r % 3 ? 0.9f : 1.0f});
  }
  const Drawn all = draw(logits, params, 4);
  Workspace workspace(sample_workspace_bytes(kVocab));
  for (int64_t r = kRows - 1; r >= 0; --r) {
    const SampleKey key = {
        .seed = 7, .step = 3, .prompt = 0, .sample = 1, .position = static_cast<uint32_t>(r)};
    int32_t token = -1;
    float logp = 0, logp_sampled = 0;
    cpu::sample(workspace.exec(), {.logits = logits.tensor().row_range(r, r + 1),
                                   .params = &params[r],
                                   .keys = &key,
                                   .slices = 4,
                                   .token = &token,
                                   .logp = &logp,
                                   .logp_sampled = &logp_sampled});
    ASSERT_EQ(token, all.token[r]);
    ASSERT_TRUE(same_bits(logp, all.logp[r]) && same_bits(logp_sampled, all.logp_sampled[r]));
  }
}

// Another seed, step, prompt or sample draws other tokens; so does another position in the same row of
// logits.
TEST(CpuSampleInvariance, EveryFieldOfTheKeyMatters) {
  Matrix logits = Matrix::random(60, 128, 64, 0, 0.5);
  for (int64_t r = 1; r < logits.rows; ++r) std::copy_n(&logits.at(0, 0), 128, &logits.at(r, 0));
  std::set<std::vector<int32_t>> drawn;
  const std::vector<SampleKey> keys = {{},          {.seed = 1},   {.seed = uint64_t{1} << 32},
                                       {.step = 1}, {.prompt = 1}, {.sample = 1}};
  for (const SampleKey& key : keys) drawn.insert(draw(logits, same_params(logits.rows, {}), 1, 0, key).token);
  EXPECT_EQ(drawn.size(), keys.size());
  const std::vector<int32_t>& tokens = *drawn.begin();
  EXPECT_GT(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 10u);
}

TEST(CpuSampleErrors, SayWhatIsWrong) {
  Matrix logits = Matrix::random(1, 8, 63);
  EXPECT_THROW(draw(logits, {{.temperature = -1.0f}}), Error);
  EXPECT_THROW(draw(logits, {{.top_p = 0.0f}}), Error);
  EXPECT_THROW(draw(logits, {{}}, 3), Error);
  EXPECT_THROW(draw(logits, {{}}, 1, 9), Error);
  logits.at(0, 3) = NAN;
  try {
    draw(logits, {{}});
    FAIL() << "NaN logits were sampled";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kNonFinite);
  }
}

}  // namespace
}  // namespace contender
