#include "reward/math_verify.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "reward/math_answer.h"
#include "reward/reward.h"

namespace contender {
namespace {

const std::string kPrompt = "<user>Solve.<assistant>";

std::string status(const std::string& completion, const std::string& expected) {
  const MathVerdict verdict = verify_math(kPrompt, completion, expected);
  return verdict.correct ? "right" : std::string(verdict.status) == "ok" ? "wrong" : verdict.status;
}

TEST(MathVerify, FormsOfAnAnswer) {
  for (const char* completion :
       {"<think>x</think>\\boxed{\\frac{3}{4}}", "so \\boxed{\\frac{3}{4}}.",
        "x</think>$\\boxed{0.75}$ is it", "\\boxed{\\text{I think }}\\boxed{x}}", "\\fbox{3/4}",
        "<think>\\boxed{1}</think>\\boxed{3/4}", "The answer is 3/4.",
        "The final answer is: $\\frac{3}{4}$. I hope it is correct.", "**Answer:** 0.75", "a b c\n#### 0.75",
        "Adding up,\n$$x = \\frac{3}{4}$$", "It is \\[ \\frac34 \\]", "It is \\(\\frac34\\).",
        "<think>x</think><answer>3/4</answer>", "<think>x</think> <answer>It is $x=\\frac34$</answer>",
        "<think>x</think><answer>\\boxed{75\\%}</answer>", "3/4", "<think>x</think>\n 0.750 \n"}) {
    const std::string expected =
        std::string(completion).find("I think") != std::string::npos ? "several_answers" : "right";
    EXPECT_EQ(status(completion, "\\frac{3}{4}"), expected) << completion;
  }
}

TEST(MathVerify, ExpectedAnswersAreFoundInWorkedSolutions) {
  EXPECT_EQ(status("\\boxed{18}", "Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\n#### 18"), "right");
  EXPECT_EQ(status("\\boxed{1800}", "a line\n#### 1,800"), "right");
  EXPECT_EQ(status("\\boxed{18}", "We get $9\\cdot 2=\\boxed{18}$."), "right");
  EXPECT_EQ(status("\\boxed{18}", "$18$"), "right");
}

// faults.md, row 19: none of these is worth anything.
TEST(MathVerify, HacksScoreNothing) {
  EXPECT_EQ(status("", "5"), "no_answer");
  EXPECT_EQ(status("<think>it is \\boxed{5}", "5"), "no_answer");
  EXPECT_EQ(status("<think>it is \\boxed{5}</think>", "5"), "no_answer");
  EXPECT_EQ(status("<think>it is \\boxed{5}</think>hm", "5"), "wrong");
  EXPECT_EQ(status("</think><think>\\boxed{5}", "5"), "no_answer");
  EXPECT_EQ(status("\\boxed{4} or \\boxed{5}", "5"), "several_answers");
  EXPECT_EQ(status("\\boxed{5} or \\boxed{4}", "5"), "several_answers");
  EXPECT_EQ(status("\\boxed{5}, that is \\boxed{5.0}", "5"), "right");
  EXPECT_EQ(status("\\boxed{1} and \\boxed{2}", "1, 2"), "right");
  EXPECT_EQ(status("\\boxed{1} and \\boxed{2} and \\boxed{3}", "1, 2"), "several_answers");
  std::string many;
  for (int i = 0; i < 40; ++i) many += "\\boxed{" + std::to_string(i) + "} ";
  EXPECT_EQ(status(many, "39"), "several_answers");
  EXPECT_EQ(status("<answer>4</answer><answer>5</answer>", "5"), "several_answers");
  EXPECT_EQ(status("<answer>5", "5"), "no_answer");
  EXPECT_EQ(status("\\boxed{}", "5"), "wrong");
  EXPECT_EQ(status("\\boxed{ }", ""), "wrong");
  EXPECT_EQ(status("\\boxed{５}", "5"), "wrong");
  EXPECT_EQ(status("\\boxed{٥}", "5"), "wrong");
  EXPECT_EQ(status("\\boxed{1e999}", "5"), "wrong");
  EXPECT_EQ(status("\\boxed{1e999}", "\\infty"), "wrong");
  EXPECT_EQ(status("\\boxed{4 or 5}", "5"), "wrong");
  EXPECT_EQ(status("\\boxed{x}", "5"), "wrong");
  EXPECT_EQ(status("\\boxed{5=5}", "6"), "wrong");
  EXPECT_EQ(status("\\boxed{0/0}", "5"), "wrong");
  EXPECT_EQ(status("\\boxed{\\text{the right answer}}", "5"), "wrong");
}

TEST(MathVerify, AThoughtThatTheTemplateOpenedHoldsNoAnswer) {
  const std::string opened = "<user>Solve.<assistant><think>\n";
  EXPECT_STREQ(verify_math(opened, "it is \\boxed{5}", "5").status, "no_answer");
  EXPECT_TRUE(verify_math(opened, "so </think>\\boxed{5}", "5").correct);
  EXPECT_TRUE(verify_math("<think>a</think>", "\\boxed{5}", "5").correct);
}

TEST(MathVerify, MegabytesInLinearTime) {
  const auto start = std::chrono::steady_clock::now();
  for (const std::string unit : {"\\boxed{", "{", "}", "$", "\\boxed{1}", "\\boxed{1", "<answer>", "<think>",
                                 "####", "answer is ", "\\[", "(", "\xff", "\\"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    verify_math(kPrompt, text, "5");
    verify_math(kPrompt, "<think>" + text + "</think>\\boxed{" + text + "}", "5");
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

// faults.md, row 20, as a run meets them: through worker processes.
TEST(MathWorkers, BombsScoreNothingAndTheNextAnswerIsScored) {
  const char* bombs[] = {"5^(5^(5^(5^5)))", "9^(9^9)", "factorial(10^7)", "\\sum_{i=1}^{10^9} i"};
  const auto rewarder = make_rewarder(RewardConfig{}, 100, 0);
  const Prompt prompt = {.task = "math", .text = kPrompt, .answer = "5"};
  const auto start = std::chrono::steady_clock::now();
  uint64_t id = 0;
  for (const std::string bomb : bombs)
    rewarder->submit({.id = id++, .prompt = &prompt, .completion = "\\boxed{" + bomb + "}"});
  rewarder->submit(
      {.id = id++, .prompt = &prompt, .completion = "\\boxed{" + std::string(60'000, '(') + "}"});
  rewarder->submit({.id = id++, .prompt = &prompt, .completion = "\\boxed{5}"});
  for (const Score& score : rewarder->drain()) {
    EXPECT_TRUE(score.valid);
    EXPECT_EQ(score.accuracy, score.id == id - 1 ? 1 : 0) << score.id;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));
}

}  // namespace
}  // namespace contender
