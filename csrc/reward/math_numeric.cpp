#include "reward/math_numeric.h"

#include <acb.h>
#include <arb.h>
#include <flint/fmpq.h>

#include <algorithm>
#include <cstdlib>

#include "reward/math_exact.h"
#include "reward/math_lexer.h"

namespace contender {
namespace {

constexpr slong kPrecisions[] = {384, 3072};
constexpr int kPoints = 6;
constexpr int64_t kMaxLog2 = 2048;  // of an absolute value: units still differ at 3,072 bits
constexpr int64_t kMaxCombinatorial = 10'000;

struct Ball {
  Ball() { acb_init(value); }
  Ball(const Ball& other) : Ball() { acb_set(value, other.value); }
  Ball& operator=(const Ball& other) {
    acb_set(value, other.value);
    return *this;
  }
  ~Ball() { acb_clear(value); }
  arb_ptr real() { return acb_realref(value); }
  arb_srcptr real() const { return acb_realref(value); }
  bool is_real() const { return acb_is_real(value); }
  acb_t value;
};

struct Magnitude {
  Magnitude() { mag_init(value); }
  ~Magnitude() { mag_clear(value); }
  Magnitude(const Magnitude&) = delete;
  Magnitude& operator=(const Magnitude&) = delete;
  mag_t value;
};

// Bounds |x| by 2^limit.
void require_below(const Ball& x, int64_t limit) {
  Magnitude size;
  acb_get_mag(size.value, x.value);
  if (!acb_is_finite(x.value)) throw Unreadable("no finite value");
  if (mag_cmp_2exp_si(size.value, limit) > 0) throw Unreadable("a value that is too large");
}

// The same symbol has the same values in every expression; a third of the points is positive throughout.
void point_value(const std::string& symbol, int point, Ball* x) {
  uint64_t key = 14695981039346656037ULL + static_cast<uint64_t>(point);
  for (const char c : symbol) key = (key ^ static_cast<unsigned char>(c)) * 1099511628211ULL;  // FNV-1a
  key ^= key >> 31;
  key *= 0xbf58476d1ce4e5b9ULL;  // the end of splitmix64
  key ^= key >> 27;
  const auto numerator = static_cast<slong>(1'000'000 + key % 4'000'000);
  const bool negative = point >= kPoints / 3 && (key >> 40) % 2 == 1;
  acb_set_si(x->value, negative ? -numerator : numerator);
  acb_div_si(x->value, x->value, 1'234'577, kPrecisions[1]);
}

class Evaluator {
 public:
  Evaluator(slong precision, int point, const std::vector<std::string>& symbols)
      : prec_(precision), point_(point), symbols_(symbols) {}

  Ball value(const Expr& e) {
    Ball x = unchecked(e);
    require_below(x, kMaxLog2);
    return x;
  }

 private:
  Ball unchecked(const Expr& e) {
    Ball x;
    switch (e.op) {
      case Op::kNumber:
        return written(e.text);
      case Op::kSymbol:
        return symbol(e.text);
      case Op::kAdd:
        acb_add(x.value, value(e.args[0]).value, value(e.args[1]).value, prec_);
        return x;
      case Op::kNegate:
        acb_neg(x.value, value(e.args[0]).value);
        return x;
      case Op::kMultiply:
        acb_mul(x.value, value(e.args[0]).value, value(e.args[1]).value, prec_);
        return x;
      case Op::kDivide:
        acb_div(x.value, value(e.args[0]).value, value(e.args[1]).value, prec_);
        return x;
      case Op::kPercent:
        acb_div_si(x.value, value(e.args[0]).value, 100, prec_);
        return x;
      case Op::kDegree: {
        acb_const_pi(x.value, prec_);
        acb_mul(x.value, x.value, value(e.args[0]).value, prec_);
        acb_div_si(x.value, x.value, 180, prec_);
        return x;
      }
      case Op::kPower:
        if (const std::optional<int64_t> degree = odd_degree(e.args[1])) {
          // x^(a/b) with an odd b is real wherever x is, like the root.
          const Ball base = root(value(e.args[0]), make_number(*degree));
          return power(base, value(e.args[1].args[0]));
        }
        return power(value(e.args[0]), value(e.args[1]));
      case Op::kRoot:
        return root(value(e.args[0]), e.args[1]);
      case Op::kFactorial:
        arb_fac_ui(x.real(), static_cast<ulong>(small(value(e.args[0]))), prec_);
        return x;
      case Op::kFunction:
        return function(e);
      default:
        throw Unreadable("no number");
    }
  }

  Ball written(const std::string& text) const {
    const Decimal decimal = decimal_of(text);
    fmpz_t over;
    fmpz_init(over);
    Ball x;
    fmpz_set_str(over, decimal.digits.c_str(), 10);
    arb_set_fmpz(x.real(), over);
    fmpz_set_str(over, decimal.denominator.c_str(), 10);
    acb_div_fmpz(x.value, x.value, over, prec_);
    fmpz_clear(over);
    return x;
  }

