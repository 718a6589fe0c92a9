// A model's completion, a newline, the expected answer: a verdict within bounds, whatever they hold. An
// answer is the same as itself. What is asked for and what is given are not judged alike: [1, 2] may stand
// for the vector <1, 2>, not the vector for the interval.
#include "reward/math_answer.h"
#include "reward/math_compare.h"
#include "reward/math_verify.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace contender;
  using namespace contender::fuzz;
  const std::string_view text = text_of(data, size);
  const size_t newline = text.find('\n');
  const std::string_view given = text.substr(0, newline);
  const std::string_view expected = newline == text.npos ? given : text.substr(newline + 1);
  require(!same_answer(given, expected) || same_answer(given, given));
  same_answer(expected, given);
  verify_math("", given, expected);
  for (const std::string_view answer : final_answers("<think>", text)) same_answer(answer, expected);
  return 0;
}
