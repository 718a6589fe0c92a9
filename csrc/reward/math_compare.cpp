#include "reward/math_compare.h"

#include <algorithm>
#include <optional>

#include "reward/completion.h"
#include "reward/math_exact.h"
#include "reward/math_lexer.h"
#include "reward/math_numeric.h"
#include "reward/math_parser.h"
#include "reward/math_sets.h"
#include "reward/math_text.h"
#include "reward/math_units.h"
#include "reward/math_words.h"

namespace contender {
namespace {

constexpr int64_t kDecimalPlaces = 6;  // from here on a decimal stands for what rounds to it
constexpr size_t kDecimalDigits = 6;   // if it has as many from its first that is not 0
constexpr size_t kMaxUnordered = 64;   // elements; longer lists are compared in their order

bool same(const Expr& a, const Expr& b);

Expr binary(Op op, const Expr& a, const Expr& b) { return {op, "", {a, b}, ""}; }

// --- values ---

// A literal with a point, signed or not; nothing for anything else.
std::optional<Decimal> literal(const Expr& e) {
  if (e.op == Op::kNegate) return literal(e.args[0]);
  if (e.op != Op::kNumber || e.text.find_first_of(".") == e.text.npos ||
      e.text.find_first_of("eE(") != e.text.npos)
    return {};
  return decimal_of(e.text);
}

bool rounded(const Expr& value, const Expr& decimal) {
  const std::optional<Decimal> d = literal(decimal);
  return d && d->places >= kDecimalPlaces && d->digits.size() >= kDecimalDigits &&
         rounds_to(value, decimal, d->places);
}

bool same_value(const Expr& a, const Expr& b) {
  const int x = infinity_of(a), y = infinity_of(b);
  if (x != 0 || y != 0) return x == y;
  const std::vector<std::string> symbols = symbols_of(a, b);
  const std::optional<bool> exact = same_exactly(a, b, symbols);
  if (exact && *exact) return true;
  if (symbols.empty() && (rounded(a, b) || rounded(b, a))) return true;
  return exact ? false : same_numerically(a, b, symbols);
}

bool is_sign_of(const Expr& e, Op op) { return e.op == op || (e.op == Op::kNegate && e.args[0].op == op); }
// 28 for 28%, -28 for -28%.
Expr bare(const Expr& e) {
  if (e.op == Op::kNegate) return {Op::kNegate, "", {e.args[0].args[0]}, ""};
  return e.args[0];
}

// Words that count quarters, of which it takes four, or coins.
bool counts_quarters(const Expr& e) {
  const std::string_view first = std::string_view(e.unit).substr(0, e.unit.find(' '));
  return first == "quarter" || first == "quarters";
}
Expr in_quarters(const Expr& e) { return binary(Op::kDivide, e, {Op::kNumber, "4", {}, ""}); }

bool same_quantity(const Expr& a, const Expr& b) {
  if (!a.unit.empty() && !b.unit.empty()) {
    const std::string x = known_unit(a.unit), y = known_unit(b.unit);
    if (!x.empty() && !y.empty() && x != y) return false;
  }
  if (counts_quarters(a) != counts_quarters(b)) {
    if (same_value(counts_quarters(a) ? in_quarters(a) : a, counts_quarters(b) ? in_quarters(b) : b))
      return true;
  }
  for (const Op op : {Op::kPercent, Op::kDegree}) {
    const bool marked_a = is_sign_of(a, op), marked_b = is_sign_of(b, op);
    if (marked_a && marked_b) return same_value(bare(a), bare(b));
    if (marked_a) return same_value(bare(a), b) || same_value(a, b);
    if (marked_b) return same_value(a, bare(b)) || same_value(a, b);
  }
  return same_value(a, b);
}

// --- collections ---

// Elements that cannot be compared are different.
bool same_element(const Expr& a, const Expr& b) {
  try {
    return same(a, b);
  } catch (const Unreadable&) {
    return false;
  }
}

bool in_order(const std::vector<Expr>& a, const std::vector<Expr>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_element);
}

bool in_any_order(const std::vector<Expr>& a, const std::vector<Expr>& b) {
  if (a.size() != b.size()) return false;
  if (a.size() > kMaxUnordered) return in_order(a, b);
  std::vector<bool> taken(b.size(), false);
  return std::all_of(a.begin(), a.end(), [&](const Expr& x) {
    for (size_t i = 0; i < b.size(); ++i) {
      if (taken[i] || !same_element(x, b[i])) continue;
      taken[i] = true;
      return true;
    }
    return false;
  });
}

bool same_set(const std::vector<Expr>& a, const std::vector<Expr>& b) {
  if (std::max(a.size(), b.size()) > kMaxUnordered) return in_order(a, b);
  const auto within = [](const std::vector<Expr>& some, const std::vector<Expr>& all) {
    return std::all_of(some.begin(), some.end(), [&](const Expr& x) {
      return std::any_of(all.begin(), all.end(), [&](const Expr& y) { return same_element(x, y); });
    });
  };
  return within(a, b) && within(b, a);
}

// The tree with + or with - in every +-; two values where there is one.
Expr with_sign(const Expr& e, bool upper) {
  if (e.op == Op::kPlusMinus) {
    const Expr right = with_sign(e.args[1], upper);
    const bool plus = (e.text == "+-") == upper;
    return binary(Op::kAdd, with_sign(e.args[0], upper), plus ? right : Expr{Op::kNegate, "", {right}, ""});
  }
  Expr signed_one = {e.op, e.text, {}, e.unit};
  for (const Expr& arg : e.args) signed_one.args.push_back(with_sign(arg, upper));
  return signed_one;
}
bool has_plus_minus(const Expr& e) {
  return e.op == Op::kPlusMinus || std::any_of(e.args.begin(), e.args.end(), has_plus_minus);
}

bool is_collection(const Expr& e) {
  return e.op == Op::kList || e.op == Op::kSet || e.op == Op::kTuple ||
         (e.op == Op::kSymbol && e.text == "empty");
}

bool same_collection(const Expr& a, const Expr& b) {
  if (a.op == Op::kTuple && b.op == Op::kTuple) {
    const bool points = a.text == b.text || (a.text != "[)" && a.text != "(]" && b.text == "<>") ||
                        (a.text == "<>" && b.text == "()");
    return points && in_order(a.args, b.args);
  }
  if (a.op == Op::kTuple || b.op == Op::kTuple) {
    const Expr &tuple = a.op == Op::kTuple ? a : b, &other = a.op == Op::kTuple ? b : a;
    return other.op == Op::kList && tuple.text == "()" && in_order(a.args, b.args);
  }
  return a.op == Op::kSet || b.op == Op::kSet ? same_set(a.args, b.args) : in_any_order(a.args, b.args);
}

// The elements of a single row or column.
std::optional<Expr> as_tuple(const Expr& matrix) {
  Expr tuple = {Op::kTuple, "()", {}, ""};
  for (const Expr& row : matrix.args) {
    if (row.args.size() != 1 && matrix.args.size() != 1) return {};
    tuple.args.insert(tuple.args.end(), row.args.begin(), row.args.end());
  }
  return tuple;
}

bool same_matrix(const Expr& a, const Expr& b) {
  if (a.op == b.op)
    return std::equal(a.args.begin(), a.args.end(), b.args.begin(), b.args.end(),
                      [](const Expr& x, const Expr& y) { return in_order(x.args, y.args); });
  const Expr &matrix = a.op == Op::kMatrix ? a : b, &other = a.op == Op::kMatrix ? b : a;
  const std::optional<Expr> tuple = as_tuple(matrix);
  return tuple && other.op == Op::kTuple && same_collection(*tuple, other);
}

// --- relations ---

bool same_tree(const Expr& a, const Expr& b) {
  return a.op == b.op && a.text == b.text &&
         std::equal(a.args.begin(), a.args.end(), b.args.begin(), b.args.end(), same_tree);
}

bool same_relation(Expr a, Expr b) {
  for (Expr* e : {&a, &b}) {
    if (e->text[0] != '>') continue;
    std::swap(e->args[0], e->args[1]);
    e->text[0] = '<';
  }
  if (a.text != b.text) return false;
  if (same_tree(a.args[0], b.args[0])) return same(a.args[1], b.args[1]);
  if (a.text == "in") return false;
  const Expr x = binary(Op::kAdd, a.args[0], {Op::kNegate, "", {a.args[1]}, ""});
  const Expr y = binary(Op::kAdd, b.args[0], {Op::kNegate, "", {b.args[1]}, ""});
  if (a.text[0] == '<') return same_value(x, y);
  return proportional(x, y, symbols_of(x, y));
}

// x = 5 and x in [0, 1] beside an answer that says no more than the right side.
const Expr* named_value(const Expr& e) {
  const bool names = e.op == Op::kRelation && (e.text == "=" || e.text == "in");
  if (!names) return nullptr;
  if (is_name(e.args[0])) return &e.args[1];
  if (e.text == "=" && is_name(e.args[1])) return &e.args[0];
  // A calculation to its end; an equation to be solved is none.
  return e.text == "=" && same_element(e.args[0], e.args[1]) ? &e.args[1] : nullptr;
}

bool is_relation(const Expr& e) { return e.op == Op::kRelation; }

bool same(const Expr& a, const Expr& b) {
  if (is_relation(a) != is_relation(b)) {
    const Expr* const value = named_value(is_relation(a) ? a : b);
    if (value) return is_relation(a) ? same(*value, b) : same(a, *value);
  }
  if (is_relation(a) && is_relation(b) && !has_plus_minus(a) && !has_plus_minus(b)) {
    const bool alike = is_real_set(a) == is_real_set(b);
    if (alike && same_relation(a, b)) return true;
    return alike && is_real_set(a) && same_real_sets(a, b);
  }
  if (a.op == Op::kText && b.op == Op::kText) return same_words(a.text, b.text);
  if (a.op == Op::kMatrix || b.op == Op::kMatrix) return same_matrix(a, b);
  if (is_real_set(a) || is_real_set(b)) {
    if (is_collection(a) && is_collection(b) && same_collection(a, b)) return true;
    return same_real_sets(a, b);
  }
  if (!is_collection(a) && has_plus_minus(a))
    return same({Op::kList, "", {with_sign(a, true), with_sign(a, false)}, ""}, b);
  if (!is_collection(b) && has_plus_minus(b))
    return same(a, {Op::kList, "", {with_sign(b, true), with_sign(b, false)}, ""});
  if (is_collection(a) && is_collection(b)) return same_collection(a, b);
  if (a.op == Op::kSet && a.args.size() == 1) return same(a.args[0], b);
  if (b.op == Op::kSet && b.args.size() == 1) return same(a, b.args[0]);
  if (is_collection(a) || is_collection(b)) return false;
  if (a.op == Op::kBase && b.op == Op::kBase) return same_tree(a, b);
  if (a.op == Op::kBase) return same_quantity(a.args[0], b);
  if (b.op == Op::kBase) return same_quantity(a, b.args[0]);
  return same_quantity(a, b);
}

// --- letters and words ---

// C, (C), \text{C}: one of the choices of a question.
std::optional<char> choice_of(std::string_view text) {
  const std::string words = plain_words(text);
  const bool bracketed = words.size() == 3 && words[0] == '(' && words[2] == ')';
  if (words.size() != 1 && !bracketed) return {};
  const char letter = words[bracketed];
  return letter >= 'A' && letter <= 'J' ? std::optional(letter) : std::nullopt;
}

// The letter, or the letter with its bracket or point and the text of the choice.
bool same_choice(std::string_view given, char letter) {
  const size_t mark = given.find_first_of(").:]");
  if (mark + 1 < given.size() && mark != given.npos &&
      std::string_view(" $\\}\n").find(given[mark + 1]) == std::string_view::npos)
    return false;  // A:B is no choice
  const std::string words = plain_words(given.substr(0, mark));
  const size_t at = words.find_first_not_of("([ ");
  return at != words.npos && words[at] == letter && at + 1 == words.size();
}

// "no" is not n times o, and ABC is not CAB; xy is yx.
bool is_word(std::string_view text) {
  const std::string words = plain_words(text);
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  return words.size() > 1 && std::all_of(words.begin(), words.end(), letter) &&
         words.find_first_of("eiouABCDEFGHIJKLMNOPQRSTUVWXYZ") != words.npos;
}

bool has_digit(std::string_view text) { return text.find_first_of("0123456789") != text.npos; }

std::optional<Expr> parsed(std::string_view text) {
  try {
    return parse_answer(text);
  } catch (const Unreadable&) {
    return {};
  }
}

}  // namespace

bool same_answer(std::string_view given_text, std::string_view expected_text) {
  const std::string_view given = without_ends(given_text), expected = without_ends(expected_text);
  if (given.empty() || expected.empty()) return false;
  if (squeezed(given) == squeezed(expected)) return true;
  const std::optional<char> x = choice_of(given), y = choice_of(expected);
  if (x && y) return *x == *y;
  if (x || y) return x ? same_choice(expected, *x) : same_choice(given, *y);
  if (is_word(given) && is_word(expected)) return same_words(given, expected);
  const std::optional<Expr> a = parsed(in_digits(given)), b = parsed(in_digits(expected));
  try {
    if (a && b) return same(*a, *b);
  } catch (const Unreadable&) {  // values that are not compared: words may be, numbers too large are none
    if (has_digit(given) || has_digit(expected)) return false;
  }
  return same_words(given, expected);
}

}  // namespace contender