  Ball symbol(const std::string& name) const {
    Ball x;
    if (name == "pi") {
      acb_const_pi(x.value, prec_);
    } else if (name == "e") {
      arb_const_e(x.real(), prec_);
    } else if (name == "i") {
      acb_onei(x.value);
    } else if (std::find(symbols_.begin(), symbols_.end(), name) != symbols_.end() && name != "oo" &&
               name != "empty" && name != "reals" && name != "integers") {
      point_value(name, point_, &x);
    } else {
      throw Unreadable("a symbol without a value");
    }
    return x;
  }

  // A whole number from 0 to kMaxCombinatorial.
  static int64_t small(const Ball& x) {
    fmpz_t n;
    fmpz_init(n);
    const bool whole = x.is_real() && arb_get_unique_fmpz(n, x.real());
    const bool fits = whole && fmpz_sgn(n) >= 0 && fmpz_cmp_si(n, kMaxCombinatorial) <= 0;
    const int64_t value = fits ? fmpz_get_si(n) : 0;
    fmpz_clear(n);
    if (!fits) throw Unreadable("a whole number that is not small");
    return value;
  }

  // The b of an exponent that is written a/b, where it is a small odd number.
  static std::optional<int64_t> odd_degree(const Expr& exponent) {
    if (exponent.op != Op::kDivide || exponent.args[1].op != Op::kNumber) return {};
    const std::string& digits = exponent.args[1].text;
    if (digits.size() > 3 || digits.find_first_not_of("0123456789") != digits.npos) return {};
    const int64_t degree = std::atoi(digits.c_str());
    return degree % 2 == 1 ? std::optional(degree) : std::nullopt;
  }
  static Expr make_number(int64_t n) { return {Op::kNumber, std::to_string(n), {}, ""}; }

  Ball power(const Ball& base, const Ball& exponent) const {
    Ball x;
    if (acb_is_zero(base.value)) {
      if (!arb_is_positive(exponent.real())) throw Unreadable("a power of 0");
      return x;
    }
    // |base^exponent| <= exp(|exponent| |log base|)
    Ball size;
    acb_log(size.value, base.value, 64);
    acb_mul(size.value, size.value, exponent.value, 64);
    require_below(size, 12);
    acb_pow(x.value, base.value, exponent.value, prec_);
    return x;
  }

  Ball root(const Ball& inside, const Expr& degree) {
    Ball x;
    const int64_t n = small(value(degree));
    if (n == 0) throw Unreadable("a root without a degree");
    if (n % 2 == 1 && inside.is_real() && arb_is_negative(inside.real())) {  // the real one
      acb_neg(x.value, inside.value);
      acb_root_ui(x.value, x.value, static_cast<ulong>(n), prec_);
      acb_neg(x.value, x.value);
    } else {
      acb_root_ui(x.value, inside.value, static_cast<ulong>(n), prec_);
    }
    return x;
  }

  Ball function(const Expr& e) {
    using Unary = void (*)(acb_t, const acb_t, slong);
    constexpr std::pair<std::string_view, Unary> kFunctions[] = {
        {"sin", acb_sin},     {"cos", acb_cos},   {"tan", acb_tan},     {"cot", acb_cot},
        {"sec", acb_sec},     {"csc", acb_csc},   {"arcsin", acb_asin}, {"arccos", acb_acos},
        {"arctan", acb_atan}, {"sinh", acb_sinh}, {"cosh", acb_cosh},   {"tanh", acb_tanh},
        {"exp", acb_exp},     {"log", acb_log},   {"lg", acb_log}};
    Ball x, first = value(e.args.at(0));
    if (e.args.size() > 1) return several(e, first);
    const auto known = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                    [&](const auto& f) { return f.first == e.text; });
    if (known != std::end(kFunctions)) {
      if (e.text != "log" && e.text != "lg") require_below(first, 32);
      known->second(x.value, first.value, prec_);
      if (e.text == "lg") {
        Ball ten;
        arb_const_log10(ten.real(), prec_);
        acb_div(x.value, x.value, ten.value, prec_);
      }
    } else if (e.text == "abs") {
      acb_abs(x.real(), first.value, prec_);
    } else if ((e.text == "floor" || e.text == "ceil") && first.is_real()) {
      e.text == "floor" ? arb_floor(x.real(), first.real(), prec_) : arb_ceil(x.real(), first.real(), prec_);
    } else if (e.text == "factorial") {
      arb_fac_ui(x.real(), static_cast<ulong>(small(first)), prec_);
    } else {
      throw Unreadable("a function without a value");
    }
    return x;
  }

