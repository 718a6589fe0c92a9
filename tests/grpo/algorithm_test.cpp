// Each algorithm against its paper's formula, written out in double from the rewards and log-probs of a batch
// of two groups.
#include "grpo/algorithm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "base/philox.h"
#include "cpu/cpu_ops.h"
#include "grpo/token_columns.h"

namespace contender {
namespace {

using Doubles = std::vector<double>;

double mean(const std::vector<float>& v) {
  return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
}

double deviation(const std::vector<float>& v) {
  double sum = 0;
  for (float x : v) sum += (x - mean(v)) * (x - mean(v));
  return std::sqrt(sum / static_cast<double>(v.size()));
}

// --- advantages ---

const std::vector<float> kRewards = {2, 0, 1, 0, -1.5f};

TEST(Advantages, Standardized) {
  const auto a = group_advantages(AdvantageKind::kStandardized, kRewards);
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_NEAR(a[i], (kRewards[i] - mean(kRewards)) / deviation(kRewards), 1e-6);
  EXPECT_NEAR(mean(a), 0, 1e-7);
  EXPECT_NEAR(deviation(a), 1, 1e-6);
}

TEST(Advantages, Centered) {
  const auto a = group_advantages(AdvantageKind::kCentered, kRewards);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], kRewards[i] - mean(kRewards), 1e-6);
}

TEST(Advantages, LeaveOneOut) {
  const auto a = group_advantages(AdvantageKind::kLeaveOneOut, kRewards);
  for (size_t i = 0; i < a.size(); ++i) {
    double others = 0;
    for (size_t j = 0; j < a.size(); ++j)
      others += j == i ? 0 : kRewards[j] / static_cast<double>(a.size() - 1);
    EXPECT_NEAR(a[i], kRewards[i] - others, 1e-6);
  }
}

TEST(Advantages, ScaleOfRewardsDoesNotMatterWhenStandardized) {
  for (float scale : {1e-3f, 1.0f, 1e4f}) {
    std::vector<float> rewards = kRewards;
    for (float& r : rewards) r = 5 * scale + r * scale;
    const auto a = group_advantages(AdvantageKind::kStandardized, rewards),
               b = group_advantages(AdvantageKind::kStandardized, kRewards);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-3) << scale;
  }
}

TEST(Advantages, NothingToCompareGivesZeros) {
  for (AdvantageKind kind :
       {AdvantageKind::kStandardized, AdvantageKind::kCentered, AdvantageKind::kLeaveOneOut}) {
    EXPECT_EQ(group_advantages(kind, {}), std::vector<float>());
    EXPECT_EQ(group_advantages(kind, {3.5f}), std::vector<float>{0});
    EXPECT_EQ(group_advantages(kind, {0.1f, 0.1f, 0.1f}),
              (std::vector<float>{0, 0, 0}));  // 0.1 has no exact mean
  }
}

// --- aggregation ---

TEST(TokenWeights, SumToTheMeanTheyName) {
  const std::vector<int64_t> lengths = {1, 7, 64, 3};
  const auto token = token_weights(Aggregation::kToken, lengths, 64),
             sequence = token_weights(Aggregation::kSequence, lengths, 64),
             constant = token_weights(Aggregation::kConstant, lengths, 64);
  double token_sum = 0, sequence_sum = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const double n = static_cast<double>(lengths[i]);
    EXPECT_FLOAT_EQ(token[i], 1.0f / 75);
    EXPECT_NEAR(sequence[i] * n, 0.25, 1e-7);
    EXPECT_FLOAT_EQ(constant[i], 1.0f / (4 * 64));
    token_sum += token[i] * n;
    sequence_sum += sequence[i] * n;
  }
  EXPECT_NEAR(token_sum, 1, 1e-6);
  EXPECT_NEAR(sequence_sum, 1, 1e-6);
}

TEST(TokenWeights, EmptyCompletionsAndBatches) {
  for (Aggregation a : {Aggregation::kToken, Aggregation::kSequence, Aggregation::kConstant}) {
    EXPECT_TRUE(token_weights(a, {}, 8).empty());
    const auto w = token_weights(a, {0, 4}, 8);
    EXPECT_EQ(w[0], 0);
    EXPECT_GT(w[1], 0);
  }
}

TEST(KlEstimate, SchulmansThree) {
  for (double d : {-1.5, -1e-3, 0.0, 0.2, 3.0}) {
    const float logp = -2, ref = static_cast<float>(-2 - d);
    EXPECT_NEAR(kl_estimate(KlEstimator::kK1, logp, ref), d, 1e-6);
    EXPECT_NEAR(kl_estimate(KlEstimator::kK2, logp, ref), d * d / 2, 1e-6);
    EXPECT_NEAR(kl_estimate(KlEstimator::kK3, logp, ref), std::exp(-d) - 1 + d, 1e-5);
    EXPECT_EQ(kl_estimate(KlEstimator::kNone, logp, ref), 0);
  }
}

