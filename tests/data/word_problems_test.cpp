// Word problems are checked against their own thought: an independent reading of its chain of operations.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/error.h"
#include "data/task.h"
#include "reward/reward.h"

namespace contender {
namespace {

Problem drawn(int64_t level, uint64_t index) {
  PhiloxSequence random(1, RandomStream::kTest, index);
  return draw_word_problem(level, random);
}

struct Line {
  long left = 0, right = 0, value = 0;
  char symbol = 0;
};
std::vector<Line> chain_of(const Problem& problem) {
  std::vector<Line> lines;
  std::istringstream words(problem.thought);
  for (std::string word; words >> word;) {
    Line& line = lines.emplace_back();
    EXPECT_EQ(std::sscanf(word.c_str(), "%ld%c%ld=%ld", &line.left, &line.symbol, &line.right, &line.value),
              4)
        << word;
  }
  return lines;
}

// Whole numbers that stand in the story.
std::multiset<long> numbers_of(const std::string& text) {
  std::multiset<long> numbers;
  for (size_t at = text.find_first_of("0123456789"); at != text.npos;
       at = text.find_first_of("0123456789", at)) {
    size_t used = 0;
    numbers.insert(std::stol(text.substr(at), &used));
    at += used;
  }
  return numbers;
}

constexpr int64_t kOperations[] = {1, 1, 2, 3, 3, 4}, kLargest[] = {20, 100, 50, 100, 200, 1000},
                  kDistractors[] = {0, 0, 0, 0, 1, 2};

TEST(WordProblems, ThoughtLeadsFromTheNumbersOfTheStoryToTheAnswer) {
  for (int64_t level = 1; level <= kMaxWordProblemLevel; ++level) {
    SCOPED_TRACE(level);
    std::set<char> symbols;
    for (uint64_t i = 0; i < 2000; ++i) {
      const Problem p = drawn(level, i);
      SCOPED_TRACE(p.question);
      const std::vector<Line> chain = chain_of(p);
      ASSERT_EQ(std::ssize(chain), kOperations[level - 1]);
      std::multiset<long> told = {chain[0].left};
      for (size_t k = 0; k < chain.size(); ++k) {
        const auto [a, b, value, symbol] = chain[k];
        if (k > 0) {
          ASSERT_EQ(a, chain[k - 1].value);
        }
        ASSERT_EQ(value, symbol == '+' ? a + b : symbol == '-' ? a - b : symbol == '*' ? a * b : a / b);
        if (symbol == '/') {
          ASSERT_EQ(a % b, 0);
        }
        ASSERT_TRUE(1 <= value && value <= kLargest[level - 1] && b >= 2) << p.thought;
        told.insert(b);
        symbols.insert(symbol);
      }
      ASSERT_EQ(p.answer, fmt::format("{}", chain.back().value));
      ASSERT_EQ(p.result, p.answer);
      const std::multiset<long> numbers = numbers_of(p.question);
      ASSERT_TRUE(std::includes(numbers.begin(), numbers.end(), told.begin(), told.end()));
      ASSERT_EQ(std::ssize(numbers) - std::ssize(told), kDistractors[level - 1]);
      ASSERT_EQ(p.question.find_first_of("{}"), p.question.npos);
      ASSERT_EQ(p.question.back(), '?');
      ASSERT_LE(std::ssize(p.question), max_word_problem_bytes(level));
    }
    EXPECT_EQ(symbols, level == 1 ? (std::set<char>{'+', '-'}) : (std::set<char>{'+', '-', '*', '/'}));
  }
}

// The same arithmetic in another story is the same problem, so it cannot be trained on when it is held out.
TEST(WordProblems, StoriesOfTheSameArithmeticAreOneProblem) {
  std::map<std::string, std::set<std::string>> stories;
  for (uint64_t i = 0; i < 4000; ++i) {
    const Problem p = drawn(1, i);
    const Line only = chain_of(p)[0];
    const bool swap = only.symbol == '+' && only.right < only.left;
    EXPECT_EQ(p.canonical, fmt::format("{}{}{}", swap ? only.right : only.left, only.symbol,
                                       swap ? only.left : only.right));
    stories[p.canonical].insert(p.question);
  }
  EXPECT_GT(stories.size(), 200u);  // 81 sums and 171 differences
  EXPECT_LE(stories.size(), 252u);
  EXPECT_GT(stories["3+4"].size(), 5u);

  TaskConfig config;
  config.name = "word_problems";
  config.difficulty = 1;
  config.max_prompt_tokens = 256;
  config.eval_problems = 40;
  const auto tokenizer = make_byte_tokenizer();
  std::set<std::string> held_out;
  const auto eval = make_prompt_source(config, Split::kHeldOut, 1, *tokenizer);
  for (int64_t i = 0; i < eval->size(); ++i) held_out.insert(eval->at(i).canonical);
  EXPECT_EQ(held_out.size(), 40u);
  const auto train = make_prompt_source(config, Split::kTrain, 1, *tokenizer);
  for (int64_t i = 0; i < 3000; ++i) {
    const Prompt p = train->at(i);
    ASSERT_FALSE(held_out.contains(p.canonical)) << p.text;
    ASSERT_EQ(verify_accuracy(p.task, p.solution, p.answer), 1) << p.solution;
    ASSERT_EQ(verify_format(p.solution), 1) << p.solution;
  }
}

TEST(WordProblems, LevelsOutOfRangeAreConfigErrors) {
  TaskConfig config;
  config.name = "word_problems";
  config.max_prompt_tokens = 512;
  const auto tokenizer = make_byte_tokenizer();
  for (const int64_t level : {0, 7}) {
    config.difficulty = level;
    try {
      make_prompt_source(config, Split::kTrain, 1, *tokenizer);
      ADD_FAILURE() << "level " << level;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kConfig);
      EXPECT_STREQ(error.what(),
                   fmt::format("task.difficulty = {}: word_problems takes 1 to 6 as level", level).c_str());
    }
  }
}

// Models with a chat template are told the form in the system's turn.
TEST(WordProblems, TheSystemTurnSaysTheForm) {
  namespace fs = std::filesystem;
  const fs::path dir = fs::temp_directory_path() / fmt::format("word_problems_{}", ::getpid());
  fs::create_directories(dir);
  fs::copy_file("tests/fixtures/tokenizer/smol/tokenizer.json", dir / "tokenizer.json");
  std::ofstream(dir / "tokenizer_config.json") << R"({"eos_token": "<|im_end|>"})";
  std::ofstream(dir / "chat_template.jinja")
      << "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
         "{% endfor %}{{ '<|im_start|>assistant\n' }}";
  const auto tokenizer = open_tokenizer(dir.string());
  fs::remove_all(dir);
  TaskConfig config;
  config.name = "word_problems";
  config.difficulty = 1;
  config.max_prompt_tokens = 512;
  const Prompt p = make_prompt_source(config, Split::kTrain, 1, *tokenizer)->at(0);
  EXPECT_TRUE(
      p.text.starts_with("<|im_start|>system\nThink in <think></think>, then give the answer alone in "
                         "<answer></answer>.<|im_end|>\n<|im_start|>user\n"))
      << p.text;
  EXPECT_TRUE(p.text.ends_with("?<|im_end|>\n<|im_start|>assistant\n")) << p.text;
  EXPECT_EQ(p.task, "word_problems");
}

}  // namespace
}  // namespace contender
