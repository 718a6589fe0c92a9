#include "ptx/constant.h"

#include <bit>
#include <charconv>
#include <string>
#include <string_view>

namespace ptxsim::ptx {
namespace {

constexpr int kMaxDepth = 64;  // of parentheses and unary operators
constexpr int kWarpSize = 32;

Constant integer_constant(uint64_t value, bool is_unsigned) {
  return {.is_unsigned = is_unsigned, .integer = value};
}

Constant float_constant(double value) {
  return {.is_float = true, .integer = std::bit_cast<uint64_t>(value), .real = value};
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 99;
}

// 0f and eight, 0d and sixteen hexadecimal digits. False where the text is something else.
bool parse_float_bits(Lexer& lexer, Constant& result) {
  const char letter = lexer.peek(1) | 0x20;
  if (lexer.peek() != '0' || (letter != 'f' && letter != 'd')) return false;
  const int digits = letter == 'f' ? 8 : 16;
  uint64_t bits = 0;
  for (int i = 0; i < digits; ++i) {
    const int digit = hex_digit(lexer.peek(2 + i));
    if (digit >= 16) lexer.fail("0{} needs {} hexadecimal digits", letter, digits);
    bits = bits << 4 | digit;
  }
  lexer.advance(2 + digits);
  result.is_float = true;
  result.is_single = letter == 'f';
  result.integer = bits;
  result.real =
      result.is_single ? std::bit_cast<float>(static_cast<uint32_t>(bits)) : std::bit_cast<double>(bits);
  return true;
}

// A decimal number with a point or an exponent. False where the text is something else.
bool parse_decimal_float(Lexer& lexer, Constant& result) {
  int length = 0;
  while (is_class(lexer.peek(length), kDigit)) ++length;
  const int whole = length;
  if (lexer.peek(length) == '.') {
    ++length;
    while (is_class(lexer.peek(length), kDigit)) ++length;
    if (whole == 0 && length == 1) return false;
  }
  if ((lexer.peek(length) | 0x20) == 'e') {
    int exponent = length + 1;
    if (lexer.peek(exponent) == '+' || lexer.peek(exponent) == '-') ++exponent;
    if (!is_class(lexer.peek(exponent), kDigit)) lexer.fail("an exponent without digits");
    while (is_class(lexer.peek(exponent), kDigit)) ++exponent;
    length = exponent;
  }
  if (length == whole) return false;
  double value = 0;
  const char* first = lexer.position();
  if (std::from_chars(first, first + length, value).ec != std::errc())
    lexer.fail("a number outside the range of .f64");
  lexer.advance(length);
  result = float_constant(value);
  return true;
}

Constant parse_integer_literal(Lexer& lexer) {
  int base = 10;
  int length = 0;
  if (lexer.peek() == '0') {
    const char letter = lexer.peek(1) | 0x20;
    base = letter == 'x' ? 16 : letter == 'b' ? 2 : 8;
    length = base == 8 ? 1 : 2;
  }
  const int first = length;
  uint64_t value = 0;
  bool overflow = false;
  while (hex_digit(lexer.peek(length)) < base) {
    overflow |= __builtin_mul_overflow(value, static_cast<uint64_t>(base), &value);
    overflow |= __builtin_add_overflow(value, static_cast<uint64_t>(hex_digit(lexer.peek(length))), &value);
    ++length;
  }
  if (overflow) lexer.fail("an integer of more than 64 bits");
  if (length == first && base != 8) lexer.fail("a number without digits");
  bool is_unsigned = value >> 63;
  if (lexer.peek(length) == 'U') {
    is_unsigned = true;
    ++length;
  }
  if (is_class(lexer.peek(length), kWordChar)) {
    lexer.fail("'{}' inside a number", lexer.peek(length));
  }
  lexer.advance(length);
  return integer_constant(value, is_unsigned);
}

// A decimal number that is the whole constant, as most are (tables of them fill whole modules). False, with
// nothing consumed, where that is not plain to see.
bool parse_plain_decimal(Lexer& lexer, Constant& result) {
  int length = 0;
  uint64_t value = 0;
  while (length < 18 && is_class(lexer.peek(length), kDigit))
    value = value * 10 + (lexer.peek(length++) - '0');
  const char next = lexer.peek(length);
  if (length == 0 || (length > 1 && lexer.peek() == '0')) return false;
  if (next != ',' && next != ';' && next != '}' && next != ']') return false;
  lexer.advance(length);
  result.integer = value;
  return true;
}

struct Operator {
  std::string_view text;
  int precedence;
};
// Longer ones first where one is the beginning of another.
constexpr Operator kOperators[] = {
    {"*", 10}, {"/", 10}, {"%", 10}, {"+", 9},  {"-", 9},  {"<<", 8}, {">>", 8}, {"<=", 7}, {">=", 7},
    {"<", 7},  {">", 7},  {"==", 6}, {"!=", 6}, {"&&", 2}, {"||", 1}, {"&", 5},  {"^", 4},  {"|", 3},
};

const Operator* next_operator(const Lexer& lexer) {
  if (is_class(lexer.peek(), kWordStart) && lexer.peek() != '%') return nullptr;
  for (const Operator& candidate : kOperators) {
    if (lexer.peek() != candidate.text[0]) continue;
    if (candidate.text.size() == 1 || lexer.peek(1) == candidate.text[1]) return &candidate;
  }
  return nullptr;
}

uint64_t divide(Lexer& lexer, uint64_t a, uint64_t b, bool is_unsigned, bool remainder) {
  if (b == 0) lexer.fail("a constant expression divides by zero");
  if (is_unsigned) return remainder ? a % b : a / b;
  if (b == ~uint64_t{0}) return remainder ? 0 : 0 - a;  // the smallest integer over -1 wraps
  const int64_t x = static_cast<int64_t>(a), y = static_cast<int64_t>(b);
  return static_cast<uint64_t>(remainder ? x % y : x / y);
}

uint64_t shift(uint64_t a, uint64_t count, bool is_unsigned, bool right) {
  const bool beyond = count > 63;
  if (!right) return beyond ? 0 : a << count;
  if (is_unsigned) return beyond ? 0 : a >> count;
  return static_cast<uint64_t>(static_cast<int64_t>(a) >> (beyond ? 63 : count));
}

template <class T>
bool compare(std::string_view op, T a, T b) {
  if (op == "<") return a < b;
  if (op == "<=") return a <= b;
  if (op == ">") return a > b;
  if (op == ">=") return a >= b;
  return op == "==" ? a == b : a != b;
}

Constant apply_integer(Lexer& lexer, std::string_view op, const Constant& left, const Constant& right) {
  const uint64_t a = left.integer, b = right.integer;
  const bool is_unsigned = left.is_unsigned || right.is_unsigned;
  switch (op[0]) {
    case '*':
      return integer_constant(a * b, is_unsigned);
    case '/':
      return integer_constant(divide(lexer, a, b, is_unsigned, false), is_unsigned);
    case '%':
      return integer_constant(divide(lexer, a, b, is_unsigned, true), is_unsigned);
    case '+':
      return integer_constant(a + b, is_unsigned);
    case '-':
      return integer_constant(a - b, is_unsigned);
    case '^':
      return integer_constant(a ^ b, is_unsigned);
    default:
      break;
  }
  if (op == "&") return integer_constant(a & b, is_unsigned);
  if (op == "|") return integer_constant(a | b, is_unsigned);
  if (op == "&&") return integer_constant(a && b, false);
  if (op == "||") return integer_constant(a || b, false);
  if (op == "<<" || op == ">>") {
    return integer_constant(shift(a, b, left.is_unsigned, op == ">>"), left.is_unsigned);
  }
  const bool result =
      is_unsigned ? compare(op, a, b) : compare(op, static_cast<int64_t>(a), static_cast<int64_t>(b));
  return integer_constant(result, false);
}

Constant apply_float(Lexer& lexer, std::string_view op, double a, double b) {
  if (op == "*") return float_constant(a * b);
  if (op == "+") return float_constant(a + b);
  if (op == "-") return float_constant(a - b);
  if (op == "/") {
    if (b == 0) lexer.fail("a constant expression divides by zero");
    return float_constant(a / b);
  }
  if (op[0] == '<' || op[0] == '>' || op[0] == '=' || op[0] == '!') {
    if (op != "<<" && op != ">>") return integer_constant(compare(op, a, b), false);
  }
  lexer.fail("'{}' needs integers", op);
}

class Expression {
 public:
  explicit Expression(Lexer& lexer) : lexer_(lexer) {}