TEST(AlgorithmByName, UnknownNamesAreListed) {
  RlConfig c;
  c.algorithm = "ppo";
  try {
    make_algorithm(c);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(e.what()).find("\"ppo\" (grpo, dr_grpo, dapo, gspo, rloo, cispo)"),
              std::string::npos)
        << e.what();
  }
  c.algorithm = "grpo";
  c.kl_estimator = "k4";
  EXPECT_THROW(make_algorithm(c), Error);
  c.kl_beta = 0;  // no KL, nobody asks for an estimator
  EXPECT_EQ(make_algorithm(c).kl_loss, KlEstimator::kNone);
}

TEST(AlgorithmByName, KlGoesToOnePlace) {
  RlConfig c;
  c.kl_estimator = "k2";
  EXPECT_EQ(make_algorithm(c).kl_loss, KlEstimator::kK2);
  EXPECT_EQ(make_algorithm(c).kl_reward, KlEstimator::kNone);
  c.kl_placement = "reward";
  EXPECT_EQ(make_algorithm(c).kl_loss, KlEstimator::kNone);
  EXPECT_EQ(make_algorithm(c).kl_reward, KlEstimator::kK2);
}

// --- whole losses ---

constexpr int64_t kMaxNewTokens = 9;
constexpr double kEpsLow = 0.2, kEpsHigh = 0.28, kBeta = 0.04;

struct Completion2 {
  double reward;
  Doubles logp, old, ref;
  size_t size() const { return logp.size(); }
};
using Batch = std::vector<std::vector<Completion2>>;  // groups

Batch random_batch() {
  PhiloxSequence random(5, RandomStream::kTest, 13);
  Batch batch(2);
  for (auto& group : batch) {
    for (int i = 0; i < 4; ++i) {
      Completion2 c{.reward = static_cast<float>(random.below(3)) + 0.25f * static_cast<float>(i % 2)};
      const uint32_t length = 1 + random.below(kMaxNewTokens);
      for (uint32_t t = 0; t < length;
           ++t) {  // as floats, so that both sides see the same numbers; ratios from 0.4 to 2.4
        c.logp.push_back(static_cast<float>(-4 * random.uniform() - 0.1f));
        c.old.push_back(static_cast<float>(c.logp.back() + 1.8f * (random.uniform() - 0.5f)));
        c.ref.push_back(static_cast<float>(c.logp.back() + 1.8f * (random.uniform() - 0.5f)));
      }
      group.push_back(std::move(c));
    }
  }
  return batch;
}

double sum_over(const Batch& batch, const std::function<double(const std::vector<Completion2>&, size_t)>& f) {
  double sum = 0;
  for (const auto& group : batch)
    for (size_t i = 0; i < group.size(); ++i) sum += f(group, i);
  return sum;
}

double clip(double ratio) { return std::min(std::max(ratio, 1 - kEpsLow), 1 + kEpsHigh); }
double surrogate(double ratio, double a) { return std::min(ratio * a, clip(ratio) * a); }
double k3(const Completion2& c, size_t t) {
  return std::exp(c.ref[t] - c.logp[t]) - (c.ref[t] - c.logp[t]) - 1;
}

std::vector<float> rewards_of(const std::vector<Completion2>& group) {
  std::vector<float> r;
  for (const Completion2& c : group) r.push_back(static_cast<float>(c.reward));
  return r;
}
double standardized(const std::vector<Completion2>& g, size_t i) {
  return (g[i].reward - mean(rewards_of(g))) / deviation(rewards_of(g));
}
double centered(const std::vector<Completion2>& g, size_t i) { return g[i].reward - mean(rewards_of(g)); }
double left_out(const std::vector<Completion2>& g, size_t i) {
  double others = 0;
  for (size_t j = 0; j < g.size(); ++j) others += j == i ? 0 : g[j].reward;
  return g[i].reward - others / static_cast<double>(g.size() - 1);
}

double num_tokens(const Batch& b) {
  return sum_over(b, [](const auto& g, size_t i) { return static_cast<double>(g[i].size()); });
}
double num_completions(const Batch& b) {
  return sum_over(b, [](const auto&, size_t) { return 1.0; });
}

