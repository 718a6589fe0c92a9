// Comparisons, predicates, selection and mov against plain C++.
#include <cmath>
#include <limits>

#include "alu_harness.h"

namespace ptxsim::testing {
namespace {

struct Relation {
  const char* name;
  bool (*less_equal_greater)(int order);  // -1, 0, 1
};
const Relation kRelations[] = {{"eq", [](int o) { return o == 0; }}, {"ne", [](int o) { return o != 0; }},
                               {"lt", [](int o) { return o < 0; }},  {"le", [](int o) { return o <= 0; }},
                               {"gt", [](int o) { return o > 0; }},  {"ge", [](int o) { return o >= 0; }}};

template <class T>
int order(T a, T b) {
  return a < b ? -1 : a > b ? 1 : 0;
}
void often_equal(Bits& x) {
  if (x[0] % 4 == 1) x[1] = x[0];
}
const CheckOptions kOftenEqual = {{}, often_equal};

template <class T>
void check_integers(const std::string& type, char kind) {
  for (const Relation& r : kRelations)
    check(
        "setp." + std::string(r.name) + "." + type, std::string("p") + kind + kind,
        [&](const Bits& x) {
          return r.less_equal_greater(order(static_cast<T>(x[0]), static_cast<T>(x[1])));
        },
        kOftenEqual);
}

TEST(PtxCompare, Integers) {
  check_integers<uint16_t>("u16", 'h');
  check_integers<int16_t>("s16", 'h');
  check_integers<uint32_t>("u32", 'r');
  check_integers<int32_t>("s32", 'r');
  check_integers<uint64_t>("u64", 'd');
  check_integers<int64_t>("s64", 'd');
  check(
      "setp.lo.u32", "prr", [](const Bits& x) { return x[0] < x[1]; }, kOftenEqual);
  check(
      "setp.ls.u32", "prr", [](const Bits& x) { return x[0] <= x[1]; }, kOftenEqual);
  check(
      "setp.hi.u64", "pdd", [](const Bits& x) { return x[0] > x[1]; }, kOftenEqual);
  check(
      "setp.hs.u16", "phh", [](const Bits& x) { return x[0] >= x[1]; }, kOftenEqual);
  check(
      "setp.eq.b64", "pdd", [](const Bits& x) { return x[0] == x[1]; }, kOftenEqual);
  check(
      "setp.ne.b16", "phh", [](const Bits& x) { return x[0] != x[1]; }, kOftenEqual);
  check_text("setp.gt.s32 %p0, %r1, -5;", "pr",
             [](const Bits& x) { return static_cast<int32_t>(x[0]) > -5; });
}

float flush(float x) { return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.f, x) : x; }

TEST(PtxCompare, Floats) {
  for (const Relation& r : kRelations)
    for (const bool unordered : {false, true}) {
      const std::string name = "setp." + std::string(r.name) + (unordered ? "u" : "");
      const auto holds = [=](auto a, auto b) {
        return std::isnan(a) || std::isnan(b) ? unordered : r.less_equal_greater(order(a, b));
      };
      check(
          name + ".f32", "prr", [=](const Bits& x) { return holds(f32(x[0]), f32(x[1])); }, kOftenEqual);
      check(
          name + ".f64", "pdd", [=](const Bits& x) { return holds(f64(x[0]), f64(x[1])); }, kOftenEqual);
      check(
          name + ".ftz.f32", "prr", [=](const Bits& x) { return holds(flush(f32(x[0])), flush(f32(x[1]))); },
          kOftenEqual);
    }
  check("setp.num.f32", "prr",
        [](const Bits& x) { return !std::isnan(f32(x[0])) && !std::isnan(f32(x[1])); });
  check("setp.nan.f64", "pdd", [](const Bits& x) { return std::isnan(f64(x[0])) || std::isnan(f64(x[1])); });
}

TEST(PtxCompare, CombinedWithAPredicate) {
  const auto lt = [](const Bits& x) { return static_cast<int32_t>(x[0]) < static_cast<int32_t>(x[1]); };
  check("setp.lt.and.s32", "prrp", [=](const Bits& x) { return lt(x) && x[2]; });
  check("setp.lt.or.s32", "prrp", [=](const Bits& x) { return lt(x) || x[2]; });
  check("setp.lt.xor.s32", "prrp", [=](const Bits& x) { return lt(x) != (x[2] != 0); });
  check_text("setp.lt.and.s32 %p0, %r1, %r2, !%p3;", "prrp", [=](const Bits& x) { return lt(x) && !x[2]; });
  check_text("setp.lt.or.s32 %p0|%p5, %r1, %r2, %p3;", "prrp", [=](const Bits& x) { return lt(x) || x[2]; });
  check_text("setp.lt.or.s32 %p5|%p0, %r1, %r2, %p3;", "prrp", [=](const Bits& x) { return !lt(x) || x[2]; });
  check_text("setp.lt.s32 %p5|%p0, %r1, %r2;", "prr", [=](const Bits& x) { return !lt(x); });
  check_text("setp.lt.s32 _|%p0, %r1, %r2;", "prr", [=](const Bits& x) { return !lt(x); });
}

TEST(PtxCompare, ResultsMayReplaceTheGuardAndTheOperand) {
  AluMachine m("@%p0 setp.lt.and.s32 %p0|%p1, %r0, %r1, %p1;");
  for (int l = 0; l < kWarpSize; ++l) m.set("%r0", l, l % 2), m.set("%r1", l, 1);
  m.predicate("%p0") = 0x0000ffff;
  m.predicate("%p1") = 0x00ff00ff;
  m.run(kAllLanes);
  EXPECT_EQ(m.predicate("%p0"), 0x00000055u);
  EXPECT_EQ(m.predicate("%p1"), 0x00ff00aau);
}

TEST(PtxCompare, Set) {
  const auto gt = [](const Bits& x) { return f32(x[0]) > f32(x[1]); };
  check("set.gt.u32.f32", "rrr", [=](const Bits& x) { return gt(x) ? 0xffffffff : 0; });
  check("set.gt.f32.f32", "rrr", [=](const Bits& x) { return gt(x) ? bits(1.f) : 0; });
  check("set.gt.and.s32.f32", "rrrp", [=](const Bits& x) { return gt(x) && x[2] ? 0xffffffff : 0; });
  check("set.ne.u32.s64", "rdd", [=](const Bits& x) { return x[0] != x[1] ? 0xffffffff : 0; });
}

TEST(PtxCompare, Selection) {
  for (const auto& [type, kind] : {std::pair("b16", 'h'), std::pair("f32", 'r'), std::pair("s64", 'd')})
    check(std::string("selp.") + type, {kind, kind, kind, 'p'},
          [](const Bits& x) { return x[2] ? x[0] : x[1]; });
  check_text("selp.b32 %r0, %r1, 17, !%p2;", "rrp", [](const Bits& x) { return x[1] ? 17 : x[0]; });
  check("slct.u32.s32", "rrrr", [](const Bits& x) { return static_cast<int32_t>(x[2]) >= 0 ? x[0] : x[1]; });
  check("slct.f64.f32", "dddr", [](const Bits& x) { return f32(x[2]) >= 0 ? x[0] : x[1]; });
  check("slct.ftz.b16.f32", "hhhr", [](const Bits& x) { return flush(f32(x[2])) >= 0 ? x[0] : x[1]; });
}

TEST(PtxCompare, Testp) {
  struct Test {
    const char* name;
    bool (*holds)(double x, double min_normal);
  };
  const Test tests[] = {
      {"finite", [](double x, double) { return std::isfinite(x); }},
      {"infinite", [](double x, double) { return std::isinf(x); }},
      {"number", [](double x, double) { return !std::isnan(x); }},
      {"notanumber", [](double x, double) { return std::isnan(x); }},
      {"normal", [](double x, double low) { return std::isfinite(x) && (x == 0 || std::fabs(x) >= low); }},
      {"subnormal", [](double x, double low) { return x != 0 && std::fabs(x) < low; }},
  };
  for (const Test& t : tests) {
    check(std::string("testp.") + t.name + ".f32", "pr",
          [&](const Bits& x) { return t.holds(f32(x[0]), 0x1p-126); });
    check(std::string("testp.") + t.name + ".f64", "pd",
          [&](const Bits& x) { return t.holds(f64(x[0]), 0x1p-1022); });
  }
}

TEST(PtxCompare, PredicateLogic) {
  check("and.pred", "ppp", [](const Bits& x) { return x[0] & x[1]; });
  check("or.pred", "ppp", [](const Bits& x) { return x[0] | x[1]; });
  check("xor.pred", "ppp", [](const Bits& x) { return x[0] ^ x[1]; });
  check("not.pred", "pp", [](const Bits& x) { return x[0] ^ 1; });
  check("mov.pred", "pp", [](const Bits& x) { return x[0]; });
  check_text("and.pred %p0, !%p1, %p2;", "ppp", [](const Bits& x) { return (x[0] ^ 1) & x[1]; });
  check_text("mov.pred %p0, !%p1;", "pp", [](const Bits& x) { return x[0] ^ 1; });
}

TEST(PtxCompare, Mov) {
  check("mov.u16", "hh", [](const Bits& x) { return x[0]; });
  check("mov.b32", "rr", [](const Bits& x) { return x[0]; });
  check("mov.f32", "rr", [](const Bits& x) { return x[0]; });
  check("mov.b64", "dd", [](const Bits& x) { return x[0]; });
  check_text("mov.f32 %r0, 0fBF000000;", "r", [](const Bits&) { return bits(-0.5f); });
  check_text("mov.f64 %d0, 0d3FF8000000000000;", "d", [](const Bits&) { return bits(1.5); });
  check_text("mov.u64 %d0, -2;", "d", [](const Bits&) { return ~1ull; });
}

TEST(PtxCompare, PackAndUnpack) {
  check_text("mov.b32 %r0, {%h1, %h2};", "rhh", [](const Bits& x) { return x[0] | x[1] << 16; });
  check_text("mov.b64 %d0, {%r1, %r2};", "drr", [](const Bits& x) { return x[0] | x[1] << 32; });
  check_text("mov.b64 %d0, {%h1, %h2, %h3, %h4};", "dhhhh",
             [](const Bits& x) { return x[0] | x[1] << 16 | x[2] << 32 | x[3] << 48; });
  check_text("mov.b32 {%h0, %h5}, %r1;", "hr", [](const Bits& x) { return x[0]; });
  check_text("mov.b32 {_, %h0}, %r1;", "hr", [](const Bits& x) { return x[0] >> 16; });
  check_text("mov.b64 {%r5, %r0}, %d1;", "rd", [](const Bits& x) { return x[0] >> 32; });
  check_text("mov.b64 {%h5, %h6, %h0, %h7}, %d1;", "hd", [](const Bits& x) { return x[0] >> 32; });
  check_text("mov.b64 {%h5, %h6, %h7, %h0}, %d1;", "hd", [](const Bits& x) { return x[0] >> 48; });
  check_text("cvt.u8.u32 %b0, %r1; cvt.u8.u32 %b1, %r2; mov.b16 %h0, {%b0, %b1};", "hrr",
             [](const Bits& x) { return (x[0] & 0xff) | (x[1] & 0xff) << 8; });
  check_text("mov.b32 {%b0, %b1, %b2, %b3}, %r1; mov.b32 %r0, {%b3, %b0, 7, %b1};", "rr", [](const Bits& x) {
    return (x[0] >> 24) | (x[0] & 0xff) << 8 | 7 << 16 | (x[0] >> 8 & 0xff) << 24;
  });
  check_text("mov.b16 {_, %b1}, %h1; cvt.s16.s8 %h0, %b1;", "hh",
             [](const Bits& x) { return static_cast<int8_t>(x[0] >> 8); });
  check_text("mov.b128 %q0, {%d1, %d2}; mov.b128 {%d0, _}, %q0;", "ddd", [](const Bits& x) { return x[0]; });
  check_text("mov.b128 %q0, {%d1, %d2}; mov.b128 %q1, %q0; mov.b128 {_, %d0}, %q1;", "ddd",
             [](const Bits& x) { return x[1]; });
  check_text("mov.b128 %q0, {%r1, %r2, %r3, %r4}; mov.b128 {%r5, %r6, %r0, %r7}, %q0;", "rrrrr",
             [](const Bits& x) { return x[2]; });
}

}  // namespace
}  // namespace ptxsim::testing
