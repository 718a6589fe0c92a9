#include <xxhash.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "data/task.h"

namespace contender {
namespace {

template <class Range>
std::string join(const Range& range, const char* separator) {
  std::string text;
  for (const auto& item : range) text += fmt::format("{}{}", text.empty() ? "" : separator, item);
  return text;
}

template <class T>
void shuffle(std::vector<T>& v, PhiloxSequence& random) {
  for (size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[random.below(static_cast<uint32_t>(i))]);
}

// addition, difficulty = digits of both operands: `37+85=`. The thought adds digits from the right, `7+5+0=12
// 3+8+1=12`: always with the carry, sums always of two digits, so every part has its fixed place and the
// carry out is the first digit of the sum.
Problem draw_addition(int64_t digits, PhiloxSequence& random) {
  int64_t lowest = 1;
  for (int64_t i = 1; i < digits; ++i) lowest *= 10;
  const int64_t highest = lowest * 10 - 1;
  const int64_t a = random.in_range(digits == 1 ? 0 : lowest, highest);
  const int64_t b = random.in_range(digits == 1 ? 0 : lowest, highest);

  std::vector<std::string> steps;
  int64_t carry = 0;
  for (int64_t i = 0, x = a, y = b; i < digits; ++i, x /= 10, y /= 10) {
    const int64_t sum = x % 10 + y % 10 + carry;
    steps.push_back(fmt::format("{}+{}+{}={:02}", x % 10, y % 10, carry, sum));
    carry = sum / 10;
  }
  const std::string answer = fmt::format("{}", a + b);
  return {.question = fmt::format("{}+{}=", a, b),
          .answer = answer,
          .thought = join(steps, " "),
          .result = answer,
          .canonical = fmt::format("{}+{}", std::min(a, b), std::max(a, b))};
}

// countdown, difficulty = how many numbers of 1..12: `3 7 4 -> 25`, each used exactly once. The solution
// works on one running value, so its thought is a chain, `7*3=21 21+4=25`; every value on the way is a whole
// number from 1 to 100.
constexpr int64_t kMaxNumber = 12, kMaxTarget = 100;

struct Operation {
  char symbol;
  bool running_first;  // running - n, or n - running
  int64_t value;
};

std::vector<Operation> possible_operations(int64_t running, int64_t n) {
  std::vector<Operation> possible;
  const auto add = [&](char symbol, bool running_first, int64_t value) {
    if (value >= 1 && value <= kMaxTarget) possible.push_back({symbol, running_first, value});
  };
  add('+', true, running + n);
  add('-', true, running - n);
  add('-', false, n - running);
  add('*', true, running * n);
  if (running % n == 0) add('/', true, running / n);
  if (running != n && n % running == 0) add('/', false, n / running);
  return possible;  // never empty: one of the differences is positive, or the quotient is 1
}

Problem draw_countdown(int64_t count, PhiloxSequence& random) {
  std::vector<int64_t> numbers(count);
  for (int64_t& n : numbers) n = random.in_range(1, kMaxNumber);
  std::vector<int64_t> order = numbers;
  shuffle(order, random);

  int64_t running = order[0];
  std::string expression = fmt::format("{}", running);
  char outermost = 0;  // operation of the expression so far; 0 for a bare number
  std::vector<std::string> steps;
  for (int64_t i = 1; i < count; ++i) {
    const int64_t n = order[i];
    const auto possible = possible_operations(running, n);
    const Operation op = possible[random.below(static_cast<uint32_t>(possible.size()))];
    const bool is_sum = outermost == '+' || outermost == '-';
    const bool is_factor = op.symbol == '*' || op.symbol == '/';
    const bool parentheses = op.running_first   ? is_sum && is_factor
                             : op.symbol == '/' ? outermost != 0
                                                : is_sum;
    const std::string inner = parentheses ? "(" + expression + ")" : expression;
    expression = op.running_first ? fmt::format("{}{}{}", inner, op.symbol, n)
                                  : fmt::format("{}{}{}", n, op.symbol, inner);
    steps.push_back(fmt::format("{}{}{}={}", op.running_first ? running : n, op.symbol,
                                op.running_first ? n : running, op.value));
    running = op.value;
    outermost = op.symbol;
  }
  std::vector<int64_t> sorted = numbers;
  std::sort(sorted.begin(), sorted.end());
  return {.question = fmt::format("{} -> {}", join(numbers, " "), running),
          .answer = fmt::format("{}: {}", running, join(numbers, " ")),
          .thought = join(steps, " "),
          .result = expression,
          .canonical = fmt::format("{} -> {}", join(sorted, " "), running)};
}

// reverse, difficulty = letters: `reverse fcab`, spelled out in the thought: `b a c f`. A word and its mirror
// image are one problem.
Problem draw_reverse(int64_t letters, PhiloxSequence& random) {
  std::string word;
  for (int64_t i = 0; i < letters; ++i) word += static_cast<char>('a' + random.below(26));
  const std::string reversed(word.rbegin(), word.rend());
  return {.question = "reverse " + word,
          .answer = reversed,
          .thought = join(reversed, " "),
          .result = reversed,
          .canonical = std::min(word, reversed)};
}

// sort, difficulty = how many numbers of 0..99: `sort 31 7 19`. The thought inserts them one by one: `31, 7
// 31, 7 19 31`.
Problem draw_sort(int64_t count, PhiloxSequence& random) {
  std::vector<int64_t> numbers(count);
  for (int64_t& n : numbers) n = random.in_range(0, 99);
  std::vector<int64_t> sorted;
  std::vector<std::string> steps;
  for (const int64_t n : numbers) {
    sorted.insert(std::upper_bound(sorted.begin(), sorted.end(), n), n);
    steps.push_back(join(sorted, " "));
  }
  return {.question = "sort " + join(numbers, " "),
          .answer = steps.back(),
          .thought = join(steps, ", "),
          .result = steps.back(),
          .canonical = steps.back()};
}

constexpr std::array kTasks = {
    Task{"addition", "digits", 1, 9, draw_addition, [](int64_t n) { return 2 * n + 2; }},
    Task{"countdown", "numbers", 2, 8, draw_countdown, [](int64_t n) { return (3 * n - 1) + 4 + 3; }},
    Task{"reverse", "letters", 1, 32, draw_reverse, [](int64_t n) { return 8 + n; }},
    Task{"sort", "numbers", 2, 16, draw_sort, [](int64_t n) { return 4 + 3 * n; }},
    Task{"word_problems", "as level", 1, kMaxWordProblemLevel, draw_word_problem, max_word_problem_bytes},
};

}  // namespace

const Task* find_task(std::string_view name) {
  const auto found =
      std::find_if(kTasks.begin(), kTasks.end(), [&](const Task& t) { return name == t.name; });
  return found == kTasks.end() ? nullptr : &*found;
}

std::string task_names() {
  std::vector<const char*> names;
  for (const Task& task : kTasks) names.push_back(task.name);
  return join(names, ", ");
}

Split split_of(const Task& task, const Problem& problem) {
  const std::string key = fmt::format("{}/{}", task.name, problem.canonical);
  return XXH3_64bits(key.data(), key.size()) % 5 == 0 ? Split::kHeldOut : Split::kTrain;
}

}  // namespace contender
