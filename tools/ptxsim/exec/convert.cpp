// cvt of one value. Source: PTX ISA 9.0, section 9.7.9 (cvt). A conversion is a few steps over rows, each
// exact but for one: integers that do not fit f32 go to f16 and bf16 through an f64 and an f32 rounded to
// odd, so that the last step rounds what was there. NaN becomes 0x7fffffff and 0x7fff; in integers 0, or the
// sign bit alone where a 64-bit type takes part.
#include "exec/convert.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "exec/compare.h"
#include "numeric/float_formats.h"

namespace ptxsim {
namespace {

using namespace alu;  // NOLINT: the vocabulary of this file
using numeric::Overflow;
using numeric::Round;
using ptx::Type;

// --- types ---
bool is_integer(Type t) { return t >= Type::kU8 && t <= Type::kS64; }
bool is_signed(Type t) { return t >= Type::kS8 && t <= Type::kS64; }
bool is_half(Type t) { return t == Type::kF16 || t == Type::kBf16; }
int bits_of_type(Type t) { return 8 * ptx::size_of(t); }
// Bytes per lane of the row of a register; 8-bit values live in 16-bit rows.
int row_width(Type t) { return std::max(ptx::size_of(t), 2); }
// 0, 1, 2 for rows of 2, 4, 8 bytes per lane.
int width_index(int bytes) { return bytes == 2 ? 0 : bytes == 4 ? 1 : 2; }
Type integer_row(int bytes, bool with_sign) {
  constexpr Type kUnsigned[] = {Type::kU16, Type::kU32, Type::kU64},
                 kSigned[] = {Type::kS16, Type::kS32, Type::kS64};
  return (with_sign ? kSigned : kUnsigned)[width_index(bytes)];
}
// Place of an integer type that fills its row: u16 u32 u64 s16 s32 s64.
int integer_index(Type t) { return width_index(ptx::size_of(t)) + (is_signed(t) ? 3 : 0); }

template <int k>
using IntegerAt =
    std::tuple_element_t<k, std::tuple<uint16_t, uint32_t, uint64_t, int16_t, int32_t, int64_t>>;
using Six = std::make_index_sequence<6>;

// --- between integers ---
// Low bits of a word, extended: (x & mask ^ sign) - sign.
struct Extension {
  uint64_t mask = 0, sign = 0;
};
Extension extension_of(Type t) {
  const int bits = bits_of_type(t);
  const uint64_t top = uint64_t{1} << (bits - 1);
  return {top | (top - 1), is_signed(t) ? top : 0};
}
struct IntegerCast {
  Extension from, to;
  bool saturates = false, from_signed = false;
  int64_t low = 0;  // of the result, for .sat
  uint64_t high = 0;
};

template <class T>
constexpr T extend(T x, const Extension& e) {
  return static_cast<T>(((x & static_cast<T>(e.mask)) ^ static_cast<T>(e.sign)) - static_cast<T>(e.sign));
}

// Rows D and S, unsigned: registers may be wider than the types.
template <class D, class S>
void cast_integer(Warp& w, const Instr& i) {
  using T = std::conditional_t<(sizeof(D) > sizeof(S)), D, S>;
  using Word = std::conditional_t<sizeof(T) == 2, uint32_t, T>;
  const IntegerCast& e = *static_cast<const IntegerCast*>(i.ext);
  const Extension from = e.from, to = e.to;
  const S* a = row<S>(w, i.a);
  write_lanes<Pace::kVector>(active(w, i), row<D>(w, i.d), [=](int l) {
    return static_cast<D>(extend<Word>(extend<Word>(a[l], from), to));
  });
}
template <class D, class S>
void clamp_integer(Warp& w, const Instr& i) {
  const IntegerCast& e = *static_cast<const IntegerCast*>(i.ext);
  const S* a = row<S>(w, i.a);
  each_lane(active(w, i), row<D>(w, i.d), [&](int l) {
    const uint64_t x = extend<uint64_t>(a[l], e.from);
    const auto s = static_cast<int64_t>(x);
    if (e.from_signed && s < e.low) return static_cast<D>(e.low);
    const bool above = e.from_signed && s < 0 ? false : x > e.high;
    return static_cast<D>(above ? e.high : x);
  });
}
// [destination][source] by width_index.
constexpr Handler kCast[3][3] = {
    {&cast_integer<uint16_t, uint16_t>, &cast_integer<uint16_t, uint32_t>, &cast_integer<uint16_t, uint64_t>},
    {&cast_integer<uint32_t, uint16_t>, &cast_integer<uint32_t, uint32_t>, &cast_integer<uint32_t, uint64_t>},
    {&cast_integer<uint64_t, uint16_t>, &cast_integer<uint64_t, uint32_t>,
     &cast_integer<uint64_t, uint64_t>}};
constexpr Handler kClamp[3][3] = {{&clamp_integer<uint16_t, uint16_t>, &clamp_integer<uint16_t, uint32_t>,
                                   &clamp_integer<uint16_t, uint64_t>},
                                  {&clamp_integer<uint32_t, uint16_t>, &clamp_integer<uint32_t, uint32_t>,
                                   &clamp_integer<uint32_t, uint64_t>},
                                  {&clamp_integer<uint64_t, uint16_t>, &clamp_integer<uint64_t, uint32_t>,
                                   &clamp_integer<uint64_t, uint64_t>}};

// Types that fill their rows: [destination width][source].
constexpr auto kSame = [](auto a) { return a; };
template <class D>
constexpr auto plain_casts() {
  return []<size_t... k>(std::index_sequence<k...>) {
    return std::array<Handler, 6>{&elementwise<Pace::kVector, kSame, D, IntegerAt<k>>...};
  }
  (Six());
}
constexpr std::array<Handler, 6> kPlainCast[3] = {plain_casts<uint16_t>(), plain_casts<uint32_t>(),
                                                  plain_casts<uint64_t>()};

// --- integers to floats ---
// 64 bits as an f64 rounded to odd: what the lower 11 bits hold is kept as one bit above them.
constexpr auto kOddF64 = [](auto a) {
  if constexpr (sizeof(a) < 8) {
    return static_cast<double>(a);
  } else {
    const bool negative = a < 0;
    const uint64_t magnitude = negative ? 0 - static_cast<uint64_t>(a) : static_cast<uint64_t>(a);
    const uint64_t kept = magnitude >> 53 == 0
                              ? magnitude
                              : (magnitude & ~uint64_t{0x7ff}) | uint64_t{(magnitude & 0x7ff) != 0} << 11;
    const double r = static_cast<double>(kept);
    return negative ? -r : r;
  }
};
template <class D, auto kOp>
constexpr auto from_integers() {
  return []<size_t... k>(std::index_sequence<k...>) {
    return std::array<Handler, 6>{&elementwise<Pace::kVector, kOp, D, IntegerAt<k>>...};
  }
  (Six());
}
constexpr auto kToF32 = from_integers<float, [](auto a) { return static_cast<float>(a); }>();
constexpr auto kToF64 = from_integers<double, [](auto a) { return static_cast<double>(a); }>();
constexpr auto kToOddF64 = from_integers<double, kOddF64>();

// --- floats to integers ---
enum class Integral { kZero, kNearest, kDown, kUp };  // .rzi .rni .rmi .rpi
template <Integral kMode, class T>
T to_integral(T x) {
  switch (kMode) {
    case Integral::kZero:
      return std::trunc(x);
    case Integral::kNearest:
      return std::rint(x);
    case Integral::kDown:
      return std::floor(x);
    case Integral::kUp:
      return std::ceil(x);
  }
}

template <class L, class S, Integral kMode>
constexpr auto kToInteger = [](S x) {
  // Narrow integers are converted by way of i32.
  using Word = std::conditional_t<sizeof(L) < 4, int32_t, L>;
  using Limits = std::numeric_limits<L>;
  constexpr bool kFits = Limits::digits <= std::numeric_limits<S>::digits;  // the largest integer in S
  constexpr S kLow = static_cast<S>(Limits::min());
  constexpr S kHigh = kFits ? static_cast<S>(Limits::max())
                            : static_cast<S>(Limits::max()) * (1 - std::numeric_limits<S>::epsilon() / 2);
  constexpr bool kNanIsZero = sizeof(L) < 8 && sizeof(S) == 4;
  constexpr Word kOfNan =
      kNanIsZero ? Word{0} : static_cast<Word>(static_cast<L>(uint64_t{1} << (8 * sizeof(L) - 1)));
  const S r = kMode == Integral::kZero ? x : to_integral<kMode>(x);
  S inside = r < kLow ? kLow : r;
  inside = inside > kHigh ? kHigh : inside;
  inside = r == r ? inside : S{0};
  Word v = static_cast<Word>(inside);
  if constexpr (!kFits) v = r > kHigh ? static_cast<Word>(Limits::max()) : v;
  if constexpr (!kNanIsZero) v = r == r ? v : kOfNan;
  return v;
};
// [mode] of one type.
template <class L, class S>
constexpr auto to_integer() {
  using D = std::conditional_t<sizeof(L) == 1, std::conditional_t<std::is_signed_v<L>, int16_t, uint16_t>, L>;
  return std::array<Handler, 4>{&elementwise<Pace::kVector, kToInteger<L, S, Integral::kZero>, D, S>,
                                &elementwise<Pace::kVector, kToInteger<L, S, Integral::kNearest>, D, S>,
                                &elementwise<Pace::kVector, kToInteger<L, S, Integral::kDown>, D, S>,
                                &elementwise<Pace::kVector, kToInteger<L, S, Integral::kUp>, D, S>};
}
// [type - kU8][mode].
template <class S>
constexpr std::array<Handler, 4> kToIntegers[] = {
    to_integer<uint8_t, S>(), to_integer<uint16_t, S>(), to_integer<uint32_t, S>(), to_integer<uint64_t, S>(),
    to_integer<int8_t, S>(),  to_integer<int16_t, S>(),  to_integer<int32_t, S>(),  to_integer<int64_t, S>()};

// --- floats to floats ---
template <class T>
T canonical_of(T x) {
  if constexpr (sizeof(T) == 4)
    return x == x ? x : std::bit_cast<float>(numeric::kCanonicalNanF32);
  else
    return x;
}
template <Integral kMode, class T>
constexpr auto kIntegral = [](T x) { return canonical_of(to_integral<kMode>(x)); };
template <class T>
constexpr std::array<Handler, 4> kIntegrals = {
    &elementwise<Pace::kVector, kIntegral<Integral::kZero, T>, T, T>,
    &elementwise<Pace::kVector, kIntegral<Integral::kNearest, T>, T, T>,
    &elementwise<Pace::kVector, kIntegral<Integral::kDown, T>, T, T>,
    &elementwise<Pace::kVector, kIntegral<Integral::kUp, T>, T, T>};

constexpr auto kFlush = [](float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((bits & 0x7f800000) == 0 ? bits & 0x80000000 : bits);
};
constexpr auto kSaturate = [](auto x) {
  using T = decltype(x);
  x = x > 0 ? x : T(0);  // NaN too
  return x < 1 ? x : T(1);
};
constexpr auto kF64ToF32 = [](double x) { return canonical_of(static_cast<float>(x)); };
constexpr auto kF64ToOddF32 = [](double x) {
  return std::bit_cast<float>(numeric::round_to_odd(std::bit_cast<uint64_t>(x)));
};
template <auto kOp, class D, class S>
constexpr Handler kStep = &elementwise<Pace::kVector, kOp, D, S>;

template <class H>
void widen_row(Warp& w, const Instr& i) {
  const uint16_t* a = row<uint16_t>(w, i.a);
  float* d = row<float>(w, i.d);
  const uint32_t mask = active(w, i);
  alignas(64) float all[kWarpSize];
  float* to = mask == kAllLanes ? d : all;
  for (int l = 0; l < kWarpSize; l += kVector<float>) {
    const F32 v = H::widen(a + l);
    hn::StoreU(std::is_same_v<H, F16Vector> ? canonical(v) : v, kF32,
               to + l);  // bf16 keeps its payload: a shift
  }
  if (to != d) blend(mask, reinterpret_cast<uint32_t*>(d), reinterpret_cast<const uint32_t*>(all));
}

template <numeric::Format F, Round kRound, Overflow kOverflow>
constexpr Handler narrow_step() {
  constexpr auto kNarrow = [](uint32_t x) { return numeric::narrow<F, kRound, kOverflow>(x); };
  return &elementwise<Pace::kVector, kNarrow, uint16_t, uint32_t>;
}
// [saturating to finite][rounding].
template <class H>
constexpr Handler kNarrow[2][4] = {
    {&narrow_row<H>, narrow_step<H::kFormat, Round::kZero, Overflow::kInfinity>(),
     narrow_step<H::kFormat, Round::kDown, Overflow::kInfinity>(),
     narrow_step<H::kFormat, Round::kUp, Overflow::kInfinity>()},
    {narrow_step<H::kFormat, Round::kNearestEven, Overflow::kFinite>(),
     narrow_step<H::kFormat, Round::kZero, Overflow::kFinite>(),
     narrow_step<H::kFormat, Round::kDown, Overflow::kFinite>(),
     narrow_step<H::kFormat, Round::kUp, Overflow::kFinite>()}};

// --- decoding ---
// The steps of one conversion, from the source's row to the destination's.
class Steps {
 public:
  Steps(Decoder& d, const ptx::Instruction& in) : d_(d), in_(in) {}

