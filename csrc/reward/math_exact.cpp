#include "reward/math_exact.h"

#include <flint/fmpq.h>
#include <flint/fmpq_mpoly.h>
#include <flint/fmpz.h>

#include <algorithm>
#include <cstdlib>

#include "reward/math_lexer.h"

namespace contender {
namespace {

constexpr int64_t kMaxBits = 1 << 16, kMaxTerms = 4000, kMaxTermProducts = 100'000, kMaxDegree = 4000;
constexpr size_t kMaxSymbols = 32;
constexpr int64_t kMaxExponent = 10'000;     // of a decimal
constexpr int64_t kMaxCombinatorial = 2000;  // n of n! and binomials

// No exact value, or one that is too large.
struct NotExact {};

// RAII around FLINT's integers and rationals.
struct Integer {
  Integer() { fmpz_init(value); }
  ~Integer() { fmpz_clear(value); }
  Integer(const Integer&) = delete;
  Integer& operator=(const Integer&) = delete;
  fmpz_t value;
};
struct Ratio {
  Ratio() { fmpq_init(value); }
  Ratio(const Ratio& other) : Ratio() { fmpq_set(value, other.value); }
  Ratio& operator=(const Ratio& other) {
    fmpq_set(value, other.value);
    return *this;
  }
  ~Ratio() { fmpq_clear(value); }
  fmpz* num() { return fmpq_numref(value); }
  fmpz* den() { return fmpq_denref(value); }
  bool whole() const { return fmpz_is_one(fmpq_denref(value)); }
  fmpq_t value;
};

struct Ring {
  explicit Ring(size_t symbols) {
    fmpq_mpoly_ctx_init(ctx, std::max<slong>(1, static_cast<slong>(symbols)), ORD_LEX);
  }
  ~Ring() { fmpq_mpoly_ctx_clear(ctx); }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  fmpq_mpoly_ctx_t ctx;
};

class Polynomial {
 public:
  explicit Polynomial(const Ring& ring) : ring_(&ring) { fmpq_mpoly_init(p_, ring.ctx); }
  Polynomial(const Polynomial& other) : Polynomial(*other.ring_) { fmpq_mpoly_set(p_, other.p_, ring_->ctx); }
  Polynomial& operator=(const Polynomial& other) {
    fmpq_mpoly_set(p_, other.p_, ring_->ctx);
    return *this;
  }
  ~Polynomial() { fmpq_mpoly_clear(p_, ring_->ctx); }

  static Polynomial constant(const Ring& ring, const Ratio& c) {
    Polynomial p(ring);
    fmpq_mpoly_set_fmpq(p.p_, c.value, ring.ctx);
    return p.checked();
  }
  static Polynomial symbol(const Ring& ring, size_t index) {
    Polynomial p(ring);
    fmpq_mpoly_gen(p.p_, static_cast<slong>(index), ring.ctx);
    return p;
  }

  bool zero() const { return fmpq_mpoly_is_zero(p_, ring_->ctx); }
  std::optional<Ratio> as_constant() const {
    if (!fmpq_mpoly_is_fmpq(p_, ring_->ctx)) return {};
    Ratio c;
    fmpq_mpoly_get_fmpq(c.value, p_, ring_->ctx);
    return c;
  }
  bool operator==(const Polynomial& other) const { return fmpq_mpoly_equal(p_, other.p_, ring_->ctx); }

  Polynomial operator+(const Polynomial& other) const {
    Polynomial p(*ring_);
    fmpq_mpoly_add(p.p_, p_, other.p_, ring_->ctx);
    return p.checked();
  }
  Polynomial operator*(const Polynomial& other) const {
    if (terms() * other.terms() > kMaxTermProducts || bits() + other.bits() > kMaxBits) throw NotExact();
    if (terms() * other.terms() > 1 && (bits() + other.bits()) * terms() * other.terms() > (1 << 26))
      throw NotExact();
    Polynomial p(*ring_);
    fmpq_mpoly_mul(p.p_, p_, other.p_, ring_->ctx);
    return p.checked();
  }
  Polynomial over(const Ratio& c) const {
    Polynomial p(*ring_);
    fmpq_mpoly_scalar_div_fmpq(p.p_, p_, c.value, ring_->ctx);
    return p.checked();
  }

 private:
  int64_t terms() const { return fmpq_mpoly_length(p_, ring_->ctx); }
  int64_t bits() const {
    const int64_t inner = std::abs(fmpz_mpoly_max_bits(p_->zpoly));
    return inner +
           static_cast<int64_t>(fmpz_bits(fmpq_numref(p_->content)) + fmpz_bits(fmpq_denref(p_->content)));
  }
  Polynomial& checked() {
    if (terms() > kMaxTerms || bits() > kMaxBits) throw NotExact();
    if (!zero() && (!fmpq_mpoly_total_degree_fits_si(p_, ring_->ctx) ||
                    fmpq_mpoly_total_degree_si(p_, ring_->ctx) > kMaxDegree))
      throw NotExact();
    return *this;
  }

