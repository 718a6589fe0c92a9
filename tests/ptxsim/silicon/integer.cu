// Integer instructions of 16, 32 and 64 bits against C++.
#include <algorithm>
#include <bit>

#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

u32 mul_hi(u32 a, u32 b) { return u32(u64(a) * b >> 32); }
u32 mul_hi_signed(u32 a, u32 b) { return u32(u64(s64(s32(a)) * s32(b)) >> 32); }
u64 mul_hi64(u64 a, u64 b) { return u64((unsigned __int128)a * b >> 64); }
u64 mul_hi64_signed(u64 a, u64 b) { return u64((__int128)s64(a) * s64(b) >> 64); }
u32 clamp32(s64 v) { return u32(std::clamp<s64>(v, INT32_MIN, INT32_MAX)); }
u32 reverse(u32 v) {
  u32 r = 0;
  for (int i = 0; i < 32; ++i) r |= (v >> i & 1) << (31 - i);
  return r;
}
u32 find_msb(u32 v) { return v ? 31 - std::countl_zero(v) : ~0u; }
u32 find_msb_signed(u32 v) { return find_msb(s32(v) < 0 ? ~v : v); }
template <typename U>
U extract(U a, u32 pos, u32 len, bool is_signed) {
  constexpr u32 kBits = sizeof(U) * 8;
  pos &= 255, len &= 255;
  U r = 0;
  const bool sign = is_signed && len != 0 && (a >> std::min(pos + len - 1, kBits - 1) & 1);
  for (u32 i = 0; i < kBits; ++i) {
    const bool bit = i < len && pos + i < kBits ? (a >> (pos + i) & 1) : sign;
    r |= U(bit) << i;
  }
  return r;
}
u32 insert(u32 a, u32 b, u32 pos, u32 len) {
  for (u32 i = 0; i < len && pos + i < 32; ++i) b = (b & ~(1u << (pos + i))) | (a >> i & 1) << (pos + i);
  return b;
}
u32 prmt(u32 a, u32 b, u32 sel) {
  const u64 both = u64(b) << 32 | a;
  u32 r = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 s = sel >> 4 * i;
    u32 byte = u32(both >> 8 * (s & 7)) & 255;
    if (s & 8) byte = byte & 128 ? 255 : 0;
    r |= byte << 8 * i;
  }
  return r;
}
u32 lop3(u32 a, u32 b, u32 c, u32 table) {
  u32 r = 0;
  for (int i = 0; i < 32; ++i)
    r |= (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i;
  return r;
}
u32 dp4a(u32 a, u32 b, u32 c, bool a_signed, bool b_signed) {
  for (int i = 0; i < 4; ++i) {
    const u32 x = a >> 8 * i & 255, y = b >> 8 * i & 255;
    c += u32((a_signed ? s32(int8_t(x)) : s32(x)) * (b_signed ? s32(int8_t(y)) : s32(y)));
  }
  return c;
}
u32 dp2a(u32 a, u32 b, u32 c, int half, bool is_signed) {
  for (int i = 0; i < 2; ++i) {
    const u32 x = a >> 16 * i & 65535, y = b >> 8 * (i + 2 * half) & 255;
    c += u32(is_signed ? s32(s16(x)) * s32(int8_t(y)) : s32(x) * s32(y));
  }
  return c;
}
u32 pairs(u32 a, u32 b, s32 (*f)(s32, s32), bool is_signed) {
  const auto half = [&](u32 v, int i) {
    return is_signed ? s32(s16(v >> 16 * i)) : s32(v >> 16 * i & 65535);
  };
  return u32(u16(f(half(a, 0), half(b, 0)))) | u32(u16(f(half(a, 1), half(b, 1)))) << 16;
}
u32 nth_set(u32 mask, u32 base, s32 offset) {
  base &= 31;
  if (offset == 0) return mask >> base & 1 ? base : ~0u;
  int left = std::abs(offset);
  for (int p = s32(base); p >= 0 && p<32; p += offset> 0 ? 1 : -1)
    if ((mask >> p & 1) && --left == 0) return u32(p);
  return ~0u;
}
u32 bytes_sad(u32 a, u32 b, u32 c) {
  for (int i = 0; i < 4; ++i) c += u32(std::abs(s32(a >> 8 * i & 255) - s32(b >> 8 * i & 255)));
  return c;
}

#define OPS32(X)                                                                                     \
  X("add.u32 %0, %1, %2;", a + b)                                                                    \
  X("add.sat.s32 %0, %1, %2;", clamp32(s64(s32(a)) + s32(b)))                                        \
  X("sub.s32 %0, %1, %2;", a - b)                                                                    \
  X("sub.sat.s32 %0, %1, %2;", clamp32(s64(s32(a)) - s32(b)))                                        \
  X("mul.lo.u32 %0, %1, %2;", a* b)                                                                  \
  X("mul.hi.u32 %0, %1, %2;", mul_hi(a, b))                                                          \
  X("mul.hi.s32 %0, %1, %2;", mul_hi_signed(a, b))                                                   \
  X("mad.lo.s32 %0, %1, %2, %3;", a* b + c)                                                          \
  X("mad.hi.u32 %0, %1, %2, %3;", mul_hi(a, b) + c)                                                  \
  X("mad.hi.s32 %0, %1, %2, %3;", mul_hi_signed(a, b) + c)                                           \
  X("mad.hi.sat.s32 %0, %1, %2, %3;", clamp32(s64(s32(mul_hi_signed(a, b))) + s32(c)))               \
  X("mul24.lo.u32 %0, %1, %2;", (a & 0xFFFFFF) * (b & 0xFFFFFF))                                     \
  X("mul24.lo.s32 %0, %1, %2;", u32((s32(a << 8) >> 8) * s64(s32(b << 8) >> 8)))                     \
  X("{.reg .u32 t; or.b32 t, %2, 1; div.u32 %0, %1, t;}", a / (b | 1))                               \
  X("{.reg .u32 t; or.b32 t, %2, 1; rem.u32 %0, %1, t;}", a % (b | 1))                               \
  X("{.reg .u32 t; or.b32 t, %2, 1; div.s32 %0, %1, t;}", u32(s64(s32(a)) / s32(b | 1)))             \
  X("{.reg .u32 t; or.b32 t, %2, 1; rem.s32 %0, %1, t;}", u32(s64(s32(a)) % s32(b | 1)))             \
  X("abs.s32 %0, %1;", s32(a) < 0 ? 0u - a : a)                                                      \
  X("neg.s32 %0, %1;", 0u - a)                                                                       \
  X("min.u32 %0, %1, %2;", std::min(a, b))                                                           \
  X("max.u32 %0, %1, %2;", std::max(a, b))                                                           \
  X("min.s32 %0, %1, %2;", u32(std::min(s32(a), s32(b))))                                            \
  X("max.s32 %0, %1, %2;", u32(std::max(s32(a), s32(b))))                                            \
  X("min.relu.s32 %0, %1, %2;", u32(std::max(0, std::min(s32(a), s32(b)))))                          \
  X("max.relu.s32 %0, %1, %2;", u32(std::max({0, s32(a), s32(b)})))                                  \
  X("sad.u32 %0, %1, %2, %3;", c + (a < b ? b - a : a - b))                                          \
  X("sad.s32 %0, %1, %2, %3;", c + (s32(a) < s32(b) ? b - a : a - b))                                \
  X("and.b32 %0, %1, %2;", a& b)                                                                     \
  X("or.b32 %0, %1, %2;", a | b)                                                                     \
  X("xor.b32 %0, %1, %2;", a ^ b)                                                                    \
  X("not.b32 %0, %1;", ~a)                                                                           \
  X("cnot.b32 %0, %1;", u32(a == 0))                                                                 \
  X("shl.b32 %0, %1, %2;", b > 31 ? 0 : a << b)                                                      \
  X("shr.u32 %0, %1, %2;", b > 31 ? 0 : a >> b)                                                      \
  X("shr.s32 %0, %1, %2;", u32(s32(a) >> std::min(b, 31u)))                                          \
  X("{.reg .u32 t; and.b32 t, %2, 31; shl.b32 %0, %1, t;}", a << (b & 31))                           \
  X("shf.l.wrap.b32 %0, %1, %2, %3;", u32((u64(b) << 32 | a) << (c & 31) >> 32))                     \
  X("shf.r.wrap.b32 %0, %1, %2, %3;", u32((u64(b) << 32 | a) >> (c & 31)))                           \
  X("shf.l.clamp.b32 %0, %1, %2, %3;", u32((u64(b) << 32 | a) << std::min(c, 32u) >> 32))            \
  X("shf.r.clamp.b32 %0, %1, %2, %3;", u32((u64(b) << 32 | a) >> std::min(c, 32u)))                  \
  X("lop3.b32 %0, %1, %2, %3, 0xE8;", (a & b) | (a & c) | (b & c))                                   \
  X("lop3.b32 %0, %1, %2, %3, 0xCA;", (a & b) | (~a & c))                                            \
  X("lop3.b32 %0, %1, %2, %3, 0x96;", a ^ b ^ c)                                                     \
  X("lop3.b32 %0, %1, %2, %3, 0x1D;", lop3(a, b, c, 0x1D))                                           \
  X("prmt.b32 %0, %1, %2, %3;", prmt(a, b, c))                                                       \
  X("prmt.b32 %0, %1, %2, 0x5410;", a & 0xFFFF | b << 16)                                            \
  X("prmt.b32.f4e %0, %1, %2, %3;", u32((u64(b) << 32 | a) >> 8 * (c & 3)))                          \
  X("prmt.b32.rc8 %0, %1, %2, %3;", (a >> 8 * (c & 3) & 255) * 0x01010101u)                          \
  X("prmt.b32.rc16 %0, %1, %2, %3;", (a >> 16 * (c & 1) & 65535) * 0x00010001u)                      \
  X("bfe.u32 %0, %1, %2, %3;", extract<u32>(a, b, c, false))                                         \
  X("bfe.s32 %0, %1, %2, %3;", extract<u32>(a, b, c, true))                                          \
  X("bfi.b32 %0, %1, %2, 5, 11;", insert(a, b, 5, 11))                                               \
  X("{.reg .u32 p, l; and.b32 p, %3, 63; shr.u32 l, %3, 26; bfi.b32 %0, %1, %2, p, l;}",             \
    insert(a, b, c & 63, c >> 26))                                                                   \
  X("bmsk.clamp.b32 %0, %1, %2;", insert(~0u, 0, std::min(a, 32u), std::min(b, 32u)))                \
  X("bmsk.wrap.b32 %0, %1, %2;", insert(~0u, 0, a & 31, b & 31))                                     \
  X("szext.clamp.u32 %0, %1, %2;", b > 31 ? a : a & ((1u << b) - 1))                                 \
  X("szext.wrap.s32 %0, %1, %2;", extract<u32>(a, 0, b & 31, true))                                  \
  X("popc.b32 %0, %1;", u32(std::popcount(a)))                                                       \
  X("clz.b32 %0, %1;", u32(std::countl_zero(a)))                                                     \
  X("brev.b32 %0, %1;", reverse(a))                                                                  \
  X("bfind.u32 %0, %1;", find_msb(a))                                                                \
  X("bfind.s32 %0, %1;", find_msb_signed(a))                                                         \
  X("bfind.shiftamt.u32 %0, %1;", find_msb(a) == ~0u ? ~0u : 31 - find_msb(a))                       \
  X("{.reg .u32 p; .reg .s32 o; and.b32 p, %2, 31; bfe.s32 o, %3, 0, 4; fns.b32 %0, %1, p, o;}",     \
    nth_set(a, b, s32(extract<u32>(c, 0, 4, true))))                                                 \
  X("dp4a.u32.u32 %0, %1, %2, %3;", dp4a(a, b, c, false, false))                                     \
  X("dp4a.s32.s32 %0, %1, %2, %3;", dp4a(a, b, c, true, true))                                       \
  X("dp4a.s32.u32 %0, %1, %2, %3;", dp4a(a, b, c, true, false))                                      \
  X("dp2a.lo.u32.u32 %0, %1, %2, %3;", dp2a(a, b, c, 0, false))                                      \
  X("dp2a.hi.s32.s32 %0, %1, %2, %3;", dp2a(a, b, c, 1, true))                                       \
  X("min.u16x2 %0, %1, %2;", pairs(                                                                  \
                                 a, b, [](s32 x, s32 y) { return std::min(x, y); }, false))          \
  X("max.s16x2 %0, %1, %2;", pairs(                                                                  \
                                 a, b, [](s32 x, s32 y) { return std::max(x, y); }, true))           \
  X("add.u16x2 %0, %1, %2;", pairs(                                                                  \
                                 a, b, [](s32 x, s32 y) { return x + y; }, false))                   \
  X("vabsdiff4.u32.u32.u32.add %0, %1, %2, %3;", bytes_sad(a, b, c))                                 \
  X("{.reg .u32 t; add.cc.u32 t, %1, %2; addc.u32 %0, %3, 0;}", c + u32(u64(a) + b >> 32))           \
  X("{.reg .u32 t; add.cc.u32 t, %1, %2; addc.cc.u32 t, t, %3; addc.u32 %0, 0, 0;}",                 \
    u32(u64(a + b) + c + (u64(a) + b >> 32) >> 32))                                                  \
  X("{.reg .u32 t; sub.cc.u32 t, %1, %2; subc.u32 %0, %3, 0;}", c - u32(a < b))                      \
  X("{.reg .u32 t; mad.lo.cc.u32 t, %1, %2, %3; madc.hi.u32 %0, %1, %2, 7;}",                        \
    mul_hi(a, b) + 7 + u32(u64(u32(a * b)) + c >> 32))                                               \
  X("{.reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {h, l};}", a >> 16 | a << 16)                  \
  X("{.reg .pred p, q; setp.lt.s32 p|q, %1, %2; selp.u32 %0, %3, 9, q;}", s32(a) < s32(b) ? 9 : c)   \
  X("{.reg .pred p; setp.hs.u32 p, %1, %2; selp.u32 %0, %3, 9, p;}", a >= b ? c : 9)                 \
  X("{.reg .pred p, q; setp.ne.u32 q, %3, 0; setp.gt.and.s32 p, %1, %2, !q; selp.u32 %0, 1, 0, p;}", \
    u32(s32(a) > s32(b) && c == 0))                                                                  \
  X("set.le.u32.s32 %0, %1, %2;", s32(a) <= s32(b) ? ~0u : 0)                                        \
  X("slct.u32.s32 %0, %1, %2, %3;", s32(c) >= 0 ? a : b)                                             \
  X("cvt.s32.s8 %0, %1;", u32(s32(int8_t(a))))                                                       \
  X("cvt.u32.u16 %0, %1;", u32(u16(a)))                                                              \
  X("{.reg .b16 t; cvt.sat.s8.s32 t, %1; cvt.s32.s16 %0, t;}", u32(std::clamp(s32(a), -128, 127)))   \
  X("{.reg .b16 t; cvt.sat.u16.s32 t, %1; cvt.u32.u16 %0, t;}", u32(std::clamp(s32(a), 0, 65535)))   \
  X("cvt.sat.u32.s32 %0, %1;", u32(std::max(s32(a), 0)))                                             \
  X("cvt.pack.sat.u16.s32 %0, %1, %2;",                                                              \
    u32(std::clamp(s32(b), 0, 65535)) | u32(std::clamp(s32(a), 0, 65535)) << 16)                     \
  X("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;",                                                       \
    (u32(std::clamp(s32(b), -128, 127)) & 255) | (u32(std::clamp(s32(a), -128, 127)) & 255) << 8 | c << 16)

#define OPS64(X)                                                                                         \
  X("add.u64 %0, %1, %2;", a + b)                                                                        \
  X("sub.s64 %0, %1, %2;", a - b)                                                                        \
  X("mul.lo.u64 %0, %1, %2;", a* b)                                                                      \
  X("mul.hi.u64 %0, %1, %2;", mul_hi64(a, b))                                                            \
  X("mul.hi.s64 %0, %1, %2;", mul_hi64_signed(a, b))                                                     \
  X("mad.lo.s64 %0, %1, %2, %3;", a* b + c)                                                              \
  X("mad.hi.u64 %0, %1, %2, %3;", mul_hi64(a, b) + c)                                                    \
  X("{.reg .u64 t; or.b64 t, %2, 1; div.u64 %0, %1, t;}", a / (b | 1))                                   \
  X("{.reg .u64 t; or.b64 t, %2, 1; rem.u64 %0, %1, t;}", a % (b | 1))                                   \
  X("{.reg .u64 t; or.b64 t, %2, 1; div.s64 %0, %1, t;}", u64((__int128)s64(a) / s64(b | 1)))            \
  X("{.reg .u64 t; or.b64 t, %2, 1; rem.s64 %0, %1, t;}", u64((__int128)s64(a) % s64(b | 1)))            \
  X("abs.s64 %0, %1;", s64(a) < 0 ? 0 - a : a)                                                           \
  X("neg.s64 %0, %1;", 0 - a)                                                                            \
  X("min.u64 %0, %1, %2;", std::min(a, b))                                                               \
  X("max.s64 %0, %1, %2;", u64(std::max(s64(a), s64(b))))                                                \
  X("and.b64 %0, %1, %2;", a& b)                                                                         \
  X("xor.b64 %0, %1, %2;", a ^ b)                                                                        \
  X("not.b64 %0, %1;", ~a)                                                                               \
  X("{.reg .u32 t; cvt.u32.u64 t, %2; shl.b64 %0, %1, t;}", u32(b) > 63 ? 0 : a << u32(b))               \
  X("{.reg .u32 t; cvt.u32.u64 t, %2; shr.u64 %0, %1, t;}", u32(b) > 63 ? 0 : a >> u32(b))               \
  X("{.reg .u32 t; cvt.u32.u64 t, %2; and.b32 t, t, 127; shr.s64 %0, %1, t;}",                           \
    u64(s64(a) >> std::min<u64>(b & 127, 63)))                                                           \
  X("{.reg .u32 t; popc.b64 t, %1; cvt.u64.u32 %0, t;}", u64(std::popcount(a)))                          \
  X("{.reg .u32 t; clz.b64 t, %1; cvt.u64.u32 %0, t;}", u64(std::countl_zero(a)))                        \
  X("{.reg .u32 t; bfind.s64 t, %1; cvt.s64.s32 %0, t;}",                                                \
    (s64(a) < 0 ? ~a : a) ? u64(63 - std::countl_zero(s64(a) < 0 ? ~a : a)) : ~0ull)                     \
  X("brev.b64 %0, %1;", u64(reverse(u32(a))) << 32 | reverse(u32(a >> 32)))                              \
  X("{.reg .u32 t; cvt.u32.u64 t, %2; bfe.u64 %0, %1, t, 13;}", extract<u64>(a, u32(b), 13, false))      \
  X("bfe.s64 %0, %1, 9, 40;", extract<u64>(a, 9, 40, true))                                              \
  X("bfi.b64 %0, %1, %2, 20, 30;", (b & ~(((1ull << 30) - 1) << 20)) | (a & ((1ull << 30) - 1)) << 20)   \
  X("{.reg .u32 l, h, m; mov.b64 {l, h}, %1; cvt.u32.u64 m, %2; mad.wide.u32 %0, l, m, %3;}",            \
    u64(u32(a)) * u32(b) + c)                                                                            \
  X("{.reg .u32 l, h, m; mov.b64 {l, h}, %1; cvt.u32.u64 m, %2; mul.wide.s32 %0, h, m;}",                \
    u64(s64(s32(a >> 32)) * s32(b)))                                                                     \
  X("{.reg .u32 l, h; mov.b64 {l, h}, %1; mov.b64 %0, {h, l};}", a >> 32 | a << 32)                      \
  X("{.reg .u64 t; add.cc.u64 t, %1, %2; addc.u64 %0, %3, 0;}", c + u64((unsigned __int128)a + b >> 64)) \
  X("{.reg .pred p; setp.lo.u64 p, %1, %2; selp.b64 %0, %3, %1, p;}", a < b ? c : a)                     \
  X("cvt.s64.s32 %0, %4;", u64(s64(s32(a))))                                                             \
  X("cvt.u64.u32 %0, %4;", u64(u32(a)))                                                                  \
  X("{.reg .u32 t; cvt.sat.s32.s64 t, %1; cvt.u64.u32 %0, t;}",                                          \
    u64(u32(std::clamp<s64>(s64(a), INT32_MIN, INT32_MAX))))                                             \
  X("cvt.sat.u64.s64 %0, %1;", u64(std::max<s64>(s64(a), 0)))

#define OPS16(X)                                                                                        \
  X("add.u16 %0, %1, %2;", u16(a + b))                                                                  \
  X("sub.s16 %0, %1, %2;", u16(a - b))                                                                  \
  X("mul.lo.u16 %0, %1, %2;", u16(u32(a) * b))                                                          \
  X("mul.hi.u16 %0, %1, %2;", u16(u32(a) * b >> 16))                                                    \
  X("mul.hi.s16 %0, %1, %2;", u16(s32(s16(a)) * s16(b) >> 16))                                          \
  X("mad.lo.s16 %0, %1, %2, %3;", u16(u32(a) * b + c))                                                  \
  X("min.s16 %0, %1, %2;", u16(std::min(s16(a), s16(b))))                                               \
  X("max.u16 %0, %1, %2;", std::max(a, b))                                                              \
  X("abs.s16 %0, %1;", u16(s16(a) < 0 ? -s16(a) : a))                                                   \
  X("neg.s16 %0, %1;", u16(0 - a))                                                                      \
  X("and.b16 %0, %1, %2;", u16(a& b))                                                                   \
  X("or.b16 %0, %1, %2;", u16(a | b))                                                                   \
  X("xor.b16 %0, %1, %2;", u16(a ^ b))                                                                  \
  X("not.b16 %0, %1;", u16(~a))                                                                         \
  X("{.reg .u32 t; cvt.u32.u16 t, %2; shl.b16 %0, %1, t;}", u16(b > 15 ? 0 : a << b))                   \
  X("{.reg .u32 t; cvt.u32.u16 t, %2; shr.u16 %0, %1, t;}", u16(b > 15 ? 0 : a >> b))                   \
  X("{.reg .u32 t; cvt.u32.u16 t, %2; shr.s16 %0, %1, t;}", u16(s16(a) >> std::min<int>(b, 15)))        \
  X("{.reg .u16 t; or.b16 t, %2, 1; div.u16 %0, %1, t;}", u16(a / (b | 1)))                             \
  X("{.reg .u16 t; or.b16 t, %2, 1; rem.s16 %0, %1, t;}", u16(s16(a) % s16(b | 1)))                     \
  X("{.reg .u32 t; mul.wide.u16 t, %1, %2; shr.u32 t, t, 5; cvt.u16.u32 %0, t;}", u16(u32(a) * b >> 5)) \
  X("{.reg .s32 t; mul.wide.s16 t, %1, %2; shr.s32 t, t, 5; cvt.u16.u32 %0, t;}",                       \
    u16(s32(s16(a)) * s16(b) >> 5))                                                                     \
  X("{.reg .pred p; setp.ge.s16 p, %1, %2; selp.b16 %0, %3, %1, p;}", s16(a) >= s16(b) ? c : a)

#define HOST(ptx, ...) \
  {ptx, [](Word a, Word b, Word c) -> Word { return (void)a, (void)b, (void)c, Word(__VA_ARGS__); }},
#define DEVICE32(ptx, ...)                     \
  asm(ptx : "=r"(d) : "r"(a), "r"(b), "r"(c)); \
  out[k++ * n + i] = d;
#define DEVICE64(ptx, ...)                                  \
  asm(ptx : "=l"(d) : "l"(a), "l"(b), "l"(c), "r"(u32(a))); \
  out[k++ * n + i] = d;
#define DEVICE16(ptx, ...)                     \
  asm(ptx : "=h"(d) : "h"(a), "h"(b), "h"(c)); \
  out[k++ * n + i] = d;

namespace w32 {
using Word = u32;
const Op<Word, Word> kOps[] = {OPS32(HOST)};
}  // namespace w32
namespace w64 {
using Word = u64;
const Op<Word, Word> kOps[] = {OPS64(HOST)};
}  // namespace w64
namespace w16 {
using Word = u16;
const Op<Word, Word> kOps[] = {OPS16(HOST)};
}  // namespace w16

__global__ void run32(const u32* x, int n, u32* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const u32 a = x[i], b = x[n + i], c = x[2 * n + i];
  u32 d;
  int k = 0;
  OPS32(DEVICE32)
}
__global__ void run64(const u64* x, int n, u64* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const u64 a = x[i], b = x[n + i], c = x[2 * n + i];
  u64 d;
  int k = 0;
  OPS64(DEVICE64)
}
__global__ void run16(const u16* x, int n, u16* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const u16 a = x[i], b = x[n + i], c = x[2 * n + i];
  u16 d;
  int k = 0;
  OPS16(DEVICE16)
}

// n triples: random widths, and every pair of the values around which integers wrap.
template <typename U, size_t N>
void run(void (*kernel)(const U*, int, U*), const Op<U, U> (&ops)[N]) {
  constexpr int kBits = sizeof(U) * 8, n = 1000;
  const U edge[] = {0, 1, U(-1), U(1) << (kBits - 1), U(U(1) << (kBits - 1)) - 1, kBits - 1, kBits, 5};
  Random random(kBits);
  std::vector<U> x(3 * n);
  for (int i = 0; i < 3 * n; ++i) x[i] = U(random.wide(kBits));
  for (int i = 0; i < 64; ++i) x[i] = edge[i / 8], x[n + i] = edge[i % 8];
  Array<U> in(x), out(N * n);
  launch({.grid = 4, .block = 256}, kernel, in.get(), n, out.get());
  expect_table(ops, std::vector<U>(x.begin(), x.begin() + n),
               std::vector<U>(x.begin() + n, x.begin() + 2 * n), std::vector<U>(x.begin() + 2 * n, x.end()),
               out.host());
}

TEST(Integer, Of32Bits) { run(run32, w32::kOps); }
TEST(Integer, Of64Bits) { run(run64, w64::kOps); }
TEST(Integer, Of16Bits) { run(run16, w16::kOps); }

}  // namespace
}  // namespace silicon
