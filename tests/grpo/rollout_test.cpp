// Prompts to scored groups: refills, samples that lag, evaluations in between, rewards of programs, prompts
// from files and command lines.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "tests/grpo/tiny_trainer.h"

namespace contender {
namespace {

using namespace testing_trainer;

bool rewards_differ(const SampleGroup& g) {
  return std::any_of(g.samples.begin(), g.samples.end(),
                     [&](const Sample& s) { return s.score.reward != g.samples[0].score.reward; });
}

std::vector<uint64_t> ids(const std::vector<SampleGroup>& groups) {
  std::vector<uint64_t> out;
  for (const SampleGroup& g : groups) out.push_back(g.id);
  return out;
}

// --- dynamic sampling ---

TEST(GrpoDynamicSampling, DropsUniformGroupsAndRefills) {
  RunConfig c = tiny_run();
  c.rl.prompts_per_step = 8;
  c.rl.group_size = 2;
  c.rl.dynamic_max_rounds = 50;
  TinyTrainer plain(c, "rl", &warm_weights());
  plain->rl_step();
  const auto& all = plain->last_batch();
  ASSERT_TRUE(std::any_of(all.begin(), all.end(), rewards_differ));
  ASSERT_FALSE(std::all_of(all.begin(), all.end(), rewards_differ));
  EXPECT_EQ(plain->state().group_cursor, 8);

  c.rl.dynamic_sampling = true;
  TinyTrainer t(c, "rl", &warm_weights());
  t->rl_step();
  const auto& kept = t->last_batch();
  ASSERT_EQ(kept.size(), 8u);
  EXPECT_TRUE(std::all_of(kept.begin(), kept.end(), rewards_differ));
  EXPECT_TRUE(
      std::is_sorted(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.id < b.id; }));
  EXPECT_GT(t->state().group_cursor, 8);
  EXPECT_EQ(t->state().prompt_cursor, t->state().group_cursor);
  // Those that stayed of the first eight are the same as without.
  for (const SampleGroup& g : all) {
    const auto same = std::find_if(kept.begin(), kept.end(), [&](const auto& k) { return k.id == g.id; });
    ASSERT_EQ(same != kept.end(), rewards_differ(g)) << g.id;
    for (size_t i = 0; same != kept.end() && i < g.samples.size(); ++i)
      EXPECT_EQ(same->samples[i].completion.tokens, g.samples[i].completion.tokens);
  }
  // Metrics tell of everything that was sampled.
  EXPECT_EQ(t.metric("samples"), 2 * t->state().group_cursor);
}

TEST(GrpoDynamicSampling, EndsAfterTheRoundsItMayTake) {
  RunConfig c = tiny_run();
  c.rl.dynamic_sampling = true;
  c.rl.dynamic_max_rounds = 3;
  TinyTrainer t(c);  // random weights earn nothing
  t->rl_step();
  EXPECT_EQ(t->last_batch().size(), 4u);
  EXPECT_EQ(t->state().group_cursor, 4 * (1 + 3));
  EXPECT_EQ(ids(t->last_batch()), (std::vector<uint64_t>{12, 13, 14, 15}));
  EXPECT_EQ(t.metric("grad_norm"), 0);
}

// --- samples that lag ---

RunConfig stale_run() {
  RunConfig c = tiny_run();
  c.rl.max_staleness = 1;
  c.rl.lr = c.rl.lr_min = 3e-3;
  c.rl.tis_cap = 1.2;
  return c;
}

struct Lag {
  int64_t largest = 0, tokens_behind = 0, mixed = 0;
};

Lag lag_of(const std::vector<SampleGroup>& groups, int64_t version) {
  Lag lag;
  for (const SampleGroup& g : groups)
    for (const Sample& s : g.samples) {
      const auto& v = s.completion.version;
      for (int64_t x : v) {
        lag.largest = std::max(lag.largest, version - x);
        lag.tokens_behind += x < version;
        EXPECT_LE(x, version);
      }
      EXPECT_TRUE(std::is_sorted(v.begin(), v.end()));
      lag.mixed += v.front() != v.back();
    }
  return lag;
}

TEST(GrpoStaleness, VersionsLagByAtMostOneAndWeightsAreCapped) {
  const RunConfig c = stale_run();
  TinyTrainer t(c, "rl", &warm_weights()), now(c, "rl", &warm_weights());
  Lag all;
  double smallest = 1, largest = 1;
  std::vector<uint64_t> expected_ids;
  for (int64_t step = 0; step < 5; ++step) {
    const int64_t version = t->policy_weights().version();
    now->policy_weights().copy_from(t->policy_weights());
    t->rl_step();
    for (uint64_t i = 0; i < 4; ++i) expected_ids.push_back(static_cast<uint64_t>(step) * 4 + i);
    EXPECT_EQ(ids(t->last_batch()), std::vector<uint64_t>(expected_ids.end() - 4, expected_ids.end()));
    const Lag lag = lag_of(t->last_batch(), version);
    EXPECT_LE(lag.largest, 1);
    EXPECT_EQ(t.metric("staleness"), lag.largest);
    all.tokens_behind += lag.tokens_behind;
    all.mixed += lag.mixed;
    EXPECT_EQ(t.metric("logp_diff"), 0);
    EXPECT_EQ(t.metric("clip_fraction"),
              0);  // the ratio is to the policy before the update, not to the sampler

    double sum = 0, tokens = 0;
    const auto current = logps(now.trainer, t->last_batch());
    size_t i = 0;
    for (const SampleGroup& g : t->last_batch())
      for (const Sample& s : g.samples) {
        for (size_t k = 0; k < current[i].size(); ++k) {
          const double weight = std::exp(static_cast<double>(current[i][k]) - s.completion.logp_sampled[k]);
          smallest = std::min(smallest, weight);
          largest = std::max(largest, weight);
          sum += std::min(weight, 1.2);
          tokens += 1;
        }
        ++i;
      }
    EXPECT_NEAR(t.metric("importance"), sum / tokens, 1e-5) << step;
  }
  EXPECT_GT(all.tokens_behind, 0);
  EXPECT_GT(all.mixed, 0) << "no sequence went on under newer weights";
  EXPECT_LT(smallest, 0.99);
  EXPECT_GT(largest, 1.2) << "nothing was capped";
}

TEST(GrpoStaleness, LagCountsUpdatesNotRollouts) {
  RunConfig c = stale_run();
  c.rl.steps_per_rollout = 2;
  c.rl.inner_epochs = 2;
  c.rollout.max_sequences = 256;  // all at once
  for (int64_t staleness : {3, 4, 7, 8}) {
    c.rl.max_staleness = staleness;
    TinyTrainer t(c, "rl", &warm_weights());
    int64_t largest = 0;
    for (int rollout = 0; rollout < 4; ++rollout) {
      const int64_t version = t->policy_weights().version();
      t->rl_step();
      largest = std::max(largest, lag_of(t->last_batch(), version).largest);
    }
    EXPECT_EQ(largest, staleness / 4 * 4);
  }
}

TEST(GrpoStaleness, EvaluationLeavesSequencesInFlightAlone) {
  RunConfig c = stale_run();
  TinyTrainer plain(c, "rl", &warm_weights()), evaluated(c, "rl", &warm_weights());
  for (int step = 0; step < 4; ++step) {
    plain->rl_step();
    evaluated->rl_step();
    EXPECT_EQ(evaluated->record().json(), plain->record().json()) << step;
    evaluated->evaluate(8, 2, 1.0f, 1.0f);
    evaluated->generate({"1+2="}, 2);
  }
  EXPECT_EQ(evaluated->policy_weights().fingerprint(), plain->policy_weights().fingerprint());
}

TEST(GrpoStaleness, TheNextStageBeginsWithNothingInFlight) {
  RunConfig c = stale_run();
  TinyTrainer t(c, "rl", &warm_weights());
  t->rl_step();
  ASSERT_FALSE(t->engine().idle());
  t->state().stage = 1;
  t->state().step = t->state().prompt_cursor = t->state().group_cursor = 0;
  t->begin_stage(t.stage("rl"));
  EXPECT_TRUE(t->engine().idle());
  const int64_t version = t->policy_weights().version();
  t->rl_step();
  EXPECT_EQ(lag_of(t->last_batch(), version).largest, 0);
}

// --- rewards ---

TEST(GrpoRewards, OverlongPenaltyReachesTheReward) {
  RunConfig c = tiny_run();
  c.rl.overlong_buffer = 12;  // of 20: every completion of the warm policy is long enough
  c.reward.accuracy_weight = 2;
  c.reward.format_weight = 0.5;
  TinyTrainer t(c, "rl", &warm_weights());
  t->rl_step();
  int penalised = 0;
  for (const SampleGroup& g : t->last_batch())
    for (const Sample& s : g.samples) {
      const double length = s.completion.finished ? static_cast<double>(s.completion.tokens.size()) : 20.0;
      const double penalty = -std::clamp((length - 8) / 12, 0.0, 1.0);
      EXPECT_NEAR(s.score.overlong, penalty, 1e-6);
      EXPECT_NEAR(s.score.reward, 2 * s.score.accuracy + 0.5 * s.score.format + penalty, 1e-6);
      penalised += penalty < 0;
    }
  EXPECT_GT(penalised, 0);
}

TEST(GrpoRewards, JsonlPromptsAndTheUsersProgram) {
  const std::string train = ::testing::TempDir() + "grpo_train.jsonl",
                    held_out = ::testing::TempDir() + "grpo_eval.jsonl";
  std::ofstream(train) << R"({"prompt": "3+5=", "answer": "8", "task": "addition"}
{"prompt": "2+2=", "answer": "4"}
{"messages": [{"role": "user", "content": "9+1="}], "answer": 10, "task": "addition"}
)";
  std::ofstream(held_out) << R"({"prompt": "4+5=", "answer": "9"}
{"prompt": "6+7=", "answer": "13"}
)";
  RunConfig c = tiny_run();
  c.task = {.name = "jsonl", .train_files = {train}, .eval_files = {held_out}, .max_prompt_tokens = 12};
  c.reward = {.type = "command",
              .accuracy_weight = 1,
              .format_weight = 0,
              .command = {"tools/examples/reward_worker.sh"},
              .workers = 2};
  TinyTrainer t(c, "rl", &warm_weights());
  for (int step = 0; step < 2; ++step) {
    t->rl_step();
    int right = 0;
    std::vector<std::string> prompts;
    for (const SampleGroup& g : t->last_batch()) {
      prompts.push_back(g.prompt.text);
      for (const Sample& s : g.samples) {
        const bool correct =
            s.completion.finished && s.text.ends_with("<answer>" + g.prompt.answer + "</answer>");
        EXPECT_EQ(s.score.status, "ok");
        EXPECT_EQ(s.score.reward, correct ? 1 : 0) << s.text;  // by the program: 80 characters at most
        right += correct;
      }
    }
    EXPECT_GT(right, 0);
    std::sort(prompts.begin(),
              prompts.begin() + 3);  // every prompt once in the first epoch of three, then again
    if (step == 0) {
      EXPECT_EQ(std::vector<std::string>(prompts.begin(), prompts.begin() + 3),
                (std::vector<std::string>{"<user>2+2=<assistant>", "<user>3+5=<assistant>",
                                          "<user>9+1=<assistant>"}));
    }
    EXPECT_GT(t.metric("grad_norm"), 0);
  }
  const EvalResult e = t->evaluate(512, 2, 1.0f, 1.0f);
  EXPECT_EQ(e.groups.size(), 2u);  // all there are
}

