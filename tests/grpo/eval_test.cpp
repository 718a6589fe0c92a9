#include "grpo/eval.h"

#include <gtest/gtest.h>

#include <bit>

#include "base/error.h"

namespace contender {
namespace {

// The share of all k-subsets of n samples, of which the first c are right, that hold a right one.
double by_counting(int64_t n, int64_t c, int64_t k) {
  int64_t hits = 0, subsets = 0;
  for (uint32_t subset = 0; subset < (1u << n); ++subset) {
    if (std::popcount(subset) != k) continue;
    ++subsets;
    hits += (subset & ((1u << c) - 1)) != 0;
  }
  return static_cast<double>(hits) / static_cast<double>(subsets);
}

TEST(PassAtK, EqualsTheCountOverAllSubsets) {
  for (int64_t n = 1; n <= 9; ++n)
    for (int64_t c = 0; c <= n; ++c)
      for (int64_t k = 1; k <= n; ++k)
        EXPECT_NEAR(pass_at_k(n, c, k), by_counting(n, c, k), 1e-14) << n << " " << c << " " << k;
}

TEST(PassAtK, LimitsOfLargeN) {
  EXPECT_DOUBLE_EQ(pass_at_k(4096, 0, 64), 0);
  EXPECT_DOUBLE_EQ(pass_at_k(4096, 4096, 1), 1);
  EXPECT_NEAR(pass_at_k(4096, 1024, 1), 0.25, 1e-12);
  EXPECT_THROW(pass_at_k(4, 1, 5), Error);
  EXPECT_THROW(pass_at_k(4, 5, 1), Error);
}

Sample answered(const std::string& answer, bool right) {
  Sample s;
  s.text = "<think>x</think><answer>" + answer + "</answer>";
  s.score.accuracy = right ? 1 : 0;
  return s;
}

Sample unanswered() {
  Sample s;
  s.text = "<think>x";
  return s;
}

TEST(MajorityVote, MostFrequentAnswerCounts) {
  EXPECT_TRUE(majority_right({answered("7", false), answered("8", true), answered("8", true)}));
  EXPECT_FALSE(majority_right({answered("7", false), answered("8", true), answered("7", false)}));
  EXPECT_TRUE(majority_right(
      {answered(" 8", true), answered("8 ", true), answered("7", false), answered("6", false)}));
}

TEST(MajorityVote, TiesGoToTheAnswerGivenFirst) {
  EXPECT_TRUE(majority_right({answered("8", true), answered("7", false)}));
  EXPECT_FALSE(majority_right({answered("7", false), answered("8", true)}));
  EXPECT_FALSE(
      majority_right({answered("9", false), answered("8", true), answered("8", true), answered("9", false)}));
}

TEST(MajorityVote, WithoutAnAnswerThereIsNoVote) {
  EXPECT_TRUE(majority_right({unanswered(), unanswered(), unanswered(), answered("8", true)}));
  EXPECT_FALSE(majority_right({unanswered(), unanswered()}));
  EXPECT_FALSE(majority_right({}));
}

}  // namespace
}  // namespace contender
