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
  if constexpr (std::is_signed_v<T>) {
    put("abs", vector_form<kAbs, T, T>());
    put("neg", vector_form<kNeg, T, T>());
  }
  if constexpr (sizeof(T) == 4) {
    put("mul24.lo", vector_form<kMul24Lo, T, T, T>());
    put("mul24.hi", vector_form<kMul24Hi, T, T, T>());
    put("mad24.lo", vector_form<kMad24Lo, T, T, T, T>());
    put("mad24.hi", vector_form<kMad24Hi, T, T, T, T>());
  }
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
    add_words(t);
    add_carries(t);
    return t;
  }();
  return forms;
}

}  // namespace

bool decode_integer(Decoder& d, const ptx::Instruction& in) {
  return emit_form(d, in, table()) || decode_bits(d, in);
}

}  // namespace ptxsim