  Constant conditional() {
    const Constant condition = binary(1);
    if (!lexer_.accept('?')) return condition;
    enter();
    const Constant if_true = conditional();
    lexer_.expect(':');
    const Constant if_false = conditional();
    --depth_;
    const bool truth = condition.is_float ? condition.real != 0 : condition.integer != 0;
    return truth ? if_true : if_false;
  }

 private:
  void enter() {
    if (++depth_ > kMaxDepth) lexer_.fail("a constant expression nested too deeply");
  }

  Constant binary(int least) {
    Constant left = unary();
    while (const Operator* op = next_operator(lexer_)) {
      if (op->precedence < least) break;
      lexer_.advance(op->text.size());
      const Constant right = binary(op->precedence + 1);
      if (left.is_float != right.is_float) lexer_.fail("integers and floating-point numbers in one constant");
      left = left.is_float ? apply_float(lexer_, op->text, left.real, right.real)
                           : apply_integer(lexer_, op->text, left, right);
    }
    return left;
  }

  Constant unary() {
    const char c = lexer_.peek();
    if (c != '-' && c != '+' && c != '~' && c != '!') return primary();
    enter();
    lexer_.advance(1);
    Constant value = unary();
    --depth_;
    if (c == '+') return value;
    if (value.is_float) {
      if (c != '-') lexer_.fail("'{}' needs an integer", c);
      value.real = -value.real;
      value.integer ^= value.is_single ? uint64_t{1} << 31 : uint64_t{1} << 63;
      return value;
    }
    if (c == '!') return integer_constant(value.integer == 0, false);
    return integer_constant(c == '-' ? 0 - value.integer : ~value.integer, value.is_unsigned);
  }

