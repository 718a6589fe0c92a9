#include "reward/math_verify.h"

#include <algorithm>

#include "reward/math_answer.h"
#include "reward/math_compare.h"

namespace contender {
namespace {

constexpr size_t kMaxAnswers = 16;

}  // namespace

MathVerdict verify_math(std::string_view prompt, std::string_view completion, std::string_view expected) {
  const std::string_view wanted = expected_answer(expected);
  std::vector<std::string_view> answers = final_answers(prompt, completion);
  if (answers.empty()) return {false, "no_answer"};
  const std::string_view last = answers.back();
  // A box for every part of a list, or the same answer again: anything else is a guess too many.
  std::string listed;
  std::vector<std::string_view> different;
  for (const std::string_view answer : answers) {
    if (std::find(different.begin(), different.end(), answer) != different.end()) continue;
    if (different.size() == kMaxAnswers) return {false, "several_answers"};
    different.push_back(answer);
    listed += (listed.empty() ? "" : ", ") + std::string(answer);
  }
  const bool all_same = std::all_of(different.begin(), different.end(), [&](std::string_view answer) {
    return answer == last || same_answer(answer, last);
  });
  if (all_same) return {same_answer(last, wanted)};
  if (same_answer(listed, wanted)) return {true};
  return {false, "several_answers"};
}

}  // namespace contender
