// f32 and f64 instructions: exact ones bit by bit against the host's scalar arithmetic in the same rounding
// mode, approximations against double precision within the error that the ISA allows.
#include <cfenv>
#include <cmath>
#include <limits>

#include "alu_harness.h"

namespace ptxsim::testing {
namespace {

constexpr float kMinNormal = std::numeric_limits<float>::min();

float flush(float x) { return std::fabs(x) < kMinNormal ? std::copysign(0.f, x) : x; }
float canonical(float x) { return std::isnan(x) ? f32(0x7fffffff) : x; }
float saturated(float x) { return std::isnan(x) || x <= 0 ? 0.f : std::min(x, 1.f); }

// f(a, b, c) under a rounding mode of the host; volatile keeps the arithmetic where it is written.
template <class T, class F>
T under(int mode, F f, T a, T b, T c) {
  volatile T va = a, vb = b, vc = c;
  const int saved = std::fegetround();
  std::fesetround(mode);
  volatile T r = f(va, vb, vc);
  std::fesetround(saved);
  return r;
}

struct Mode {
  const char* name;
  int host;
};
constexpr Mode kModes[] = {
    {".rn", FE_TONEAREST}, {".rz", FE_TOWARDZERO}, {".rm", FE_DOWNWARD}, {".rp", FE_UPWARD}};

// An operation with every rounding mode; f32 also with .ftz, and with .sat where it is allowed.
template <class F>
void check_exact(const std::string& op, size_t sources, bool with_sat, F f) {
  const std::string words(sources + 1, 'r'), doubles(sources + 1, 'd');
  for (const Mode& mode : kModes) {
    for (const bool ftz : {false, true})
      for (const bool sat : {false, true}) {
        if (sat && !with_sat) continue;
        check(op + mode.name + (ftz ? ".ftz" : "") + (sat ? ".sat" : "") + ".f32", words, [=](const Bits& x) {
          const auto in = [&](int k) { return ftz ? flush(f32(x[k])) : f32(x[k]); };
          float r = under(mode.host, f, in(0), in(1), in(2));
          if (ftz) r = flush(r);
          return bits(sat ? saturated(r) : canonical(r));
        });
      }
    check(op + mode.name + ".f64", doubles,
          [=](const Bits& x) { return bits(under(mode.host, f, f64(x[0]), f64(x[1]), f64(x[2]))); },
          {[](uint64_t got, uint64_t want) {
             return got == want || (std::isnan(f64(got)) && std::isnan(f64(want)));
           },
           {}});
  }
}

TEST(PtxFloat, ExactInEveryRoundingMode) {
  check_exact("add", 2, true, [](auto a, auto b, auto) { return a + b; });
  check_exact("sub", 2, true, [](auto a, auto b, auto) { return a - b; });
  check_exact("mul", 2, true, [](auto a, auto b, auto) { return a * b; });
  check_exact("fma", 3, true, [](auto a, auto b, auto c) { return std::fma(a, b, c); });
  check_exact("mad", 3, true, [](auto a, auto b, auto c) { return std::fma(a, b, c); });
  check_exact("div", 2, false, [](auto a, auto b, auto) { return a / b; });
  check_exact("rcp", 1, false, [](auto a, auto, auto) { return 1 / a; });
  check_exact("sqrt", 1, false, [](auto a, auto, auto) { return std::sqrt(a); });
}

TEST(PtxFloat, RoundingDefaultsToNearest) {
  check("add.f32", "rrr", [](const Bits& x) { return bits(canonical(f32(x[0]) + f32(x[1]))); });
  check("mul.f64", "ddd", [](const Bits& x) { return bits(f64(x[0]) * f64(x[1])); },
        {[](uint64_t got, uint64_t want) {
           return got == want || (std::isnan(f64(got)) && std::isnan(f64(want)));
         },
         {}});
  check_text("add.f32 %r0, %r1, 0f3F800000;", "rr",
             [](const Bits& x) { return bits(canonical(f32(x[0]) + 1.f)); });
}

// What min and max are by the ISA: -0 below +0, NaN loses (or wins with .NaN).
template <class T>
T chosen(bool is_max, bool nan_wins, T a, T b) {
  if (std::isnan(a) || std::isnan(b)) {
    if (nan_wins || (std::isnan(a) && std::isnan(b))) return std::numeric_limits<T>::quiet_NaN();
    return std::isnan(a) ? b : a;
  }
  if (a == b) return std::signbit(a) != is_max ? a : b;
  return (a < b) != is_max ? a : b;
}

TEST(PtxFloat, MinMax) {
  const auto zeros = [](Bits& x) {
    if (x[0] % 3 == 0) x[1] = x[0] ^ (x[0] & 4) << 29;  // equal, or of opposite sign
  };
  for (const bool is_max : {false, true}) {
    const std::string op = is_max ? "max" : "min";
    for (const bool nan : {false, true})
      for (const bool xorsign : {false, true})
        for (const bool ftz : {false, true})
          check(op + (ftz ? ".ftz" : "") + (nan ? ".NaN" : "") + (xorsign ? ".xorsign.abs" : "") + ".f32",
                "rrr",
                [=](const Bits& x) {
                  float a = f32(x[0]), b = f32(x[1]);
                  if (ftz) a = flush(a), b = flush(b);
                  const bool negative = std::signbit(a) != std::signbit(b);
                  if (xorsign) a = std::fabs(a), b = std::fabs(b);
                  float r = chosen(is_max, nan, a, b);
                  if (xorsign) r = std::copysign(r, negative ? -1.f : 1.f);
                  return bits(canonical(r));
                },
                {{}, zeros});
    check(op + ".f64", "ddd",
          [=](const Bits& x) { return bits(chosen(is_max, false, f64(x[0]), f64(x[1]))); },
          {[](uint64_t got, uint64_t want) {
             return got == want || (std::isnan(f64(got)) && std::isnan(f64(want)));
           },
           {}});
  }
}

TEST(PtxFloat, Signs) {
  constexpr uint64_t kSign32 = 0x80000000, kSign64 = uint64_t{1} << 63;
  check("abs.f32", "rr", [](const Bits& x) { return x[0] & ~kSign32; });
  check("neg.f32", "rr", [](const Bits& x) { return x[0] ^ kSign32; });
  check("abs.ftz.f32", "rr", [](const Bits& x) { return bits(flush(f32(x[0]))) & ~kSign32; });
  check("neg.ftz.f32", "rr", [](const Bits& x) { return bits(flush(f32(x[0]))) ^ kSign32; });
  check("abs.f64", "dd", [](const Bits& x) { return x[0] & ~kSign64; });
  check("neg.f64", "dd", [](const Bits& x) { return x[0] ^ kSign64; });
  check("copysign.f32", "rrr", [](const Bits& x) { return (x[0] & kSign32) | (x[1] & ~kSign32); });
  check("copysign.f64", "ddd", [](const Bits& x) { return (x[0] & kSign64) | (x[1] & ~kSign64); });
}

// Equal as NaN, zero or infinity; else within a relative and an absolute error.
CheckOptions within(double relative, double absolute, std::function<void(Bits&)> prepare = {}) {
  const auto matches = [=](uint64_t got_bits, uint64_t want_bits) {
    const double got = f32(got_bits), want = f32(want_bits);
    if (std::isnan(want)) return got_bits == 0x7fffffff;
    if (std::isinf(want) || want == 0) return got_bits == want_bits || std::fabs(got - want) <= absolute;
    return std::fabs(got - want) <= std::fabs(want) * relative + absolute;
  };
  return {matches, prepare};
}

TEST(PtxFloat, Approximations) {
  constexpr double kUlp = 0x1p-23, kTiny = 0x1p-149;
  struct Function {
    const char* name;
    double (*f)(double);
    double relative, absolute;
  };
  const Function functions[] = {
      {"rcp.approx", [](double x) { return 1 / x; }, kUlp, kTiny},
      {"sqrt.approx", [](double x) { return std::sqrt(x); }, kUlp, kTiny},
      {"rsqrt.approx", [](double x) { return 1 / std::sqrt(x); }, 1.07 * kUlp, 0},
      {"ex2.approx", [](double x) { return std::exp2(x); }, kUlp, kTiny},
      {"lg2.approx", [](double x) { return std::log2(x); }, 2 * kUlp, 0},
  };
  for (const Function& t : functions)
    for (const bool ftz : {false, true})
      check(
          std::string(t.name) + (ftz ? ".ftz" : "") + ".f32", "rr",
          [&](const Bits& x) {
            const float in = ftz ? flush(f32(x[0])) : f32(x[0]);
            const float r = static_cast<float>(t.f(in));
            return bits(canonical(ftz ? flush(r) : r));
          },
          within(t.relative, ftz ? kMinNormal * kUlp : t.absolute));
  const auto moderate = [](Bits& x) { x[0] = bits(std::remainder(f32(x[0] & 0x7fffffff) / 3, 6.f)); };
  const auto as_float = [](double (*f)(double)) {
    return [f](const Bits& x) { return bits(canonical(static_cast<float>(f(f32(x[0]))))); };
  };
  check("sin.approx.f32", "rr", as_float([](double x) { return std::sin(x); }), within(0, 0x1p-21, moderate));
  check("cos.approx.ftz.f32", "rr", as_float([](double x) { return std::cos(x); }),
        within(0, 0x1p-21, moderate));
  check("tanh.approx.f32", "rr", as_float([](double x) { return std::tanh(x); }), within(0x1p-11, 0));
}

TEST(PtxFloat, PowersOfTwoAreExact) {
  AluMachine m("ex2.approx.f32 %r0, %r1; lg2.approx.f32 %r2, %r0;");
  for (int first = -149; first <= 127; first += kWarpSize) {
    for (int l = 0; l < kWarpSize; ++l) m.set("%r1", l, bits(static_cast<float>(first + l)));
    m.run(kAllLanes);
    for (int l = 0; l < kWarpSize && first + l <= 127; ++l) {
      EXPECT_EQ(f32(m.get("%r0", l)), std::ldexp(1.f, first + l));
      EXPECT_EQ(f32(m.get("%r2", l)), static_cast<float>(first + l));
    }
  }
}

TEST(PtxFloat, Division) {
  for (const char* op : {"div.full", "div.approx"})
    for (const bool ftz : {false, true})
      check(
          std::string(op) + (ftz ? ".ftz" : "") + ".f32", "rrr",
          [=](const Bits& x) {
            const float a = ftz ? flush(f32(x[0])) : f32(x[0]), b = ftz ? flush(f32(x[1])) : f32(x[1]);
            const bool far = std::string(op) == "div.approx" && std::fabs(b) > 0x1p126f;
            const float r = far ? a * std::copysign(0.f, b) : a / b;
            return bits(canonical(ftz ? flush(r) : r));
          },
          within(0x1p-22, kMinNormal * 0x1p-22));
}

TEST(PtxFloat, CoarseDoubles) {
  const auto upper = [](double (*f)(double)) {
    return [f](const Bits& x) -> uint64_t {
      const double a = f64(x[0] & 0xffffffff00000000);
      const double r = f(std::fabs(a) < 0x1p-1022 ? std::copysign(0.0, a) : a);
      return bits(std::fabs(r) < 0x1p-1022 ? std::copysign(0.0, r) : r) & 0xffffffff00000000;
    };
  };
  const CheckOptions nan_is_nan = {[](uint64_t got, uint64_t want) {
                                     return got == want || (std::isnan(f64(got)) && std::isnan(f64(want)));
                                   },
                                   {}};
  check("rcp.approx.ftz.f64", "dd", upper([](double x) { return 1 / x; }), nan_is_nan);
  check("rsqrt.approx.ftz.f64", "dd", upper([](double x) { return 1 / std::sqrt(x); }), nan_is_nan);
}

}  // namespace
}  // namespace ptxsim::testing
