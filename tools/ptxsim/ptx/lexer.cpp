#include "ptx/lexer.h"

#include <algorithm>
#include <cstring>

#include "ptx/constant.h"

namespace ptxsim::ptx {

std::string_view Lexer::dotted() {
  if (*at_ != '.' || !is_class(at_[1], kWordChar)) return {};
  const char* start = ++at_;
  while (is_class(*at_, kWordChar)) ++at_;
  while (at_[0] == ':' && at_[1] == ':' && is_class(at_[2], kWordChar)) {
    at_ += 2;
    while (is_class(*at_, kWordChar)) ++at_;
  }
  const std::string_view result(start, at_ - start);
  skip();
  return result;
}

std::string_view Lexer::quoted() {
  if (*at_ != '"') expected("a string");
  const char* start = at_ + 1;
  const char* close = start;
  while (close < end_ && *close != '"' && *close != '\n') ++close;
  if (close >= end_ || *close != '"') fail("a string without its closing quote");
  at_ = close + 1;
  skip();
  return {start, static_cast<size_t>(close - start)};
}

uint64_t Lexer::integer(uint64_t limit) {
  if (!is_class(*at_, kDigit)) expected("an integer");
  const Constant value = parse_literal(*this);
  if (value.is_float) fail("a floating-point number where an integer is needed");
  if (value.integer > limit) fail("the number {} is too large here", value.integer);
  return value.integer;
}

std::string_view Lexer::braced() {
  if (*at_ != '{') expected("'{'");
  const int first_line = line_;
  const char* start = at_;
  int64_t depth = 0;
  while (true) {
    while (!is_class(*at_, kDelimiter)) ++at_;
    const char c = *at_;
    if (c == '\n') {
      ++line_;
      ++at_;
    } else if (c == '{') {
      ++depth;
      ++at_;
    } else if (c == '}') {
      ++at_;
      if (--depth == 0) break;
    } else if (c == '"') {
      quoted();
    } else if (c == '/') {
      if (at_[1] == '/' || at_[1] == '*')
        skip_comment();
      else
        ++at_;
    } else if (at_ < end_) {
      ++at_;
    } else {
      throw ParseError(first_line, "'{' without its '}'");
    }
  }
  const std::string_view result(start, at_ - start);
  skip();
  return result;
}

void Lexer::skip_parenthesised() {
  expect('(');
  for (int depth = 1; depth > 0; advance(1)) {
    if (at_end() || *at_ == ';' || *at_ == '{' || *at_ == '}') expected("')'");
    depth += (*at_ == '(') - (*at_ == ')');
  }
}

void Lexer::skip_slow() {
  while (true) {
    if (is_class(*at_, kBlank)) {
      ++at_;
    } else if (*at_ == '\n') {
      ++line_;
      ++at_;
    } else if (*at_ == '/' && at_ < end_ && (at_[1] == '/' || at_[1] == '*')) {
      skip_comment();
    } else {
      return;
    }
  }
}

void Lexer::skip_comment() {
  if (at_[1] == '/') {
    const void* newline = std::memchr(at_, '\n', end_ - at_);
    at_ = newline ? static_cast<const char*>(newline) : end_;
    return;
  }
  const std::string_view rest(at_, end_ - at_);
  const size_t close = rest.find("*/", 2);
  if (close == std::string_view::npos) fail("a comment without its closing */");
  line_ += std::count(at_, at_ + close, '\n');
  at_ += close + 2;
}

void Lexer::expected(std::string_view what) const {
  if (at_end()) fail("expected {} before the end of the text", what);
  const char* stop = at_;
  if (is_class(*stop, kWordStart | kWordChar | kDigit)) {
    while (stop < end_ && stop - at_ < 60 && (stop == at_ || is_class(*stop, kWordChar))) ++stop;
  } else {
    ++stop;
  }
  const uint8_t first = *at_;
  if (first < 0x20 || first > 0x7e) fail("expected {} before the byte {}", what, first);
  fail("expected {} before '{}'", what, std::string_view(at_, stop - at_));
}

}  // namespace ptxsim::ptx
