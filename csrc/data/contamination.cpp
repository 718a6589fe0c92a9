#include "data/contamination.h"

#include <utf8proc.h>
#include <xxhash.h>

#include <string>

#include "base/error.h"

namespace contender {
namespace {

constexpr size_t kWords = 10;
constexpr uint32_t kWordingPrompts = 10,
                   kWordingShare = 10;  // in more than every 10th prompt, and 10 of them

enum class Kind { kSpace, kWord, kIdeograph, kOther };

// Scripts that are written without spaces between words.
bool is_ideograph(utf8proc_int32_t c) {
  return (0x3040 <= c && c <= 0x30FF) || (0x3400 <= c && c <= 0x4DBF) || (0x4E00 <= c && c <= 0x9FFF) ||
         (0xF900 <= c && c <= 0xFAFF) || (0x20000 <= c && c <= 0x3FFFF);
}

Kind kind_of(utf8proc_int32_t c) {
  if (is_ideograph(c)) return Kind::kIdeograph;
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Kind::kWord;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_CC:
      return Kind::kSpace;
    default:
      return Kind::kOther;
  }
}

struct Character {
  utf8proc_int32_t lower;  // in lower case
  Kind kind;
};

// Takes the first one off the text.
Character next_character(std::string_view& text) {
  const char first = text[0];
  if (0 <= first) {  // almost all of them
    text.remove_prefix(1);
    if (first <= ' ' || first == 0x7F) return {first, Kind::kSpace};
    if ('A' <= first && first <= 'Z') return {first + ('a' - 'A'), Kind::kWord};
    const bool word = ('a' <= first && first <= 'z') || ('0' <= first && first <= '9');
    return {first, word ? Kind::kWord : Kind::kOther};
  }
  utf8proc_int32_t c = 0;
  const utf8proc_ssize_t bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                                  static_cast<utf8proc_ssize_t>(text.size()), &c);
  CHECK(bytes > 0, "a prompt that is not UTF-8");
  text.remove_prefix(static_cast<size_t>(bytes));
  return {utf8proc_tolower(c), kind_of(c)};
}

void append_utf8(utf8proc_int32_t c, std::string& text) {
  if (c < 0x80) {
    text += static_cast<char>(c);
    return;
  }
  utf8proc_uint8_t bytes[4];
  text.append(reinterpret_cast<char*>(bytes), static_cast<size_t>(utf8proc_encode_char(c, bytes)));
}

// Hashes of what a prompt is compared by: every 10 words in a row, or its characters.
std::vector<uint64_t> grams_of(std::string_view text) {
  std::vector<uint64_t> words;
  std::string word, whole;
  const auto end_word = [&] {
    if (!word.empty()) words.push_back(XXH3_64bits(word.data(), word.size()));
    word.clear();
  };
  while (!text.empty()) {
    const Character c = next_character(text);
    if (c.kind != Kind::kWord) end_word();
    if (c.kind == Kind::kSpace) continue;
    if (words.size() < kWords) append_utf8(c.lower, whole);
    if (c.kind != Kind::kOther) append_utf8(c.lower, word);
    if (c.kind == Kind::kIdeograph) end_word();
  }
  end_word();
  std::vector<uint64_t> grams;
  if (words.size() < kWords) {
    if (!whole.empty()) grams.push_back(XXH3_64bits(whole.data(), whole.size()));
    return grams;
  }
  for (size_t i = 0; i + kWords <= words.size(); ++i)
    grams.push_back(XXH3_64bits(words.data() + i, kWords * sizeof(uint64_t)));
  return grams;
}

}  // namespace

void HeldOutWords::add(std::string_view question) {
  const uint32_t me = prompts_++;
  for (const uint64_t gram : grams_of(question)) {
    Seen& seen = grams_.try_emplace(gram, Seen{me, me, 1}).first->second;
    if (seen.last != me) ++seen.prompts;
    seen.last = me;
  }
}

std::optional<int64_t> HeldOutWords::overlap(std::string_view question) const {
  for (const uint64_t gram : grams_of(question)) {
    const auto found = grams_.find(gram);
    if (found == grams_.end()) continue;
    const Seen& seen = found->second;
    const bool wording = seen.prompts >= kWordingPrompts && uint64_t{seen.prompts} * kWordingShare > prompts_;
    if (!wording) return seen.first;
  }
  return std::nullopt;
}

}  // namespace contender
