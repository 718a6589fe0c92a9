// Integer arithmetic, logic, shifts and bit fields. Source: PTX ISA 9.0, sections 9.7.1 (integer), 9.7.2
// (extended precision), 9.7.8 (logic and shift), 9.7.9 (prmt). Division by zero, which the ISA leaves open,
// gives all ones, as the code sequences of this architecture do.
#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "exec/alu.h"

namespace ptxsim {
namespace {

using namespace alu;  // NOLINT: the vocabulary of this file

using u128 = unsigned __int128;
using s128 = __int128;

template <class T>
struct WideOf;
template <>
struct WideOf<uint16_t> {
  using type = uint32_t;
};
template <>
struct WideOf<int16_t> {
  using type = int32_t;
};
template <>
struct WideOf<uint32_t> {
  using type = uint64_t;
};
template <>
struct WideOf<int32_t> {
  using type = int64_t;
};
template <>
struct WideOf<uint64_t> {
  using type = u128;
};
template <>
struct WideOf<int64_t> {
  using type = s128;
};
template <class T>
using Wide = typename WideOf<T>::type;
// Arithmetic that wraps is done in the unsigned type of at least 32 bits.
template <class T>
using Wrap = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <class T>
constexpr Wrap<T> wrap(T x) {
  return static_cast<Wrap<T>>(x);
}

constexpr int32_t saturate(int64_t x) {
  return static_cast<int32_t>(std::clamp<int64_t>(x, INT32_MIN, INT32_MAX));
}

template <class T>
constexpr T high(T a, T b) {
  return static_cast<T>((Wide<T>{a} * Wide<T>{b}) >> (8 * sizeof(T)));
}

template <class T>
constexpr T divide(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return static_cast<T>(-wrap(a));
  return static_cast<T>(a / b);
}
template <class T>
constexpr T remainder(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}

constexpr auto kAdd = [](auto a, auto b) { return wrap(a) + wrap(b); };
constexpr auto kSub = [](auto a, auto b) { return wrap(a) - wrap(b); };
constexpr auto kMul = [](auto a, auto b) { return wrap(a) * wrap(b); };
constexpr auto kMad = [](auto a, auto b, auto c) { return wrap(a) * wrap(b) + wrap(c); };
constexpr auto kMulHi = [](auto a, auto b) { return high(a, b); };
constexpr auto kMadHi = [](auto a, auto b, auto c) { return wrap(high(a, b)) + wrap(c); };
constexpr auto kMulWide = [](auto a, auto b) { return Wide<decltype(a)>{a} * Wide<decltype(b)>{b}; };
constexpr auto kMadWide = [](auto a, auto b, auto c) { return wrap(Wide<decltype(a)>{a} * b) + wrap(c); };
constexpr auto kDiv = [](auto a, auto b) { return divide(a, b); };
constexpr auto kRem = [](auto a, auto b) { return remainder(a, b); };
constexpr auto kMin = [](auto a, auto b) { return a < b ? a : b; };
constexpr auto kMax = [](auto a, auto b) { return a > b ? a : b; };
constexpr auto kMinRelu = [](auto a, auto b) { return std::max<decltype(a)>(kMin(a, b), 0); };
constexpr auto kMaxRelu = [](auto a, auto b) { return std::max<decltype(a)>(kMax(a, b), 0); };
constexpr auto kNeg = [](auto a) { return 0 - wrap(a); };
constexpr auto kAbs = [](auto a) { return a < 0 ? 0 - wrap(a) : wrap(a); };
constexpr auto kSad = [](auto a, auto b, auto c) {
  return wrap(c) + (a > b ? wrap(a) - wrap(b) : wrap(b) - wrap(a));
};

// The low 24 bits, with their sign.
template <class T>
constexpr Wide<T> low24(T x) {
  return static_cast<T>(static_cast<T>(static_cast<uint32_t>(x) << 8) >> 8);
}
constexpr auto kMul24Lo = [](auto a, auto b) { return low24(a) * low24(b); };
constexpr auto kMul24Hi = [](auto a, auto b) { return (low24(a) * low24(b)) >> 16; };
constexpr auto kMad24Lo = [](auto a, auto b, auto c) { return wrap(low24(a) * low24(b)) + wrap(c); };
constexpr auto kMad24Hi = [](auto a, auto b, auto c) { return wrap((low24(a) * low24(b)) >> 16) + wrap(c); };

// --- bits ---
constexpr auto kPopc = [](auto a) { return std::popcount(a); };
constexpr auto kClz = [](auto a) { return std::countl_zero(a); };
template <class T>
constexpr uint32_t top_bit(T a, bool shift_amount) {
  using U = std::make_unsigned_t<T>;
  const U magnitude = static_cast<U>(std::is_signed_v<T> && a < 0 ? ~a : a);
  const int zeros = std::countl_zero(magnitude);
  const int top = static_cast<int>(8 * sizeof(T)) - 1;
  return magnitude == 0 ? ~0u : static_cast<uint32_t>(shift_amount ? zeros : top - zeros);
}
constexpr auto kBfind = [](auto a) { return top_bit(a, false); };
constexpr auto kBfindShift = [](auto a) { return top_bit(a, true); };

template <class T>
constexpr T reverse_bits(T x) {
  constexpr T kOnes = static_cast<T>(~T{0});
  x = static_cast<T>((x & (kOnes / 3)) << 1 | ((x >> 1) & (kOnes / 3)));
  x = static_cast<T>((x & (kOnes / 5)) << 2 | ((x >> 2) & (kOnes / 5)));
  x = static_cast<T>((x & (kOnes / 17)) << 4 | ((x >> 4) & (kOnes / 17)));
  if constexpr (sizeof(T) == 4)
    return __builtin_bswap32(x);
  else
    return __builtin_bswap64(x);
}
constexpr auto kBrev = [](auto a) { return reverse_bits(a); };

// The n-th set bit from `base`, upwards for offset > 0.
constexpr auto kFns = [](uint32_t mask, uint32_t base, int32_t offset) {
  if (base > 31) return ~0u;
  if (offset == 0) return (mask >> base) & 1 ? base : ~0u;
  uint32_t count = offset > 0 ? static_cast<uint32_t>(offset) : 0u - static_cast<uint32_t>(offset);
  const int step = offset > 0 ? 1 : -1;
  for (int at = static_cast<int>(base); at >= 0 && at < 32; at += step)
    if ((mask >> at) & 1 && --count == 0) return static_cast<uint32_t>(at);
  return ~0u;
};

// `count` ones from bit 0; count up to the width.
template <class U>
constexpr U low_ones(uint32_t count) {
  return count >= 8 * sizeof(U) ? static_cast<U>(~U{0}) : static_cast<U>((U{1} << count) - 1);
}
template <class T>
constexpr T extract_field(T a, uint32_t b, uint32_t c) {
  using U = std::make_unsigned_t<T>;
  constexpr uint32_t kTop = 8 * sizeof(T) - 1;
  const uint32_t at = b & 0xff, length = c & 0xff;
  const uint32_t last = std::min(at + length - 1, kTop);
  const U bits = at > kTop ? U{0} : static_cast<U>(static_cast<U>(a) >> at);
  const bool sign = std::is_signed_v<T> && length != 0 && (static_cast<U>(a) >> last) & 1;
  // Bits of the field that exist; what lies above is the sign.
  const uint32_t have = at > kTop ? 0 : std::min(length, kTop + 1 - at);
  const U ones = low_ones<U>(have);
  return static_cast<T>((bits & ones) | (sign ? static_cast<U>(~ones) : U{0}));
}
constexpr auto kBfe = [](auto a, uint32_t b, uint32_t c) { return extract_field(a, b, c); };
constexpr auto kBfi = [](auto a, auto b, uint32_t c, uint32_t d) {
  using U = decltype(a);
  const uint32_t at = c & 0xff, length = d & 0xff;
  if (at >= 8 * sizeof(U)) return b;
  const U ones = static_cast<U>(low_ones<U>(length) << at);
  return static_cast<U>((b & ~ones) | ((a << at) & ones));
};
constexpr uint32_t bit_mask(uint32_t a, uint32_t b, bool clamp) {
  if (clamp && a >= 32) return 0;
  const uint32_t at = a & 31;
  const uint32_t end = clamp && b >= 32 ? 32 : at + (b & 31);
  return low_ones<uint32_t>(end) & ~low_ones<uint32_t>(at);
}
constexpr auto kBmskClamp = [](uint32_t a, uint32_t b) { return bit_mask(a, b, true); };
constexpr auto kBmskWrap = [](uint32_t a, uint32_t b) { return bit_mask(a, b, false); };
template <class T>
constexpr T extend(T a, uint32_t b, bool clamp) {
  if (clamp && b >= 32) return a;
  return extract_field<T>(a, 0, b & 31);
}
constexpr auto kSzextClamp = [](auto a, uint32_t b) { return extend(a, b, true); };
constexpr auto kSzextWrap = [](auto a, uint32_t b) { return extend(a, b, false); };

constexpr auto kAnd = [](auto a, auto b) { return a & b; };
constexpr auto kOr = [](auto a, auto b) { return a | b; };
constexpr auto kXor = [](auto a, auto b) { return a ^ b; };
constexpr auto kNot = [](auto a) { return ~a; };
constexpr auto kCnot = [](auto a) { return a == 0; };
constexpr auto kShl = [](auto a, uint32_t b) {
  constexpr uint32_t kBits = 8 * sizeof(a);
  return b >= kBits ? 0 : wrap(a) << (b & (kBits - 1));
};
constexpr auto kShr = [](auto a, uint32_t b) {
  constexpr uint32_t kBits = 8 * sizeof(a);
  const uint32_t by = b >= kBits ? kBits - 1 : b;
  if constexpr (std::is_signed_v<decltype(a)>)
    return a >> by;
  else
    return b >= kBits ? static_cast<decltype(a)>(0) : static_cast<decltype(a)>(a >> by);
};
constexpr uint64_t joined(uint32_t low, uint32_t high) { return uint64_t{high} << 32 | low; }
constexpr auto kShfLeftWrap = [](uint32_t a, uint32_t b, uint32_t c) {
  return (joined(a, b) << (c & 31)) >> 32;
};
constexpr auto kShfRightWrap = [](uint32_t a, uint32_t b, uint32_t c) { return joined(a, b) >> (c & 31); };
constexpr auto kShfLeftClamp = [](uint32_t a, uint32_t b, uint32_t c) {
  return (joined(a, b) << (c > 32 ? 32 : c)) >> 32;
};
constexpr auto kShfRightClamp = [](uint32_t a, uint32_t b, uint32_t c) {
  return joined(a, b) >> (c > 32 ? 32 : c);
};

// --- bytes and halves of a 32-bit word ---
constexpr uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = joined(a, b);
  uint32_t out = 0;
  for (int k = 0; k < 4; ++k) {
    const uint32_t pick = selector >> (4 * k);
    const uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (pick & 7))) & 0xff;
    const uint32_t sign = (0u - (byte >> 7)) & 0xff;  // 0xff where its top bit is set
    out |= ((pick & 8) ? sign : byte) << (8 * k);
  }
  return out;
}
constexpr auto kPrmt = [](uint32_t a, uint32_t b, uint32_t c) { return permute(a, b, c); };
// The selectors that a mode stands for, by the two low bits of c.
template <uint32_t s0, uint32_t s1, uint32_t s2, uint32_t s3>
inline constexpr auto kPrmtMode = [](uint32_t a, uint32_t b, uint32_t c) {
  const uint32_t low = c & 1 ? s1 : s0, high = c & 1 ? s3 : s2;
  return permute(a, b, c & 2 ? high : low);
};