  const Ring* ring_;
  fmpq_mpoly_t p_;
};

// over is never zero, and 1 where it is constant.
struct Quotient {
  Polynomial top, over;
  std::optional<Ratio> as_constant() const {
    std::optional<Ratio> c = top.as_constant();
    return over.as_constant() ? c : std::nullopt;
  }
};

class Evaluator {
 public:
  Evaluator(const Ring& ring, const std::vector<std::string>& symbols) : ring_(ring), symbols_(symbols) {
    fmpq_one(one_.value);
  }

  Quotient value(const Expr& e) {
    switch (e.op) {
      case Op::kNumber:
        return constant(written(e.text));
      case Op::kSymbol: {
        const auto found = std::find(symbols_.begin(), symbols_.end(), e.text);
        if (found == symbols_.end()) throw NotExact();
        return {Polynomial::symbol(ring_, static_cast<size_t>(found - symbols_.begin())), unit()};
      }
      case Op::kAdd:
        return sum(value(e.args[0]), value(e.args[1]));
      case Op::kNegate:
        return product(constant(integer(-1)), value(e.args[0]));
      case Op::kMultiply:
        return product(value(e.args[0]), value(e.args[1]));
      case Op::kDivide:
        return product(value(e.args[0]), inverse(value(e.args[1])));
      case Op::kPercent:
        return product(value(e.args[0]), inverse(constant(integer(100))));
      case Op::kPower:
        return power(value(e.args[0]), value(e.args[1]));
      case Op::kRoot:
        return power(value(e.args[0]), inverse(value(e.args[1])));
      case Op::kFactorial: {
        Ratio result;
        fmpz_fac_ui(result.num(), static_cast<ulong>(small(value(e.args[0]))));
        return constant(result);
      }
      case Op::kFunction:
        return function(e);
      default:
        throw NotExact();
    }
  }

 private:
  Polynomial unit() const { return Polynomial::constant(ring_, one_); }
  Quotient constant(const Ratio& c) const { return {Polynomial::constant(ring_, c), unit()}; }
  static Ratio integer(int64_t n) {
    Ratio r;
    fmpq_set_si(r.value, n, 1);
    return r;
  }
  static Ratio written(const std::string& text) {
    const Decimal decimal = decimal_of(text);
    Ratio r;
    fmpz_set_str(r.num(), decimal.digits.c_str(), 10);
    fmpz_set_str(r.den(), decimal.denominator.c_str(), 10);
    fmpq_canonicalise(r.value);
    return r;
  }
  static Ratio known(const Quotient& q) {
    const std::optional<Ratio> c = q.as_constant();
    if (!c) throw NotExact();
    return *c;
  }
  // The n of n!, a whole number from 0 to kMaxCombinatorial.
  static int64_t small(const Quotient& q) {
    Ratio n = known(q);
    if (!n.whole() || fmpz_sgn(n.num()) < 0 || fmpz_cmp_si(n.num(), kMaxCombinatorial) > 0) throw NotExact();
    return fmpz_get_si(n.num());
  }

  Quotient sum(const Quotient& a, const Quotient& b) const {
    if (a.over == b.over) return {a.top + b.top, a.over};
    return {a.top * b.over + b.top * a.over, a.over * b.over};
  }
  Quotient product(const Quotient& a, const Quotient& b) const { return {a.top * b.top, a.over * b.over}; }
  Quotient inverse(const Quotient& q) const {
    if (q.top.zero()) throw NotExact();
    if (const std::optional<Ratio> c = q.top.as_constant()) return {q.over.over(*c), unit()};
    return {q.over, q.top};
  }

  Quotient power(Quotient base, const Quotient& exponent) const {
    Ratio n = known(exponent);
    if (!n.whole()) {
      // Only roots of numbers come out: of x^(p/q) first the q-th root.
      base = constant(exact_root(known(base), n));
      fmpz_one(n.den());
    }
    if (fmpz_sgn(n.num()) < 0) {
      base = inverse(base);
      fmpz_neg(n.num(), n.num());
    }
    if (!fmpz_fits_si(n.num())) throw NotExact();
    Quotient result = {unit(), unit()};
    for (uint64_t left = static_cast<uint64_t>(fmpz_get_si(n.num())); left > 0;) {
      if (left & 1) result = product(result, base);
      left >>= 1;
      if (left > 0) base = product(base, base);
    }
    return result;
  }

  static Ratio exact_root(Ratio x, Ratio n) {
    const bool odd = fmpz_is_odd(n.den());
    if (fmpz_cmp_si(n.den(), 64) > 0 || (fmpz_sgn(x.num()) < 0 && !odd)) throw NotExact();
    const slong degree = fmpz_get_si(n.den());
    Ratio root;
    Integer again;
    for (const auto& [from, to] : {std::pair{x.num(), root.num()}, {x.den(), root.den()}}) {
      fmpz_root(to, from, degree);
      fmpz_pow_ui(again.value, to, static_cast<ulong>(degree));
      if (!fmpz_equal(again.value, from)) throw NotExact();
    }
    return root;
  }