  Ball several(const Expr& e, Ball x) {
    for (size_t k = 1; k < e.args.size(); ++k) {
      const Ball next = value(e.args[k]);
      if (e.text == "binom" && e.args.size() == 2) {
        const int64_t n = small(x), chosen = small(next);
        arb_bin_uiui(x.real(), static_cast<ulong>(n), static_cast<ulong>(chosen), prec_);
      } else if ((e.text == "max" || e.text == "min") && x.is_real() && next.is_real()) {
        e.text == "max" ? arb_max(x.real(), x.real(), next.real(), prec_)
                        : arb_min(x.real(), x.real(), next.real(), prec_);
      } else {
        throw Unreadable("a function without a value");
      }
    }
    return x;
  }

  const slong prec_;
  const int point_;
  const std::vector<std::string>& symbols_;
};

enum class Verdict { kSame, kDifferent, kNoValue };

// 1e-40 x max(1, |a|, |b|) or less?
bool negligible(const Ball& difference, const Ball& a, const Ball& b) {
  Magnitude gap, bound, other;
  acb_get_mag(gap.value, difference.value);
  acb_get_mag(bound.value, a.value);
  acb_get_mag(other.value, b.value);
  mag_max(bound.value, bound.value, other.value);
  mag_one(other.value);
  mag_max(bound.value, bound.value, other.value);
  mag_mul_2exp_si(bound.value, bound.value, -133);  // 2^-133 < 1e-40
  return mag_cmp(gap.value, bound.value) <= 0;
}

template <class Compare>
Verdict at_point(int point, const std::vector<std::string>& symbols, Compare compare) {
  for (const slong precision : kPrecisions) {
    Ball a, b;
    try {
      Evaluator evaluator(precision, point, symbols);
      compare(evaluator, precision, &a, &b);
    } catch (const Unreadable&) {
      if (symbols.empty()) throw;
      return Verdict::kNoValue;
    }
    if (!acb_overlaps(a.value, b.value)) return Verdict::kDifferent;
    Ball difference;
    acb_sub(difference.value, a.value, b.value, precision);
    if (precision == kPrecisions[1])
      return negligible(difference, a, b) ? Verdict::kSame : Verdict::kDifferent;
  }
  return Verdict::kDifferent;
}

template <class Compare>
bool at_all_points(const std::vector<std::string>& symbols, Compare compare) {
  const int points = symbols.empty() ? 1 : kPoints;
  int same = 0;
  for (int point = 0; point < points; ++point) {
    const Verdict verdict = at_point(point, symbols, compare);
    if (verdict == Verdict::kDifferent) return false;
    same += verdict == Verdict::kSame;
  }
  if (same < std::min(points, 2)) throw Unreadable("no values to compare");
  return true;
}

}  // namespace

bool same_numerically(const Expr& a, const Expr& b, const std::vector<std::string>& symbols) {
  return at_all_points(symbols, [&](Evaluator& at, slong, Ball* x, Ball* y) {
    *x = at.value(a);
    *y = at.value(b);
  });
}

bool proportional(const Expr& a, const Expr& b, const std::vector<std::string>& symbols) {
  // a(p) b(0) = b(p) a(0), where neither a(0) nor b(0) is 0.
  return at_all_points(symbols, [&](Evaluator& at, slong precision, Ball* x, Ball* y) {
    Evaluator origin(precision, 0, symbols);
    const Ball a0 = origin.value(a), b0 = origin.value(b);
    if (acb_contains_zero(a0.value) || acb_contains_zero(b0.value)) throw Unreadable("a side that vanishes");
    acb_mul(x->value, at.value(a).value, b0.value, precision);
    acb_mul(y->value, at.value(b).value, a0.value, precision);
  });
}

std::optional<int> order_of(const Expr& a, const Expr& b) {
  const std::vector<std::string> none;
  for (const slong precision : kPrecisions) {
    Evaluator evaluator(precision, 0, none);
    const Ball x = evaluator.value(a), y = evaluator.value(b);
    if (!x.is_real() || !y.is_real()) return {};
    if (arb_lt(x.real(), y.real())) return -1;
    if (arb_gt(x.real(), y.real())) return 1;
  }
  return same_numerically(a, b, none) ? std::optional(0) : std::nullopt;
}

bool rounds_to(const Expr& value, const Expr& decimal, int64_t places) {
  const std::vector<std::string> none;
  Evaluator evaluator(kPrecisions[0], 0, none);
  Ball difference, unit;
  acb_sub(difference.value, evaluator.value(value).value, evaluator.value(decimal).value, kPrecisions[0]);
  if (!difference.is_real()) return false;
  // |difference| <= 1/2 of the last place
  arb_abs(difference.real(), difference.real());
  acb_set_si(unit.value, 10);
  acb_pow_si(unit.value, unit.value, static_cast<slong>(places), kPrecisions[0]);
  arb_mul_2exp_si(unit.real(), unit.real(), 1);
  arb_mul(difference.real(), difference.real(), unit.real(), kPrecisions[0]);
  arb_one(unit.real());
  return arb_le(difference.real(), unit.real());
}

}  // namespace contender