// kOp on both halves, as T.
template <class T, auto kOp>
inline constexpr auto kPacked = [](uint32_t a, uint32_t b) {
  const uint32_t low = static_cast<uint16_t>(kOp(static_cast<T>(a), static_cast<T>(b)));
  const uint32_t high = static_cast<uint16_t>(kOp(static_cast<T>(a >> 16), static_cast<T>(b >> 16)));
  return low | high << 16;
};
template <class A, class B>
inline constexpr auto kDp4a = [](uint32_t a, uint32_t b, uint32_t c) {
  for (int k = 0; k < 4; ++k)
    c += static_cast<uint32_t>(static_cast<A>(a >> 8 * k) * static_cast<B>(b >> 8 * k));
  return c;
};
template <class A, class B, int kShift>
inline constexpr auto kDp2a = [](uint32_t a, uint32_t b, uint32_t c) {
  c += static_cast<uint32_t>(static_cast<A>(a) * static_cast<B>(b >> kShift));
  return c + static_cast<uint32_t>(static_cast<A>(a >> 16) * static_cast<B>(b >> (kShift + 8)));
};
template <class T, bool kSum>
inline constexpr auto kAbsDiff4 = [](uint32_t a, uint32_t b, uint32_t c) {
  uint32_t bytes = 0, sum = c;
  for (int k = 0; k < 4; ++k) {
    const int difference = int{static_cast<T>(a >> 8 * k)} - int{static_cast<T>(b >> 8 * k)};
    const uint32_t magnitude = static_cast<uint32_t>(difference < 0 ? -difference : difference);
    bytes |= (magnitude & 0xff) << (8 * k);
    sum += magnitude;
  }
  return kSum ? sum : bytes;
};

