// cvt between every pair of types, against definitions in wider arithmetic.
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <limits>

#include "alu_harness.h"
#include "exact_rounding.h"
#include "numeric/float_formats.h"

namespace ptxsim::testing {
namespace {

using i128 = __int128;

struct Int {
  std::string name;
  int width;
  bool is_signed;
};
const Int kInts[] = {{"u8", 8, false},   {"s8", 8, true},   {"u16", 16, false}, {"s16", 16, true},
                     {"u32", 32, false}, {"s32", 32, true}, {"u64", 64, false}, {"s64", 64, true}};
char kind_of(int width) { return width <= 16 ? 'h' : width == 32 ? 'r' : 'd'; }
int width_of(char kind) { return kind == 'h' ? 16 : kind == 'r' ? 32 : 64; }

i128 low_bits(const Int& t, uint64_t x) {
  const uint64_t sign = uint64_t{1} << (t.width - 1), field = x & (sign | (sign - 1));
  return t.is_signed && field & sign ? i128{field} - (i128{1} << t.width) : i128{field};
}
i128 smallest(const Int& t) { return t.is_signed ? -(i128{1} << (t.width - 1)) : 0; }
i128 largest(const Int& t) { return (i128{1} << (t.is_signed ? t.width - 1 : t.width)) - 1; }

TEST(PtxConvert, BetweenIntegersInRegistersOfAnyWidth) {
  for (const Int& to : kInts)
    for (const Int& from : kInts)
      for (const char d : {'h', 'r', 'd'})
        for (const char s : {'h', 'r', 'd'}) {
          if (width_of(d) < to.width || width_of(s) < from.width) continue;
          check("cvt." + to.name + "." + from.name, {d, s}, [&](const Bits& x) {
            return static_cast<uint64_t>(low_bits(to, static_cast<uint64_t>(low_bits(from, x[0]))));
          });
          if (d == kind_of(to.width) && s == kind_of(from.width))
            check("cvt.sat." + to.name + "." + from.name, {d, s}, [&](const Bits& x) {
              return static_cast<uint64_t>(std::clamp(low_bits(from, x[0]), smallest(to), largest(to)));
            });
        }
}

struct Mode {
  const char* name;
  int host;
  Rounding rounding;
};
constexpr Mode kModes[] = {{"rn", FE_TONEAREST, Rounding::kNearest},
                           {"rz", FE_TOWARDZERO, Rounding::kZero},
                           {"rm", FE_DOWNWARD, Rounding::kDown},
                           {"rp", FE_UPWARD, Rounding::kUp}};

template <class F>
auto under(int mode, F f) {
  const int saved = std::fegetround();
  std::fesetround(mode);
  const auto r = f();
  std::fesetround(saved);
  return r;
}

constexpr Format kSingle{"f32", 23, 127, 0x7f800000, 0x3f800000, 32};

TEST(PtxConvert, IntegersToFloats) {
  for (const Int& from : kInts) {
    const char s = kind_of(from.width);
    for (const Mode& mode : kModes) {
      const auto to = [&](const Format& f) {
        return [&](const Bits& x) -> uint64_t {
          const i128 v = low_bits(from, x[0]);
          return v == 0 ? 0 : rounded(f, Quad(v), 0, mode.rounding);
        };
      };
      const std::string op = std::string("cvt.") + mode.name;
      check(op + ".f32." + from.name, {'r', s}, to(kSingle));
      check(op + ".f16." + from.name, {'h', s}, to(kF16));
      check(op + ".bf16." + from.name, {'h', s}, to(kBf16));
      check(op + ".f64." + from.name, {'d', s}, [&](const Bits& x) {
        volatile int64_t low = static_cast<int64_t>(low_bits(from, x[0]));
        volatile uint64_t high = static_cast<uint64_t>(low_bits(from, x[0]));
        return bits(under(mode.host, [&] {
          return from.is_signed ? static_cast<double>(low) : static_cast<double>(high);
        }));
      });
    }
  }
  check("cvt.rn.f32.s8", "rr",
        [](const Bits& x) { return bits(static_cast<float>(static_cast<int8_t>(x[0]))); });
}

double integral(int mode, double x) {
  return mode == 0 ? std::nearbyint(x) : mode == 1 ? std::trunc(x) : mode == 2 ? std::floor(x) : std::ceil(x);
}
constexpr const char* kIntegral[] = {"rni", "rzi", "rmi", "rpi"};

// What a float becomes as an integer.
uint64_t as_integer(const Int& to, int mode, double x, bool from_f64) {
  if (std::isnan(x)) return from_f64 || to.width == 64 ? uint64_t{1} << (to.width - 1) : 0;
  const double r = integral(mode, x);
  if (r <= static_cast<double>(smallest(to))) return static_cast<uint64_t>(smallest(to));
  if (r >= static_cast<double>(largest(to))) return static_cast<uint64_t>(largest(to));
  return static_cast<uint64_t>(static_cast<i128>(r));
}

TEST(PtxConvert, FloatsToIntegers) {
  for (const Int& to : kInts) {
    const char d = kind_of(to.width);
    const auto extended = [&to](uint64_t x) { return static_cast<uint64_t>(low_bits(to, x)); };
    for (int mode = 0; mode < 4; ++mode) {
      const std::string op = std::string("cvt.") + kIntegral[mode] + "." + to.name;
      // Around the limits of the type, too.
      const auto near_limit = [&](Bits& x) {
        if (x[0] % 3) return;
        const double limit = static_cast<double>(x[0] % 2 ? largest(to) : smallest(to));
        x[0] = bits(static_cast<float>(limit + static_cast<double>(x[0] % 64) * 0.25 - 8));
      };
      const auto near_limit_64 = [&](Bits& x) {
        if (x[0] % 3) return;
        const double limit = static_cast<double>(x[0] % 2 ? largest(to) : smallest(to));
        x[0] = bits(limit + static_cast<double>(x[0] % 64) * 0.25 - 8);
      };
      check(op + ".f32", {d, 'r'},
            [&](const Bits& x) { return extended(as_integer(to, mode, f32(x[0]), false)); },
            {{}, near_limit});
      check(op + ".f64", {d, 'd'},
            [&](const Bits& x) { return extended(as_integer(to, mode, f64(x[0]), true)); },
            {{}, near_limit_64});
      check(op + ".f16", {d, 'h'},
            [&](const Bits& x) { return extended(as_integer(to, mode, kF16.value(x[0]), false)); });
      check(op + ".bf16", {d, 'h'},
            [&](const Bits& x) { return extended(as_integer(to, mode, kBf16.value(x[0]), false)); });
    }
  }
  check("cvt.rzi.s8.f32", "rr", [](const Bits& x) {
    return static_cast<uint64_t>(static_cast<int8_t>(as_integer(kInts[1], 1, f32(x[0]), false)));
  });
  check("cvt.rzi.ftz.u32.f32", "rr", [](const Bits& x) { return as_integer(kInts[4], 1, f32(x[0]), false); });
}

uint64_t canonical(float x) { return std::isnan(x) ? 0x7fffffff : bits(x); }
bool same_double(uint64_t got, uint64_t want) {
  return got == want || (std::isnan(f64(got)) && std::isnan(f64(want)));
}

TEST(PtxConvert, BetweenSingleAndDouble) {
  const auto near_single = [](Bits& x) {  // halfway between floats, and below their range
    if (x[0] % 3 == 0)
      x[0] = (x[0] & 0x8000000000000000) | (0x36a0000000000000 + (x[0] % 0x0a00000000000000)) | 0x10000000;
    if (x[0] % 3 == 1) x[0] &= ~uint64_t{0x1fffffff};
  };
  for (const Mode& mode : kModes) {
    const auto convert = [&](uint64_t x) {
      volatile double v = f64(x);
      return under(mode.host, [&] { return static_cast<float>(v); });
    };
    check(std::string("cvt.") + mode.name + ".f32.f64", "rd",
          [&](const Bits& x) { return canonical(convert(x[0])); }, {{}, near_single});
    check(std::string("cvt.") + mode.name + ".sat.f32.f64", "rd", [&](const Bits& x) {
      const float r = convert(x[0]);
      return bits(r > 0 ? std::min(r, 1.f) : 0.f);
    });
  }
  check("cvt.rn.ftz.f32.f64", "rd",
        [](const Bits& x) {
          const float r = static_cast<float>(f64(x[0]));
          return canonical(std::fabs(r) < 0x1p-126f ? std::copysign(0.f, r) : r);
        },
        {{}, near_single});
  check("cvt.f64.f32", "dr", [](const Bits& x) { return bits(static_cast<double>(f32(x[0]))); },
        {same_double, {}});
  check("cvt.ftz.f64.f32", "dr",
        [](const Bits& x) {
          const float v = f32(x[0]);
          return bits(static_cast<double>(std::fabs(v) < 0x1p-126f ? std::copysign(0.f, v) : v));
        },
        {same_double, {}});
}

TEST(PtxConvert, ToIntegralFloats) {
  for (int mode = 0; mode < 4; ++mode) {
    const std::string op = std::string("cvt.") + kIntegral[mode];
    check(op + ".f32.f32", "rr",
          [&](const Bits& x) { return canonical(static_cast<float>(integral(mode, f32(x[0])))); });
    check(op + ".f64.f64", "dd", [&](const Bits& x) { return bits(integral(mode, f64(x[0]))); },
          {same_double, {}});
    for (const Format& f : kHalfFormats)
      check(op + "." + f.name + "." + f.name, "hh", [&](const Bits& x) -> uint64_t {
        const double r = integral(mode, f.value(x[0]));
        if (std::isnan(r)) return 0x7fff;
        if (std::isinf(r)) return x[0];
        return r == 0 ? x[0] & 0x8000 : rounded(f, r, 0);
      });
  }
  check("cvt.sat.f32.f32", "rr",
        [](const Bits& x) { return bits(f32(x[0]) > 0 ? std::min(f32(x[0]), 1.f) : 0.f); });
  check("cvt.sat.f64.f64", "dd",
        [](const Bits& x) { return bits(f64(x[0]) > 0 ? std::min(f64(x[0]), 1.0) : 0.0); });
}

// A float or double as a half, by definition; relu and finite as the modifiers say.
uint64_t as_half(const Format& f, double x, Rounding mode, bool relu = false, bool finite = false) {
  if (std::isnan(x)) return 0x7fff;
  if (relu && !(x > 0)) return 0;
  const uint64_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isinf(x)) return sign | (finite ? f.infinity - 1 : f.infinity);
  return x == 0 ? sign : rounded(f, x, 0, mode, finite);
}

// Floats near the values of a format, and halfway between them.
std::function<void(Bits&)> near_values(const Format& f) {
  return [&f](Bits& x) {
    for (uint64_t& word : x) {
      if (word % 2) continue;
      const double value = f.value(word >> 1 & 0xffff);
      const uint32_t half_unit = word % 4 ? 1u << (22 - f.mantissa) : 0;
      word = bits(static_cast<float>(value)) + half_unit + word % 3 - 1;
    }
  };
}

TEST(PtxConvert, SingleAndDoubleToHalf) {
  for (const Format& f : kHalfFormats) {
    const std::string name = f.name;
    for (const Mode& mode : kModes) {
      const std::string op = std::string("cvt.") + mode.name;
      for (const bool relu : {false, true})
        for (const bool finite : {false, true})
          check(op + (relu ? ".relu" : "") + (finite ? ".satfinite" : "") + "." + name + ".f32", "hr",
                [&](const Bits& x) { return as_half(f, f32(x[0]), mode.rounding, relu, finite); },
                {{}, near_values(f)});
      // A hair beside what f32 can tell from a halfway case.
      const auto beside = [&](Bits& x) {
        const double v = f.value(x[0] & 0xffff) * (1 + std::ldexp(1, -f.mantissa - 1));
        if (x[0] % 2) x[0] = bits(v) + x[0] % 3 - 1;
      };
      check(op + "." + name + ".f64", "hd",
            [&](const Bits& x) { return as_half(f, f64(x[0]), mode.rounding); }, {{}, beside});
    }
    check("cvt.rn.sat." + name + ".f32", "hr", [&](const Bits& x) {
      const float v = f32(x[0]);
      return as_half(f, v > 0 ? std::min(v, 1.f) : 0.f, Rounding::kNearest);
    });
  }
  check("cvt.rn.bf16.f16", "hh",
        [](const Bits& x) { return as_half(kBf16, kF16.value(x[0]), Rounding::kNearest); });
  check("cvt.rn.f16.bf16", "hh",
        [](const Bits& x) { return as_half(kF16, kBf16.value(x[0]), Rounding::kNearest); });
}

TEST(PtxConvert, FromHalf) {
  check("cvt.f32.f16", "rh", [](const Bits& x) { return canonical(static_cast<float>(kF16.value(x[0]))); });
  check("cvt.f32.bf16", "rh", [](const Bits& x) { return x[0] << 16; });
  check("cvt.f64.f16", "dh", [](const Bits& x) { return bits(kF16.value(x[0])); }, {same_double, {}});
  check("cvt.f64.bf16", "dh", [](const Bits& x) { return bits(kBf16.value(x[0])); }, {same_double, {}});
}

TEST(PtxConvert, Pairs) {
  for (const Format& f : kHalfFormats)
    for (const Mode& mode : {kModes[0], kModes[1]})
      for (const bool relu : {false, true})
        for (const bool finite : {false, true})
          check(std::string("cvt.") + mode.name + (relu ? ".relu" : "") + (finite ? ".satfinite" : "") + "." +
                    f.name + "x2.f32",
                "rrr",
                [&](const Bits& x) {
                  return as_half(f, f32(x[0]), mode.rounding, relu, finite) << 16 |
                         as_half(f, f32(x[1]), mode.rounding, relu, finite);
                },
                {{}, near_values(f)});
}

// The formats of 8 bits are tested value by value with numeric/; here: which value goes where.
template <numeric::Format F>
void check_bytes(const std::string& name) {
  const auto narrow = [](uint32_t x, bool relu) -> uint64_t {
    return numeric::narrow<F, numeric::Round::kNearestEven, numeric::Overflow::kFinite>(
        relu ? numeric::relu_f32(x) : x);
  };
  const auto word = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto half = [](uint64_t x) { return numeric::widen<numeric::kF16>(static_cast<uint16_t>(x)); };
  const auto moderate = [](Bits& x) {
    for (uint64_t& v : x)
      v = bits(std::ldexp(static_cast<float>(static_cast<int>(v % 2001) - 1000),
                          static_cast<int>(v / 7 % 24) - 16));
  };
  for (const bool relu : {false, true}) {
    const std::string op = relu ? "cvt.rn.satfinite.relu." : "cvt.rn.satfinite.";
    check(op + name + "x2.f32", "hrr",
          [&](const Bits& x) { return narrow(word(x[0]), relu) << 8 | narrow(word(x[1]), relu); },
          {{}, moderate});
    check(op + name + "x2.f16x2", "hr",
          [&](const Bits& x) { return narrow(half(x[0] >> 16), relu) << 8 | narrow(half(x[0]), relu); });
    check(std::string("cvt.rn.") + (relu ? "relu." : "") + "f16x2." + name + "x2", "rh", [&](const Bits& x) {
      const auto widened = [&](uint64_t byte) -> uint64_t {
        const uint16_t bits = numeric::fp8_to_f16<F>(static_cast<uint8_t>(byte));
        return relu && bits & 0x8000 ? 0 : bits;
      };
      return widened(x[0] >> 8) << 16 | widened(x[0] & 0xff);
    });
  }
}

TEST(PtxConvert, BytePairs) {
  check_bytes<numeric::kE4m3>("e4m3");
  check_bytes<numeric::kE5m2>("e5m2");
}

TEST(PtxConvert, Tf32) {
  const auto finite = [](Bits& x) {
    if ((x[0] & 0x7f800000) == 0x7f800000) x[0] &= ~uint64_t{0x00800000};
  };
  check("cvt.rna.tf32.f32", "rr", [](const Bits& x) { return (x[0] + 0x1000) & 0xffffe000; }, {{}, finite});
  check("cvt.rz.tf32.f32", "rr", [](const Bits& x) { return x[0] & 0xffffe000; }, {{}, finite});
  check("cvt.rn.relu.tf32.f32", "rr",
        [](const Bits& x) { return x[0] >> 31 ? 0 : (x[0] + 0xfff + (x[0] >> 13 & 1)) & 0xffffe000; },
        {{}, finite});
}

TEST(PtxConvert, Pack) {
  const auto clamped = [](uint64_t x, int low, int high, uint64_t mask) {
    return static_cast<uint64_t>(std::clamp(static_cast<int32_t>(x), low, high)) & mask;
  };
  check("cvt.pack.sat.s16.s32", "rrr", [&](const Bits& x) {
    return clamped(x[0], -32768, 32767, 0xffff) << 16 | clamped(x[1], -32768, 32767, 0xffff);
  });
  check("cvt.pack.sat.u8.s32.b32", "rrrr", [&](const Bits& x) {
    return x[2] << 16 | clamped(x[0], 0, 255, 0xff) << 8 | clamped(x[1], 0, 255, 0xff);
  });
  check("cvt.pack.sat.s4.s32.b32", "rrrr",
        [&](const Bits& x) { return x[2] << 8 | clamped(x[0], -8, 7, 15) << 4 | clamped(x[1], -8, 7, 15); });
}

TEST(PtxConvert, UnknownFormsAreLeftToOthers) {
  EXPECT_EQ(AluMachine("cvt.rn.satfinite.e2m1x2.f32 %b0, %r1, %r2;").unknown(),
            "cvt.rn.satfinite.e2m1x2.f32");
}

}  // namespace
}  // namespace ptxsim::testing