  void add(Handler run, Type out, bool rounds = false) { list_.push_back({run, out, rounds, nullptr}); }
  void add_cast(Type to, int to_width, Type from, int from_width) {
    const bool plain = ptx::size_of(to) == to_width && ptx::size_of(from) == from_width;
    const int d = width_index(to_width), s = width_index(from_width);
    if (plain) return add(kPlainCast[d][integer_index(from)], integer_row(to_width, is_signed(to)));
    IntegerCast e{extension_of(from), extension_of(to)};
    list_.push_back({kCast[d][s], integer_row(to_width, is_signed(to)), false, d_.program().keep(e)});
  }
  void add_clamp(Type to, int to_width, Type from, int from_width) {
    const Extension range = extension_of(to);
    IntegerCast e{extension_of(from), range, true, is_signed(from)};
    e.low = is_signed(to) ? -static_cast<int64_t>(range.sign - 1) - 1 : 0;
    e.high = is_signed(to) ? range.mask >> 1 : range.mask;
    list_.push_back({kClamp[width_index(to_width)][width_index(from_width)],
                     integer_row(to_width, is_signed(to)), false, d_.program().keep(e)});
  }
  // The source is read as `type`.
  void emit(Type type) {
    uint32_t from = d_.row(in_.operands[1], type);
    for (size_t k = 0; k < list_.size(); ++k) {
      Instr i;
      i.run = list_[k].run;
      i.ext = list_[k].ext;
      i.a = from;
      i.d = k + 1 == list_.size() ? d_.row(in_.operands[0], list_[k].out) : d_.scratch(list_[k].out);
      if (list_[k].rounds) set_rounding(i, in_);
      d_.emit(i);
      from = i.d;
    }
  }