// --- add.cc and its kin: CC.CF is a carry for sums and a borrow for differences ---
template <class T, bool kIn, bool kOut, bool kSubtract, class F>
void with_carry(Warp& w, uint32_t mask, T* d, F operands) {
  const uint32_t in = kIn ? w.carry : 0;
  uint32_t out = 0;
  for (int l = 0; l < kWarpSize; ++l) {
    const auto [a, b] = operands(l);
    const Wide<T> c = (in >> l) & 1;
    const Wide<T> full = kSubtract ? Wide<T>{a} - b - c : Wide<T>{a} + b + c;
    out |= static_cast<uint32_t>((full >> (8 * sizeof(T))) & 1) << l;
    if ((mask >> l) & 1) d[l] = static_cast<T>(full);
  }
  if (kOut) write_predicate(w.carry, mask, out);
}
template <class T, bool kIn, bool kOut, bool kSubtract>
void carry_add(Warp& w, const Instr& i) {
  const T *a = row<T>(w, i.a), *b = row<T>(w, i.b);
  with_carry<T, kIn, kOut, kSubtract>(w, active(w, i), row<T>(w, i.d),
                                      [=](int l) { return std::pair(a[l], b[l]); });
}
// S: the type of the factors, whose sign matters for .hi.
template <class S, bool kHigh, bool kIn, bool kOut>
void carry_mad(Warp& w, const Instr& i) {
  using T = std::make_unsigned_t<S>;
  const S *a = row<S>(w, i.a), *b = row<S>(w, i.b);
  const T* c = row<T>(w, i.c);
  with_carry<T, kIn, kOut, false>(w, active(w, i), row<T>(w, i.d), [=](int l) {
    return std::pair(static_cast<T>(kHigh ? static_cast<T>(high(a[l], b[l])) : wrap(a[l]) * wrap(b[l])),
                     c[l]);
  });
}

