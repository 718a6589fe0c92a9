// f16 and bf16 instructions against exact arithmetic, rounded once by search among the values of the format.
#include <cmath>
#include <limits>

#include "alu_harness.h"
#include "exact_rounding.h"

namespace ptxsim::testing {
namespace {

// a * b + c.
uint64_t multiply_add(const Format& f, uint64_t a_bits, uint64_t b_bits, uint64_t c_bits) {
  const double a = f.value(a_bits), b = f.value(b_bits), c = f.value(c_bits);
  const double plain = a * b + c;
  if (std::isnan(plain)) return 0x7fff;
  if (std::isinf(a) || std::isinf(b) || std::isinf(c)) return plain < 0 ? 0x8000 | f.infinity : f.infinity;
  const Quad p = Quad(a) * Quad(b), s = p + Quad(c), t = s - p, e = (p - (s - t)) + (Quad(c) - t);
  if (s == 0) return std::signbit(plain) ? 0x8000 : 0;
  return rounded(f, s, e);
}

// Of one half, from those of the sources.
using HalfReference = std::function<uint64_t(uint64_t a, uint64_t b, uint64_t c)>;

// Halves of every kind for both formats: special ones, and exponents near each other.
class HalfBits {
 public:
  explicit HalfBits(const Format& f) : f_(f) {}
  uint64_t next() {
    const uint64_t any = random_();
    const uint64_t sign = any >> 63 << 15, fraction = (any >> 8) & ((uint64_t{1} << f_.mantissa) - 1);
    const uint64_t special[] = {
        0, 1, 2, uint64_t{1} << f_.mantissa, f_.infinity - 1u, f_.infinity, f_.infinity + 1u, f_.one};
    switch (any % 8) {
      case 0:
        return sign | special[(any >> 8) % std::size(special)];
      case 1:
        return (any >> 8) & 0xffff;
      case 2:
        return sign | (any >> 8 & 15);
      case 3:
        return sign | ((any >> 32) % 3 << f_.mantissa) | fraction;  // tiny
      default:
        return sign | ((f_.bias - 12 + (any >> 32) % 24) << f_.mantissa) | fraction;
    }
  }

