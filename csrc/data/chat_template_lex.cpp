#include "data/chat_template_lex.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "base/error.h"

namespace contender {
namespace {

using Token = TemplateToken;
using Type = TemplateToken::Type;

constexpr size_t kMaxSource = 1 << 20;

bool space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool digit(char c) { return c >= '0' && c <= '9'; }
bool letter(char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

void append_character(std::string& text, uint32_t c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
  } else {
    text += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3f)),
             static_cast<char>(0x80 | (c & 0x3f))};
  }
}

// Text and the tokens of tags, white space control applied.
class Lexer {
 public:
  explicit Lexer(std::string_view source) {
    if (source.size() > kMaxSource) refuse_template(1, "a template of more than 1 MiB");
    for (size_t i = 0; i < source.size(); ++i) {
      const bool pair = source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n';
      if (!pair) s_ += source[i] == '\r' ? '\n' : source[i];
    }
    if (s_.ends_with('\n')) s_.pop_back();
  }

  std::vector<Token> run() {
    while (at_ < s_.size()) {
      size_t open = at_;
      while ((open = s_.find('{', open)) != s_.npos && !opens(open)) ++open;
      text(std::min(open, s_.size()));
      if (at_ < s_.size()) tag();
    }
    add(Type::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool opens(size_t i) const {
    return i + 1 < s_.size() && (s_[i + 1] == '{' || s_[i + 1] == '%' || s_[i + 1] == '#');
  }
  void add(Type type, std::string text) { tokens_.push_back({type, std::move(text), line_}); }
  void move_to(size_t to) {
    line_ += static_cast<int>(
        std::count(s_.begin() + static_cast<int64_t>(at_), s_.begin() + static_cast<int64_t>(to), '\n'));
    at_ = to;
  }

  // Text up to a tag at `end`: "{%-" takes all white space before it, "{%" what begins its line.
  void text(size_t end) {
    size_t kept = end;
    if (end < s_.size()) {
      const char sign = end + 2 < s_.size() ? s_[end + 2] : '\0';
      if (sign == '-') {
        while (kept > at_ && space(s_[kept - 1])) --kept;
      } else if (sign != '+' && s_[end + 1] != '{') {
        size_t line = end;
        while (line > at_ && s_[line - 1] != '\n' && space(s_[line - 1])) --line;
        if (line == 0 || s_[line - 1] == '\n') kept = line;
      }
    }
    if (kept > at_) add(Type::kText, s_.substr(at_, kept - at_));
    move_to(end);
  }

  void tag() {
    const char kind = s_[at_ + 1];
    const std::string close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
    if (kind == '#') {
      const size_t end = s_.find(close, at_ + 2);
      if (end == s_.npos) refuse_template(line_, "a comment without its end");
      move_to(end);
    } else {
      add(kind == '{' ? Type::kPrint : Type::kTag, "");
      move_to(at_ + 2 + (at_ + 2 < s_.size() && (s_[at_ + 2] == '-' || s_[at_ + 2] == '+')));
      expression(close);
      add(kind == '{' ? Type::kEndPrint : Type::kEndTag, "");
    }
    const char before = s_[at_ - (kind == '#' ? 1 : 0)];
    const bool take_all = before == '-';
    const bool keep = before == '+';
    if (kind != '#' && (take_all || keep)) move_to(at_ + 1);
    move_to(at_ + 2);
    size_t next = at_;
    if (take_all) {
      while (next < s_.size() && space(s_[next])) ++next;
    } else if (kind != '{' && !keep && next < s_.size() && s_[next] == '\n') {
      ++next;
    }
    move_to(next);
  }

  // Tokens up to `close`, or its sign of white space control.
  void expression(const std::string& close) {
    int open = 0;
    for (;;) {
      while (at_ < s_.size() && space(s_[at_])) move_to(at_ + 1);
      if (at_ >= s_.size()) refuse_template(line_, fmt::format("{} is missing", close));
      const bool sign = s_[at_] == '-' || s_[at_] == '+';
      if (open == 0 && s_.compare(at_ + (sign ? 1 : 0), 2, close) == 0) return;
      const char c = s_[at_];
      size_t end = at_ + 1;
      if (letter(c)) {
        while (end < s_.size() && (letter(s_[end]) || digit(s_[end]))) ++end;
        add(Type::kName, s_.substr(at_, end - at_));
      } else if (digit(c)) {
        bool point = false;
        while (end < s_.size() &&
               (digit(s_[end]) || (s_[end] == '.' && !point && end + 1 < s_.size() && digit(s_[end + 1]))))
          point |= s_[end++] == '.';
        if (end - at_ > 15) refuse_template(line_, "a number of more than 15 digits");
        add(point ? Type::kNumber : Type::kInteger, s_.substr(at_, end - at_));
      } else if (c == '"' || c == '\'') {
        end = string(c);
      } else {
        const std::string two = s_.substr(at_, 2);
        const bool pair =
            two == "==" || two == "!=" || two == "<=" || two == ">=" || two == "//" || two == "**";
        end += pair;
        if (!pair && std::string_view("+-*/%~<>=.:|,()[]{}").find(c) == std::string_view::npos)
          refuse_template(line_, fmt::format("the character {} in a tag", s_.substr(at_, 1)));
        open += (c == '(' || c == '[' || c == '{') - (c == ')' || c == ']' || c == '}');
        add(Type::kOperator, s_.substr(at_, end - at_));
      }
      move_to(end);
    }
  }

  // Adds the text between quotes; the place behind it.
  size_t string(char quote) {
    std::string text;
    size_t i = at_ + 1;
    for (;; ++i) {
      if (i >= s_.size()) refuse_template(line_, "a text without its closing quote");
      if (s_[i] == quote) break;
      if (s_[i] != '\\') {
        text += s_[i];
        continue;
      }
      if (++i >= s_.size()) refuse_template(line_, "a text without its closing quote");
      const size_t which = std::string_view("ntrabfv\\'\"\n").find(s_[i]);
      if (which != std::string_view::npos) {
        if (s_[i] != '\n') text += "\n\t\r\a\b\f\v\\'\""[which];
      } else if (s_[i] == 'x' || s_[i] == 'u') {
        const size_t digits = s_[i] == 'x' ? 2 : 4;
        const std::string number = s_.substr(i + 1, digits);
        if (number.size() != digits || number.find_first_not_of("0123456789abcdefABCDEF") != number.npos)
          refuse_template(line_, "an escape without its digits");
        const uint32_t c = static_cast<uint32_t>(std::stoul(number, nullptr, 16));
        if (c >= 0xd800 && c < 0xe000) refuse_template(line_, "an escape that is no character");
        append_character(text, c);
        i += digits;
      } else if (digit(s_[i]) || s_[i] == 'N' || s_[i] == 'U') {
        refuse_template(line_, fmt::format("the escape \\{}", s_[i]));
      } else {
        text += {'\\', s_[i]};
      }
    }
    add(Type::kString, text);
    return i + 1;
  }

  std::string s_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

void refuse_template(int line, const std::string& what) {
  throw std::runtime_error(fmt::format("line {}: {}", line, what));
}

std::vector<TemplateToken> lex_template(std::string_view source) { return Lexer(source).run(); }

}  // namespace contender
