#include "reward/code_program.h"

#include <algorithm>
#include <cctype>

#include "reward/completion.h"

namespace contender {
namespace {

constexpr std::string_view kAnswer = "<answer>", kEndAnswer = "</answer>";

// Behind the thought; of that what <answer> holds, if there is one.
std::optional<std::string_view> part_with_program(std::string_view prompt, std::string_view completion) {
  const std::optional<std::string_view> rest = behind_thought(prompt, completion);
  if (!rest) return {};
  const std::string_view text = *rest;
  const size_t open = text.find(kAnswer);
  if (open == text.npos) return text;
  const std::string_view answer = text.substr(open + kAnswer.size());
  const size_t close = answer.find(kEndAnswer);
  if (close == answer.npos || answer.find(kAnswer) != answer.npos) return {};
  return answer.substr(0, close);
}

// python or cpp; "" for no name; "other".
std::string language_of(std::string_view name) {
  std::string lower(name.substr(0, name.find_first_of(" \t{:,")));
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  const auto one_of = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), lower) != names.end();
  };
  if (lower.empty()) return "";
  if (one_of({"python", "py", "python3", "py3"})) return "python";
  if (one_of({"cpp", "c++", "cc", "cxx", "cpp17", "c++17", "cpp20", "c++20"})) return "cpp";
  return "other";
}

}  // namespace

std::optional<CodeProgram> find_program(std::string_view prompt, std::string_view completion,
                                        std::string_view language) {
  const std::optional<std::string_view> text = part_with_program(prompt, completion);
  if (!text) return {};
  std::optional<CodeProgram> named, unnamed;
  std::string block_language;
  size_t fence = 0, block_begin = 0;  // backticks of the open block, 0: none; its first line
  for (size_t begin = 0; begin < text->size();) {
    const size_t end = std::min(text->find('\n', begin), text->size());
    const std::string_view line = trimmed(text->substr(begin, end - begin));
    const size_t ticks = std::min(line.find_first_not_of('`'), line.size());
    const std::string_view name = trimmed(line.substr(ticks));
    if (fence == 0 && ticks >= 3 && name.find('`') == name.npos) {
      fence = ticks;
      block_language = language_of(name);
      block_begin = std::min(end + 1, text->size());
    } else if (fence > 0 && ticks >= fence && name.empty()) {
      const std::string source(text->substr(block_begin, begin - block_begin));
      if (block_language.empty()) {
        unnamed = {std::string(language), source};
      } else if (block_language != "other") {
        named = {block_language, source};
      }
      fence = 0;
    }
    begin = end + 1;
  }
  if (fence > 0) return {};
  return named ? named : unnamed;
}

}  // namespace contender