// --- the table ---
template <auto kOp, class D, class... S>
constexpr Form vector_form() {
  return form<Pace::kVector, kOp, D, S...>();
}

void add_carries(FormTable& t) {
  const auto add = [&]<class T, class S>(T, S) {
    const std::string type = "." + std::string(type_name<S>());
    const auto two = [&](const char* op, Handler run) {
      t[op + type] = {run, 2, {type_of<T>(), type_of<T>(), type_of<T>()}};
    };
    two("add.cc", &carry_add<T, false, true, false>);
    two("addc", &carry_add<T, true, false, false>);
    two("addc.cc", &carry_add<T, true, true, false>);
    two("sub.cc", &carry_add<T, false, true, true>);
    two("subc", &carry_add<T, true, false, true>);
    two("subc.cc", &carry_add<T, true, true, true>);
    const auto three = [&](const char* op, Handler run) {
      t[op + type] = {run, 3, {type_of<T>(), type_of<T>(), type_of<T>(), type_of<T>()}};
    };
    three("mad.lo.cc", &carry_mad<S, false, false, true>);
    three("mad.hi.cc", &carry_mad<S, true, false, true>);
    three("madc.lo", &carry_mad<S, false, true, false>);
    three("madc.hi", &carry_mad<S, true, true, false>);
    three("madc.lo.cc", &carry_mad<S, false, true, true>);
    three("madc.hi.cc", &carry_mad<S, true, true, true>);
  };
  add(uint32_t{}, uint32_t{});
  add(uint32_t{}, int32_t{});
  add(uint64_t{}, uint64_t{});
  add(uint64_t{}, int64_t{});
}

