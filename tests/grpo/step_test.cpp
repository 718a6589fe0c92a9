// Whole GRPO steps of a tiny model on one rank: does an update do what the algorithm says?
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "tests/grpo/tiny_trainer.h"

namespace contender {
namespace {

using namespace testing_trainer;
using Logps = std::vector<std::vector<float>>;

using Coefficients = std::vector<std::vector<double>>;  // of every token's logp

double weighted_sum(const Logps& logp, const Coefficients& coefficient) {
  double sum = 0;
  for (size_t i = 0; i < logp.size(); ++i)
    for (size_t t = 0; t < logp[i].size(); ++t) sum += coefficient[i].at(t) * logp[i][t];
  return sum;
}

std::vector<double> advantages_of(const std::vector<SampleGroup>& groups, AdvantageKind kind) {
  std::vector<double> all;
  for (const SampleGroup& g : groups) {
    std::vector<float> rewards;
    for (const Sample& s : g.samples) rewards.push_back(s.score.reward);
    for (float a : group_advantages(kind, rewards)) all.push_back(a);
  }
  return all;
}

int64_t num_tokens(const std::vector<SampleGroup>& groups) {
  int64_t n = 0;
  for (const SampleGroup& g : groups)
    for (const Sample& s : g.samples) n += std::ssize(s.completion.tokens);
  return n;
}

// The first AdamW update moves every weight by lr times the sign of its gradient g, so a small one raises J =
// sum of coefficient * logp by lr * |g|_1 exactly when the step's gradient is that of J. The first moments
// hold g.
void expect_step_climbs(TinyTrainer& t, const std::vector<SampleGroup>& groups,
                        const Coefficients& coefficient) {
  plant(t.trainer, groups);
  const double before = weighted_sum(logps(t.trainer, groups), coefficient);
  t->rl_step();
  const double rise = weighted_sum(logps(t.trainer, groups), coefficient) - before;
  const Tensor m = t->policy_weights().moment_m(0, 1, t->policy_weights().shard_numel());
  const double norm = t.metric("grad_norm"),
               scale = (1 - t.config.train.adam_beta1) * std::min(1.0, t.config.train.max_grad_norm / norm);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < m.numel(); ++i)
    sum += std::abs(m.f32()[i] / scale), squares += std::pow(m.f32()[i] / scale, 2);
  EXPECT_NEAR(std::sqrt(squares), norm, 1e-4 * norm);
  ASSERT_GT(sum, norm);
  EXPECT_NEAR(rise / (t.config.rl.lr * sum), 1, 0.02) << "rise " << rise << ", |g|_1 " << sum;
}

// Every expert is chosen, so that a small step cannot change the selection.
RunConfig small_step_run() {
  RunConfig c = tiny_run();
  c.model.n_group = c.model.topk_group = 1;
  c.model.num_experts_per_tok = c.model.n_routed_experts;
  c.rl.lr = c.rl.lr_min = 1e-5;
  c.train.adam_eps = 1e-12;
  c.model.bias_update_speed = 0;
  return c;
}

struct AlgorithmCase {
  const char* name;
  AdvantageKind advantage;
};

class GrpoStep : public ::testing::TestWithParam<AlgorithmCase> {};

TEST_P(GrpoStep, FollowsTheGradientOfTheObjective) {
  RunConfig c = small_step_run();
  c.rl.algorithm = GetParam().name;
  const std::vector<SampleGroup> groups = first_groups(c);
  const std::vector<double> advantage = advantages_of(groups, GetParam().advantage);
  const Aggregation aggregation = make_algorithm(c.rl).aggregation;
  const double samples = static_cast<double>(advantage.size());
  Coefficients coefficient;
  for (const SampleGroup& g : groups)
    for (const Sample& s : g.samples) {
      const double length = static_cast<double>(s.completion.tokens.size()),
                   a = advantage[coefficient.size()];
      coefficient.emplace_back(
          s.completion.tokens.size(),
          aggregation == Aggregation::kToken      ? a / static_cast<double>(num_tokens(groups))
          : aggregation == Aggregation::kSequence ? a / (samples * length)
                                                  : a / (samples * static_cast<double>(c.rl.max_new_tokens)));
    }
  TinyTrainer t(c);
  expect_step_climbs(t, groups, coefficient);
}

INSTANTIATE_TEST_SUITE_P(Algorithms, GrpoStep,
                         ::testing::Values(AlgorithmCase{"grpo", AdvantageKind::kStandardized},
                                           AlgorithmCase{"dr_grpo", AdvantageKind::kCentered},
                                           AlgorithmCase{"dapo", AdvantageKind::kStandardized},
                                           AlgorithmCase{"gspo", AdvantageKind::kStandardized},
                                           AlgorithmCase{"rloo", AdvantageKind::kLeaveOneOut},
                                           AlgorithmCase{"cispo", AdvantageKind::kStandardized}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(GrpoSteps, RewardedCompletionsGetLikelierAndTheOthersLess) {
  const RunConfig c = tiny_run();
  const std::vector<SampleGroup> groups = first_groups(c);
  TinyTrainer t(c);
  plant(t.trainer, groups);
  const Logps before = logps(t.trainer, groups);
  t->rl_step();
  const Logps after = logps(t.trainer, groups);
  const std::vector<double> advantage = advantages_of(groups, AdvantageKind::kStandardized);
  double up = 0, down = 0;
  for (size_t i = 0; i < advantage.size(); ++i)
    for (size_t k = 0; k < before[i].size(); ++k)
      (advantage[i] > 0 ? up : down) += std::abs(advantage[i]) * (after[i][k] - before[i][k]);
  EXPECT_GT(up, 0);
  EXPECT_LT(down, 0);
}

class GrpoVariant : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(GrpoVariant, TwoStepsAreFiniteAndLearn) {
  RunConfig c = tiny_run();
  c.rl.prompts_per_step = 8;
  c.rl.algorithm = std::get<0>(GetParam());
  c.rl.aggregation = std::get<1>(GetParam());
  c.rl.kl_beta = 0.05;
  TinyTrainer t(c, "rl", &warm_weights());
  for (int step = 0; step < 2; ++step) {
    const uint64_t weights = t->policy_weights().fingerprint();
    t->rl_step();
    for (const char* key : {"reward", "loss", "kl", "grad_norm", "entropy", "clip_fraction", "lr"})
      EXPECT_TRUE(std::isfinite(t.metric(key))) << key;
    const auto variance = [](const SampleGroup& g) {
      return std::any_of(g.samples.begin(), g.samples.end(),
                         [&](const Sample& s) { return s.score.reward != g.samples[0].score.reward; });
    };
    ASSERT_TRUE(std::any_of(t->last_batch().begin(), t->last_batch().end(), variance));
    EXPECT_GT(t.metric("grad_norm"), 1e-4);
    EXPECT_EQ(t.metric("skipped"), 0);
    EXPECT_EQ(t.metric("logp_diff"), 0);
    EXPECT_NE(t->policy_weights().fingerprint(), weights);
  }
  EXPECT_EQ(t->state().step, 2);
}

INSTANTIATE_TEST_SUITE_P(
    All, GrpoVariant,
    ::testing::Combine(::testing::Values("grpo", "dr_grpo", "dapo", "gspo", "rloo", "cispo"),
                       ::testing::Values("auto", "token", "sequence", "constant")),
    [](const auto& info) { return std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param); });

TEST(GrpoSteps, WithoutVarianceNothingMoves) {
  const RunConfig c = tiny_run();
  std::vector<SampleGroup> groups = first_groups(c);
  for (SampleGroup& g : groups)
    for (Sample& s : g.samples) s.score.reward = static_cast<float>(g.id) + 0.1f;
  TinyTrainer t(c);
  plant(t.trainer, groups);
  t->rl_step();
  EXPECT_EQ(t.metric("grad_norm"), 0);
  EXPECT_EQ(t.metric("loss"), 0);
}

// --- several updates of one rollout ---

TEST(GrpoSteps, EveryUpdateAfterTheFirstIsOffPolicyAndClips) {
  RunConfig c = tiny_run();
  c.rl.lr = c.rl.lr_min = 5e-3;
  c.rl.steps_per_rollout = 4;
  c.rl.inner_epochs = 2;
  c.rl.prompts_per_step = 2;
  TinyTrainer t(c, "rl", &warm_weights());
  t->rl_step();
  EXPECT_EQ(t->state().step, 8);
  EXPECT_EQ(t->state().global_step, 8);
  EXPECT_EQ(t->state().updates, 8);
  ASSERT_EQ(t->last_batch().size(), 8u);
  EXPECT_GT(t.metric("clip_fraction"), 0.01);
  int64_t trained = num_tokens(t->last_batch());
  for (const SampleGroup& g : t->last_batch()) trained += std::ssize(g.prompt.tokens) * std::ssize(g.samples);
  EXPECT_EQ(t->state().tokens_trained, 2 * trained);  // every sample once in each epoch
  EXPECT_EQ(t->state().tokens_generated, num_tokens(t->last_batch()));
  EXPECT_EQ(t.metric("logp_diff"), 0);
}

TEST(GrpoSteps, TheOnlyUpdateOfARolloutCannotClip) {
  RunConfig c = tiny_run();
  c.rl.lr = c.rl.lr_min = 5e-3;
  TinyTrainer t(c, "rl", &warm_weights());
  for (int step = 0; step < 3; ++step) {
    t->rl_step();
    EXPECT_EQ(t.metric("clip_fraction"), 0);
  }
}

TEST(GrpoSteps, VerificationIsDueWithinARolloutOfManyUpdates) {
  RunConfig c = tiny_run();
  c.rl.steps_per_rollout = 4;
  c.rl.verify_logp_every = 6;
  TinyTrainer t(c);
  std::vector<bool> verified;
  for (int rollout = 0; rollout < 4; ++rollout) {
    t->rl_step();
    verified.push_back(std::isfinite(t.metric("logp_diff")));
  }
  EXPECT_EQ(verified, (std::vector<bool>{true, true, false, true}));  // steps 0..3, 4..7, 8..11, 12..15
}

// --- KL ---

TEST(GrpoKl, ReferenceIsReplacedAndTheKlStartsAgainAtZero) {
  RunConfig c = tiny_run();
  c.rl.kl_beta = 0.01;
  c.rl.lr = c.rl.lr_min = 3e-3;
  c.rl.reference_replace_every = 2;
  TinyTrainer t(c, "rl", &warm_weights());
  for (int step = 0; step < 5; ++step) {
    t->rl_step();
    if (step % 2 == 0) {
      EXPECT_EQ(t.metric("kl"), 0) << step;
    } else {
      EXPECT_GT(t.metric("kl"), 1e-5) << step;
    }
  }
}

// Gives the policy other weights than it began the stage with (and than its reference).
void move_policy(TinyTrainer& t) {
  RunConfig c = t.config;
  c.sft.lr = c.sft.lr_min = 1e-3;
  TinyTrainer other(c, "sft");
  for (int i = 0; i < 4; ++i) other->sft_step();
  t->policy_weights().copy_from(other->policy_weights());
  t->policy_weights().set_version(0);
  t->engine().set_weights(0);
}

class GrpoKlEstimator : public ::testing::TestWithParam<const char*> {
 protected:
  RunConfig config(double beta) {
    RunConfig c = small_step_run();
    c.rl.kl_estimator = GetParam();
    c.rl.kl_beta = beta;
    return c;
  }
  KlEstimator kind() { return make_algorithm(config(1).rl).kl_loss; }
};

TEST_P(GrpoKlEstimator, IsMeasuredAgainstTheReference) {
  const RunConfig c = config(0.1);
  TinyTrainer t(c), reference(c);
  move_policy(t);
  t->rl_step();
  const Logps ref = logps(reference.trainer, t->last_batch());
  double sum = 0;
  size_t i = 0;
  for (const SampleGroup& g : t->last_batch())
    for (const Sample& s : g.samples) {
      for (size_t k = 0; k < ref[i].size(); ++k) sum += kl_estimate(kind(), s.completion.logp[k], ref[i][k]);
      ++i;
    }
  const double mean = sum / static_cast<double>(num_tokens(t->last_batch()));
  ASSERT_GT(std::abs(mean), 1e-3);
  EXPECT_NEAR(t.metric("kl"), mean, 1e-4 * std::abs(mean));
}

TEST_P(GrpoKlEstimator, InTheLossPullsTowardsTheReference) {
  RunConfig c = config(0.1);
  c.rl.lr = c.rl.lr_min = 1e-3;
  TinyTrainer t(c);
  move_policy(t);
  std::vector<SampleGroup> groups = [&] {
    t->rl_step();
    return t->last_batch();
  }();
  for (SampleGroup& g : groups)
    for (Sample& s : g.samples) s.score.reward = 1;
  std::vector<double> kl;
  for (int step = 0; step < 8; ++step) {
    plant(t.trainer, groups);
    t->rl_step();
    EXPECT_GT(t.metric("grad_norm"), 0);
    kl.push_back(t.metric("kl"));
  }
  EXPECT_LT(kl.back(), kl.front());
}

TEST_P(GrpoKlEstimator, InTheRewardMakesTheAdvantage) {
  RunConfig c = config(0.1);
  c.rl.kl_placement = "reward";
  c.rl.aggregation = "token";
  TinyTrainer donor(c), reference(c), t(c);
  move_policy(donor);
  move_policy(t);
  donor->rl_step();
  std::vector<SampleGroup> groups = donor->last_batch();
  const Logps ref = logps(reference.trainer, groups);
  Coefficients coefficient;
  size_t i = 0;
  for (SampleGroup& g : groups) {
    std::vector<float> rewards;
    for (Sample& s : g.samples) {
      s.score.reward = 1;
      double cost = 0;
      for (size_t k = 0; k < ref[i].size(); ++k) cost += kl_estimate(kind(), s.completion.logp[k], ref[i][k]);
      rewards.push_back(static_cast<float>(1 - 0.1 * cost));
      ++i;
    }
    for (float a : group_advantages(AdvantageKind::kStandardized, rewards))
      coefficient.emplace_back(ref[coefficient.size()].size(), a / static_cast<double>(num_tokens(groups)));
  }
  expect_step_climbs(t, groups, coefficient);
  EXPECT_NE(t.metric("kl"), 0);
}

INSTANTIATE_TEST_SUITE_P(Estimators, GrpoKlEstimator, ::testing::Values("k1", "k2", "k3"),
                         [](const auto& info) { return std::string(info.param); });

// --- multi-token prediction ---

double mtp_norm(double weight, int64_t token_budget, double* loss) {
  RunConfig c = tiny_run("mtp");
  c.rl.mtp_loss_weight = weight;
  c.train.token_budget = token_budget;
  std::vector<SampleGroup> groups = first_groups(c);
  for (SampleGroup& g : groups)
    for (Sample& s : g.samples) s.score.reward = 0;
  TinyTrainer t(c);
  plant(t.trainer, groups);
  t->rl_step();
  *loss = t.metric("mtp_loss");
  return t.metric("grad_norm");
}

TEST(GrpoMtp, LossIsAMeanOverTheMinibatchWhateverTheRounds) {
  double one_round, many_rounds, twice, none;
  const double norm = mtp_norm(0.3, 256, &one_round);
  EXPECT_GT(norm, 1e-3);
  EXPECT_NEAR(one_round, std::log(272), 1);  // a uniform guess, about
  EXPECT_NEAR(mtp_norm(0.3, 40, &many_rounds), norm, 1e-5 * norm);
  EXPECT_NEAR(many_rounds, one_round, 1e-6 * one_round);
  EXPECT_NEAR(mtp_norm(0.6, 256, &twice), 2 * norm, 1e-5 * norm);
  EXPECT_EQ(twice, one_round);
  EXPECT_EQ(mtp_norm(0, 256, &none), 0);
  EXPECT_TRUE(std::isnan(none));  // no column of its own
}

TEST(GrpoMtp, LossFalls) {
  RunConfig c = tiny_run("mtp");
  c.rl.mtp_loss_weight = 0.3;
  c.rl.lr = c.rl.lr_min = 5e-3;
  const std::vector<SampleGroup> groups = first_groups(c);
  TinyTrainer t(c);
  std::vector<double> loss;
  for (int step = 0; step < 10; ++step) {
    plant(t.trainer, groups);
    t->rl_step();
    loss.push_back(t.metric("mtp_loss"));
  }
  EXPECT_LT(loss.back(), 0.9 * loss.front());
}

// --- the sampler's log-probs ---

float flip_lowest_bit(float v) { return std::bit_cast<float>(std::bit_cast<uint32_t>(v) ^ 1u); }

TEST(GrpoVerify, PlantedSamplesTrainToTheSameBitsAndAWrongLogpIsSeen) {
  for (int64_t minibatches : {1, 4}) {
    RunConfig c = tiny_run();
    c.rl.steps_per_rollout = minibatches;
    TinyTrainer donor(c), same(c), wrong(c);
    donor->rl_step();
    EXPECT_EQ(donor->state().max_logp_diff, 0);
    std::vector<SampleGroup> groups = donor->last_batch();
    plant(same.trainer, groups);
    same->rl_step();
    EXPECT_EQ(same->state().max_logp_diff, 0);
    EXPECT_EQ(same->policy_weights().fingerprint(), donor->policy_weights().fingerprint());

    float& logp = groups.back().samples.back().completion.logp.front();
    const double right = logp;
    logp = flip_lowest_bit(logp);
    plant(wrong.trainer, groups);
    wrong->rl_step();
    EXPECT_EQ(wrong->state().max_logp_diff, std::abs(right - logp)) << minibatches;
  }
}

TEST(GrpoVerify, TokensOfOlderWeightsAreNotCompared) {
  const RunConfig c = tiny_run();
  std::vector<SampleGroup> groups = first_groups(c);
  Completion& done = groups[1].samples[2].completion;
  done.logp[0] = flip_lowest_bit(done.logp[0]);
  done.version[0] = -1;
  TinyTrainer t(c);
  plant(t.trainer, groups);
  t->rl_step();
  EXPECT_EQ(t->state().max_logp_diff, 0);
}

TEST(GrpoTruncation, StaleAndTruncatedTokensAreWeightedInTheLoss) {
  for (const bool stale : {false, true}) {
    RunConfig c = small_step_run();
    c.rl.aggregation = "token";
    c.rl.top_p = stale ? 1.0 : 0.7;
    c.rl.max_staleness = stale;
    c.rl.tis_cap = stale ? 1.1 : 0.702;
    const std::vector<SampleGroup> groups = first_groups(c);
    TinyTrainer t(c);
    if (stale) move_policy(t);
    const Logps current = logps(t.trainer, groups);
    const std::vector<double> advantage = advantages_of(groups, AdvantageKind::kStandardized);
    Coefficients coefficient;
    int capped = 0, free = 0;
    for (const SampleGroup& g : groups)
      for (const Sample& s : g.samples) {
        const size_t i = coefficient.size();
        coefficient.emplace_back();
        for (size_t k = 0; k < current[i].size(); ++k) {
          const double weight = std::exp(static_cast<double>(current[i][k]) - s.completion.logp_sampled[k]);
          (weight > c.rl.tis_cap ? capped : free) += 1;
          coefficient[i].push_back(std::min(weight, c.rl.tis_cap) * advantage[i] /
                                   static_cast<double>(num_tokens(groups)));
        }
      }
    EXPECT_GT(capped, 0);
    EXPECT_GT(free, 0);
    expect_step_climbs(t, groups, coefficient);
    EXPECT_EQ(t.metric("clip_fraction"), 0);
  }
}

TEST(GrpoTruncation, WeightsAreTheMassThatWasKept) {
  for (double cap : {2.0, 0.93}) {
    RunConfig c = tiny_run();
    c.rl.top_p = 0.9;
    c.rl.tis_cap = cap;
    TinyTrainer t(c, "rl", &warm_weights());
    t->rl_step();
    double sum = 0, largest = 0;
    for (const SampleGroup& g : t->last_batch())
      for (const Sample& s : g.samples)
        for (size_t k = 0; k < s.completion.tokens.size(); ++k) {
          const double kept =
              std::exp(static_cast<double>(s.completion.logp[k]) - s.completion.logp_sampled[k]);
          EXPECT_LE(kept, 1 + 1e-6);
          EXPECT_GE(kept, 0.9 - 1e-6);
          sum += std::min(kept, cap);
          largest = std::max(largest, kept);
        }
    EXPECT_GT(largest, 0.93);
    const double mean = sum / static_cast<double>(num_tokens(t->last_batch()));
    EXPECT_LT(mean, 0.999);  // something was cut
    EXPECT_NEAR(t.metric("importance"), mean, 1e-6);
    EXPECT_EQ(t.metric("staleness"), 0);
    EXPECT_EQ(t.metric("logp_diff"), 0);
  }
}

TEST(GrpoTruncation, UntruncatedOnPolicySamplesHaveNoWeights) {
  TinyTrainer t(tiny_run());
  t->rl_step();
  EXPECT_TRUE(std::isnan(t.metric("importance")));
}

TEST(GrpoTruncation, ExpandedAttentionIsCorrected) {
  TinyTrainer t(tiny_run("expanded"), "rl", nullptr);
  t->rl_step();
  EXPECT_NEAR(t.metric("importance"), 1, 1e-3);
  EXPECT_GT(t.metric("logp_diff"), 0);  // the measured gap
  EXPECT_LT(t.metric("logp_diff"), 1e-3);
}

// --- samples without a score ---

TEST(GrpoLostScores, LeaveTheBatchUpToALimit) {
  const RunConfig c = tiny_run();
  std::vector<SampleGroup> groups = first_groups(c);
  groups[1].samples[2].score.valid = false;
  groups[1].samples[2].score.status = "timeout";
  groups[1].samples[2].score.reward = 1e6f;
  TinyTrainer t(c);
  plant(t.trainer, groups);
  t->rl_step();
  EXPECT_EQ(t.metric("samples"), 15);
  EXPECT_LT(t.metric("reward"), 2);
  int64_t trained = num_tokens(groups);
  for (const SampleGroup& g : groups) trained += std::ssize(g.prompt.tokens) * std::ssize(g.samples);
  trained -= std::ssize(groups[1].prompt.tokens) + std::ssize(groups[1].samples[2].completion.tokens);
  EXPECT_EQ(t->state().tokens_trained, trained);

  groups[0].samples[0].score = groups[1].samples[2].score;
  TinyTrainer u(c);
  plant(u.trainer, groups);
  try {
    u->rl_step();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kSandbox);
    EXPECT_STREQ(e.what(), "2 of 16 samples have no score (reward.max_infra_errors = 0.1): timeout");
  }
}

}  // namespace
}  // namespace contender
