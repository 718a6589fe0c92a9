#include "data/bpe_added.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

namespace contender {
namespace {

// The character that begins at `at`, or ends there.
int32_t character_at(std::string_view text, size_t at, size_t& length) {
  int32_t c = 0;
  length = static_cast<size_t>(utf8proc_iterate(reinterpret_cast<const uint8_t*>(text.data()) + at,
                                                static_cast<utf8proc_ssize_t>(text.size() - at), &c));
  return c;
}
int32_t character_before(std::string_view text, size_t at, size_t& length) {
  size_t begin = at - 1;
  while (begin > 0 && (text[begin] & 0xc0) == 0x80) --begin;
  return character_at(text, begin, length);
}

// Unicode's White_Space.
bool white_space(int32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

// \w of Unicode's regular expressions (UTS 18, annex C): Alphabetic, marks, decimal digits, connectors,
// joiners.
bool word_character(int32_t c) {
  const bool circled_letter = (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
                              (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
  if (circled_letter || c == 0x200c || c == 0x200d) return true;
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)), nodes_(1) {
  for (size_t t = 0; t < tokens_.size(); ++t) {
    int32_t node = 0;
    for (const char byte : tokens_[t].text) {
      auto& next = nodes_[node].next;
      auto found = std::find_if(next.begin(), next.end(), [&](const auto& n) { return n.first == byte; });
      if (found == next.end()) {
        next.emplace_back(byte, static_cast<int32_t>(nodes_.size()));
        node = static_cast<int32_t>(nodes_.size());
        nodes_.emplace_back();
      } else {
        node = found->second;
      }
    }
    nodes_[node].token = static_cast<int32_t>(t);
    bool& known = first_byte_[static_cast<uint8_t>(tokens_[t].text[0])];
    if (!std::exchange(known, true)) first_bytes_ += tokens_[t].text[0];
  }
}

// The next place where a token may begin.
size_t AddedTokens::begin_of_one(std::string_view text, size_t at) const {
  if (first_bytes_.size() == 1) return text.find(first_bytes_[0], at);
  while (at < text.size() && !first_byte_[static_cast<uint8_t>(text[at])]) ++at;
  return at < text.size() ? at : text.npos;
}

int32_t AddedTokens::longest_at(std::string_view text, size_t at) const {
  int32_t node = 0, token = -1;
  while (at < text.size()) {
    const auto& next = nodes_[node].next;
    const auto found =
        std::find_if(next.begin(), next.end(), [&](const auto& n) { return n.first == text[at]; });
    if (found == next.end()) break;
    node = found->second;
    if (nodes_[node].token >= 0) token = nodes_[node].token;
    ++at;
  }
  return token;
}

bool AddedTokens::next(std::string_view text, std::string_view marks, size_t from, size_t at,
                       Match& match) const {
  if (tokens_.empty()) return false;
  for (;;) {
    at = begin_of_one(text, at);
    if (at == text.npos) return false;
    const int32_t found = longest_at(text, at);
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = at, end = at + token.text.size(), length = 0;
    if (!marks.empty() && marks.substr(begin, end - begin).find_first_not_of('\0') != marks.npos) {
      ++at;
      continue;
    }
    const bool inside_word = (begin > 0 && word_character(character_before(text, begin, length))) ||
                             (end < text.size() && word_character(character_at(text, end, length)));
    if (token.single_word && inside_word) {
      at = end;
      continue;
    }
    if (token.lstrip)
      while (begin > from && white_space(character_before(text, begin, length))) begin -= length;
    if (token.rstrip)
      while (end < text.size() && white_space(character_at(text, end, length))) end += length;
    match = {token.id, begin, end, at + token.text.size()};
    return true;
  }
}

}  // namespace contender