// Of every integer type.
template <class T>
void add_typed(FormTable& t) {
  const auto put = [&](const char* op, Form f) { t[dotted(op, type_name<T>())] = f; };
  put("add", vector_form<kAdd, T, T, T>());
  put("sub", vector_form<kSub, T, T, T>());
  put("mul.lo", vector_form<kMul, T, T, T>());
  put("mul.hi", vector_form<kMulHi, T, T, T>());
  put("mad.lo", vector_form<kMad, T, T, T, T>());
  put("mad.hi", vector_form<kMadHi, T, T, T, T>());
  if constexpr (sizeof(T) < 8) {
    put("mul.wide", vector_form<kMulWide, Wide<T>, T, T>());
    put("mad.wide", vector_form<kMadWide, Wide<T>, T, T, Wide<T>>());
  }
  put("div", form<Pace::kScalar, kDiv, T, T, T>());
  put("rem", form<Pace::kScalar, kRem, T, T, T>());
  put("min", vector_form<kMin, T, T, T>());
  put("max", vector_form<kMax, T, T, T>());
  put("sad", vector_form<kSad, T, T, T, T>());
  put("shr", vector_form<kShr, T, T, uint32_t>());
  if constexpr (std::is_signed_v<T>) {
    put("abs", vector_form<kAbs, T, T>());
    put("neg", vector_form<kNeg, T, T>());
  }
  if constexpr (sizeof(T) > 2) {
    put("bfind", vector_form<kBfind, uint32_t, T>());
    put("bfind.shiftamt", vector_form<kBfindShift, uint32_t, T>());
    put("bfe", vector_form<kBfe, T, T, uint32_t, uint32_t>());
  }
  if constexpr (sizeof(T) == 4) {
    put("mul24.lo", vector_form<kMul24Lo, T, T, T>());
    put("mul24.hi", vector_form<kMul24Hi, T, T, T>());
    put("mad24.lo", vector_form<kMad24Lo, T, T, T, T>());
    put("mad24.hi", vector_form<kMad24Hi, T, T, T, T>());
    put("szext.clamp", vector_form<kSzextClamp, T, T, uint32_t>());
    put("szext.wrap", vector_form<kSzextWrap, T, T, uint32_t>());
  }
}

// Of .b16, .b32, .b64.
template <class T>
void add_bits(FormTable& t) {
  const std::string type = ".b" + std::to_string(8 * sizeof(T));
  t["and" + type] = vector_form<kAnd, T, T, T>();
  t["or" + type] = vector_form<kOr, T, T, T>();
  t["xor" + type] = vector_form<kXor, T, T, T>();
  t["not" + type] = vector_form<kNot, T, T>();
  t["cnot" + type] = vector_form<kCnot, T, T>();
  t["shl" + type] = vector_form<kShl, T, T, uint32_t>();
  t["shr" + type] = vector_form<kShr, T, T, uint32_t>();
  if constexpr (sizeof(T) > 2) {
    t["popc" + type] = vector_form<kPopc, uint32_t, T>();
    t["clz" + type] = vector_form<kClz, uint32_t, T>();
    t["brev" + type] = vector_form<kBrev, T, T>();
    t["bfi" + type] = vector_form<kBfi, T, T, T, uint32_t, uint32_t>();
  }
}

