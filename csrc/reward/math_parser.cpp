#include "reward/math_parser.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "reward/math_lexer.h"
#include "reward/math_units.h"

namespace contender {
namespace {

constexpr int kMaxDepth = 300;
constexpr size_t kMaxTokens = 2000;

Expr make(Op op, std::vector<Expr> args, std::string text = "") {
  return {op, std::move(text), std::move(args), ""};
}
Expr number(std::string text) { return make(Op::kNumber, {}, std::move(text)); }

bool holds_number(const Expr& e) {
  return e.op == Op::kNumber || e.text == "pi" || std::any_of(e.args.begin(), e.args.end(), holds_number);
}

// Recursive descent; every member leaves `at_` behind what it read.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
    if (tokens_.size() > kMaxTokens) throw Unreadable("more than 2,000 tokens");
  }

  Expr whole() {
    Expr answer = list();
    if (here().kind != TokenKind::kEnd) throw Unreadable("something is left over: " + here().text);
    return answer;
  }

 private:
  struct Deeper {
    explicit Deeper(int* depth) : depth_(depth) {
      if (++*depth_ > kMaxDepth) throw Unreadable("nested too deep");
    }
    ~Deeper() { --*depth_; }
    int* depth_;
  };

  const Token& here(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  bool is(std::string_view mark, size_t ahead = 0) const {
    return here(ahead).kind == TokenKind::kMark && here(ahead).text == mark;
  }
  bool is_name(std::string_view name) const { return here().kind == TokenKind::kName && here().text == name; }
  bool take(std::string_view mark) {
    if (!is(mark)) return false;
    ++at_;
    return true;
  }
  void expect(std::string_view mark) {
    if (!take(mark)) throw Unreadable("expected " + std::string(mark));
  }
  std::string word() { return tokens_[at_++].text; }

  // Parts, with commas, semicolons and the words and / or between them; one part is itself.
  std::vector<Expr> parts() {
    std::vector<Expr> all;
    all.push_back(relation());
    while (is(",") || is(";")) {
      while (take(",") || take(";")) {  // ", and" is one separator
      }
      all.push_back(relation());
    }
    return all;
  }
  Expr list() {
    std::vector<Expr> all = parts();
    return all.size() == 1 ? std::move(all[0]) : make(Op::kList, std::move(all));
  }

  // a < b < c holds when both of its relations do. What a value is about (~) adds nothing to it.
  Expr relation() {
    const Deeper deeper(&depth_);
    std::vector<Expr> chain;
    Expr left = ratio();
    for (;;) {
      if (is("~")) {
        ++at_;
        Expr about = ratio();
        if (!chain.empty() || left.op != Op::kSymbol) continue;
        chain.push_back(make(Op::kRelation, {left, about}, "="));
        left = std::move(about);
      } else if (is("=") || is("<") || is(">") || is("<=") || is(">=") || is("!=") || is("in")) {
        const std::string op = word();
        Expr right = ratio();
        chain.push_back(make(Op::kRelation, {std::move(left), right}, op));
        left = std::move(right);
      } else {
        break;
      }
    }
    if (chain.empty()) return left;
    if (chain.size() == 1) return std::move(chain[0]);
    // a = b = c, a chain of steps: what it is about, and where it ends.
    const bool equations =
        std::all_of(chain.begin(), chain.end(), [](const Expr& r) { return r.text == "="; });
    if (equations) return make(Op::kRelation, {std::move(chain[0].args[0]), std::move(left)}, "=");
    return make(Op::kList, std::move(chain), "chain");
  }

  // 1:2:3; also a time of day, so it is no quotient.
  Expr ratio() {
    Expr first = with_unit();
    if (!is(":")) return first;
    Expr all = make(Op::kTuple, {std::move(first)}, "::");
    while (take(":")) all.args.push_back(with_unit());
    return all;
  }

  Expr with_unit() {
    if (here().kind == TokenKind::kText) {
      Expr text = make(Op::kText, {}, word());
      return text;
    }
    Expr value = united();
    if (here().kind == TokenKind::kText && !holds_number(value)) throw Unreadable("words behind no number");
    while (here().kind == TokenKind::kText || (is("/") && here(1).kind == TokenKind::kText)) {
      if (take("/")) value.unit += "/";
      value.unit += (value.unit.empty() || value.unit.ends_with('/') ? "" : " ") + word();
      if (is("^") && !is("deg", 1)) {
        ++at_;
        value.unit += "^" + raw_argument();
      }
      take("*");
    }
    if (changes_value(value.unit)) throw Unreadable("words that change the value: " + value.unit);
    return value;
  }

  Expr united() {
    Expr left = intersected();
    while (is("cup") || is("\\")) {
      const Op op = is("cup") ? Op::kUnion : Op::kDifference;
      ++at_;
      left = make(op, {std::move(left), intersected()});
    }
    return left;
  }
  Expr intersected() {
    Expr left = sum();
    while (take("cap")) left = make(Op::kIntersection, {std::move(left), sum()});
    return left;
  }

  Expr sum() {
    const Deeper deeper(&depth_);
    Expr left;
    if (is("+-") || is("-+")) {
      const std::string sign = word();
      left = make(Op::kPlusMinus, {number("0"), product()}, sign);
    } else {
      left = product();
    }
    for (;;) {
      if (take("+")) {
        left = make(Op::kAdd, {std::move(left), product()});
      } else if (take("-")) {
        left = make(Op::kAdd, {std::move(left), make(Op::kNegate, {product()})});
      } else if (is("+-") || is("-+")) {
        const std::string sign = word();
        left = make(Op::kPlusMinus, {std::move(left), product()}, sign);
      } else {
        return left;
      }
    }
  }

  Expr product() {
    Expr left = signed_power();
    for (;;) {
      if (take("*")) {
        left = make(Op::kMultiply, {std::move(left), signed_power()});
      } else if (is("/") && here(1).kind != TokenKind::kText) {
        ++at_;
        left = make(Op::kDivide, {std::move(left), signed_power()});
      } else if (starts_factor()) {
        left = make(Op::kMultiply, {std::move(left), power()});
      } else {
        return left;
      }
    }
  }

  // Whether a factor can stand here without a sign before it.
  bool starts_factor() const {
    const Token& token = here();
    switch (token.kind) {
      case TokenKind::kNumber:
        return at_ > 0 && tokens_[at_ - 1].kind != TokenKind::kNumber;
      case TokenKind::kSymbol:
        return true;
      case TokenKind::kName:
        return token.text != "end";
      case TokenKind::kMark:
        return token.text == "(" || token.text == "[" || token.text == "{" || token.text == "lfloor" ||
               token.text == "lceil" || (token.text == "|" && open_bars_ == 0);
      default:
        return false;
    }
  }

  Expr signed_power() {
    const Deeper deeper(&depth_);
    if (take("-")) return make(Op::kNegate, {signed_power()});
    if (take("+")) return signed_power();
    return power();
  }

  Expr power() {
    const Deeper deeper(&depth_);
    Expr base = postfixed(primary());
    if (!take("^")) return base;
    if (take("deg")) return postfixed(make(Op::kDegree, {std::move(base)}));
    if (is("{") && is("deg", 1) && is("}", 2)) {
      at_ += 3;
      return postfixed(make(Op::kDegree, {std::move(base)}));
    }
    Expr exponent = exponent_here();
    return postfixed(make(Op::kPower, {std::move(base), std::move(exponent)}));
  }

  Expr exponent_here() {
    const Deeper deeper(&depth_);
    if (take("-")) return make(Op::kNegate, {exponent_here()});
    if (take("+")) return exponent_here();
    Expr exponent = is("(") ? primary() : argument(/*whole_number=*/true);
    if (take("^")) exponent = make(Op::kPower, {std::move(exponent), exponent_here()});
    return exponent;
  }

  Expr postfixed(Expr value) {
    for (;;) {
      if (take("!")) {
        value = make(Op::kFactorial, {std::move(value)});
      } else if (take("%")) {
        value = make(Op::kPercent, {std::move(value)});
      } else if (take("deg")) {
        value = make(Op::kDegree, {std::move(value)});
      } else if (is("'") && value.op == Op::kSymbol) {
        value.text += word();
      } else if (is("_") && (value.op == Op::kSymbol || value.op == Op::kNumber)) {
        ++at_;
        const std::string index = raw_argument();
        if (value.op == Op::kNumber) {
          value = make(Op::kBase, {std::move(value), number(index)});
        } else {
          value.text += "_" + index;
        }
      } else {
        return value;
      }
    }
  }

  // TeX's argument: a group, or one digit, letter or command.
  Expr argument(bool whole_number) {
    const Deeper deeper(&depth_);
    if (is("{")) return group();
    Token& token = tokens_[at_];
    if (token.kind == TokenKind::kNumber && !whole_number && token.text.size() > 1) {
      Expr digit = number(token.text.substr(0, 1));
      token.text.erase(0, 1);
      return digit;
    }
    return primary();
  }

  // An argument as it is written: an index, a base, the power of a unit.
  std::string raw_argument() {
    if (!take("{")) return here().kind == TokenKind::kEnd ? "" : word();
    std::string text;
    while (!is("}")) {
      if (here().kind == TokenKind::kEnd) throw Unreadable("a brace is not closed");
      text += word();
    }
    ++at_;
    return text;
  }

  Expr group() {
    expect("{");
    if (take("}")) throw Unreadable("empty braces");
    std::vector<Expr> inside = parts();
    expect("}");
    return inside.size() == 1 ? std::move(inside[0]) : make(Op::kSet, std::move(inside));
  }

  Expr primary() {
    const Deeper deeper(&depth_);
    const Token& token = here();
    switch (token.kind) {
      case TokenKind::kNumber:
        return number_or_mixed();
      case TokenKind::kSymbol:
        return make(Op::kSymbol, {}, word());
      case TokenKind::kName:
        return named(word());
      case TokenKind::kMark:
        return bracketed();
      default:
        throw Unreadable("expected a value");
    }
  }

  static bool whole(const Token& token) {
    return token.kind == TokenKind::kNumber && token.text.find_first_not_of("0123456789") == token.text.npos;
  }

  // 1\frac{1}{2} and 1 1/2 are sums.
  Expr number_or_mixed() {
    const bool may_be_mixed = whole(here());
    Expr value = number(word());
    if (!may_be_mixed) return value;
    if (whole(here()) && is("/", 1) && whole(here(2)) && here().spaced) {
      Expr over = number(word());
      ++at_;
      return make(Op::kAdd, {std::move(value), make(Op::kDivide, {std::move(over), number(word())})});
    }
    if (is_name("frac")) {
      const size_t before = at_;
      ++at_;
      const bool digits = whole(here()) || (is("{") && whole(here(1)) && is("}", 2));
      at_ = before;
      if (!digits) return value;
      Expr fraction = named(word());
      if (fraction.op == Op::kDivide && fraction.args[1].op == Op::kNumber)
        return make(Op::kAdd, {std::move(value), std::move(fraction)});
      return make(Op::kMultiply, {std::move(value), std::move(fraction)});
    }
    return value;
  }

  Expr bracketed() {
    if (is("{")) return group();
    if (take("\\{")) {
      if (take("\\}")) return make(Op::kSymbol, {}, "empty");
      if (skip_variable()) {
        Expr condition = list();
        expect("\\}");
        return condition;
      }
      std::vector<Expr> inside = parts();
      expect("\\}");
      return make(Op::kSet, std::move(inside));
    }
    if (take("|")) {
      ++open_bars_;
      Expr inside = sum();
      --open_bars_;
      expect("|");
      return make(Op::kFunction, {std::move(inside)}, "abs");
    }
    for (const auto& [open, close, name] :
         {std::tuple{"lfloor", "rfloor", "floor"}, {"lceil", "rceil", "ceil"}}) {
      if (!take(open)) continue;
      Expr inside = sum();
      expect(close);
      return make(Op::kFunction, {std::move(inside)}, name);
    }
    if (is("(") || is("[") || is("<(")) return tuple();
    throw Unreadable("expected a value before " + here().text);
  }

  // {x : ...}, {x in R | ...}: what follows says it all.
  bool skip_variable() {
    const size_t bar = is("in", 1) ? 3 : 1;
    if (here().kind != TokenKind::kSymbol || !(is(":", bar) || is("|", bar))) return false;
    at_ += bar + 1;
    return true;
  }

  Expr tuple() {
    const std::string open = word();
    const int bars = std::exchange(open_bars_, 0);
    std::vector<Expr> inside = parts();
    open_bars_ = bars;
    if (!is(")") && !is("]") && !is(")>")) throw Unreadable("a bracket is not closed");
    const std::string close = word();
    if (inside.size() > 1)
      return make(Op::kTuple, std::move(inside), open.substr(0, 1) + close.substr(close.size() - 1));
    if ((open == "(") != (close == ")")) throw Unreadable("brackets do not match");
    return std::move(inside[0]);
  }

  Expr named(const std::string& name) {
    const Deeper deeper(&depth_);
    if (name == "frac") {
      Expr over = argument(false);
      return make(Op::kDivide, {std::move(over), argument(false)});
    }
    if (name == "binom") {
      Expr n = argument(false);
      return make(Op::kFunction, {std::move(n), argument(false)}, "binom");
    }
    if (name == "sqrt" || name == "cbrt") return root(name == "sqrt" ? 2 : 3);
    if (name == "begin") return matrix();
    if (name == "overline" || name == "end") throw Unreadable("\\" + name);
    return function(name);
  }

  Expr root(int degree) {
    Expr n = number(std::to_string(degree));
    if (take("[")) {
      n = sum();
      expect("]");
    }
    Expr inside = is("(") ? primary() : argument(true);
    return make(Op::kRoot, {std::move(inside), std::move(n)});
  }

  // \sin^2 x, \sin 2x, \log_2(8), max(1, 2). \sin^{-1} is the inverse.
  Expr function(std::string name) {
    std::optional<Expr> power, base;
    for (;;) {
      if (take("^")) {
        power = exponent_here();
      } else if (name == "log" && take("_")) {
        base = argument(true);
      } else {
        break;
      }
    }
    const bool inverse = power && power->op == Op::kNegate && power->args[0].text == "1";
    if (inverse && (name == "sin" || name == "cos" || name == "tan")) {
      name = "arc" + name;
      power.reset();
    }
    std::vector<Expr> args;
    if (take("(")) {
      args = parts();
      expect(")");
    } else {
      args.push_back(open_argument());
    }
    Expr value = make(Op::kFunction, std::move(args), name);
    if (base) value = make(Op::kDivide, {std::move(value), make(Op::kFunction, {std::move(*base)}, "log")});
    if (power) value = make(Op::kPower, {std::move(value), std::move(*power)});
    return value;
  }

  // Without parentheses a function takes the factors up to the next sign or function.
  Expr open_argument() {
    Expr argument = is("-") ? signed_power() : power();
    while (starts_factor() &&
           (here().kind != TokenKind::kName || here().text == "frac" || here().text == "sqrt"))
      argument = make(Op::kMultiply, {std::move(argument), power()});
    return argument;
  }

  Expr matrix() {
    const std::string kind = word();  // "\pmatrix"
    if (kind != "\\pmatrix" && kind != "\\bmatrix" && kind != "\\matrix" && kind != "\\array" &&
        kind != "\\smallmatrix" && kind != "\\Bmatrix")
      throw Unreadable("an environment that is no matrix");
    if (kind == "\\array") raw_argument();
    Expr all = make(Op::kMatrix, {});
    while (!is_name("end")) {  // the last row may be closed, too
      Expr row = make(Op::kTuple, {}, "()");
      do row.args.push_back(sum());
      while (take("&"));
      all.args.push_back(std::move(row));
      if (!take("\\\\")) break;
    }
    if (!is_name("end")) throw Unreadable("a matrix does not end");
    at_ += 2;
    return all;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0, open_bars_ = 0;
};

}  // namespace

bool is_name(const Expr& e) {
  switch (e.op) {
    case Op::kSymbol:
      return e.text != "oo" && e.text != "empty" && e.text != "reals" && e.text != "integers";
    case Op::kText:
      return true;
    case Op::kTuple:
    case Op::kDivide:
      return std::all_of(e.args.begin(), e.args.end(), is_name);
    case Op::kFunction:
      return e.text == "abs" && is_name(e.args[0]);
    case Op::kMultiply:
      return is_name(e.args[0]) && (is_name(e.args[1]) || e.args[1].op == Op::kNumber);
    default:
      return false;
  }
}

Expr parse_answer(std::string_view text) { return Parser(math_tokens(text)).whole(); }

}  // namespace contender
