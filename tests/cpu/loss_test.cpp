#include "ops/loss.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/loss_ref.h"

namespace contender {
namespace {

struct Outputs {
  std::vector<float> dlogp, loss, kl, clipped;
};

struct Inputs {
  std::vector<int32_t> offsets = {0, 7, 7, 8, 21, 40};  // an empty completion and one of a single token
  std::vector<float> logp, logp_old, logp_ref, advantage, weight, tis;

  explicit Inputs(uint64_t seed) {
    const int64_t n = offsets.back();
    logp = test::random_values(n, seed, 1.0);
    logp_old = logp_ref = logp;
    const auto a = test::random_values(n, seed + 1, 1.0, 0.2), b = test::random_values(n, seed + 2, 1.0);
    for (int64_t t = 0; t < n; ++t) {
      logp[t] -= 3;
      logp_old[t] += a[t] - 3;
      logp_ref[t] += b[t] - 3;
    }
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {  // so that some sequence ratios leave the clip range
      for (int32_t t = offsets[i]; t < offsets[i + 1]; ++t)
        logp_old[t] += i == 0 ? 0.5f : i == 4 ? -0.5f : 0.0f;
    }
    advantage = test::random_values(n, seed + 3, 1.0);
    advantage[2] = 0;
    weight = test::random_values(n, seed + 4, 2.0);
    tis = test::random_values(n, seed + 5, 1.0);
  }
  Outputs run(TokenLossArgs a) const {
    const int64_t n = offsets.back();
    Outputs out = {test::poisoned(n), test::poisoned(n), test::poisoned(n), test::poisoned(n)};
    a.num_tokens = n;
    a.seq_offsets = offsets.data();
    a.num_seqs = static_cast<int64_t>(offsets.size()) - 1;
    a.logp = logp.data();
    a.logp_old = logp_old.data();
    a.logp_ref = a.kl == KlEstimator::kNone ? nullptr : logp_ref.data();
    a.advantage = advantage.data();
    a.weight = weight.data();
    a.tis = tis.empty() ? nullptr : tis.data();
    a.dlogp = out.dlogp.data();
    a.loss = out.loss.data();
    a.kl_value = out.kl.data();
    a.clipped = out.clipped.data();
    cpu::token_loss({}, a);
    return out;
  }
};

std::vector<double> wide(const std::vector<float>& v) { return {v.begin(), v.end()}; }

class CpuTokenLoss : public testing::TestWithParam<std::tuple<RatioLevel, PolicyObjective, KlEstimator>> {};

// Values against double; gradients against central differences of the summed loss.
TEST_P(CpuTokenLoss, ValuesAndGradients) {
  const auto [level, objective, kl] = GetParam();
  const Inputs in(static_cast<uint64_t>(kl) * 100 + 1);
  const TokenLossArgs args = {.clip_eps_low = 0.1f,
                              .clip_eps_high = 0.25f,
                              .kl_beta = 0.3f,
                              .ratio_level = level,
                              .objective = objective,
                              .kl = kl};
  const Outputs out = in.run(args);
  const ref::LossProblem problem = {in.offsets,        wide(in.logp_old),
                                    wide(in.logp_ref), wide(in.advantage),
                                    wide(in.weight),   wide(in.tis),
                                    args.clip_eps_low, args.clip_eps_high,
                                    args.kl_beta,      level,
                                    objective,         kl};
  const std::vector<double> logp = wide(in.logp);
  int clipped = 0, free = 0;
  for (int64_t t = 0; t < in.offsets.back(); ++t) {
    const double ratio = problem.ratio(logp, t), low = 1 - problem.eps_low, high = 1 + problem.eps_high;
    const double a = in.advantage[t];
    const double want = problem.token(logp, logp, t);
    test::expect_close(out.loss[t], want, std::abs(want), 4 * test::kEps, "loss", t);
    const double want_kl = problem.kl_of(logp, t);
    test::expect_close(out.kl[t], want_kl, std::abs(want_kl), 1e-6, "kl", t);
    const bool want_clipped = objective == PolicyObjective::kCispo
                                  ? ratio < low || ratio > high
                                  : (a > 0 && ratio > high) || (a < 0 && ratio < low);
    EXPECT_EQ(out.clipped[t], want_clipped ? 1.0f : 0.0f) << t;
    (want_clipped ? clipped : free)++;

    ASSERT_GT(std::min(std::abs(ratio - low), std::abs(ratio - high)), 1e-4) << "a kink at token " << t;
    const double step = 1e-5;
    std::vector<double> up = logp, down = logp;
    up[t] += step;
    down[t] -= step;
    const double slope = (problem.total(up, logp) - problem.total(down, logp)) / (2 * step);
    test::expect_close(out.dlogp[t], slope, std::abs(slope) + 1e-3, 1e-5, "dlogp", t);
  }
  EXPECT_GT(clipped, 3);  // both branches are in the sample
  EXPECT_GT(free, 3);
}
INSTANTIATE_TEST_SUITE_P(Variants, CpuTokenLoss,
                         testing::Combine(testing::Values(RatioLevel::kToken, RatioLevel::kSequence),
                                          testing::Values(PolicyObjective::kClip, PolicyObjective::kCispo),
                                          testing::Values(KlEstimator::kNone, KlEstimator::kK1,
                                                          KlEstimator::kK2, KlEstimator::kK3)));

// On-policy: ratio 1, so the gradient is -advantage * weight, nothing is clipped and the KL is 0.
TEST(CpuTokenLoss, OnPolicy) {
  Inputs in(50);
  in.logp_old = in.logp_ref = in.logp;
  in.tis.clear();
  const Outputs out = in.run({.kl_beta = 1.0f, .kl = KlEstimator::kK3});
  for (size_t t = 0; t < in.logp.size(); ++t) {
    EXPECT_FLOAT_EQ(out.dlogp[t], -in.advantage[t] * in.weight[t]);
    EXPECT_EQ(out.kl[t], 0.0f);
    EXPECT_EQ(out.clipped[t], 0.0f);
  }
}

// k3 near 0 is d^2 / 2, far below the rounding of exp(-d) - 1 + d in FP32.
TEST(CpuTokenLoss, SmallKlKeepsItsDigits) {
  Inputs in(60);
  for (size_t t = 0; t < in.logp.size(); ++t) in.logp_ref[t] = in.logp[t] + (t % 2 ? 0x1p-12f : -0x1p-12f);
  const Outputs out = in.run({.kl_beta = 1.0f, .kl = KlEstimator::kK3});
  for (size_t t = 0; t < in.logp.size(); ++t) {
    const double d = static_cast<double>(in.logp[t]) - in.logp_ref[t];
    EXPECT_NEAR(out.kl[t], d * d / 2 - d * d * d / 6, 1e-6 * d * d);
  }
}

TEST(CpuTokenLoss, NoTokensAndBadOffsets) {
  cpu::token_loss({}, {});
  Inputs in(70);
  in.offsets = {0, 9, 4, 40};
  EXPECT_THROW(in.run({}), Error);
}

}  // namespace
}  // namespace contender
