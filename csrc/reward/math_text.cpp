#include "reward/math_text.h"

#include <algorithm>

#include "reward/completion.h"

namespace contender {
namespace {

constexpr size_t kMaxBytes = 8 << 10;

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '~'; }

// The name of the command at `at`, which is a backslash; one character for \, and the like.
std::string_view command_at(std::string_view text, size_t at) {
  size_t end = at + 1;
  while (end < text.size() && is_letter(text[end])) ++end;
  return text.substr(at + 1, std::max(end - at - 1, std::min<size_t>(1, text.size() - at - 1)));
}

bool is_layout(std::string_view command) {
  for (const std::string_view c :
       {"left", "right", ",", ";", ":", "!", " ", "quad", "displaystyle", "$", "(", ")", "[", "]"})
    if (command == c) return true;
  return false;
}
bool is_text(std::string_view command) {
  for (const std::string_view c : {"text", "textbf", "textit", "textrm", "mathrm", "mathbf", "mbox", "boxed"})
    if (command == c) return true;
  return is_layout(command);
}

// Whether an exclamation mark behind it is one: 5!, 5!!, (n)! and n!, not yes!
bool may_be_factorial(std::string_view before) {
  if (before.empty()) return false;
  const char last = before.back();
  const bool letter = is_letter(last) && (before.size() == 1 || !is_letter(before[before.size() - 2]));
  return letter || is_digit(last) || last == ')' || last == '!';
}

}  // namespace

std::string_view without_ends(std::string_view text) {
  for (size_t before = text.size() + 1; text.size() < before;) {
    before = text.size();
    text = trimmed(text);
    if (text.starts_with('$')) text.remove_prefix(1);
    const bool escaped = text.size() > 1 && text[text.size() - 2] == '\\';
    if (!text.empty() && !escaped && std::string_view("$.,;:").find(text.back()) != std::string_view::npos)
      text.remove_suffix(1);
    for (const auto& [open, close] : {std::pair{"\\(", "\\)"}, {"\\[", "\\]"}}) {
      if (text.size() < 4 || !text.starts_with(open) || !text.ends_with(close)) continue;
      text.remove_prefix(2);
      text.remove_suffix(2);
    }
  }
  return text;
}

std::string squeezed(std::string_view text) {
  std::string kept;
  bool gap = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (is_space(c) || c == '$') {
      gap = true;
      continue;
    }
    if (c == '\\') {
      const std::string_view name = command_at(text, i);
      if (is_layout(name)) {
        i += name.size();
        gap = true;
        continue;
      }
    }
    // Between letters and digits white space may mean something: 1 2 is not 12.
    if (gap && !kept.empty() && (is_digit(c) || is_letter(c)) &&
        (is_digit(kept.back()) || is_letter(kept.back())))
      kept += ' ';
    kept += c;
    gap = false;
  }
  return kept;
}

std::string plain_words(std::string_view text) {
  if (text.size() > kMaxBytes) return "";
  std::string words;
  bool gap = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\') {
      const std::string_view name = command_at(text, i);
      if (!is_text(name)) return "";
      i += name.size();
      gap = gap || name.size() == 1;
    } else if (is_space(c)) {
      gap = true;
    } else if (c != '{' && c != '}' && c != '$' && c != '*' && c != '"') {
      if (gap && !words.empty()) words += ' ';
      words += c;
      gap = false;
    }
  }
  return words;
}

bool same_words(std::string_view a, std::string_view b) {
  const auto bare = [](std::string_view text) {
    std::string kept;
    const std::string words = plain_words(text);
    for (size_t i = 0; i < words.size(); ++i) {
      const char c = words[i];
      // A point or comma between digits is part of a number.
      const bool inside = i > 0 && is_digit(words[i - 1]) && i + 1 < words.size() && is_digit(words[i + 1]);
      if (c == '!' && may_be_factorial(kept)) {
        kept += c;
        continue;
      }
      if ((c == '.' || c == ',' || c == '\'' || c == '!' || c == '?') && !inside) continue;
      kept += is_letter(c) ? static_cast<char>(c | 0x20) : c;
    }
    return kept;
  };
  const std::string x = bare(a);
  return !x.empty() && x == bare(b);
}

}  // namespace contender
