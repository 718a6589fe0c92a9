// Arithmetic in words. A story keeps one running number: an opening sets it, each event changes it, the
// question asks for it. Names and things are dressing: two stories with the same arithmetic are one problem.
#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "data/task.h"

namespace contender {
namespace {

struct Level {
  int64_t operations;
  int64_t largest;  // of the numbers on the way
  bool products;    // also * and /
  int64_t distractors;
};
constexpr std::array kLevels = {
    Level{1, 20, false, 0}, Level{1, 100, true, 0}, Level{2, 50, true, 0},
    Level{3, 100, true, 0}, Level{3, 200, true, 1}, Level{4, 1000, true, 2},
};
constexpr int64_t kLargestFactor = 9;

constexpr std::array kNames = {"Tom",  "Mia", "Sam",  "Anna", "Leo",   "Emma", "Jack", "Lily",
                               "Noah", "Zoe", "Omar", "Rosa", "David", "Sara", "Ivan", "Mei"};
constexpr std::array kThings = {"apples",  "books",    "coins",   "pens",   "stamps", "marbles",
                                "shells",  "cards",    "cookies", "eggs",   "beads",  "pencils",
                                "oranges", "balloons", "stones",  "tickets"};
constexpr std::array kPlaces = {"box", "bag", "basket", "drawer", "bucket", "case"};

// {name}, {friend}, {things}, {place}; numbers {a} and {b}, or {n} of an event.
constexpr std::array kOneNumber = {
    "{name} has {a} {things}.",
    "There are {a} {things} in {name}'s {place}.",
    "In the morning {name} counts {a} {things}.",
};
constexpr std::array kSum = {
    "{name} has {a} {things} in one {place} and {b} in another.",
    "{name} takes {a} {things} from a {place} and {b} from a friend.",
    "{name} gets {a} {things} on Monday and {b} on Tuesday.",
};
constexpr std::array kProduct = {
    "{name} has {a} packs with {b} {things} each.",
    "{a} children each bring {name} {b} {things}.",
    "For {a} days {name} collects {b} {things} a day.",
};
constexpr std::array kMore = {
    "{name} buys {n} more.",
    "Then {name} finds {n} more.",
    "{friend} gives {name} {n} more.",
    "After that {name} wins another {n}.",
    "{friend} brings {n} more for {name}.",
};
constexpr std::array kFewer = {
    "{name} gives {n} to {friend}.", "Then {name} loses {n}.", "{name} sells {n} of them.",
    "{friend} takes {n} of them.",   "{n} of them get lost.",
};
constexpr std::array kTimes = {
    "Soon {name} has {n} times as many.",
    "{name} then gets enough to have {n} times that number.",
};
constexpr std::array kShares = {
    "{name} splits them into {n} equal parts and keeps one part.",
    "{name} and others, {n} people in all, share them equally.",
};
constexpr std::array kDistractors = {
    "{friend} is {n} years old.",
    "The walk home takes {n} minutes.",
    "{friend} has {n} spoons.",
    "It is page {n} of the diary.",
};
constexpr std::array kQuestions = {
    "How many {things} does {name} have now?",
    "How many {things} does {name} have in the end?",
    "How many {things} are now {name}'s?",
};

template <class List>
auto any_of(const List& list, PhiloxSequence& random) {
  return list[random.below(static_cast<uint32_t>(list.size()))];
}

struct Story {
  const char* name;
  const char* other;
  const char* things;
  const char* place;
  std::string text;

  void tell(const char* sentence, int64_t a = 0, int64_t b = 0) {
    if (!text.empty()) text += ' ';
    text += fmt::format(fmt::runtime(sentence), fmt::arg("name", name), fmt::arg("friend", other),
                        fmt::arg("things", things), fmt::arg("place", place), fmt::arg("a", a),
                        fmt::arg("b", b), fmt::arg("n", a));
  }
};

struct Operation {
  char symbol;
  int64_t operand;
};

Operation draw_operation(const Level& level, int64_t running, PhiloxSequence& random) {
  std::vector<Operation> possible;  // never empty: one of the first two fits
  const auto add = [&](char symbol, int64_t lowest, int64_t highest) {
    if (lowest <= highest) possible.push_back({symbol, random.in_range(lowest, highest)});
  };
  add('+', 2, level.largest - running);
  add('-', 2, running - 1);
  if (level.products) {
    add('*', 2, std::min(kLargestFactor, level.largest / running));
    std::vector<int64_t> divisors;
    for (int64_t n = 2; n <= kLargestFactor; ++n)
      if (running % n == 0) divisors.push_back(n);
    if (!divisors.empty()) possible.push_back({'/', any_of(divisors, random)});
  }
  return any_of(possible, random);
}

int64_t result_of(int64_t running, const Operation& op) {
  switch (op.symbol) {
    case '+':
      return running + op.operand;
    case '-':
      return running - op.operand;
    case '*':
      return running * op.operand;
    default:
      return running / op.operand;
  }
}

const char* event_of(char symbol, PhiloxSequence& random) {
  switch (symbol) {
    case '+':
      return any_of(kMore, random);
    case '-':
      return any_of(kFewer, random);
    case '*':
      return any_of(kTimes, random);
    default:
      return any_of(kShares, random);
  }
}

}  // namespace

Problem draw_word_problem(int64_t difficulty, PhiloxSequence& random) {
  const Level& level = kLevels[static_cast<size_t>(difficulty - 1)];
  Story story = {.name = any_of(kNames, random),
                 .other = any_of(kNames, random),
                 .things = any_of(kThings, random),
                 .place = any_of(kPlaces, random)};
  while (story.other == story.name) story.other = any_of(kNames, random);

  int64_t running = random.in_range(2, level.products ? level.largest / 2 : level.largest);
  Problem problem;
  int64_t distractors = level.distractors;
  for (int64_t i = 0; i < level.operations; ++i) {
    const Operation op = draw_operation(level, running, random);
    const bool told_at_once = i == 0 && random.below(3) == 0;
    if (told_at_once && op.symbol == '+') {
      story.tell(any_of(kSum, random), running, op.operand);
    } else if (told_at_once && op.symbol == '*') {
      story.tell(any_of(kProduct, random), running, op.operand);
    } else {
      if (i == 0) story.tell(any_of(kOneNumber, random), running);
      story.tell(event_of(op.symbol, random), op.operand);
    }
    if (distractors > 0 && random.below(static_cast<uint32_t>(level.operations - i)) < distractors) {
      story.tell(any_of(kDistractors, random), random.in_range(2, 60));
      --distractors;
    }
    const int64_t value = result_of(running, op);
    problem.thought += fmt::format("{}{}{}{}={}", i == 0 ? "" : " ", running, op.symbol, op.operand, value);
    const bool swap = i == 0 && (op.symbol == '+' || op.symbol == '*') && op.operand < running;
    problem.canonical += fmt::format("{}{}{}{}", i == 0 ? "" : " ", swap ? op.operand : running, op.symbol,
                                     swap ? running : op.operand);
    running = value;
  }
  story.tell(any_of(kQuestions, random));
  problem.question = std::move(story.text);
  problem.answer = problem.result = fmt::format("{}", running);
  return problem;
}

static_assert(kLevels.size() == kMaxWordProblemLevel);

// An opening, a sentence for each operation and distractor, the question; none is longer than 64 bytes.
int64_t max_word_problem_bytes(int64_t difficulty) {
  const Level& level = kLevels[static_cast<size_t>(difficulty - 1)];
  return 64 * (2 + level.operations + level.distractors);
}

}  // namespace contender
