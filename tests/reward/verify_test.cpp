#include <gtest/gtest.h>

#include <chrono>

#include "base/error.h"
#include "base/philox.h"
#include "reward/completion.h"
#include "reward/expression.h"
#include "reward/reward.h"

namespace contender {
namespace {

std::string completion(const std::string& answer) {
  return "<think>7+5+0=12</think><answer>" + answer + "</answer>";
}

float addition(const std::string& answer) { return verify_accuracy("addition", completion(answer), "122"); }

TEST(VerifyAccuracy, OneCanonicalAnswer) {
  EXPECT_EQ(addition("122"), 1);
  EXPECT_EQ(addition("  122\n"), 1);
  for (const char* wrong :
       {"",     " ",    "123",    "0122", "+122", "122.0", "1.22e2",  "1e999", "12 2",    "122 122",
        "a122", "-122", "１２２", "١٢٢",  "𝟏𝟐𝟐",  "61+61", "122=122", "NaN",   "122\xff", "122<eos>"}) {
    EXPECT_EQ(addition(wrong), 0) << wrong;
  }
  EXPECT_EQ(addition(std::string("122\0", 4)), 0);
  EXPECT_EQ(addition(std::string(1 << 20, '1')), 0);
}

TEST(VerifyAccuracy, OnlyTheSingleAnswerBehindTheThoughtCounts) {
  const auto check = [](const std::string& text) { return verify_accuracy("addition", text, "122"); };
  EXPECT_EQ(check("<think>x</think><answer>122</answer>"), 1);
  EXPECT_EQ(check("x</think><answer>122</answer>"), 1);
  EXPECT_EQ(check("<think>x</think>so<answer>122</answer>."), 1);  // badly formed, but one right answer
  EXPECT_EQ(check("<think>x</think><answer>122</answer><answer>122</answer>"), 0);
  EXPECT_EQ(check("<think>x</think><answer>121</answer><answer>122</answer>"), 0);
  EXPECT_EQ(check("<think><answer>122</answer></think>"), 0);
  EXPECT_EQ(check("<think><answer>122</answer></think><answer>5</answer>"), 0);
  EXPECT_EQ(check("<think>x<answer>122</answer></think></think>"), 0);
  EXPECT_EQ(check("<answer>122</answer><think>x</think>"), 0);
  EXPECT_EQ(check("<think>x</think><answer>122"), 0);
  EXPECT_EQ(check("<think>x</think>122"), 0);
  EXPECT_EQ(check("<think>x</think></answer>122<answer>"), 0);
  EXPECT_EQ(check("<think>x</think><answer><answer>122</answer></answer>"), 0);
  EXPECT_EQ(check("<think>x<answer>122</answer>"), 0);
  EXPECT_EQ(check("122"), 0);
  EXPECT_EQ(check(""), 0);
}

TEST(VerifyAccuracy, UnknownTasksAndMalformedAnswersAreTheUsersError) {
  EXPECT_THROW(verify_accuracy("chess", completion("e4"), "e4"), Error);
  for (const char* answer : {"", "25", "25:", "25:3 7", "x: 3 7", "25: 3  7", "25: 3 7 ", "25: 3 7,4",
                             "99999999999999999999: 1"}) {
    EXPECT_THROW(verify_accuracy("countdown", completion("1"), answer), Error) << answer;
  }
  EXPECT_EQ(verifier_problem({.task = "countdown", .answer = "25: 3 7 4"}), "");
  EXPECT_EQ(verifier_problem({.task = "countdown", .answer = "25"}),
            "countdown answer \"25\": expected \"target: n1 n2 ...\"");
  EXPECT_EQ(verifier_problem({.task = "math", .answer = "\\pi"}), "");
  EXPECT_TRUE(verifier_problem({.task = "additon"}).starts_with("task \"additon\" has no rule (known: "));
  EXPECT_EQ(verify_accuracy("exact", completion("Paris"), " Paris\n"), 1);
  EXPECT_EQ(verify_accuracy("sort", completion("1 2 3"), "1 2 3"), 1);
  EXPECT_EQ(verify_accuracy("sort", completion("1, 2, 3"), "1 2 3"), 0);
  EXPECT_EQ(verify_accuracy("reverse", completion("abc"), "abc"), 1);
  EXPECT_EQ(verify_accuracy("reverse", completion("ABC"), "abc"), 0);
}

TEST(VerifyAccuracy, CountdownUsesEveryNumberOnce) {
  const auto check = [](const std::string& answer) {
    return verify_accuracy("countdown", completion(answer), "25: 3 7 4");
  };
  EXPECT_EQ(check("7*3+4"), 1);
  EXPECT_EQ(check(" 4 + (3*7) "), 1);
  EXPECT_EQ(check("((7))*3+4"), 1);
  for (const char* wrong : {"25",     "7*4-3+0", "3*7",   "3*7+4*1",     "7*3+7-3", "21+4",      "7*3+4=25",
                            "7*3+4;", "7x3+4",   "7×3+4", "7*3+04",      "+7*3+4",  "7*3--4",    "(7*3+4",
                            "7*3+4)", "7*(3+4)", "3 7 4", "7*3+4/(3-3)", "7**3+4",  "seven*3+4", "７*3+4"}) {
    EXPECT_EQ(check(wrong), 0) << wrong;
  }
  // Rationals on the way are exact: 8/(3-8/3) = 24.
  EXPECT_EQ(verify_accuracy("countdown", completion("8/(3-8/3)"), "24: 3 3 8 8"), 1);
  EXPECT_EQ(verify_accuracy("countdown", completion("3/8*8+3"), "6: 3 8 3 8"), 1);
  EXPECT_EQ(verify_accuracy("countdown", completion("7/2*1"), "3: 1 2 7"), 0);
}

TEST(Expression, ExactValues) {
  std::vector<int64_t> numbers;
  const auto value = [&](const std::string& text) -> std::string {
    const auto v = evaluate_expression(text, &numbers);
    return v ? fmt::format("{}/{}", v->num, v->den) : "none";
  };
  EXPECT_EQ(value("1-2-3"), "-4/1");
  EXPECT_EQ(value("8/4/2"), "1/1");
  EXPECT_EQ(value("1+2*3"), "7/1");
  EXPECT_EQ(value("(1+2)*3"), "9/1");
  EXPECT_EQ(value("1/3+1/6"), "1/2");
  EXPECT_EQ(value("1/(2-5)"), "-1/3");
  EXPECT_EQ(value("(1-3)/(2-6)"), "1/2");
  EXPECT_EQ(value("0"), "0/1");
  EXPECT_EQ(value("0/5"), "0/1");
  EXPECT_EQ(numbers, (std::vector<int64_t>{0, 5}));
  for (const char* wrong : {"", "()", "1+", "*1", "1 2", "1/0", "1/(2-2)", "00", "01", "1.5", "1e3", "-1",
                            "(1", "1)", "(1)(2)", "1000000001", "99999999999999999999", "1\v2", "a"}) {
    EXPECT_EQ(value(wrong), "none") << wrong;
  }
}

TEST(Expression, BombsAreRefused) {
  std::vector<int64_t> numbers;
  std::string large = "1000000000";
  for (int i = 0; i < 8; ++i) large += "*1000000000";
  EXPECT_FALSE(evaluate_expression(large, &numbers));  // 10^81
  EXPECT_FALSE(evaluate_expression("1/1000000000/1000000000/1000000000", &numbers));
  EXPECT_TRUE(evaluate_expression(std::string(32, '(') + "1" + std::string(32, ')'), &numbers));
  EXPECT_FALSE(evaluate_expression(std::string(33, '(') + "1" + std::string(33, ')'), &numbers));
  EXPECT_FALSE(evaluate_expression(std::string(60000, '('), &numbers));
  EXPECT_FALSE(evaluate_expression("9**9**9", &numbers));
  EXPECT_FALSE(evaluate_expression(std::string(1 << 20, '1'), &numbers));
}

TEST(VerifyFormat, ThoughtThenAnswerAndNothingElse) {
  EXPECT_EQ(verify_format("<think>a</think><answer>b</answer>"), 1);
  EXPECT_EQ(verify_format(" <think>\na\n</think>\n<answer>b</answer>\n"), 1);
  EXPECT_EQ(verify_format("a</think><answer>b</answer>", "<user>q<assistant><think>\n"), 1);
  EXPECT_EQ(verify_format("<think>a</think><answer>b</answer>", "<user>q<assistant><think>\n"), 0);
  EXPECT_EQ(verify_format("<think>a</think><answer>b</answer>", "<think>old</think><user>q<assistant>"), 1);
  for (const char* wrong : {"",
                            "<think>a</think>",
                            "<answer>b</answer>",
                            "a</think><answer>b</answer>",
                            "<think></think><answer>b</answer>",
                            "<think> </think><answer>b</answer>",
                            "<think>a</think><answer></answer>",
                            "<think>a</think><answer> \n</answer>",
                            "<think>a</think>x<answer>b</answer>",
                            "x<think>a</think><answer>b</answer>",
                            "<think>a</think><answer>b</answer>x",
                            "<think>a<think></think><answer>b</answer>",
                            "<think>a</think></think><answer>b</answer>",
                            "<think>a</think><answer>b</answer><answer>b</answer>",
                            "<think>a</think><answer>b<answer></answer>",
                            "<answer>b</answer><think>a</think>",
                            "<think>a<answer>b</answer></think>",
                            "<think>a</think><answer>b",
                            "<think>a</think></answer>b<answer>",
                            "<think>a</think><answer>b</answer><think>"}) {
    EXPECT_EQ(verify_format(wrong), 0) << wrong;
  }
}

// Any bytes: no crash, and a score that is 0 or 1.
TEST(VerifyFuzz, RandomBytesAndTags) {
  const char* parts[] = {"<think>", "</think>", "<answer>", "</answer>",    "7",    "*", "3", "+", "4", "(",
                         ")",       "/",        " ",        "\xe4\xb8\xad", "\xff", "<"};
  for (uint32_t trial = 0; trial < 5000; ++trial) {
    PhiloxSequence random(2, RandomStream::kTest, trial);
    std::string text;
    for (uint32_t i = random.below(30); i > 0; --i) {
      text += random.below(4) ? std::string(parts[random.below(std::size(parts))])
                              : std::string(1, static_cast<char>(random.below(256)));
    }
    for (const auto& [task, answer] :
         {std::pair{"addition", "7"}, {"countdown", "25: 3 7 4"}, {"exact", "7"}}) {
      const float accuracy = verify_accuracy(task, text, answer);
      ASSERT_TRUE(accuracy == 0 || accuracy == 1);
    }
    const float format = verify_format(text);
    ASSERT_TRUE(format == 0 || format == 1);
    const float share = language_share(text, "en");
    ASSERT_TRUE(share >= 0 && share <= 1);
    std::vector<int64_t> numbers;
    evaluate_expression(text, &numbers);
  }
}

TEST(VerifyFuzz, MegabytesInLinearTime) {
  const auto start = std::chrono::steady_clock::now();
  for (const std::string unit :
       {"<", "(", "7", "<answer>", "</think>", "<answer>7</answer>", "\xff", "a ", "\xe4\xb8\xad"}) {
    std::string text = "<think>";
    while (text.size() < 1 << 20) text += unit;
    for (const std::string& whole :
         {text, text + "</think><answer>7</answer>", "<think>x</think><answer>" + text + "</answer>"}) {
      verify_accuracy("countdown", whole, "25: 3 7 4");
      verify_accuracy("addition", whole, "7");
      verify_format(whole);
      language_share(whole, "zh");
    }
  }
  // 27 texts of 1 MB, read a few times each: below a second; a quadratic search would take hours.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

}  // namespace
}  // namespace contender