TEST(GrpoRewards, ADeadProgramEndsTheStepNamingWhatHappened) {
  RunConfig c = tiny_run();
  c.reward = {.type = "command", .command = {"false"}};
  TinyTrainer t(c);
  try {
    t->rl_step();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kSandbox);
    EXPECT_STREQ(e.what(), "16 of 16 samples have no score (reward.max_infra_errors = 0.1): died");
  }
  EXPECT_THROW(t->evaluate(4, 1, 1.0f, 1.0f), Error);
}

// --- generation and evaluation ---

TEST(GrpoGenerate, FreePromptsNeedNoScore) {
  RunConfig c = tiny_run();
  c.eval.temperature = 0;
  TinyTrainer t(c, "sft", &warm_weights());  // lengths come from [rl] in a stage without RL, too
  const auto groups = t->generate({"3+5=", "hello", ""}, 2);
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].prompt.text, "<user>3+5=<assistant>");
  EXPECT_EQ(groups[2].prompt.text, "<user><assistant>");
  for (const SampleGroup& g : groups) {
    ASSERT_EQ(g.samples.size(), 2u);
    EXPECT_EQ(g.samples[0].text, g.samples[1].text);  // greedy
    for (const Sample& s : g.samples) {
      EXPECT_EQ(s.score.reward, 0);
      EXPECT_GE(s.completion.tokens.size(), 1u);
      EXPECT_LE(s.completion.tokens.size(), 20u);
    }
  }
  EXPECT_TRUE(groups[0].samples[0].text.starts_with("<think>")) << groups[0].samples[0].text;
}

