#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "reward/completion.h"
#include "reward/expression.h"
#include "reward/reward.h"

namespace contender {
namespace {

// Character by character: `0122`, `+122`, `1e2` or digits of another script are not `122`.
bool same_text(std::string_view given, std::string_view expected) { return given == trimmed(expected); }

// The fields of "target: n1 n2 ..."; none when it is malformed.
std::vector<int64_t> countdown_fields(std::string_view expected) {
  std::vector<int64_t> fields;
  std::string_view rest = expected;
  for (;;) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (error != std::errc()) return {};
    fields.push_back(value);
    rest.remove_prefix(static_cast<size_t>(end - rest.data()));
    if (rest.empty() && fields.size() >= 2) return fields;
    const std::string_view separator = fields.size() == 1 ? ": " : " ";
    if (!rest.starts_with(separator)) return {};
    rest.remove_prefix(separator.size());
  }
}

// An expression of the target's value that uses each of the numbers exactly once.
bool reaches_target(std::string_view given, std::string_view expected) {
  std::vector<int64_t> fields = countdown_fields(expected);
  std::vector<int64_t> used;
  const std::optional<Rational> value = evaluate_expression(given, &used);
  std::sort(used.begin(), used.end());
  std::sort(fields.begin() + 1, fields.end());
  return value && value->den == 1 && value->num == fields[0] &&
         std::equal(used.begin(), used.end(), fields.begin() + 1, fields.end());
}

struct Verifier {
  std::string_view task;
  bool (*correct)(std::string_view given, std::string_view expected);
};
constexpr std::array kVerifiers = {
    Verifier{"addition", same_text}, Verifier{"countdown", reaches_target}, Verifier{"reverse", same_text},
    Verifier{"sort", same_text},     Verifier{"word_problems", same_text},  Verifier{"exact", same_text},
};

const Verifier* verifier_of(std::string_view task) {
  const auto found =
      std::find_if(kVerifiers.begin(), kVerifiers.end(), [&](const Verifier& v) { return v.task == task; });
  return found == kVerifiers.end() ? nullptr : &*found;
}

// The prompt set wrote both, so what is wrong with them is its author's error, not the model's.
std::string problem_of(const std::string& task, const std::string& answer) {
  if (task == "countdown" && countdown_fields(answer).empty())
    return fmt::format("countdown answer \"{:.80}\": expected \"target: n1 n2 ...\"", answer);
  if (verifier_of(task)) return "";
  std::string known;
  for (const Verifier& v : kVerifiers) known += fmt::format("{}{}", known.empty() ? "" : ", ", v.task);
  return fmt::format(
      "task \"{:.40}\" has no rule (known: {}, math, code); reward.type = \"command\" can score it", task,
      known);
}

}  // namespace

std::string verifier_problem(const Prompt& prompt) {
  if (prompt.task == "math" || prompt.task == "code") return "";
  return problem_of(prompt.task, prompt.answer);
}

float verify_accuracy(const std::string& task, const std::string& completion, const std::string& answer) {
  const std::string problem = problem_of(task, answer);
  if (!problem.empty()) throw Error(ExitCode::kConfig, problem);
  const std::optional<std::string_view> given = answer_part(completion);
  return given && verifier_of(task)->correct(*given, answer) ? 1 : 0;
}

}  // namespace contender
