#include "reward/math_verify.h"

#include <algorithm>

#include "reward/math_answer.h"
#include "reward/math_compare.h"

namespace contender {
MathVerdict verify_math(std::string_view prompt, std::string_view completion, std::string_view expected) {
  const std::string wanted = expected_answer(expected);
  std::vector<std::string_view> answers = final_answers(prompt, completion);
  if (answers.empty()) return {false, "no_answer"};
  // A box for every part of a list, or the same answer again: anything else is a guess too many.
  const std::string_view last = answers.back();
  const std::string list = listed(&answers);
  if (answers.size() > kMaxListed) return {false, "several_answers"};
  const bool all_same = std::all_of(answers.begin(), answers.end(), [&](std::string_view answer) {
    return answer == last || same_answer(answer, last);
  });
  if (all_same) return {same_answer(last, wanted)};
  if (same_answer(list, wanted)) return {true};
  return {false, "several_answers"};
}

}  // namespace contender
