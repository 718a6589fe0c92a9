#include "reward/expression.h"

#include <numeric>

namespace contender {
namespace {

constexpr size_t kMaxBytes = 256;
constexpr int kMaxDepth = 32;
constexpr int64_t kMaxNumber = 1'000'000'000;

using Value = std::optional<Rational>;

Value reduced(int64_t num, int64_t den) {
  if (den == 0 || num == INT64_MIN || den == INT64_MIN) return {};
  const int64_t factor = std::gcd(num, den) * (den < 0 ? -1 : 1);
  return Rational{num / factor, den / factor};
}

Value product(const Rational& a, const Rational& b) {
  int64_t num, den;
  if (__builtin_mul_overflow(a.num, b.num, &num) || __builtin_mul_overflow(a.den, b.den, &den)) return {};
  return reduced(num, den);
}

Value sum(const Rational& a, const Rational& b) {
  int64_t left, right, num, den;
  if (__builtin_mul_overflow(a.num, b.den, &left) || __builtin_mul_overflow(b.num, a.den, &right) ||
      __builtin_add_overflow(left, right, &num) || __builtin_mul_overflow(a.den, b.den, &den)) {
    return {};
  }
  return reduced(num, den);
}

Value apply(char operation, const Rational& a, const Rational& b) {
  switch (operation) {
    case '+':
      return sum(a, b);
    case '-':
      return sum(a, {-b.num, b.den});
    case '*':
      return product(a, b);
    default:
      return b.num == 0 ? Value{} : product(a, {b.num < 0 ? -b.den : b.den, b.num < 0 ? -b.num : b.num});
  }
}

// Recursive descent; every member leaves `at_` behind what it read.
class Parser {
 public:
  Parser(std::string_view text, std::vector<int64_t>* numbers) : text_(text), numbers_(numbers) {}

  Value whole() {
    const Value value = terms();
    return next() == 0 && at_ == text_.size() ? value : Value{};
  }

 private:
  // The next character that is not white space, 0 at the end; not consumed.
  char next() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
    return at_ < text_.size() ? text_[at_] : 0;
  }

  Value terms() {
    Value value = factors();
    for (char c = next(); value && (c == '+' || c == '-'); c = next()) {
      ++at_;
      const Value right = factors();
      value = right ? apply(c, *value, *right) : right;
    }
    return value;
  }

  Value factors() {
    Value value = atom();
    for (char c = next(); value && (c == '*' || c == '/'); c = next()) {
      ++at_;
      const Value right = atom();
      value = right ? apply(c, *value, *right) : right;
    }
    return value;
  }

  Value atom() {
    if (next() != '(') return number();
    if (++depth_ > kMaxDepth) return {};
    ++at_;
    const Value value = terms();
    if (next() != ')') return {};
    ++at_;
    --depth_;
    return value;
  }

  Value number() {
    const size_t begin = at_;
    int64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      value = value * 10 + (text_[at_] - '0');
      if (value > kMaxNumber) return {};
    }
    const size_t digits = at_ - begin;
    if (digits == 0 || (digits > 1 && text_[begin] == '0')) return {};
    numbers_->push_back(value);
    return Rational{value, 1};
  }

  const std::string_view text_;
  std::vector<int64_t>* const numbers_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::optional<Rational> evaluate_expression(std::string_view text, std::vector<int64_t>* numbers) {
  numbers->clear();
  if (text.size() > kMaxBytes) return {};
  return Parser(text, numbers).whole();
}

}  // namespace contender