  Quotient function(const Expr& e) {
    std::vector<Ratio> args;
    for (const Expr& arg : e.args) args.push_back(known(value(arg)));
    Ratio& first = args.at(0);
    Ratio result = integer(0);
    if (e.text == "abs" && args.size() == 1) {
      fmpq_abs(result.value, first.value);
    } else if (e.text == "floor" && args.size() == 1) {
      fmpz_fdiv_q(result.num(), first.num(), first.den());
    } else if (e.text == "ceil" && args.size() == 1) {
      fmpz_cdiv_q(result.num(), first.num(), first.den());
    } else if (e.text == "factorial" && args.size() == 1) {
      fmpz_fac_ui(result.num(), static_cast<ulong>(small(constant(first))));
    } else if (e.text == "binom" && args.size() == 2) {
      fmpz_bin_uiui(result.num(), static_cast<ulong>(small(constant(first))),
                    static_cast<ulong>(small(constant(args[1]))));
    } else if (e.text == "max" || e.text == "min") {
      result = first;
      for (const Ratio& arg : args)
        if ((fmpq_cmp(arg.value, result.value) > 0) == (e.text == "max")) result = arg;
    } else if (e.text == "gcd" || e.text == "lcm") {
      result = first;
      for (Ratio& arg : args) {
        if (!arg.whole() || !first.whole()) throw NotExact();
        e.text == "gcd" ? fmpz_gcd(result.num(), result.num(), arg.num())
                        : fmpz_lcm(result.num(), result.num(), arg.num());
      }
    } else {
      throw NotExact();
    }
    return constant(result);
  }

  const Ring& ring_;
  const std::vector<std::string>& symbols_;
  Ratio one_;
};

void add_symbols(const Expr& e, std::vector<std::string>* symbols) {
  const bool constant = e.text == "pi" || e.text == "e" || e.text == "i";
  if (e.op == Op::kSymbol && !constant &&
      std::find(symbols->begin(), symbols->end(), e.text) == symbols->end())
    symbols->push_back(e.text);
  for (const Expr& arg : e.args) add_symbols(arg, symbols);
}

}  // namespace

std::vector<std::string> symbols_of(const Expr& a, const Expr& b) {
  std::vector<std::string> symbols;
  add_symbols(a, &symbols);
  add_symbols(b, &symbols);
  return symbols;
}

std::optional<bool> same_exactly(const Expr& a, const Expr& b, const std::vector<std::string>& symbols) {
  if (symbols.size() > kMaxSymbols) return {};
  try {
    const Ring ring(symbols.size());
    Evaluator evaluator(ring, symbols);
    const Quotient x = evaluator.value(a), y = evaluator.value(b);
    return x.top * y.over == y.top * x.over;
  } catch (const NotExact&) {
    return {};
  }
}

Decimal decimal_of(const std::string& number) {
  const size_t e = number.find_first_of("eE");
  const std::string mantissa = number.substr(0, e);
  int64_t exponent = 0;
  if (e != number.npos) {
    if (number.size() - e > 7) throw Unreadable("an exponent that is too large");
    exponent = std::atoll(number.c_str() + e + 1);
    if (std::abs(exponent) > kMaxExponent) throw Unreadable("an exponent that is too large");
  }
  const size_t point = std::min(mantissa.find('.'), mantissa.size());
  const size_t bar = std::min(mantissa.find('('), mantissa.size());
  const std::string before = mantissa.substr(0, point);
  const std::string behind = point < mantissa.size() ? mantissa.substr(point + 1, bar - point - 1) : "";
  const std::string period = bar < mantissa.size() ? mantissa.substr(bar + 1, mantissa.size() - bar - 2) : "";
  Decimal d;
  d.places = static_cast<int64_t>(behind.size());
  Integer all, head, denominator, scale;
  fmpz_set_str(all.value, ("0" + before + behind + period).c_str(), 10);
  fmpz_set_str(head.value, ("0" + before + behind).c_str(), 10);
  fmpz_set_str(denominator.value, ("1" + std::string(behind.size(), '0')).c_str(), 10);
  if (!period.empty()) {  // 0.1(6) = (16 - 1) / 90
    fmpz_sub(all.value, all.value, head.value);
    fmpz_set_str(scale.value, std::string(period.size(), '9').c_str(), 10);
    fmpz_mul(denominator.value, denominator.value, scale.value);
  }
  fmpz_set_ui(scale.value, 10);
  fmpz_pow_ui(scale.value, scale.value, static_cast<ulong>(std::abs(exponent)));
  fmpz* const scaled = exponent < 0 ? denominator.value : all.value;
  fmpz_mul(scaled, scaled, scale.value);
  const auto text = [](const Integer& n) {
    char* const written = fmpz_get_str(nullptr, 10, n.value);
    const std::string copy = written;
    flint_free(written);
    return copy;
  };
  d.digits = text(all);
  d.denominator = text(denominator);
  return d;
}

}  // namespace contender
