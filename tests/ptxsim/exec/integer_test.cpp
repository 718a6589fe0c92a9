// Integer instructions against straightforward C++ of the ISA's definitions, bit by bit where it defines them
// so.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "alu_harness.h"

namespace ptxsim::testing {
namespace {

using i128 = __int128;
using u128 = unsigned __int128;

// An integer type of PTX: its width, sign and register letter.
struct Int {
  std::string name;
  int width;
  bool is_signed;
  char kind;
  std::string operator+(const std::string& s) const { return name + s; }
};
const Int kInts[] = {{"u16", 16, false, 'h'}, {"s16", 16, true, 'h'},  {"u32", 32, false, 'r'},
                     {"s32", 32, true, 'r'},  {"u64", 64, false, 'd'}, {"s64", 64, true, 'd'}};

i128 value(const Int& t, uint64_t bits) {
  if (t.width == 64) return t.is_signed ? i128{static_cast<int64_t>(bits)} : i128{bits};
  const int64_t v = static_cast<int64_t>(bits & ((uint64_t{1} << t.width) - 1));
  return t.is_signed && (v >> (t.width - 1)) ? v - (int64_t{1} << t.width) : v;
}
uint64_t low(i128 v) { return static_cast<uint64_t>(v); }
std::string kinds(char kind, int n) { return std::string(static_cast<size_t>(n), kind); }

TEST(PtxInteger, Arithmetic) {
  for (const Int& t : kInts) {
    const auto v = [t](uint64_t x) { return value(t, x); };
    const auto k = [t](int n) { return kinds(t.kind, n); };
    check("add." + t.name, k(3), [=](const Bits& x) { return low(v(x[0]) + v(x[1])); });
    check("sub." + t.name, k(3), [=](const Bits& x) { return low(v(x[0]) - v(x[1])); });
    check("mul.lo." + t.name, k(3), [=](const Bits& x) { return x[0] * x[1]; });
    check("mul.hi." + t.name, k(3), [=](const Bits& x) {
      return t.is_signed ? low((v(x[0]) * v(x[1])) >> t.width)
                         : static_cast<uint64_t>((u128(x[0]) * u128(x[1])) >> t.width);
    });
    check("mad.lo." + t.name, k(4), [=](const Bits& x) { return x[0] * x[1] + x[2]; });
    check("mad.hi." + t.name, k(4), [=](const Bits& x) {
      const i128 product = t.is_signed ? v(x[0]) * v(x[1]) : static_cast<i128>(u128(x[0]) * u128(x[1]));
      return static_cast<uint64_t>(static_cast<u128>(product) >> t.width) + x[2];
    });
    check("min." + t.name, k(3), [=](const Bits& x) { return low(std::min(v(x[0]), v(x[1]))); });
    check("max." + t.name, k(3), [=](const Bits& x) { return low(std::max(v(x[0]), v(x[1]))); });
    check("sad." + t.name, k(4), [=](const Bits& x) {
      const i128 difference = v(x[0]) - v(x[1]);
      return low((difference < 0 ? -difference : difference) + v(x[2]));
    });
    const auto nonzero = [](Bits& x) { x[1] += x[1] == 0; };
    check("div." + t.name, k(3), [=](const Bits& x) { return low(v(x[0]) / v(x[1])); }, {{}, nonzero});
    check("rem." + t.name, k(3), [=](const Bits& x) { return low(v(x[0]) % v(x[1])); }, {{}, nonzero});
    check_text("div." + t.name + " %" + t.kind + "0, %" + t.kind + "1, 0;", k(2),
               [](const Bits&) { return ~0ull; });
    if (t.is_signed) {
      check("abs." + t.name, k(2), [=](const Bits& x) { return low(v(x[0]) < 0 ? -v(x[0]) : v(x[0])); });
      check("neg." + t.name, k(2), [=](const Bits& x) { return low(-v(x[0])); });
    }
    if (t.width < 64) {
      const char wide = t.width == 16 ? 'r' : 'd';
      check("mul.wide." + t.name, wide + k(2), [=](const Bits& x) { return low(v(x[0]) * v(x[1])); });
      check("mad.wide." + t.name, wide + k(2) + wide,
            [=](const Bits& x) { return low(v(x[0]) * v(x[1])) + x[2]; });
    }
  }
}

TEST(PtxInteger, SaturationAndRelu) {
  const auto s = [](uint64_t x) { return int64_t{static_cast<int32_t>(x)}; };
  const auto sat = [](int64_t x) {
    return static_cast<uint64_t>(std::clamp<int64_t>(x, INT32_MIN, INT32_MAX));
  };
  check("add.sat.s32", "rrr", [=](const Bits& x) { return sat(s(x[0]) + s(x[1])); });
  check("sub.sat.s32", "rrr", [=](const Bits& x) { return sat(s(x[0]) - s(x[1])); });
  check("mad.hi.sat.s32", "rrrr", [=](const Bits& x) { return sat(((s(x[0]) * s(x[1])) >> 32) + s(x[2])); });
  check("max.s32.relu", "rrr", [=](const Bits& x) { return std::max({s(x[0]), s(x[1]), int64_t{0}}); });
  check("min.relu.s32", "rrr",
        [=](const Bits& x) { return std::max(std::min(s(x[0]), s(x[1])), int64_t{0}); });
}

TEST(PtxInteger, TwentyFourBits) {
  for (const Int& t : {kInts[2], kInts[3]}) {
    const auto v = [t](uint64_t x) {
      const int64_t low24 = static_cast<int64_t>(x & 0xffffff);
      return t.is_signed && low24 >> 23 ? low24 - (1 << 24) : low24;
    };
    check("mul24.lo." + t.name, "rrr", [=](const Bits& x) { return v(x[0]) * v(x[1]); });
    check("mul24.hi." + t.name, "rrr", [=](const Bits& x) { return (v(x[0]) * v(x[1])) >> 16; });
    check("mad24.lo." + t.name, "rrrr", [=](const Bits& x) { return v(x[0]) * v(x[1]) + x[2]; });
    check("mad24.hi." + t.name, "rrrr", [=](const Bits& x) { return ((v(x[0]) * v(x[1])) >> 16) + x[2]; });
  }
}

TEST(PtxInteger, Packed) {
  const auto both = [](const Bits& x, auto f) {
    return (f(static_cast<int16_t>(x[0]), static_cast<int16_t>(x[1])) & 0xffffu) |
           (f(static_cast<int16_t>(x[0] >> 16), static_cast<int16_t>(x[1] >> 16)) & 0xffffu) << 16;
  };
  check("add.u16x2", "rrr", [=](const Bits& x) { return both(x, [](int a, int b) { return a + b; }); });
  check("add.s16x2", "rrr", [=](const Bits& x) { return both(x, [](int a, int b) { return a + b; }); });
  check("min.s16x2", "rrr",
        [=](const Bits& x) { return both(x, [](int a, int b) { return std::min(a, b); }); });
  check("max.s16x2.relu", "rrr", [=](const Bits& x) {
    return both(x, [](int a, int b) { return std::max({a, b, 0}); });
  });
  check("max.u16x2", "rrr", [=](const Bits& x) {
    return both(x, [](int a, int b) { return std::max(a & 0xffff, b & 0xffff); });
  });
}

TEST(PtxInteger, CarryChains) {
  AluMachine m(
      "add.cc.u32 %r0, %r2, %r4; addc.u32 %r1, %r3, %r5; sub.cc.u32 %r6, %r2, %r4; subc.u32 %r7, %r3, %r5;"
      "add.cc.u64 %d0, %d1, %d2; addc.cc.u64 %d3, %d1, %d1; addc.u64 %d4, %d2, 0;");
  AluMachine product(
      "mul.lo.u32 %r4, %r0, %r2; mul.hi.u32 %r5, %r0, %r2; mad.lo.cc.u32 %r5, %r1, %r2, %r5;"
      "madc.hi.u32 %r6, %r1, %r2, 0; mad.lo.cc.u32 %r5, %r0, %r3, %r5; madc.hi.cc.u32 %r6, %r0, %r3, %r6;"
      "addc.u32 %r7, 0, 0; mad.lo.cc.u32 %r6, %r1, %r3, %r6; madc.hi.u32 %r7, %r1, %r3, %r7;");
  Provoking provoking;
  for (int round = 0; round < 50; ++round) {
    std::array<uint64_t, kWarpSize> a, b;
    for (int l = 0; l < kWarpSize; ++l) {
      a[l] = provoking.next(8);
      b[l] = provoking.next(8);
      for (AluMachine* machine : {&m, &product}) {
        const int at = machine == &m ? 2 : 0;
        machine->set(operand_name('r', at), l, a[l]);
        machine->set(operand_name('r', at + 1), l, a[l] >> 32);
        machine->set(operand_name('r', at + 2), l, b[l]);
        machine->set(operand_name('r', at + 3), l, b[l] >> 32);
      }
      m.set("%d1", l, a[l]);
      m.set("%d2", l, b[l]);
    }
    m.run(kAllLanes);
    product.run(kAllLanes);
    for (int l = 0; l < kWarpSize; ++l) {
      ASSERT_EQ(m.get("%r0", l) | m.get("%r1", l) << 32, a[l] + b[l]);
      ASSERT_EQ(m.get("%r6", l) | m.get("%r7", l) << 32, a[l] - b[l]);
      const u128 first = u128(a[l]) + b[l], second = u128(a[l]) + a[l] + static_cast<uint64_t>(first >> 64);
      ASSERT_EQ(m.get("%d3", l), static_cast<uint64_t>(second));
      ASSERT_EQ(m.get("%d4", l), b[l] + static_cast<uint64_t>(second >> 64));
      const u128 full = u128(a[l]) * b[l];
      ASSERT_EQ(product.get("%r4", l) | product.get("%r5", l) << 32, static_cast<uint64_t>(full));
      ASSERT_EQ(product.get("%r6", l) | product.get("%r7", l) << 32, static_cast<uint64_t>(full >> 64));
    }
  }
  m.warp().carry = 0x0000ff00;
  for (int l = 0; l < kWarpSize; ++l) m.set("%r2", l, ~0u), m.set("%r4", l, 1);
  AluMachine one("add.cc.u32 %r0, %r2, %r4;");
  for (int l = 0; l < kWarpSize; ++l) one.set("%r2", l, ~0u), one.set("%r4", l, l % 2);
  one.warp().carry = 0x0000ff00;
  one.run(0xffff0000);
  EXPECT_EQ(one.warp().carry, 0xaaaaff00u);  // other lanes keep their flag
}

TEST(PtxInteger, Bits) {
  for (const Int& t : {kInts[2], kInts[4]}) {
    const std::string b = ".b" + std::to_string(t.width);
    const int top = t.width - 1;
    check("popc" + b, std::string("r") + t.kind, [](const Bits& x) { return std::popcount(x[0]); });
    check("clz" + b, std::string("r") + t.kind,
          [=](const Bits& x) { return std::countl_zero(x[0]) - (63 - top); });
    check("brev" + b, kinds(t.kind, 2), [=](const Bits& x) {
      uint64_t r = 0;
      for (int k = 0; k <= top; ++k) r |= ((x[0] >> k) & 1) << (top - k);
      return r;
    });
    check("bfi" + b, kinds(t.kind, 3) + "rr", [=](const Bits& x) {
      uint64_t r = x[1];
      const int at = x[2] & 0xff, length = x[3] & 0xff;
      for (int k = 0; k < length && at + k <= top; ++k)
        r = (r & ~(uint64_t{1} << (at + k))) | ((x[0] >> k) & 1) << (at + k);
      return r;
    });
  }
  for (const Int& t : kInts) {
    if (t.width == 16) continue;
    const int top = t.width - 1;
    const auto find = [=](const Bits& x) {
      const uint64_t a = t.is_signed && value(t, x[0]) < 0 ? ~x[0] : x[0];
      for (int k = top; k >= 0; --k)
        if ((a >> k) & 1) return k;
      return -1;
    };
    check("bfind." + t.name, std::string("r") + t.kind, find);
    check("bfind.shiftamt." + t.name, std::string("r") + t.kind, [=](const Bits& x) {
      const int k = find(x);
      return k < 0 ? k : top - k;
    });
    check("bfe." + t.name, kinds(t.kind, 2) + "rr", [=](const Bits& x) {
      const int at = x[1] & 0xff, length = x[2] & 0xff;
      const bool sign = t.is_signed && length && (x[0] >> std::min(at + length - 1, top)) & 1;
      uint64_t r = 0;
      for (int k = 0; k <= top; ++k) {
        const bool bit = k < length && at + k <= top ? (x[0] >> (at + k)) & 1 : sign;
        r |= uint64_t{bit} << k;
      }
      return r;
    });
  }
}

TEST(PtxInteger, FieldsOfWords) {
  const auto fns = [](const Bits& x) -> uint64_t {
    const int32_t offset = static_cast<int32_t>(x[2]);
    int at = static_cast<int>(x[1]), count = std::abs(offset) - 1;
    if (offset == 0) return (x[0] >> at) & 1 ? x[1] : ~0ull;
    for (; at >= 0 && at<32; at += offset> 0 ? 1 : -1)
      if ((x[0] >> at) & 1 && count-- == 0) return static_cast<uint64_t>(at);
    return ~0ull;
  };
  const auto small = [](Bits& x) {
    x[1] &= 31;
    x[2] = static_cast<uint32_t>(static_cast<int32_t>(x[2] % 40) - 20);
  };
  check("fns.b32", "rrrr", fns, {{}, small});
  for (const bool clamp : {false, true}) {
    const std::string mode = clamp ? ".clamp" : ".wrap";
    check("bmsk" + mode + ".b32", "rrr", [=](const Bits& x) {
      const uint64_t at = clamp ? std::min<uint64_t>(x[0], 32) : x[0] & 31;
      const uint64_t width = clamp ? std::min<uint64_t>(x[1], 32) : x[1] & 31;
      return ((uint64_t{1} << width) - 1) << at;
    });
    for (const bool is_signed : {false, true})
      check("szext" + mode + (is_signed ? ".s32" : ".u32"), "rrr", [=](const Bits& x) {
        if (clamp && x[1] >= 32) return x[0];
        const int n = x[1] & 31;
        const uint64_t field = x[0] & ((uint64_t{1} << n) - 1);
        return is_signed && n && field >> (n - 1) ? field - (uint64_t{1} << n) : field;
      });
  }
}

TEST(PtxInteger, LogicAndShifts) {
  const Int words[] = {{"b16", 16, false, 'h'}, {"b32", 32, false, 'r'}, {"b64", 64, false, 'd'}};
  for (const Int& t : words) {
    const std::string k = kinds(t.kind, 3);
    check("and." + t.name, k, [](const Bits& x) { return x[0] & x[1]; });
    check("or." + t.name, k, [](const Bits& x) { return x[0] | x[1]; });
    check("xor." + t.name, k, [](const Bits& x) { return x[0] ^ x[1]; });
    check("not." + t.name, kinds(t.kind, 2), [](const Bits& x) { return ~x[0]; });
    check("cnot." + t.name, kinds(t.kind, 2), [](const Bits& x) { return x[0] == 0; });
    check("shl." + t.name, kinds(t.kind, 2) + "r",
          [=](const Bits& x) { return x[1] >= static_cast<uint64_t>(t.width) ? 0 : x[0] << x[1]; });
    check("shr." + t.name, kinds(t.kind, 2) + "r",
          [=](const Bits& x) { return x[1] >= static_cast<uint64_t>(t.width) ? 0 : x[0] >> x[1]; });
  }
  for (const Int& t : kInts)
    check("shr." + t.name, kinds(t.kind, 2) + "r",
          [=](const Bits& x) { return low(value(t, x[0]) >> std::min<uint64_t>(x[1], 64)); });
  for (const bool clamp : {false, true}) {
    const auto by = [=](uint64_t c) { return clamp ? std::min<uint64_t>(c, 32) : c & 31; };
    const std::string mode = clamp ? ".clamp.b32" : ".wrap.b32";
    check("shf.l" + mode, "rrrr",
          [=](const Bits& x) { return by(x[2]) ? x[1] << by(x[2]) | x[0] >> (32 - by(x[2])) : x[1]; });
    check("shf.r" + mode, "rrrr",
          [=](const Bits& x) { return by(x[2]) ? x[1] << (32 - by(x[2])) | x[0] >> by(x[2]) : x[0]; });
  }
}

uint64_t lookup(uint64_t lut, uint64_t a, uint64_t b, uint64_t c) {
  uint64_t r = 0;
  for (int k = 0; k < 32; ++k) {
    const int row = ((a >> k) & 1) * 4 + ((b >> k) & 1) * 2 + ((c >> k) & 1);
    r |= ((lut >> row) & 1) << k;
  }
  return r;
}

TEST(PtxInteger, Lop3) {
  for (int lut = 0; lut < 256; lut += lut == 0x96 ? 1 : 5)
    check_text("lop3.b32 %r0, %r1, %r2, %r3, " + std::to_string(lut) + ";", "rrrr",
               [=](const Bits& x) { return lookup(lut, x[0], x[1], x[2]); });
  check_text("lop3.and.b32 _|%p0, %r1, %r2, %r3, 0x80, !%p4;", "prrrp",
             [](const Bits& x) { return (x[0] & x[1] & x[2]) != 0 && !x[3]; });
  check_text("lop3.or.b32 %r0|%p0, %r1, %r2, %r3, 0x80, %p4;", "prrrp",
             [](const Bits& x) { return (x[0] & x[1] & x[2]) != 0 || x[3]; });
  check_text("lop3.or.b32 %r0|%p0, %r1, %r2, %r3, 0xfe, %p4;", "rrrrp",
             [](const Bits& x) { return x[0] | x[1] | x[2]; });
}

uint64_t pick_bytes(uint64_t a, uint64_t b, uint64_t selector) {
  uint64_t r = 0;
  for (int k = 0; k < 4; ++k) {
    const uint64_t pick = selector >> (4 * k) & 15;
    uint64_t byte = (b << 32 | a) >> (8 * (pick & 7)) & 0xff;
    if (pick & 8) byte = byte >> 7 ? 0xff : 0;
    r |= byte << (8 * k);
  }
  return r;
}

TEST(PtxInteger, Prmt) {
  check("prmt.b32", "rrrr", [](const Bits& x) { return pick_bytes(x[0], x[1], x[2]); });
  for (const char* selector :
       {"0x5410", "0x7632", "0x0123", "0x4444", "0x3715", "0x8888", "0xba98", "0x54f0"})
    check_text(std::string("prmt.b32 %r0, %r1, %r2, ") + selector + ";", "rrr",
               [=](const Bits& x) { return pick_bytes(x[0], x[1], std::strtoul(selector, nullptr, 16)); });
  struct Mode {
    const char* name;
    uint64_t selectors[4];
  };
  for (const Mode& mode :
       {Mode{"f4e", {0x3210, 0x4321, 0x5432, 0x6543}}, Mode{"b4e", {0x5670, 0x6701, 0x7012, 0x0123}},
        Mode{"rc8", {0x0000, 0x1111, 0x2222, 0x3333}}, Mode{"ecl", {0x3210, 0x3211, 0x3222, 0x3333}},
        Mode{"ecr", {0x0000, 0x1110, 0x2210, 0x3210}}, Mode{"rc16", {0x1010, 0x3232, 0x1010, 0x3232}}})
    check(std::string("prmt.b32.") + mode.name, "rrrr",
          [=](const Bits& x) { return pick_bytes(x[0], x[1], mode.selectors[x[2] & 3]); });
}

TEST(PtxInteger, DotProducts) {
  const auto byte = [](uint64_t x, int k, bool is_signed) {
    const int v = static_cast<int>(x >> (8 * k) & 0xff);
    return is_signed && v > 127 ? v - 256 : v;
  };
  const auto half = [](uint64_t x, int k, bool is_signed) {
    const int64_t v = static_cast<int64_t>(x >> (16 * k) & 0xffff);
    return is_signed && v > 32767 ? v - 65536 : v;
  };
  for (const bool a : {false, true})
    for (const bool b : {false, true}) {
      const std::string types = std::string(a ? ".s32" : ".u32") + (b ? ".s32" : ".u32");
      check("dp4a" + types, "rrrr", [=](const Bits& x) {
        int64_t sum = static_cast<int64_t>(x[2]);
        for (int k = 0; k < 4; ++k) sum += byte(x[0], k, a) * byte(x[1], k, b);
        return static_cast<uint64_t>(sum);
      });
      for (const int at : {0, 2})
        check((at ? "dp2a.hi" : "dp2a.lo") + types, "rrrr", [=](const Bits& x) {
          return static_cast<uint64_t>(static_cast<int64_t>(x[2]) + half(x[0], 0, a) * byte(x[1], at, b) +
                                       half(x[0], 1, a) * byte(x[1], at + 1, b));
        });
    }
  const auto difference = [=](const Bits& x, int k, bool s) {
    return std::abs(byte(x[0], k, s) - byte(x[1], k, s));
  };
  check("vabsdiff4.u32.u32.u32", "rrrr", [=](const Bits& x) {
    uint64_t r = 0;
    for (int k = 0; k < 4; ++k) r |= static_cast<uint64_t>(difference(x, k, false)) << (8 * k);
    return r;
  });
  for (const bool s : {false, true})
    check(s ? "vabsdiff4.s32.s32.s32.add" : "vabsdiff4.u32.u32.u32.add", "rrrr", [=](const Bits& x) {
      uint64_t r = x[2];
      for (int k = 0; k < 4; ++k) r += static_cast<uint64_t>(difference(x, k, s));
      return r;
    });
}

TEST(PtxInteger, ImmediatesAndTheSameRegisterTwice) {
  check_text("add.s32 %r0, %r1, -7;", "rr", [](const Bits& x) { return x[0] - 7; });
  check_text("mad.lo.s32 %r0, %r1, 24, %r1;", "rr", [](const Bits& x) { return x[0] * 25; });
  check_text("shf.l.wrap.b32 %r0, %r1, %r1, 13;", "rr",
             [](const Bits& x) { return x[0] << 13 | x[0] >> 19; });
  AluMachine m("add.u32 %r0, %r0, %r0; mul.wide.u32 %d0, %r0, 3;");
  for (int l = 0; l < kWarpSize; ++l) m.set("%r0", l, l);
  m.run(0x0000ffff);
  for (int l = 0; l < kWarpSize; ++l) EXPECT_EQ(m.get("%r0", l), static_cast<uint64_t>(l < 16 ? 2 * l : l));
  for (int l = 0; l < 16; ++l) EXPECT_EQ(m.get("%d0", l), static_cast<uint64_t>(6 * l));
}

}  // namespace
}  // namespace ptxsim::testing