 private:
  struct Step {
    Handler run;
    Type out;
    bool rounds;
    const void* ext;
  };
  Decoder& d_;
  const ptx::Instruction& in_;
  std::vector<Step> list_;
};

// Width of the row of an operand; that of its type for immediates and sinks.
int operand_width(Decoder& d, const ptx::Operand& op, Type type) {
  const Type declared = d.register_type(op);
  return row_width(declared == Type::kNone ? type : declared);
}

void decode_between_integers(Decoder& d, const ptx::Instruction& in, Type to, Type from) {
  Steps steps(d, in);
  const int to_width = operand_width(d, in.operands[0], to),
            from_width = operand_width(d, in.operands[1], from);
  if (in.has("sat"))
    steps.add_clamp(to, to_width, from, from_width);
  else
    steps.add_cast(to, to_width, from, from_width);
  steps.emit(integer_row(from_width, false));
}

// Index of the rounding to an integer; -1 where there is none.
int find_integral(const ptx::Instruction& in) {
  return in.has("rzi") ? 0 : in.has("rni") ? 1 : in.has("rmi") ? 2 : in.has("rpi") ? 3 : -1;
}
// f32, f64 or half to half, at f32 or f64 so far.
void add_narrowing(Steps& steps, const ptx::Instruction& in, Type to, Type now) {
  if (now == Type::kF64) steps.add(kStep<kF64ToOddF32, float, double>, Type::kF32);
  if (in.has("sat")) steps.add(kStep<kSaturate, float, float>, Type::kF32);
  if (in.has("relu")) steps.add(kStep<kReluF32, float, float>, Type::kF32);
  const int mode = in.has("rz") ? 1 : in.has("rm") ? 2 : in.has("rp") ? 3 : 0;
  const auto& table = to == Type::kF16 ? kNarrow<F16Vector> : kNarrow<Bf16Vector>;
  steps.add(table[in.has("satfinite")][mode], to);
}

bool decode_with_floats(Decoder& d, const ptx::Instruction& in, Type to, Type from) {
  Steps steps(d, in);
  Type now = from, source = from;
  const bool ftz = in.has("ftz");
  if (is_integer(from)) {
    const int width = operand_width(d, in.operands[1], from);
    source = integer_row(width, false);
    if (width != ptx::size_of(from)) {  // in the low bits of a wider register
      now = integer_row(row_width(from), is_signed(from));
      steps.add_cast(now, row_width(now), from, width);
    }
    const int k = integer_index(now);
    const bool exact = ptx::size_of(now) == 2;  // in f32
    const bool to_half = is_half(to);
    if (to == Type::kF32 || (to_half && exact))
      steps.add(kToF32[k], now = Type::kF32, !to_half);
    else
      steps.add(to_half ? kToOddF64[k] : kToF64[k], now = Type::kF64, !to_half);
  } else if (is_half(from)) {
    steps.add(from == Type::kF16 ? &widen_row<F16Vector> : &widen_row<Bf16Vector>, now = Type::kF32);
  } else if (from == Type::kF32 && ftz) {
    steps.add(kStep<kFlush, float, float>, Type::kF32);
  }

  const int integral = find_integral(in);
  if (is_integer(to)) {
    const auto& table = now == Type::kF32 ? kToIntegers<float> : kToIntegers<double>;
    const Type whole = integer_row(row_width(to), is_signed(to));
    steps.add(table[static_cast<int>(to) - static_cast<int>(Type::kU8)][std::max(integral, 0)], whole);
    const int width = operand_width(d, in.operands[0], to);
    if (width != row_width(to))
      steps.add_cast(integer_row(width, is_signed(to)), width, whole, row_width(whole));
    steps.emit(source);
    return true;
  }
  if (integral >= 0) steps.add((now == Type::kF32 ? kIntegrals<float> : kIntegrals<double>)[integral], now);
  if (is_half(to)) {
    add_narrowing(steps, in, to, now);
  } else {
    if (to != now && to == Type::kF32) steps.add(kStep<kF64ToF32, float, double>, to, true);
    if (to != now && to == Type::kF64) steps.add(kStep<kSame, double, float>, to);
    if (to == from && integral < 0)
      steps.add(to == Type::kF32 ? kStep<kSame, float, float> : kStep<kSame, double, double>, to);
    if (ftz && to == Type::kF32) steps.add(kStep<kFlush, float, float>, to);
    if (in.has("sat"))
      steps.add(to == Type::kF32 ? kStep<kSaturate, float, float> : kStep<kSaturate, double, double>, to);
  }
  steps.emit(source);
  return true;
}

}  // namespace

bool decode_convert(Decoder& d, const ptx::Instruction& in) {
  if (in.mnemonic() != "cvt") return false;
  const Type to = type_from_end(in, 1), from = type_from_end(in, 0);
  const auto is_scalar = [](Type t) {
    return is_integer(t) || is_half(t) || t == Type::kF32 || t == Type::kF64;
  };
  if (!is_scalar(to) || !is_scalar(from) || in.operands.size() != 2 || in.has("pack"))
    return decode_packed_convert(d, in);
  if (is_integer(to) && is_integer(from))
    decode_between_integers(d, in, to, from);
  else
    decode_with_floats(d, in, to, from);
  return true;
}

}  // namespace ptxsim
