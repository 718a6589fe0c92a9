#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "data/task.h"
#include "reward/reward.h"

namespace contender {
namespace {

struct Case {
  const char* name;
  int64_t difficulty;
};
const Case kCases[] = {{"addition", 2},  {"addition", 3}, {"addition", 9}, {"countdown", 3},
                       {"countdown", 8}, {"reverse", 4},  {"sort", 3},     {"sort", 16}};

TaskConfig config_of(const Case& c) {
  TaskConfig config;
  config.name = c.name;
  config.difficulty = c.difficulty;
  return config;
}

TEST(ProceduralTasks, SolutionsAreRightAndWellFormed) {
  const auto tokenizer = make_byte_tokenizer();
  for (const Case& c : kCases) {
    const TaskConfig config = config_of(c);
    for (const Split split : {Split::kTrain, Split::kHeldOut}) {
      const auto source = make_prompt_source(config, split, 1, *tokenizer);
      size_t longest = 0;
      for (int64_t i = 0; i < std::min<int64_t>(1000, source->size()); ++i) {
        const Prompt p = source->at(i);
        ASSERT_EQ(p.index, i);
        ASSERT_EQ(p.task, c.name);
        ASSERT_EQ(verify_accuracy(p.task, p.solution, p.answer), 1) << p.text << p.solution;
        ASSERT_EQ(verify_format(p.solution), 1) << p.solution;
        ASSERT_EQ(tokenizer->decode(p.tokens), p.text);
        longest = std::max(longest, p.tokens.size());
      }
      const int64_t bound = find_task(c.name)->max_question_bytes(c.difficulty) + 2;
      EXPECT_LE(static_cast<int64_t>(longest), bound);
      EXPECT_GE(static_cast<int64_t>(longest), bound - 5);
    }
  }
}

TEST(ProceduralTasks, EveryPromptIsAPureFunctionOfSeedAndIndex) {
  const auto tokenizer = make_byte_tokenizer();
  for (const Case& c : kCases) {
    const auto a = make_prompt_source(config_of(c), Split::kTrain, 1, *tokenizer);
    const auto b = make_prompt_source(config_of(c), Split::kTrain, 1, *tokenizer);
    const auto other = make_prompt_source(config_of(c), Split::kTrain, 2, *tokenizer);
    int differ = 0;
    for (int64_t i = 99; i >= 0; --i) {
      EXPECT_EQ(a->at(i).text, b->at(i).text);
      EXPECT_EQ(a->at(i).solution, b->at(i).solution);
      differ += a->at(i).text != other->at(i).text;
    }
    EXPECT_GT(differ, 90);
    EXPECT_EQ(a->fingerprint(), b->fingerprint());
    EXPECT_NE(a->fingerprint(), other->fingerprint());
    EXPECT_GT(a->size(), int64_t{1} << 30);
    EXPECT_NO_THROW(a->at(a->size() - 1));
    EXPECT_ANY_THROW(a->at(a->size()));
  }
}

TEST(ProceduralTasks, HeldOutProblemsAreDistinctAndNeverTrainedOn) {
  const auto tokenizer = make_byte_tokenizer();
  for (const Case& c : kCases) {
    std::set<std::string> held_out;
    for (const uint64_t seed : {1, 2}) {
      const auto source = make_prompt_source(config_of(c), Split::kHeldOut, seed, *tokenizer);
      EXPECT_EQ(source->size(), 512);
      std::set<std::string> of_seed;
      for (int64_t i = 0; i < source->size(); ++i) of_seed.insert(source->at(i).canonical);
      EXPECT_EQ(of_seed.size(), 512u);
      held_out.merge(of_seed);
    }
    const auto train = make_prompt_source(config_of(c), Split::kTrain, 1, *tokenizer);
    for (int64_t i = 0; i < 5000; ++i)
      ASSERT_FALSE(held_out.contains(train->at(i).canonical)) << train->at(i).text;
  }
}

// All 4,095 pairs of two-digit numbers: which split a pair is in depends on the pair alone, and both splits
// are seen in full.
TEST(ProceduralTasks, TwoDigitAdditionSplitsTheWholeSpace) {
  const Task& task = *find_task("addition");
  int64_t held_out = 0;
  for (int a = 10; a <= 99; ++a) {
    for (int b = a; b <= 99; ++b) {
      held_out += split_of(task, {.canonical = fmt::format("{}+{}", a, b)}) == Split::kHeldOut;
    }
  }
  EXPECT_GE(held_out, 700);
  EXPECT_LE(held_out, 900);

  const auto tokenizer = make_byte_tokenizer();
  TaskConfig config;
  config.eval_problems = held_out;
  EXPECT_EQ(make_prompt_source(config, Split::kHeldOut, 1, *tokenizer)->size(), held_out);
  config.eval_problems = held_out + 1;
  try {
    make_prompt_source(config, Split::kHeldOut, 1, *tokenizer);
    FAIL() << "more problems than there are";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(error.what()).find(fmt::format("only {} held-out", held_out)), std::string::npos)
        << error.what();
  }
  const auto train = make_prompt_source(TaskConfig{}, Split::kTrain, 1, *tokenizer);
  std::set<std::string> trained;
  for (int64_t i = 0; i < 60000; ++i) trained.insert(train->at(i).canonical);
  EXPECT_GT(std::ssize(trained), (4095 - held_out) * 99 / 100);
}

TEST(ProceduralTasks, CanonicalFormForgetsTheSymmetry) {
  for (uint64_t i = 0; i < 200; ++i) {
    PhiloxSequence random(1, RandomStream::kTest, i);
    const Problem sum = find_task("addition")->draw(2, random);
    const size_t plus = sum.question.find('+');
    const std::string a = sum.question.substr(0, plus), b = sum.question.substr(plus + 1, 2);
    EXPECT_EQ(sum.canonical, a <= b ? a + "+" + b : b + "+" + a);
    const Problem word = find_task("reverse")->draw(5, random);
    EXPECT_EQ(word.canonical, std::min(word.result, std::string(word.result.rbegin(), word.result.rend())));
    const Problem countdown = find_task("countdown")->draw(3, random);
    int x[4], y[4];
    ASSERT_EQ(std::sscanf(countdown.question.c_str(), "%d %d %d -> %d", x, x + 1, x + 2, x + 3), 4);
    ASSERT_EQ(std::sscanf(countdown.canonical.c_str(), "%d %d %d -> %d", y, y + 1, y + 2, y + 3), 4);
    std::sort(x, x + 3);
    EXPECT_TRUE(std::equal(x, x + 4, y));
  }
}

TEST(ProceduralTasks, AdditionThinksDigitByDigitWithTheCarry) {
  const auto tokenizer = make_byte_tokenizer();
  const auto source = make_prompt_source(TaskConfig{}, Split::kTrain, 1, *tokenizer);
  for (int64_t i = 0; i < 200; ++i) {
    const Prompt p = source->at(i);
    const int a = std::stoi(p.text.substr(6)), b = std::stoi(p.text.substr(9));
    const int low = a % 10 + b % 10, high = a / 10 + b / 10 + low / 10;
    EXPECT_EQ(p.text, fmt::format("<user>{}+{}=<assistant>", a, b));
    EXPECT_EQ(p.solution, fmt::format("<think>{}+{}+0={:02} {}+{}+{}={:02}</think><answer>{}</answer>",
                                      a % 10, b % 10, low, a / 10, b / 10, low / 10, high, a + b));
  }
}

TEST(ProceduralTasks, ImpossibleSettingsAreConfigErrors) {
  const auto tokenizer = make_byte_tokenizer();
  const auto message = [&](TaskConfig config, Split split) -> std::string {
    try {
      make_prompt_source(config, split, 1, *tokenizer);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kConfig);
      return error.what();
    }
    return "no error";
  };
  TaskConfig config;
  config.name = "adition";
  EXPECT_EQ(message(config, Split::kTrain),
            "task.name = \"adition\": known are addition, countdown, reverse, sort, word_problems, jsonl");
  config = {};
  config.difficulty = 10;
  EXPECT_EQ(message(config, Split::kTrain), "task.difficulty = 10: addition takes 1 to 9 digits");
  config = {};
  config.max_prompt_tokens = 7;
  EXPECT_EQ(message(config, Split::kTrain),
            "task.max_prompt_tokens = 7: prompts of addition with 2 digits have up to 8 tokens");
  config = {};
  config.eval_problems = 0;
  EXPECT_EQ(message(config, Split::kHeldOut), "task.eval_problems = 0: at least 1");
}

}  // namespace
}  // namespace contender
