#include <gtest/gtest.h>

#include "base/error.h"
#include "reward/reward.h"

namespace contender {
namespace {

TEST(LanguageShare, WordsOfTheThought) {
  const auto share = [](const std::string& thought, const char* language) {
    return language_share("<think>" + thought + "</think><answer>不 не no</answer>", language);
  };
  EXPECT_EQ(share("so the sum is 12", "en"), 1);
  EXPECT_EQ(share("don't stop - it\xe2\x80\x99s fine!", "en"), 1);
  EXPECT_EQ(share("so 我们 go", "en"), 0.5f);
  EXPECT_EQ(share("so 我们 go", "zh"), 0.5f);
  EXPECT_EQ(share("我们得到 12。", "zh"), 1);
  EXPECT_EQ(share("naïve café", "en"), 1);
  EXPECT_EQ(share("да ja", "en"), 0.5f);
  EXPECT_EQ(share("mix"
                  "да",
                  "en"),
            0.5f);
  EXPECT_EQ(share("7+5+0=12 3+8+1=12", "digits"), 1);
  EXPECT_EQ(share("7+5 is 12", "digits"), 0.75f);
  EXPECT_EQ(share("ab \xff\xfe cd", "en"), 2.0f / 3);
  EXPECT_EQ(share("e\xcc\x81t", "en"), 1);  // a combining accent is part of its word
  EXPECT_EQ(share("٣ three", "en"), 0.5f);
  EXPECT_EQ(share("か a", "en"), 0.5f);
}

TEST(LanguageShare, NoWordsBreakNoLanguageAndNoThoughtHasNone) {
  EXPECT_EQ(language_share("<think>7+5=12 🎉 ...</think>", "en"), 1);
  EXPECT_EQ(language_share("<think></think>", "zh"), 1);
  EXPECT_EQ(language_share("plain words</think>", "en"), 1);
  EXPECT_EQ(language_share("<think>never closed", "en"), 0);
  EXPECT_EQ(language_share("", "en"), 0);
  EXPECT_THROW(language_share("<think>a</think>", "fr"), Error);
}

TEST(OverlongPenalty, EquationOfDapo) {
  EXPECT_EQ(overlong_penalty(100, 100, 0), 0);
  EXPECT_EQ(overlong_penalty(0, 100, 20), 0);
  EXPECT_EQ(overlong_penalty(80, 100, 20), 0);
  EXPECT_FLOAT_EQ(overlong_penalty(81, 100, 20), -0.05f);
  EXPECT_FLOAT_EQ(overlong_penalty(90, 100, 20), -0.5f);
  EXPECT_EQ(overlong_penalty(100, 100, 20), -1);
  EXPECT_EQ(overlong_penalty(101, 100, 20), -1);
}

TEST(RuleRewarder, WeightedSumAtSubmit) {
  RewardConfig config;
  config.accuracy_weight = 2;
  config.format_weight = 0.5;
  config.language_weight = 0.25;
  const auto rewarder = make_rewarder(config, 100, 20);
  const Prompt prompt{.task = "addition", .answer = "12"};
  const std::string right = "<think>seven 五</think><answer>12</answer>",
                    wrong = "<think>7</think><answer>13</answer>";
  rewarder->submit({.id = 7, .prompt = &prompt, .completion = right, .num_tokens = 90});
  rewarder->submit({.id = 3, .prompt = &prompt, .completion = wrong, .num_tokens = 20});
  rewarder->submit(
      {.id = 5, .prompt = &prompt, .completion = "<think>7", .num_tokens = 50, .finished = false});
  const std::vector<Score> scores = rewarder->poll();
  ASSERT_EQ(scores.size(), 3u);
  EXPECT_EQ(scores[0].id, 7u);
  EXPECT_EQ(scores[0].accuracy, 1);
  EXPECT_EQ(scores[0].format, 1);
  EXPECT_EQ(scores[0].language, 0.5f);
  EXPECT_EQ(scores[0].overlong, -0.5f);
  EXPECT_FLOAT_EQ(scores[0].reward, 2 + 0.5f + 0.125f - 0.5f);
  EXPECT_EQ(scores[1].id, 3u);
  EXPECT_FLOAT_EQ(scores[1].reward, 0 + 0.5f + 0.25f);
  EXPECT_EQ(scores[2].overlong, -1);
  EXPECT_FLOAT_EQ(scores[2].reward, -1);
  for (const Score& score : scores) EXPECT_TRUE(score.valid && score.status == "ok");
  EXPECT_TRUE(rewarder->poll().empty());
  EXPECT_TRUE(rewarder->drain().empty());
}

TEST(RuleRewarder, UnknownTypeAndTask) {
  RewardConfig config;
  config.type = "neural";
  EXPECT_THROW(make_rewarder(config, 100, 0), Error);
  const Prompt prompt{.task = "chess"};
  EXPECT_THROW(make_rewarder(RewardConfig{}, 100, 0)->submit({.id = 1, .prompt = &prompt}), Error);
}

}  // namespace
}  // namespace contender
