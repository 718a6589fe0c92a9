#include "reward/math_answer.h"

#include <algorithm>
#include <optional>
#include <string>

#include "reward/completion.h"

namespace contender {
namespace {

constexpr std::string_view kAnswer = "<answer>", kEndAnswer = "</answer>", kHashes = "####";
constexpr size_t kMaxLineAnswer = 200;  // bytes of a line that is an answer as a whole

// The contents of \boxed{...} and \fbox{...}, outermost ones only, in order; one pass over the text.
std::vector<std::string_view> boxes(std::string_view text) {
  constexpr size_t kNoBox = std::string_view::npos;
  std::vector<size_t> open;  // a brace each: where a box's content begins, or kNoBox
  std::vector<std::string_view> found;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '{') {
      open.push_back(kNoBox);
    } else if (text[i] == '}' && !open.empty()) {
      const size_t begin = open.back();
      open.pop_back();
      if (begin == kNoBox) continue;
      while (!found.empty() && found.back().data() >= text.data() + begin) found.pop_back();  // inner ones
      found.push_back(text.substr(begin, i - begin));
    } else if (text[i] == '\\') {
      if (text.substr(i + 1).starts_with("\\boxed")) ++i;  // escaped once too often, as in JSON in JSON
      const std::string_view rest = text.substr(i + 1);
      const size_t name = rest.starts_with("boxed") ? 5 : rest.starts_with("fbox") ? 4 : 0;
      const size_t brace = name == 0 ? text.npos : text.find_first_not_of(' ', i + 1 + name);
      if (brace == text.npos || text[brace] != '{') {
        ++i;  // an escaped brace is no brace
        continue;
      }
      open.push_back(brace + 1);
      i = brace;
    }
  }
  return found;
}

// The first formula of a sentence, or all of it.
std::string_view rest_of_sentence(std::string_view text, bool may_say_is) {
  const size_t begin = text.find_first_not_of(" \t\n\r:*=");
  if (begin == text.npos) return {};
  std::string_view line = text.substr(begin);
  line = line.substr(0, line.find('\n'));
  line = line.substr(0, std::min(line.find(". "), line.find("**")));
  const size_t is = may_say_is ? line.rfind(" is ") : line.npos;  // Answer: the number of ways is 12.
  if (is != line.npos) line = line.substr(is + 4);
  const size_t formula = line.find('$');
  const size_t end = formula == line.npos ? line.npos : line.find('$', formula + 1);
  if (end != line.npos && end > formula + 1 &&
      line.substr(0, formula).find_first_of("0123456789") == line.npos)
    return trimmed(line.substr(formula + 1, end - formula - 1));
  line = trimmed(line);
  if (line.ends_with('.')) line.remove_suffix(1);
  return trimmed(line);
}

std::string_view behind_last_phrase(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  size_t behind = 0;
  for (const std::string_view phrase : {"answer is", "answer:", "answer**:", "answer =", "answer equals"}) {
    const size_t at = lower.rfind(phrase);
    if (at != lower.npos) behind = std::max(behind, at + phrase.size());
  }
  if (behind == 0) return {};
  return rest_of_sentence(text.substr(behind), lower[behind - 1] == ':');
}

// `begin`...`end`, where nothing but a full stop follows.
std::string_view formula_at_end(std::string_view text, std::string_view begin, std::string_view end) {
  while (text.ends_with('.') || text.ends_with(' ') || text.ends_with('*')) text.remove_suffix(1);
  if (text.size() < begin.size() + end.size() || !text.ends_with(end)) return {};
  text.remove_suffix(end.size());
  const size_t open = text.rfind(begin);
  return open == text.npos ? std::string_view{} : trimmed(text.substr(open + begin.size()));
}

// The only formula of the last line, wherever it stands there.
std::string_view only_formula(std::string_view text) {
  const size_t line_end = text.rfind('\n');
  const std::string_view line = line_end == text.npos ? text : text.substr(line_end + 1);
  const size_t open = line.find('$'), close = line.rfind('$');
  if (open == close || std::count(line.begin(), line.end(), '$') != 2) return {};
  return trimmed(line.substr(open + 1, close - open - 1));
}

std::string_view last_formula(std::string_view text) {
  constexpr std::string_view kMarks[][2] = {{"$$", "$$"}, {"$", "$"}, {"\\[", "\\]"}, {"\\(", "\\)"}};
  for (const auto& [begin, end] : kMarks) {
    const std::string_view formula = formula_at_end(text, begin, end);
    if (!formula.empty()) return formula;
  }
  return only_formula(text);
}

// `tagged`: the text stands in answer tags, so it may be an answer as a whole.
std::vector<std::string_view> answers_in(std::string_view text, bool tagged) {
  std::vector<std::string_view> found = boxes(text);
  if (!found.empty()) return found;
  text = trimmed(text);
  const size_t hashes = text.rfind(kHashes);
  std::string_view answer =
      hashes != text.npos ? text.substr(hashes + kHashes.size()) : behind_last_phrase(text);
  if (hashes != text.npos) answer = trimmed(answer.substr(0, trimmed(answer).find('\n')));
  if (answer.empty()) answer = last_formula(text);
  const bool one_line = text.find('\n') == text.npos && text.size() <= kMaxLineAnswer;
  if (answer.empty() && (tagged || one_line)) answer = text;
  if (answer.empty()) return {};
  return {answer};
}

}  // namespace

std::vector<std::string_view> final_answers(std::string_view prompt, std::string_view completion) {
  const std::optional<std::string_view> visible = behind_thought(prompt, completion);
  if (!visible) return {};
  if (visible->find(kAnswer) == visible->npos) return answers_in(*visible, false);
  std::vector<std::string_view> all;
  for (size_t open = visible->find(kAnswer); open != visible->npos; open = visible->find(kAnswer, open)) {
    open += kAnswer.size();
    const size_t close = visible->find(kEndAnswer, open);
    if (close == visible->npos) return {};
    const std::vector<std::string_view> some = answers_in(visible->substr(open, close - open), true);
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

std::string expected_answer(std::string_view text) {
  const size_t hashes = text.rfind(kHashes);
  if (hashes != text.npos) return std::string(trimmed(text.substr(hashes + kHashes.size())));
  std::vector<std::string_view> found = boxes(text);
  if (found.empty()) return std::string(trimmed(text));
  return listed(&found);
}

std::string listed(std::vector<std::string_view>* answers) {
  std::vector<std::string_view> once;
  std::string list;
  for (const std::string_view answer : *answers) {
    if (once.size() > kMaxListed || std::find(once.begin(), once.end(), answer) != once.end()) continue;
    once.push_back(answer);
    list += (list.empty() ? "" : ", ") + std::string(answer);
  }
  *answers = std::move(once);
  return list;
}

}  // namespace contender