template <auto kOp>
constexpr Form words2() {
  return vector_form<kOp, uint32_t, uint32_t, uint32_t>();
}
template <auto kOp>
constexpr Form words3() {
  return vector_form<kOp, uint32_t, uint32_t, uint32_t, uint32_t>();
}

// a and b of .u32 or .s32: bytes and halves with or without a sign.
template <class A8, class A16, class B8>
void add_dot_products(FormTable& t) {
  const auto name = [](bool is_signed) { return is_signed ? ".s32" : ".u32"; };
  const std::string types = std::string(name(std::is_signed_v<A8>)) + name(std::is_signed_v<B8>);
  t["dp4a" + types] = words3<kDp4a<A8, B8>>();
  t["dp2a.lo" + types] = words3<kDp2a<A16, B8, 0>>();
  t["dp2a.hi" + types] = words3<kDp2a<A16, B8, 16>>();
}

void add_words(FormTable& t) {
  t["add.sat.s32"] =
      vector_form<[](int64_t a, int64_t b) { return saturate(a + b); }, int32_t, int32_t, int32_t>();
  t["sub.sat.s32"] =
      vector_form<[](int64_t a, int64_t b) { return saturate(a - b); }, int32_t, int32_t, int32_t>();
  t["mad.hi.sat.s32"] =
      vector_form<[](int32_t a, int32_t b, int32_t c) { return saturate(int64_t{high(a, b)} + c); }, int32_t,
                  int32_t, int32_t, int32_t>();
  t["mad24.hi.sat.s32"] =
      vector_form<[](int32_t a, int32_t b, int32_t c) { return saturate(((low24(a) * low24(b)) >> 16) + c); },
                  int32_t, int32_t, int32_t, int32_t>();
  t["min.relu.s32"] = vector_form<kMinRelu, int32_t, int32_t, int32_t>();
  t["max.relu.s32"] = vector_form<kMaxRelu, int32_t, int32_t, int32_t>();
  t["bmsk.clamp.b32"] = words2<kBmskClamp>();
  t["bmsk.wrap.b32"] = words2<kBmskWrap>();
  t["fns.b32"] = form<Pace::kScalar, kFns, uint32_t, uint32_t, uint32_t, int32_t>();
  t["shf.l.wrap.b32"] = words3<kShfLeftWrap>();
  t["shf.r.wrap.b32"] = words3<kShfRightWrap>();
  t["shf.l.clamp.b32"] = words3<kShfLeftClamp>();
  t["shf.r.clamp.b32"] = words3<kShfRightClamp>();

  t["prmt.b32"] = words3<kPrmt>();
  t["prmt.f4e.b32"] = words3<kPrmtMode<0x3210, 0x4321, 0x5432, 0x6543>>();
  t["prmt.b4e.b32"] = words3<kPrmtMode<0x5670, 0x6701, 0x7012, 0x0123>>();
  t["prmt.rc8.b32"] = words3<kPrmtMode<0x0000, 0x1111, 0x2222, 0x3333>>();
  t["prmt.ecl.b32"] = words3<kPrmtMode<0x3210, 0x3211, 0x3222, 0x3333>>();
  t["prmt.ecr.b32"] = words3<kPrmtMode<0x0000, 0x1110, 0x2210, 0x3210>>();
  t["prmt.rc16.b32"] = words3<kPrmtMode<0x1010, 0x3232, 0x1010, 0x3232>>();

  t["add.u16x2"] = t["add.s16x2"] = words2<kPacked<uint16_t, kAdd>>();
  t["min.u16x2"] = words2<kPacked<uint16_t, kMin>>();
  t["max.u16x2"] = words2<kPacked<uint16_t, kMax>>();
  t["min.s16x2"] = words2<kPacked<int16_t, kMin>>();
  t["max.s16x2"] = words2<kPacked<int16_t, kMax>>();
  t["min.relu.s16x2"] = words2<kPacked<int16_t, kMinRelu>>();
  t["max.relu.s16x2"] = words2<kPacked<int16_t, kMaxRelu>>();
  add_dot_products<uint8_t, uint16_t, uint8_t>(t);
  add_dot_products<uint8_t, uint16_t, int8_t>(t);
  add_dot_products<int8_t, int16_t, uint8_t>(t);
  add_dot_products<int8_t, int16_t, int8_t>(t);
  for (const char* sum : {"", ".add"}) {
    t["vabsdiff4" + std::string(sum) + ".u32.u32.u32"] =
        *sum ? words3<kAbsDiff4<uint8_t, true>>() : words3<kAbsDiff4<uint8_t, false>>();
    for (const char* result : {".u32", ".s32"})
      t["vabsdiff4" + std::string(sum) + result + ".s32.s32"] =
          *sum ? words3<kAbsDiff4<int8_t, true>>() : words3<kAbsDiff4<int8_t, false>>();
  }
}