 private:
  const Format& f_;
  std::mt19937_64 random_{7};
};

// The scalar and the packed form.
void check_both(const Format& f, const std::string& op, int sources, const HalfReference& reference,
                const Matches& matches = {}) {
  HalfBits halves(f);
  const auto at = [](uint64_t x, int k) { return x >> (16 * k) & 0xffff; };
  const auto prepare = [&](Bits& x) {
    for (uint64_t& word : x) word = halves.next() | halves.next() << 16;
  };
  const auto prepare_scalar = [&](Bits& x) {
    for (uint64_t& word : x) word = halves.next();
  };
  for (int repeat = 0; repeat < 4; ++repeat) {
    check(op + "." + f.name, std::string(static_cast<size_t>(sources) + 1, 'h'),
          [&](const Bits& x) { return reference(x[0], x[1], x[2]); }, {matches, prepare_scalar});
    check(
        op + "." + f.name + "x2", std::string(static_cast<size_t>(sources) + 1, 'r'),
        [&](const Bits& x) {
          return reference(at(x[0], 0), at(x[1], 0), at(x[2], 0)) |
                 reference(at(x[0], 1), at(x[1], 1), at(x[2], 1)) << 16;
        },
        {matches
             ? [&](uint64_t got,
                   uint64_t
                       want) { return matches(at(got, 0), at(want, 0)) && matches(at(got, 1), at(want, 1)); }
             : Matches{},
         prepare});
  }
}

TEST(PtxHalf, SumsProductsAndFma) {
  for (const Format& f : kHalfFormats) {
    const uint64_t minus_zero = 0x8000;
    check_both(f, "add", 2, [&](uint64_t a, uint64_t b, uint64_t) { return multiply_add(f, a, f.one, b); });
    check_both(f, "sub", 2, [&](uint64_t a, uint64_t b, uint64_t) {
      return multiply_add(f, a, f.one, f.is_nan(b) ? b : b ^ 0x8000);
    });
    check_both(f, "mul", 2, [&](uint64_t a, uint64_t b, uint64_t) {
      const double product = f.value(a) * f.value(b);
      return multiply_add(f, a, b, std::signbit(product) ? minus_zero : 0);
    });
    for (int repeat = 0; repeat < 8; ++repeat)
      check_both(f, "fma.rn", 3,
                 [&](uint64_t a, uint64_t b, uint64_t c) { return multiply_add(f, a, b, c); });
  }
}

TEST(PtxHalf, FmaRoundsOnce) {
  AluMachine m("fma.rn.f16 %h0, %h1, %h2, %h3; fma.rn.bf16 %h4, %h5, %h6, %h7;");
  struct Case {
    uint16_t a, b, c;
  };
  const Case f16[] = {
      {0x3c01, 0x3c01, 0x0001}, {0x3c01, 0x3bff, 0x8001}, {0x7bff, 0x3c01, 0xd000}, {0x0401, 0x1001, 0x0001}};
  // Products that leave the range of f32, halfway cases that a tiny third operand decides.
  const Case bf16[] = {{0x5f80, 0x5f80, 0xff7f}, {0x1f80, 0x1f80, 0x0001}, {0x007f, 0x3c01, 0x0001},
                       {0x3f81, 0x3f81, 0x8001}, {0x5f81, 0x5f80, 0xff7f}, {0x1dff, 0x1d7f, 0x0001},
                       {0x3f81, 0x3f40, 0x0001}};
  // One case at a time: a vector with any lane out of the range of f32 takes another way.
  for (size_t k = 0; k < std::size(bf16); ++k) {
    const Case& x = f16[k % std::size(f16)];
    const Case& y = bf16[k];
    for (int l = 0; l < kWarpSize; ++l) {
      m.set("%h1", l, x.a), m.set("%h2", l, x.b), m.set("%h3", l, x.c);
      m.set("%h5", l, y.a), m.set("%h6", l, y.b), m.set("%h7", l, y.c);
    }
    m.run(kAllLanes);
    EXPECT_EQ(m.get("%h0", 9), multiply_add(kHalfFormats[0], x.a, x.b, x.c)) << k;
    EXPECT_EQ(m.get("%h4", 9), multiply_add(kHalfFormats[1], y.a, y.b, y.c)) << k;
  }
}

uint64_t flushed(uint64_t x) { return (x & 0x7fff) < 0x400 ? x & 0x8000 : x; }

TEST(PtxHalf, Modifiers) {
  const Format& f16 = kHalfFormats[0];
  const auto saturated = [&](uint64_t x) -> uint64_t {
    if (f16.is_nan(x) || x & 0x8000) return 0;
    return std::min<uint64_t>(x, f16.one);
  };
  const auto relu = [](const Format& f, uint64_t x) -> uint64_t {
    return x & 0x8000 && !f.is_nan(x) ? 0 : x;
  };
  check_both(f16, "add.sat", 2,
             [&](uint64_t a, uint64_t b, uint64_t) { return saturated(multiply_add(f16, a, f16.one, b)); });
  check_both(f16, "add.ftz", 2, [&](uint64_t a, uint64_t b, uint64_t) {
    return flushed(multiply_add(f16, flushed(a), f16.one, flushed(b)));
  });
  check_both(f16, "fma.rn.ftz.sat", 3, [&](uint64_t a, uint64_t b, uint64_t c) {
    return saturated(flushed(multiply_add(f16, flushed(a), flushed(b), flushed(c))));
  });
  for (const Format& f : kHalfFormats) {
    check_both(f, "fma.rn.relu", 3,
               [&](uint64_t a, uint64_t b, uint64_t c) { return relu(f, multiply_add(f, a, b, c)); });
    check_both(f, "fma.rn.oob", 3, [&](uint64_t a, uint64_t b, uint64_t c) -> uint64_t {
      return a == 0xffff || b == 0xffff ? 0 : multiply_add(f, a, b, c);
    });
  }
  AluMachine m("fma.rn.oob.bf16x2 %r0, %r1, %r2, %r3;");
  for (int l = 0; l < kWarpSize; ++l)
    m.set("%r1", l, 0x3f80ffff), m.set("%r2", l, 0x3f803f80), m.set("%r3", l, 0x3f803f80);
  m.run(kAllLanes);
  EXPECT_EQ(m.get("%r0", 5), 0x40000000u);
}

TEST(PtxHalf, MinMaxAbsNeg) {
  for (const Format& f : kHalfFormats) {
    for (const bool is_max : {false, true})
      for (const bool nan : {false, true})
        for (const bool xorsign : {false, true})
          check_both(
              f, std::string(is_max ? "max" : "min") + (nan ? ".NaN" : "") + (xorsign ? ".xorsign.abs" : ""),
              2, [&, is_max, nan, xorsign](uint64_t a, uint64_t b, uint64_t) -> uint64_t {
                const uint64_t sign = xorsign ? (a ^ b) & 0x8000 : 0;
                if (xorsign) a &= 0x7fff, b &= 0x7fff;
                if (f.is_nan(a) || f.is_nan(b)) {
                  if (nan || (f.is_nan(a) && f.is_nan(b))) return 0x7fff;
                  return (f.is_nan(a) ? b : a) | sign;
                }
                // In sign and magnitude, -0 below +0.
                const auto key = [](uint64_t x) { return x & 0x8000 ? -1 - int(x & 0x7fff) : int(x); };
                return ((key(a) < key(b)) != is_max ? a : b) | sign;
              });
    const auto nan_is_nan = [&](uint64_t got, uint64_t want) {
      return got == want || (f.is_nan(got) && f.is_nan(want));
    };
    check_both(
        f, "abs", 1, [](uint64_t a, uint64_t, uint64_t) { return a & 0x7fff; }, nan_is_nan);
    check_both(
        f, "neg", 1, [](uint64_t a, uint64_t, uint64_t) { return a ^ 0x8000; }, nan_is_nan);
  }
}

TEST(PtxHalf, Functions) {
  for (const Format& f : kHalfFormats) {
    const double ulp = std::ldexp(1.0, -f.mantissa), tiny = static_cast<double>(f.magnitude(1));
    const auto near = [&](uint64_t got, uint64_t want) {
      if (f.is_nan(want)) return got == 0x7fff;
      const double x = f.value(got), y = f.value(want);
      return x == y || std::fabs(x - y) <= std::fabs(y) * ulp + tiny;
    };
    const auto of = [&](double (*function)(double), bool ftz) {
      return [&, function, ftz](uint64_t a, uint64_t, uint64_t) -> uint64_t {
        const double x = f.value(a);
        const double r = function(ftz && std::fabs(x) < 0x1p-126 ? 0 : x);
        if (std::isnan(r)) return 0x7fff;
        if (std::isinf(r)) return f.infinity;
        if (r == 0) return std::signbit(r) ? 0x8000 : 0;
        const uint64_t bits = rounded(f, r, 0);
        return ftz && (bits & 0x7fff) < 0x80 ? bits & 0x8000 : bits;
      };
    };
    const bool is_bf16 = f.bias == 127;
    check_both(f, is_bf16 ? "ex2.approx.ftz" : "ex2.approx", 1,
               of([](double x) { return std::exp2(x); }, is_bf16), near);
    check_both(f, "tanh.approx", 1, of([](double x) { return std::tanh(x); }, false), near);
  }
}

TEST(PtxHalf, Comparisons) {
  for (const Format& f : kHalfFormats) {
    const std::string type = f.name;
    HalfBits halves(f);
    const auto word = [&] { return halves.next() | halves.next() << 16; };
    const CheckOptions scalars = {{}, [&](Bits& x) {
                                    x[0] = halves.next();
                                    x[1] = x[0] % 4 ? halves.next() : x[0];
                                    x[2] &= 1;
                                  }};
    const CheckOptions pairs = {{}, [&](Bits& x) {
                                  x[0] = word();
                                  x[1] = x[0] % 4 ? word() : x[0];
                                  x[2] &= 1;
                                }};
    const auto v = [&f](uint64_t x, int k = 0) { return f.value(x >> (16 * k) & 0xffff); };
    check(
        "setp.lt." + type, "phh", [&](const Bits& x) { return v(x[0]) < v(x[1]); }, scalars);
    check(
        "setp.geu." + type, "phh", [&](const Bits& x) { return !(v(x[0]) < v(x[1])); }, scalars);
    check(
        "setp.ne." + type, "phh", [&](const Bits& x) { return v(x[0]) < v(x[1]) || v(x[0]) > v(x[1]); },
        scalars);
    check(
        "setp.gt.and." + type, "phhp", [&](const Bits& x) { return v(x[0]) > v(x[1]) && x[2]; }, scalars);
    check_text(
        "setp.le." + type + " %p5|%p0, %h1, %h2;", "phh",
        [&](const Bits& x) { return !(v(x[0]) <= v(x[1])); }, scalars);
    check_text(
        "setp.le." + type + "x2 %p0|%p5, %r1, %r2;", "prr", [&](const Bits& x) { return v(x[0]) <= v(x[1]); },
        pairs);
    check_text(
        "setp.le." + type + "x2 %p5|%p0, %r1, %r2;", "prr",
        [&](const Bits& x) { return v(x[0], 1) <= v(x[1], 1); }, pairs);
    const auto both = [&](const Bits& x, uint64_t value) {
      return (v(x[0]) >= v(x[1]) ? value : 0) | (v(x[0], 1) >= v(x[1], 1) ? value << 16 : 0);
    };
    check(
        "set.ge." + type + "x2." + type + "x2", "rrr", [&](const Bits& x) { return both(x, f.one); }, pairs);
    check(
        "set.ge.u32." + type + "x2", "rrr", [&](const Bits& x) { return both(x, 0xffff); }, pairs);
    check(
        "set.eq." + type + "." + type, "hhh", [&](const Bits& x) { return v(x[0]) == v(x[1]) ? f.one : 0; },
        scalars);
    check(
        "set.nan." + type + "." + type, "hhh",
        [&](const Bits& x) { return std::isnan(v(x[0])) || std::isnan(v(x[1])) ? f.one : 0; }, scalars);
    check(
        "set.lt.u32." + type, "rhh", [&](const Bits& x) { return v(x[0]) < v(x[1]) ? 0xffffffffu : 0; },
        scalars);
    check(
        "set.lt.or.s16." + type, "hhhp",
        [&](const Bits& x) { return v(x[0]) < v(x[1]) || x[2] ? 0xffff : 0; }, scalars);
    check("set.gt." + type + ".f32", "hrr", [&](const Bits& x) { return f32(x[0]) > f32(x[1]) ? f.one : 0; });
  }
}

}  // namespace
}  // namespace ptxsim::testing
