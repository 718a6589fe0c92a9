// f32 and f64 arithmetic. Source: PTX ISA 9.0, section 9.7.3.
// .rn results are those of the host; .rz, .rm and .rp run the same loop under the host's rounding mode.
// Approximations are closer than the ISA asks: div, rcp, sqrt correctly rounded, rsqrt and ex2 within
// 1 ulp, ex2 exact for integers, lg2 within 2.1 ulp, the others those of the C library (within 1 ulp). NaN
// results of f32 are 0x7fffffff, those of f64 are the host's (the quieted operand, or 0xfff8000000000000),
// which the ISA leaves open.
#include <immintrin.h>

#include <cmath>
#include <limits>
#include <string>

#include "exec/alu.h"
#include "exec/approximate.h"
#include "numeric/float_formats.h"

namespace ptxsim {
namespace {

using namespace alu;  // NOLINT: the vocabulary of this file

constexpr uint32_t bits_of(float x) { return std::bit_cast<uint32_t>(x); }
constexpr uint64_t bits_of(double x) { return std::bit_cast<uint64_t>(x); }
inline float from_bits(uint32_t x) { return std::bit_cast<float>(x); }
inline double from_bits(uint64_t x) { return std::bit_cast<double>(x); }
template <class T>
inline constexpr auto kSign = UnsignedOf<sizeof(T)>{1} << (8 * sizeof(T) - 1);

// What .ftz, .sat and the canonical NaN make of an operation of T. Inputs and results below the normal range
// become zeros of their sign.
inline float flush(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? from_bits(bits_of(x) & kSign<float>) : x;
}
template <bool kFtz, class T>
T flush_if(T x) {
  if constexpr (kFtz && sizeof(T) == 4)
    return flush(x);
  else
    return x;
}
inline float canonical(float x) { return x == x ? x : from_bits(numeric::kCanonicalNanF32); }
inline double canonical(double x) { return x; }
template <class T>
T saturate(T x) {
  x = x > 0 ? x : T(0);  // NaN too
  return x < 1 ? x : T(1);
}

template <auto kOp, bool kFtz, bool kSat>
inline constexpr auto kArithmetic = [](auto... x) {
  const auto r = flush_if<kFtz>(kOp(flush_if<kFtz>(x)...));
  if constexpr (kSat)
    return saturate(r);
  else
    return canonical(r);
};

constexpr auto kAdd = [](auto a, auto b) { return a + b; };
constexpr auto kSub = [](auto a, auto b) { return a - b; };
constexpr auto kMul = [](auto a, auto b) { return a * b; };
constexpr auto kFma = [](auto a, auto b, auto c) { return std::fma(a, b, c); };
constexpr auto kDiv = [](auto a, auto b) { return a / b; };
constexpr auto kRcp = [](auto a) { return decltype(a)(1) / a; };
constexpr auto kSqrt = [](auto a) { return std::sqrt(a); };

template <bool kMax, bool kNan, bool kXorSign>
constexpr auto kSelect = [](auto a, auto b) {
  using T = decltype(a);
  const auto sign = (bits_of(a) ^ bits_of(b)) & kSign<T>;
  if constexpr (kXorSign) {
    a = from_bits(bits_of(a) & ~kSign<T>);
    b = from_bits(bits_of(b) & ~kSign<T>);
  }
  T r = (kMax ? a > b : a < b) ? a : b;
  const T zero = from_bits(kMax ? bits_of(a) & bits_of(b) : bits_of(a) | bits_of(b));  // -0 < +0
  r = a == b ? zero : r;
  if constexpr (kNan) {
    r = a == a ? r : a;
    r = b == b ? r : b;
  } else {
    r = a == a ? r : b;
    r = b == b ? r : a;
  }
  if constexpr (kXorSign) r = from_bits(bits_of(r) | sign);
  return r;
};

// a * (1 / b) where 1 / b is flushed for |b| > 2^126.
constexpr auto kDivApprox = [](float a, float b) {
  const float q = a / b;
  const float far = a * from_bits(bits_of(b) & kSign<float>);  // a * +-0: NaN for infinite a
  return std::fabs(b) > 0x1p126f ? far : q;
};
constexpr auto kRsqrt = [](auto a) { return decltype(a)(1) / std::sqrt(a); };

constexpr auto kSin = [](float x) { return std::sin(x); };
constexpr auto kCos = [](float x) { return std::cos(x); };
constexpr auto kTanh = [](float x) { return std::tanh(x); };

// rcp and rsqrt .approx.ftz.f64: of the upper half of a, the lower half of the result is zero.
template <auto kOp>
inline constexpr auto kCoarse = [](double a) {
  constexpr uint64_t kUpper = 0xffffffff00000000;
  constexpr double kMin = std::numeric_limits<double>::min();
  a = from_bits(bits_of(a) & kUpper);
  a = std::fabs(a) < kMin ? from_bits(bits_of(a) & kSign<double>) : a;
  double r = kOp(a);
  r = std::fabs(r) < kMin ? from_bits(bits_of(r) & kSign<double>) : r;
  return from_bits(bits_of(r) & kUpper);
};

constexpr auto kAbs = [](auto a) { return from_bits(bits_of(a) & ~kSign<decltype(a)>); };
constexpr auto kNeg = [](auto a) { return from_bits(bits_of(a) ^ kSign<decltype(a)>); };
constexpr auto kCopysign = [](auto a, auto b) {  // the sign of a, the magnitude of b
  using T = decltype(a);
  return from_bits((bits_of(a) & kSign<T>) | (bits_of(b) & ~kSign<T>));
};

// --- the table: names without their rounding ---
template <class T, auto kOp, size_t... k>
constexpr Form same_type(std::index_sequence<k...>) {
  return form<Pace::kVector, kOp, T, std::conditional_t<(k >= 0), T, void>...>();
}
template <class T, auto kOp, int kSources>
constexpr Form of_type() {
  return same_type<T, kOp>(std::make_index_sequence<kSources>());
}

template <auto kOp, int kSources>
void add_f32(FormTable& t, const std::string& op) {
  t[op + ".f32"] = of_type<float, kArithmetic<kOp, false, false>, kSources>();
  t[op + ".ftz.f32"] = of_type<float, kArithmetic<kOp, true, false>, kSources>();
}
// Of f32 with .ftz and .sat, and of f64.
template <auto kOp, int kSources>
void add_all(FormTable& t, const std::string& op) {
  add_f32<kOp, kSources>(t, op);
  t[op + ".sat.f32"] = of_type<float, kArithmetic<kOp, false, true>, kSources>();
  t[op + ".ftz.sat.f32"] = of_type<float, kArithmetic<kOp, true, true>, kSources>();
  t[op + ".f64"] = of_type<double, kOp, kSources>();
}
template <auto kOp>
void add_library(FormTable& t, const std::string& op) {
  t[op + ".f32"] = form<Pace::kScalar, kArithmetic<kOp, false, false>, float, float>();
  t[op + ".ftz.f32"] = form<Pace::kScalar, kArithmetic<kOp, true, false>, float, float>();
}
template <bool kMax>
void add_select(FormTable& t, const std::string& op) {
  add_f32<kSelect<kMax, false, false>, 2>(t, op);
  t[op + ".f64"] = of_type<double, kSelect<kMax, false, false>, 2>();
  const auto put = [&]<bool kNan, bool kXorSign>(const std::string& modifiers) {
    constexpr auto kOp = kSelect<kMax, kNan, kXorSign>;
    t[op + modifiers + ".f32"] = of_type<float, kArithmetic<kOp, false, false>, 2>();
    t[op + ".ftz" + modifiers + ".f32"] = of_type<float, kArithmetic<kOp, true, false>, 2>();
  };
  put.template operator()<true, false>(".NaN");
  put.template operator()<false, true>(".xorsign.abs");
  put.template operator()<true, true>(".NaN.xorsign.abs");
}
// Bits in, bits out: NaN operands pass unchanged.
template <auto kOp>
void add_sign(FormTable& t, const std::string& op) {
  t[op + ".f32"] = of_type<float, kOp, 1>();
  t[op + ".ftz.f32"] = of_type<float, [](float a) { return kOp(flush(a)); }, 1>();
  t[op + ".f64"] = of_type<double, kOp, 1>();
}

const FormTable& table() {
  static const FormTable forms = [] {
    FormTable t;
    add_all<kAdd, 2>(t, "add");
    add_all<kSub, 2>(t, "sub");
    add_all<kMul, 2>(t, "mul");
    add_all<kFma, 3>(t, "fma");
    add_all<kFma, 3>(t, "mad");
    add_f32<kDiv, 2>(t, "div");
    add_f32<kDiv, 2>(t, "div.full");
    add_f32<kDivApprox, 2>(t, "div.approx");
    add_f32<kRcp, 1>(t, "rcp");
    add_f32<kRcp, 1>(t, "rcp.approx");
    add_f32<kSqrt, 1>(t, "sqrt");
    add_f32<kSqrt, 1>(t, "sqrt.approx");
    add_f32<kRsqrt, 1>(t, "rsqrt.approx");
    add_f32<kEx2, 1>(t, "ex2.approx");
    add_f32<kLg2, 1>(t, "lg2.approx");
    add_library<kSin>(t, "sin.approx");
    add_library<kCos>(t, "cos.approx");
    add_library<kTanh>(t, "tanh.approx");
    t["div.f64"] = of_type<double, kDiv, 2>();
    t["rcp.f64"] = of_type<double, kRcp, 1>();
    t["sqrt.f64"] = of_type<double, kSqrt, 1>();
    t["rsqrt.approx.f64"] = of_type<double, kRsqrt, 1>();
    t["rcp.approx.ftz.f64"] = of_type<double, kCoarse<kRcp>, 1>();
    t["rsqrt.approx.ftz.f64"] = of_type<double, kCoarse<kRsqrt>, 1>();
    add_select<false>(t, "min");
    add_select<true>(t, "max");
    add_sign<kAbs>(t, "abs");
    add_sign<kNeg>(t, "neg");
    t["copysign.f32"] = of_type<float, kCopysign, 2>();
    t["copysign.f64"] = of_type<double, kCopysign, 2>();
    return t;
  }();
  return forms;
}

// Runs the handler in imm under a rounding mode of the host. The call is indirect: nothing of it moves across
// the changes of the mode.
template <unsigned kMode>
void rounded(Warp& w, const Instr& i) {
  const unsigned saved = _mm_getcsr();
  _mm_setcsr((saved & ~_MM_ROUND_MASK) | kMode);
  std::bit_cast<Handler>(i.imm)(w, i);
  _mm_setcsr(saved);
}

}  // namespace

void alu::set_rounding(Instr& i, const ptx::Instruction& in) {
  const Handler run = in.has("rz")   ? &rounded<_MM_ROUND_TOWARD_ZERO>
                      : in.has("rm") ? &rounded<_MM_ROUND_DOWN>
                      : in.has("rp") ? &rounded<_MM_ROUND_UP>
                                     : nullptr;
  if (!run) return;
  i.imm = std::bit_cast<int64_t>(i.run);
  i.run = run;
}

bool decode_float(Decoder& d, const ptx::Instruction& in) {
  const auto it = table().find(CanonicalName(in).view());
  if (it == table().end()) return false;
  if (in.operands.size() != static_cast<size_t>(it->second.sources) + 1) {
    d.unknown(in);
    return true;
  }
  Instr i = instruction_of(d, in, it->second);
  set_rounding(i, in);
  d.emit(i);
  return true;
}

}  // namespace ptxsim
