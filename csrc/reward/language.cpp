#include <utf8proc.h>

#include "base/error.h"
#include "reward/completion.h"
#include "reward/reward.h"

namespace contender {
namespace {

enum class Script { kNone, kLatin, kHan, kDigits, kOther };

struct Range {
  int32_t first, last;
};
constexpr Range kLatinLetters[] = {{0x41, 0x5A}, {0x61, 0x7A}, {0xC0, 0x24F}, {0x1E00, 0x1EFF}};
constexpr Range kHanLetters[] = {{0x3005, 0x3005}, {0x3007, 0x3007}, {0x3400, 0x4DBF},
                                 {0x4E00, 0x9FFF}, {0xF900, 0xFAFF}, {0x20000, 0x3FFFF}};

template <size_t N>
bool within(const Range (&ranges)[N], int32_t c) {
  for (const Range& r : ranges) {
    if (r.first <= c && c <= r.last) return true;
  }
  return false;
}

// Punctuation, symbols, white space, control characters: none. Digits of other scripts count as that script.
Script script_of(int32_t c) {
  if (c >= '0' && c <= '9') return Script::kDigits;
  if (within(kHanLetters, c)) return Script::kHan;
  const utf8proc_category_t category = utf8proc_category(c);
  const bool letter = (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
                      category == UTF8PROC_CATEGORY_ND;
  if (!letter) return Script::kNone;
  return within(kLatinLetters, c) ? Script::kLatin : Script::kOther;
}

bool is_mark(int32_t c) {
  const utf8proc_category_t category = utf8proc_category(c);
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

struct WordCounts {
  int64_t latin = 0, han = 0, digits = 0, other = 0;
};

// A word is a run of letters (with their combining marks and apostrophes) of one script; Chinese is written
// without spaces, so every Han character is a word; a run of bytes that are not UTF-8 is a word of no
// language.
WordCounts count_words(std::string_view text) {
  WordCounts words;
  Script current = Script::kNone;
  for (size_t at = 0; at < text.size();) {
    int32_t c = -1;
    const auto bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at;
    const utf8proc_ssize_t read =
        utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size() - at), &c);
    at += read > 0 ? static_cast<size_t>(read) : 1;
    const bool continues = read > 0 && current != Script::kNone && (is_mark(c) || c == '\'' || c == 0x2019);
    if (continues) continue;
    const Script script = read > 0 ? script_of(c) : Script::kOther;
    const bool begins = script != current || script == Script::kHan;
    current = script;
    if (!begins) continue;
    words.latin += script == Script::kLatin;
    words.han += script == Script::kHan;
    words.digits += script == Script::kDigits;
    words.other += script == Script::kOther;
  }
  return words;
}

}  // namespace

float language_share(const std::string& completion, const std::string& target_language) {
  const std::optional<std::string_view> thought = thought_part(completion);
  if (!thought) return 0;
  const WordCounts words = count_words(*thought);
  int64_t of_target = 0;
  int64_t all = words.latin + words.han + words.other;  // numbers belong to every language
  if (target_language == "en") {
    of_target = words.latin;
  } else if (target_language == "zh") {
    of_target = words.han;
  } else if (target_language == "digits") {
    of_target = words.digits;
    all += words.digits;
  } else {
    fail(ExitCode::kConfig, "reward.target_language = \"{}\": en, zh or digits", target_language);
  }
  return all == 0 ? 1.0f : static_cast<float>(static_cast<double>(of_target) / static_cast<double>(all));
}

}  // namespace contender
