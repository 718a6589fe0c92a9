// LaTeX and plain mathematics as one stream of tokens: layout is gone, every notation of a thing is one
// token.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace contender {

// Text that is no mathematics of ours, or too much of it. Caught where answers are compared.
struct Unreadable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class TokenKind {
  kNumber,  // digits, at most one point, maybe an exponent: 12.5e-3; repeating digits in parentheses: 0.1(6)
  kSymbol,  // a letter or the name of one: x, alpha, pi, oo (infinity), reals
  kName,    // what takes arguments: frac, sqrt, sin, begin
  kText,    // words, of \text{} or plain
  kMark,  // + - * / ^ _ = ~ < > <= >= != +- -+ | ! ' % deg , ; ( ) [ ] { } \{ \} & \\ cup cap \ in <( )> ...
  kEnd
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  bool spaced = false;  // white space before it
};

// At most 8 KiB; ends with a token kEnd. Throws Unreadable, also for digits of other scripts.
std::vector<Token> math_tokens(std::string_view text);

}  // namespace contender