// The papers' objectives J, to be maximised, of the batch as a mean over its groups. `b0` is where CISPO's
// stopped weights are taken.
double grpo(const Batch& b, const Batch&) {
  return sum_over(b,
                  [](const auto& g, size_t i) {
                    double o = 0;
                    for (size_t t = 0; t < g[i].size(); ++t)
                      o += surrogate(std::exp(g[i].logp[t] - g[i].old[t]), standardized(g, i)) -
                           kBeta * k3(g[i], t);
                    return o / static_cast<double>(g[i].size());
                  }) /
         num_completions(b);
}
double dr_grpo(const Batch& b, const Batch&) {
  return sum_over(b,
                  [](const auto& g, size_t i) {
                    double o = 0;
                    for (size_t t = 0; t < g[i].size(); ++t)
                      o += surrogate(std::exp(g[i].logp[t] - g[i].old[t]), centered(g, i)) -
                           kBeta * k3(g[i], t);
                    return o / kMaxNewTokens;
                  }) /
         num_completions(b);
}
double token_mean(const Batch& b, double (*advantage)(const std::vector<Completion2>&, size_t)) {
  return sum_over(b,
                  [&](const auto& g, size_t i) {
                    double o = 0;
                    for (size_t t = 0; t < g[i].size(); ++t)
                      o += surrogate(std::exp(g[i].logp[t] - g[i].old[t]), advantage(g, i)) -
                           kBeta * k3(g[i], t);
                    return o;
                  }) /
         num_tokens(b);
}
double dapo(const Batch& b, const Batch&) { return token_mean(b, standardized); }
double rloo(const Batch& b, const Batch&) { return token_mean(b, left_out); }
double gspo(const Batch& b, const Batch&) {
  return sum_over(b,
                  [](const auto& g, size_t i) {
                    double log_ratio = 0, kl = 0;
                    for (size_t t = 0; t < g[i].size(); ++t) {
                      log_ratio += (g[i].logp[t] - g[i].old[t]) / static_cast<double>(g[i].size());
                      kl += k3(g[i], t) / static_cast<double>(g[i].size());
                    }
                    return surrogate(std::exp(log_ratio), standardized(g, i)) - kBeta * kl;
                  }) /
         num_completions(b);
}
double cispo(const Batch& b, const Batch& b0) {
  double sum = 0;
  for (size_t g = 0; g < b.size(); ++g)
    for (size_t i = 0; i < b[g].size(); ++i)
      for (size_t t = 0; t < b[g][i].size(); ++t)
        sum += clip(std::exp(b0[g][i].logp[t] - b0[g][i].old[t])) * standardized(b[g], i) * b[g][i].logp[t] -
               kBeta * k3(b[g][i], t);
  return sum / num_tokens(b);
}

struct Case {
  const char* name;
  double (*objective)(const Batch&, const Batch&);
};

class AlgorithmLoss : public ::testing::TestWithParam<Case> {};

TEST_P(AlgorithmLoss, EqualsThePapersFormulaWithItsGradient) {
  RlConfig rl;
  rl.algorithm = GetParam().name;
  rl.clip_eps_low = kEpsLow;
  rl.clip_eps_high = kEpsHigh;
  rl.kl_beta = kBeta;
  const Algorithm algorithm = make_algorithm(rl);
  Batch batch = random_batch();

  std::vector<int64_t> lengths;
  for (const auto& group : batch)
    for (const Completion2& c : group) lengths.push_back(static_cast<int64_t>(c.size()));
  const std::vector<float> weights = token_weights(algorithm.aggregation, lengths, kMaxNewTokens);
  TokenColumns columns;
  std::vector<HeadStats> head;
  size_t index = 0;
  for (const auto& group : batch) {
    const std::vector<float> advantages = group_advantages(algorithm.advantage, rewards_of(group));
    for (size_t i = 0; i < group.size(); ++i) {
      const std::vector<float> old(group[i].old.begin(), group[i].old.end()),
          ref(group[i].ref.begin(), group[i].ref.end());
      columns.append(old, &ref, nullptr, advantages[i], weights[index++]);
      for (double logp : group[i].logp) head.push_back({.logp = static_cast<float>(logp)});
    }
  }
  const std::unique_ptr<Device> device = make_cpu_device();
  Arena arena(device.get(), 1 << 20, "test arena", "nothing");
  const Runtime runtime = {.device = device.get(), .ops = &cpu_ops(), .arena = &arena};
  const TokenLossArgs results = columns.send(runtime, head.data(), algorithm, rl);
  cpu_ops().token_loss({}, results);

  const auto objective = GetParam().objective;
  const double loss = std::accumulate(results.loss, results.loss + results.num_tokens, 0.0);
  EXPECT_NEAR(loss, -objective(batch, batch), 2e-6);
  const Batch at = batch;
  size_t token = 0;
  for (auto& group : batch)
    for (Completion2& c : group)
      for (double& logp : c.logp) {
        constexpr double kStep = 1e-6;
        const double here = logp;
        logp = here + kStep;
        const double up = objective(batch, at);
        logp = here - kStep;
        const double down = objective(batch, at);
        logp = here;
        EXPECT_NEAR(results.dlogp[token], -(up - down) / (2 * kStep), 2e-6) << "token " << token;
        ++token;
      }
  EXPECT_GT(std::accumulate(results.clipped, results.clipped + results.num_tokens, 0.0), 0)
      << "nothing was clipped";
}

INSTANTIATE_TEST_SUITE_P(Papers, AlgorithmLoss,
                         ::testing::Values(Case{"grpo", grpo}, Case{"dr_grpo", dr_grpo}, Case{"dapo", dapo},
                                           Case{"gspo", gspo}, Case{"rloo", rloo}, Case{"cispo", cispo}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace contender