  Constant primary() {
    if (lexer_.accept('(')) return parenthesised();
    if (lexer_.at_word()) {
      const std::string_view word = lexer_.word();
      if (word == "WARP_SZ") return integer_constant(kWarpSize, false);
      lexer_.fail("the name '{}' where a constant is needed", word);
    }
    return parse_literal(lexer_);
  }

  Constant parenthesised() {
    enter();
    const std::string_view type = lexer_.dotted();
    Constant value;
    if (type.empty()) {
      value = conditional();
      lexer_.expect(')');
    } else {
      if (type != "s64" && type != "u64") lexer_.fail("a cast to .{}", type);
      lexer_.expect(')');
      value = unary();
      if (value.is_float) lexer_.fail("a cast of a floating-point number");
      value.is_unsigned = type == "u64";
    }
    --depth_;
    return value;
  }

  Lexer& lexer_;
  int depth_ = 0;
};

}  // namespace

Constant parse_literal(Lexer& lexer) {
  if (!at_constant(lexer)) lexer.expected("a constant");
  Constant result;
  if (parse_float_bits(lexer, result)) return result;
  const bool based = lexer.peek() == '0' && ((lexer.peek(1) | 0x20) == 'x' || (lexer.peek(1) | 0x20) == 'b');
  if (!based && parse_decimal_float(lexer, result)) return result;
  if (!is_class(lexer.peek(), kDigit)) lexer.expected("a constant");
  return parse_integer_literal(lexer);
}

Constant parse_constant(Lexer& lexer) {
  Constant result;
  if (parse_plain_decimal(lexer, result)) return result;
  return Expression(lexer).conditional();
}

uint64_t parse_integer(Lexer& lexer) {
  const Constant value = parse_constant(lexer);
  if (value.is_float) lexer.fail("a floating-point number where an integer is needed");
  return value.integer;
}

bool at_constant(const Lexer& lexer) {
  const char c = lexer.peek();
  if (is_class(c, kDigit) || c == '-' || c == '+' || c == '~' || c == '!' || c == '(') return true;
  return c == '.' && is_class(lexer.peek(1), kDigit);
}

}  // namespace ptxsim::ptx