const FormTable& table() {
  static const FormTable forms = [] {
    FormTable t;
    add_typed<uint16_t>(t);
    add_typed<int16_t>(t);
    add_typed<uint32_t>(t);
    add_typed<int32_t>(t);
    add_typed<uint64_t>(t);
    add_typed<int64_t>(t);
    add_bits<uint16_t>(t);
    add_bits<uint32_t>(t);
    add_bits<uint64_t>(t);
    add_words(t);
    add_carries(t);
    return t;
  }();
  return forms;
}

// --- lop3 ---
// The truth table as a polynomial over GF(2): f = k0 ^ k1 c ^ k2 b ^ k3 bc ^ k4 a ^ ..., one coefficient per
// subset, so that one straight loop serves all 256 functions.
struct Lop3 {
  std::array<uint32_t, 8> k;  // 0 or all ones
  bool with_predicate = false, is_and = false;
  uint32_t p = 0, q = 0, q_flip = 0;  // .BoolOp: p = (d != 0) BoolOp q
};

Lop3 lop3_of(uint32_t lut) {
  Lop3 f;
  for (uint32_t s = 0; s < 8; ++s) f.k[s] = (lut >> s) & 1 ? ~0u : 0u;
  for (uint32_t bit = 1; bit < 8; bit *= 2)  // Moebius transform
    for (uint32_t s = 0; s < 8; ++s)
      if (s & bit) f.k[s] ^= f.k[s ^ bit];
  return f;
}

void lop3(Warp& w, const Instr& i) {
  const Lop3& f = *static_cast<const Lop3*>(i.ext);
  const uint32_t *a = row<uint32_t>(w, i.a), *b = row<uint32_t>(w, i.b), *c = row<uint32_t>(w, i.c);
  uint32_t* d = row<uint32_t>(w, i.d);
  const auto k = f.k;
  const uint32_t mask = active(w, i);
  write_lanes<Pace::kVector>(mask, d, [=](int l) {
    const uint32_t ab = a[l] & b[l];
    return k[0] ^ (k[1] & c[l]) ^ (k[2] & b[l]) ^ (k[3] & b[l] & c[l]) ^ (k[4] & a[l]) ^
           (k[5] & a[l] & c[l]) ^ (k[6] & ab) ^ (k[7] & ab & c[l]);
  });
  if (!f.with_predicate) return;
  uint32_t nonzero = 0;
  for (int l = 0; l < kWarpSize; ++l) nonzero |= uint32_t{d[l] != 0} << l;
  const uint32_t q = predicate_row(w, f.q) ^ f.q_flip;
  write_predicate(predicate_row(w, f.p), mask, f.is_and ? nonzero & q : nonzero | q);
}

