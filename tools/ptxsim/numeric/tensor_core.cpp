#include "numeric/tensor_core.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "numeric/float_formats.h"

namespace ptxsim::numeric {
namespace {

// Sums done at once: a divisor of kPanelVectors.
#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));

template <class V, class T>
V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class T>
void store(T* p, V v) {
  std::memcpy(p, &v, sizeof v);
}
inline Ints max(Ints a, Ints b) { return a > b ? a : b; }
inline Ints min(Ints a, Ints b) { return a < b ? a : b; }
inline bool any(Ints v) {
  int32_t all = 0;
  for (int l = 0; l < kLanes; ++l) all |= v[l];
  return all != 0;
}

// Element `part` of each word of type F, of which a word holds 32 / bits.
template <Format F>
void decode_part(const uint32_t* words, int shift, uint32_t mask, uint32_t flip, float* values,
                 int16_t* exponents, uint32_t* special) {
  for (int v = 0; v < kPanelVectors; ++v) {
    const uint32_t code = (words[v] >> shift) & mask;
    const uint32_t magnitude = code & ((1u << (F.exponent_bits + F.mantissa_bits)) - 1);
    const int field = static_cast<int>(magnitude >> F.mantissa_bits);
    values[v] = std::bit_cast<float>(widen<F>(code) ^ flip);
    exponents[v] = static_cast<int16_t>(magnitude == 0 ? kNoExponent : std::max(field, 1) - F.bias);
    special[v] |= magnitude > F.max_finite;
  }
}

template <Format F>
int decode_words(const RawPanel& raw, int words, uint32_t flip, Panel& panel) {
  constexpr int kBits =
      1 + F.exponent_bits + F.mantissa_bits > 16 ? 32 : 1 + F.exponent_bits + F.mantissa_bits;
  constexpr int kParts = 32 / kBits;
  // tf32 stands in the upper 19 bits of its word.
  constexpr int kCut = kBits == 32 ? 13 : 0;
  constexpr uint32_t kMask = kBits == 32 ? 0x7ffff : (1u << kBits) - 1;
  alignas(64) uint32_t special[kPanelVectors] = {};
  for (int w = 0; w < words; ++w) {
    for (int part = 0; part < kParts; ++part) {
      const int k = w * kParts + part;
      decode_part<F>(raw.word[w], part * kBits + kCut, kMask, flip, panel.value[k], panel.exponent[k],
                     special);
    }
  }
  panel.special = std::any_of(special, special + kPanelVectors, [](uint32_t s) { return s != 0; });
  return words * kParts;
}

// --- the model, one sum at a time: for operands that the vectors below do not cover ---

// Towards zero, to `bits` fraction bits (of 2^-126 where it is smaller).
float cut(double x, int bits) {
  if (x == 0) return 0;
  const int unit = std::max(std::ilogb(x), -126) - bits;
  const double kept = std::ldexp(std::trunc(std::ldexp(x, -unit)), unit);
  return kept == 0 ? 0.0f : static_cast<float>(kept);  // beyond f32: infinity
}

float round_to_f16(double x) {
  const uint32_t odd = round_to_odd(std::bit_cast<uint64_t>(x));
  return f16_to_f32(static_cast<uint16_t>(narrow<kF16, Round::kNearestEven, Overflow::kInfinity>(odd)));
}

int accumulator_exponent(float c, ResultType result) {
  if (c == 0) return -126;
  return std::max(std::ilogb(c), result == ResultType::kF16 ? -14 : -126);
}

double power_of_two(int exponent) {
  return std::bit_cast<double>(static_cast<int64_t>(exponent + 1023) << 52);
}

// All operands finite.
float aligned_sum(const SumModel& model, ResultType result, const Panel& x, int i, const Panel& y, int j,
                  int first, int last, float c) {
  int exponent = accumulator_exponent(c, result);
  for (int k = first; k < last; ++k) exponent = std::max(exponent, x.exponent[k][i] + y.exponent[k][j]);
  const double scale = power_of_two(model.fraction_bits - exponent);
  double sum = std::trunc(c * scale);
  for (int k = first; k < last; ++k) sum += std::trunc(double{x.value[k][i]} * y.value[k][j] * scale);
  const double exact = sum * power_of_two(exponent - model.fraction_bits);
  return result == ResultType::kF16 ? round_to_f16(exact) : cut(exact, model.result_bits);
}

// --- the same for kLanes sums at once, by fp32 arithmetic that is exact here ---
//
// A product of two inputs has at most 22 significant bits, so fp32 holds it exactly; times a power of two and
// converted to int32, which cuts towards zero, it is the aligned addend. This holds while the power of two is
// a normal number, and the result needs no subnormal rounding: exponents within [kLow, kHigh]. Sums outside
// of that, infinities and NaN go to unusual_row.
constexpr int kLow = -90;
constexpr int kHigh = 120;

inline Floats power_of_two(Ints exponent) { return reinterpret_cast<Floats>((exponent + 127) << 23); }

// Cut towards zero, as two's complement: sums outside of the range may wrap.
inline Words to_words(Floats v) { return reinterpret_cast<Words>(__builtin_convertvector(v, Ints)); }

struct Sums {
  Words even, odd;  // addends of even and odd k; the accumulator is in `even`
};

// The sign and magnitude of even + odd, which may need 33 bits. `sign` is 0 or -1.
inline Words magnitude_of(const Sums& s, Ints* sign) {
  const Words total = s.even + s.odd;
  const Words majority =
      (s.even & s.odd) | ((s.even | s.odd) & total);  // right also where the addition wrapped
  *sign = reinterpret_cast<Ints>(majority) >> 31;
  const Words flip = reinterpret_cast<Words>(*sign);
  return (total ^ flip) - flip;
}

// The magnitude as fp32, cut to `bits` fraction bits; with `sticky`, an inexact one gets an odd last bit.
inline Floats cut_to_float(Words magnitude, int bits, bool sticky) {
  Words below = magnitude >> (bits + 1);
  below |= below >> 1;
  below |= below >> 2;
  below |= below >> 4;
  below |= below >> 8;
  Words kept = magnitude & ~below;
  if (sticky) kept |= (magnitude & below) != 0 ? below + 1 : Words{};
  const Floats high = __builtin_convertvector(reinterpret_cast<Ints>(kept >> 8), Floats);
  const Floats low = __builtin_convertvector(reinterpret_cast<Ints>(kept & 255), Floats);
  return high * 256.0f + low;
}

struct Aligned {
  Ints exponent;  // the largest, of products and accumulator
  Ints outside;   // -1 where it must be done another way
};

inline Aligned align(Shorts largest_product, Floats c, ResultType result) {
  const Ints product = __builtin_convertvector(largest_product, Ints);
  const Ints bits = reinterpret_cast<Ints>(c) & 0x7fffffff;
  Ints own = max(bits >> 23, Ints{} + 1) - 127;
  if (result == ResultType::kF16) own = bits == 0 ? Ints{} - 126 : max(own, Ints{} - 14);
  const Ints exponent = max(product, own);
  const Ints some = (product > kNoExponent / 2) | (bits != 0);
  return {exponent, (exponent > kHigh) | ((exponent < kLow) & some)};
}

// Infinities and NaN stay, other values become -1, 0 or 1: sums of products of these are special exactly
// where the sums of the values are.
inline Floats classify(Floats v) {
  const Ints bits = reinterpret_cast<Ints>(v);
  const Floats one = reinterpret_cast<Floats>((bits & std::numeric_limits<int32_t>::min()) | 0x3f800000);
  return (bits & 0x7fffffff) >= 0x7f800000 ? v : (bits & 0x7fffffff) == 0 ? Floats{} : one;
}

// Infinite or NaN where the sums are.
Floats special_sums(const Panel& x, int i, const Panel& y, int j0, int first, int last, Floats c) {
  Floats sum = classify(c);
  for (int k = first; k < last; ++k)
    sum += classify(load<Floats>(y.value[k] + j0)) * classify(Floats{} + x.value[k][i]);
  return sum;
}

// The sums that the vectors cannot do.
void unusual_row(const SumModel& model, ResultType result, const Panel& x, int i, const Panel& y, int j0,
                 int first, int last, Floats c, Ints outside, float* d) {
  const Floats special = special_sums(x, i, y, j0, first, last, c);
  for (int j = 0; j < kLanes; ++j) {
    if (std::isnan(special[j]))
      d[j] = std::bit_cast<float>(kCanonicalNanF32);
    else if (std::isinf(special[j]))
      d[j] = special[j];
    else if (outside[j])
      d[j] = aligned_sum(model, result, x, i, y, j0 + j, first, last, c[j]);
  }
}

// The sums of vector i of x with the vectors j0 .. of y over k in [first, last), an even number; d: from j0
// on.
inline void hardware_row(const SumModel& model, ResultType result, const Panel& x, int i, const Panel& y,
                         int j0, int first, int last, float* d) {
  Shorts largest = Shorts{} + kNoExponent;
  for (int k = first; k < last; ++k) {
    const Shorts e = load<Shorts>(y.exponent[k] + j0) + x.exponent[k][i];
    largest = e > largest ? e : largest;
  }
  const Floats c = load<Floats>(d);
  const Aligned aligned = align(largest, c, result);
  const Ints exponent = min(max(aligned.exponent, Ints{} + kLow), Ints{} + kHigh);
  const Floats scale = power_of_two(model.fraction_bits - exponent);
  Sums s = {to_words(c * scale), Words{}};
  for (int k = first; k < last; k += 2) {
    s.even += to_words(load<Floats>(y.value[k] + j0) * x.value[k][i] * scale);
    s.odd += to_words(load<Floats>(y.value[k + 1] + j0) * x.value[k + 1][i] * scale);
  }
  Ints sign;
  const Words magnitude = magnitude_of(s, &sign);
  const Floats size = cut_to_float(magnitude, model.result_bits, result == ResultType::kF16);
  const Floats scaled = size * power_of_two(Ints{} - model.fraction_bits) * power_of_two(exponent);
  const Ints sign_bit = sign & std::numeric_limits<int32_t>::min();
  store(d, reinterpret_cast<Ints>(scaled) | sign_bit);
  if (result == ResultType::kF16)
    for (int j = 0; j < kLanes; ++j) d[j] = f16_to_f32(f32_to_f16(d[j]));
  if (x.special || y.special || any(aligned.outside)) [[unlikely]]
    unusual_row(model, result, x, i, y, j0, first, last, c, aligned.outside, d);
}

void plain_row(ResultType result, const Panel& x, int i, const Panel& y, int j0, int depth, float* d) {
  Floats sum = load<Floats>(d);
  for (int k = 0; k < depth; ++k) sum += load<Floats>(y.value[k] + j0) * x.value[k][i];
  for (int j = 0; j < kLanes; ++j) {
    const float rounded = result == ResultType::kF16 ? f16_to_f32(f32_to_f16(sum[j])) : sum[j];
    d[j] = std::isnan(rounded) ? std::bit_cast<float>(kCanonicalNanF32) : rounded;
  }
}

void decode_integers(InputType type, const RawPanel& raw, int words, int32_t (*values)[kPanelVectors]) {
  for (int k = 0; k < 4 * words; ++k) {
    for (int v = 0; v < kPanelVectors; ++v) {
      const uint32_t byte = raw.word[k / 4][v] >> (8 * (k % 4)) & 0xff;
      values[k][v] = type == InputType::kS8 ? static_cast<int8_t>(byte) : static_cast<int32_t>(byte);
    }
  }
}

}  // namespace

int decode(InputType type, const RawPanel& raw, int words, bool negate, Panel& panel) {
  const uint32_t flip = negate ? 0x80000000u : 0u;
  switch (type) {
    case InputType::kF16:
      return decode_words<kF16>(raw, words, flip, panel);
    case InputType::kBf16:
      return decode_words<kBf16>(raw, words, flip, panel);
    case InputType::kTf32:
      return decode_words<kTf32>(raw, words, flip, panel);
    case InputType::kE4m3:
      return decode_words<kE4m3>(raw, words, flip, panel);
    default:
      return decode_words<kE5m2>(raw, words, flip, panel);
  }
}

void multiply_add(const SumModel& model, Accumulation accumulation, ResultType result, const Panel& x,
                  int rows, const Panel& y, int depth, float (*d)[kPanelVectors]) {
  for (int i = 0; i < rows; ++i) {
    for (int j0 = 0; j0 < kPanelVectors; j0 += kLanes) {
      if (accumulation == Accumulation::kPlain) {
        plain_row(result, x, i, y, j0, depth, d[i] + j0);
        continue;
      }
      for (int first = 0; first < depth; first += model.chunk)
        hardware_row(model, result, x, i, y, j0, first, std::min(depth, first + model.chunk), d[i] + j0);
    }
  }
}

void multiply_add(InputType x_type, const RawPanel& x, int rows, InputType y_type, const RawPanel& y,
                  int words, bool saturate, int32_t (*d)[kPanelVectors]) {
  int32_t xs[kPanelDepth][kPanelVectors], ys[kPanelDepth][kPanelVectors];
  decode_integers(x_type, x, words, xs);
  decode_integers(y_type, y, words, ys);
  for (int i = 0; i < rows; ++i) {
    for (int j0 = 0; j0 < kPanelVectors; j0 += kLanes) {
      Ints sum{};  // 32 products of 8 bits: far from overflow
      for (int k = 0; k < 4 * words; ++k) sum += load<Ints>(ys[k] + j0) * xs[k][i];
      for (int j = 0; j < kLanes; ++j) {
        int32_t& target = d[i][j0 + j];
        const int64_t exact = int64_t{target} + sum[j];
        constexpr int64_t kMin = std::numeric_limits<int32_t>::min();
        constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
        target = static_cast<int32_t>(saturate ? std::clamp(exact, kMin, kMax) : exact);
      }
    }
  }
}

}  // namespace ptxsim::numeric
