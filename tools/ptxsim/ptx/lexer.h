// A cursor over PTX text. It always stands at the first character of a token: whatever consumes a token also
// skips the white space and comments behind it. Source: PTX ISA 9.0, sections 4.1 (source format), 4.2
// (comments), 4.4 (identifiers).
#pragma once

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "ptx/module.h"

namespace ptxsim::ptx {

enum CharClass : uint8_t { kWordStart = 1, kWordChar = 2, kDigit = 4, kBlank = 8, kDelimiter = 16 };

constexpr std::array<uint8_t, 256> char_classes() {
  std::array<uint8_t, 256> table{};
  for (int c = 0; c < 256; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool digit = c >= '0' && c <= '9';
    if (letter || c == '_' || c == '$' || c == '%') table[c] |= kWordStart;
    if (letter || c == '_' || c == '$' || digit) table[c] |= kWordChar;
    if (digit) table[c] |= kDigit;
    if (c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f') table[c] |= kBlank;
    if (c == '{' || c == '}' || c == '"' || c == '/' || c == '\n' || c == '\0') table[c] |= kDelimiter;
  }
  return table;
}
inline constexpr std::array<uint8_t, 256> kCharClasses = char_classes();
inline bool is_class(char c, uint8_t mask) { return kCharClasses[static_cast<uint8_t>(c)] & mask; }

class Lexer {
 public:
  // `text` must be followed by a NUL in memory (it is a std::string, or ends inside of one).
  Lexer(std::string_view text, int line) : at_(text.data()), end_(text.data() + text.size()), line_(line) {
    skip();
  }

  int line() const { return line_; }
  const char* position() const { return at_; }
  bool at_end() const { return at_ >= end_; }
  // The next character, NUL at the end. `peek(1)` is valid unless the text is at its end.
  char peek(int ahead = 0) const { return at_[ahead]; }
  bool at_word() const { return is_class(*at_, kWordStart); }

  bool accept(char c) {
    if (*at_ != c || at_end()) return false;
    advance(1);
    return true;
  }
  void expect(char c) {
    if (!accept(c)) expected(fmt::format("'{}'", c));
  }
  // An identifier, also one that begins with %; a lone "_" counts.
  std::string_view word() {
    if (!at_word()) expected("a name");
    const char* start = at_++;
    while (is_class(*at_, kWordChar)) ++at_;
    const std::string_view result(start, at_ - start);
    if (result == "%") fail("'%' without a name");
    skip();
    return result;
  }
  // The word behind a '.', as in ".align" or ".shared::cluster"; empty (and nothing consumed) where there is
  // none.
  std::string_view dotted();
  // "..." without the quotes.
  std::string_view quoted();
  // An unsigned integer literal in any base, at most `limit`.
  uint64_t integer(uint64_t limit);
  // The text from '{' to its matching '}', both included.
  std::string_view braced();
  // Behind the ')' that matches the present '('.
  void skip_parenthesised();

  // Moves on by `count` characters of the present token, then to the next token.
  void advance(int count) {
    at_ += count;
    skip();
  }

  template <class... A>
  [[noreturn]] void fail(fmt::format_string<A...> format, A&&... args) const {
    throw ParseError(line_, fmt::format(format, std::forward<A>(args)...));
  }
  // "expected <what> before '<next token>'"
  [[noreturn]] void expected(std::string_view what) const;

 private:
  void skip() {
    while (is_class(*at_, kBlank)) ++at_;
    if (*at_ == '\n' || *at_ == '/') skip_slow();
  }
  void skip_slow();
  void skip_comment();

  const char* at_;
  const char* end_;
  int line_;
};

}  // namespace ptxsim::ptx