TEST(GrpoGenerate, WithoutPromptsHeldOutProblemsAreScored) {
  TinyTrainer t(tiny_run(), "rl", &warm_weights());
  const auto groups = t->generate({}, 4);
  ASSERT_EQ(groups.size(), 8u);
  double format = 0;
  for (const SampleGroup& g : groups) {
    EXPECT_EQ(g.prompt.task, "addition");
    for (const Sample& s : g.samples) format += s.score.format;
  }
  EXPECT_GT(format, 0);
}

TEST(GrpoGenerate, APromptBeyondTheContextIsNamed) {
  TinyTrainer t(tiny_run());
  try {
    t->generate({"1+1=", std::string(60, '7')}, 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(e.what()).find("has 62 tokens"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("model.max_position_embeddings is 64"), std::string::npos)
        << e.what();
  }
}

TEST(GrpoEvaluate, PassAndMajorityFollowFromTheSamples) {
  TinyTrainer t(tiny_run(), "rl", &warm_weights());
  const EvalResult e = t->evaluate(8, 6, 1.0f, 1.0f);
  ASSERT_EQ(e.groups.size(), 8u);
  double right = 0, any = 0, one = 0, format = 0, tokens = 0;
  for (const SampleGroup& g : e.groups) {
    double r = 0;
    for (const Sample& s : g.samples) {
      r += s.score.accuracy;
      format += s.score.format;
      tokens += static_cast<double>(s.completion.tokens.size());
    }
    right += r;
    any += r > 0;
    one += r / 6;
  }
  EXPECT_NEAR(e.accuracy, right / 48, 1e-12);
  EXPECT_NEAR(e.format, format / 48, 1e-12);
  EXPECT_NEAR(e.mean_tokens, tokens / 48, 1e-12);
  std::vector<int64_t> ks;
  for (const auto& [k, value] : e.pass_at) ks.push_back(k);
  EXPECT_EQ(ks, (std::vector<int64_t>{1, 2, 4, 6}));
  EXPECT_NEAR(e.pass_at.at(1), one / 8, 1e-12);
  EXPECT_NEAR(e.pass_at.at(6), any / 8, 1e-12);
  EXPECT_GT(e.pass_at.at(6), e.pass_at.at(1));
  EXPECT_LE(e.maj_at_k, e.pass_at.at(6));
  const EvalResult again = t->evaluate(8, 6, 1.0f, 1.0f);
  EXPECT_EQ(again.accuracy, e.accuracy);  // the same numbers are drawn in every evaluation
  const EvalResult greedy = t->evaluate(8, 3, 0.0f, 1.0f);
  EXPECT_EQ(greedy.pass_at.at(1), greedy.pass_at.at(3));
}

}  // namespace
}  // namespace contender