bool decode_lop3(Decoder& d, const ptx::Instruction& in) {
  const CanonicalName canonical(in);
  const std::string_view name = canonical.view();
  const bool is_and = name == "lop3.and.b32", is_or = name == "lop3.or.b32";
  const size_t operands = is_and || is_or ? 6 : 5;
  if ((!is_and && !is_or && name != "lop3.b32") || in.operands.size() != operands ||
      !d.is_integer(in.operands[4])) {
    d.unknown(in);
    return true;
  }
  Lop3 f = lop3_of(static_cast<uint32_t>(d.integer(in.operands[4])));
  const ptx::Operand* destination = &in.operands[0];
  if (is_and || is_or) {
    if (destination->kind != ptx::OperandKind::kPair) {
      d.unknown(in);
      return true;
    }
    uint32_t unused = 0;
    f.with_predicate = true;
    f.is_and = is_and;
    f.p = d.predicate(destination->elements[1], &unused);
    f.q = d.predicate(in.operands[5], &f.q_flip);
    destination = &destination->elements[0];
  }
  Instr i;
  i.run = &lop3;
  i.d = d.row(*destination, ptx::Type::kB32);
  i.a = d.row(in.operands[1], ptx::Type::kB32);
  i.b = d.row(in.operands[2], ptx::Type::kB32);
  i.c = d.row(in.operands[3], ptx::Type::kB32);
  i.ext = d.program().keep(f);
  d.emit(i);
  return true;
}

// --- prmt with a selector known now, without sign replication: two byte shuffles ---
void shuffle_bytes(Warp& w, const Instr& i) {
  // Per byte of a word: its place in the 16-byte block, or 0x80 where the other source provides it.
  constexpr hn::ScalableTag<uint8_t> kBytes{};
  constexpr auto kWords = kTag<uint32_t>;
  const uint32_t* a = row<uint32_t>(w, i.a);
  const uint32_t* b = row<uint32_t>(w, i.b);
  uint32_t* d = row<uint32_t>(w, i.d);
  const uint32_t mask = active(w, i);
  const auto places = hn::And(hn::Iota(kWords, 0), hn::Set(kWords, 3));  // word in its block
  const auto offset = hn::Mul(places, hn::Set(kWords, 0x04040404));
  const auto from_a = hn::BitCast(kBytes, hn::Or(hn::Set(kWords, static_cast<uint32_t>(i.imm)), offset));
  const auto from_b =
      hn::BitCast(kBytes, hn::Or(hn::Set(kWords, static_cast<uint32_t>(i.imm >> 32)), offset));
  for (int l = 0; l < kWarpSize; l += kVector<uint32_t>) {
    const auto va = hn::BitCast(kBytes, hn::LoadU(kWords, a + l));
    const auto vb = hn::BitCast(kBytes, hn::LoadU(kWords, b + l));
    const auto bytes = hn::Or(hn::TableLookupBytesOr0(va, from_a), hn::TableLookupBytesOr0(vb, from_b));
    const auto m = mask_from_bits<uint32_t>(mask, l);
    hn::StoreU(hn::IfThenElse(m, hn::BitCast(kWords, bytes), hn::LoadU(kWords, d + l)), kWords, d + l);
  }
}

bool decode_shuffle(Decoder& d, const ptx::Instruction& in) {
  if (in.parts.size() != 2 || in.operands.size() != 4 || !d.is_integer(in.operands[3])) return false;
  const uint32_t selector = static_cast<uint32_t>(d.integer(in.operands[3]));
  if (selector & 0x8888) return false;
  uint64_t from_a = 0, from_b = 0;
  for (int k = 0; k < 4; ++k) {
    const uint64_t pick = (selector >> (4 * k)) & 7;
    from_a |= (pick < 4 ? pick : 0x80) << (8 * k);
    from_b |= (pick >= 4 ? pick - 4 : 0x80) << (8 * k);
  }
  Instr i;
  i.run = &shuffle_bytes;
  i.d = d.row(in.operands[0], ptx::Type::kB32);
  i.a = d.row(in.operands[1], ptx::Type::kB32);
  i.b = d.row(in.operands[2], ptx::Type::kB32);
  i.imm = static_cast<int64_t>(from_a | from_b << 32);
  d.emit(i);
  return true;
}

}  // namespace

bool decode_integer(Decoder& d, const ptx::Instruction& in) {
  if (in.mnemonic() == "lop3") return decode_lop3(d, in);
  if (in.mnemonic() == "prmt" && decode_shuffle(d, in)) return true;
  return emit_form(d, in, table());
}

}  // namespace ptxsim
