#include "data/contamination.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace contender {
namespace {

const std::string kQuestion = "How many positive integers below 1000 are divisible by 7 but not by 11?";

TEST(Contamination, TenWordsInARow) {
  HeldOutWords words;
  words.add("Something else that is long enough to have ten words, and more than ten.");
  words.add(kQuestion);
  EXPECT_EQ(words.overlap(kQuestion), 1);
  EXPECT_EQ(words.overlap("Tell me: HOW many\npositive (integers) below $1000$ are *divisible* by 7 and 5?"),
            1);
  EXPECT_EQ(words.overlap("How many positive integers below 1000 are divisible by 5 but not by 11?"),
            std::nullopt);  // nine words, then others
  EXPECT_EQ(words.overlap(""), std::nullopt);
}

TEST(Contamination, ShortPromptsAreComparedWhole) {
  HeldOutWords words;
  words.add("3 + 4 = ?");
  words.add("Capital of France");
  EXPECT_EQ(words.overlap("3+4=?"), 0);
  EXPECT_EQ(words.overlap("3 - 4 = ?"), std::nullopt);
  EXPECT_EQ(words.overlap("capital of  FRANCE"), 1);
  EXPECT_EQ(words.overlap("What is the capital of France, and what is that of Spain and Italy?"),
            std::nullopt);
}

TEST(Contamination, OtherScripts) {
  HeldOutWords words;
  words.add("求满足下列条件的所有正整数的和");  // 15 characters without a space
  words.add("ΚΑΛΗΜΕΡΑ!");
  EXPECT_EQ(words.overlap("题目：满足下列条件的所有正整数"), 0);
  EXPECT_EQ(words.overlap("求满足下列条件"), std::nullopt);
  EXPECT_EQ(words.overlap("καλημερα!"), 1);
}

TEST(Contamination, HowQuestionsArePutDoesNotCount) {
  const std::string wording = " Think step by step, then put your final answer within \\boxed{} at the end.";
  HeldOutWords few, many;
  for (int i = 0; i < 9; ++i) few.add(fmt::format("{}{}", i, wording));
  for (int i = 0; i < 99; ++i) many.add(fmt::format("{}{}", i, i < 12 ? wording : " other words"));
  EXPECT_EQ(few.overlap("1000" + wording), 0);              // too few to tell
  EXPECT_EQ(many.overlap("1000" + wording), std::nullopt);  // 12 of 99
  many.add("a"), many.add("b");
  for (int i = 0; i < 30; ++i) many.add(std::to_string(i));
  EXPECT_EQ(many.overlap("1000" + wording), 0);  // 12 of 131: below a tenth
}

TEST(Contamination, TakesLinearTime) {
  std::string text;
  for (int64_t i = 0; i < 300000; ++i) text += std::to_string(i * 7919 % 100003) + ' ';  // 1.7 MB
  text += std::string(1 << 20, 'a');
  HeldOutWords words;
  const auto begin = std::chrono::steady_clock::now();
  words.add(text);
  EXPECT_EQ(words.overlap(text), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

}  // namespace
}  // namespace contender
