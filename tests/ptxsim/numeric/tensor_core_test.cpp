#include "numeric/tensor_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>

#include "numeric/float_formats.h"

namespace ptxsim::numeric {
namespace {

// --- the model once more, on integers and bit by bit ---

// (-1)^negative * significand * 2^(exponent - fraction bits of its format)
struct Number {
  bool negative = false, infinite = false, nan = false;
  int64_t significand = 0;
  int exponent = 0;
};

Number take_apart(const Format& f, uint32_t code) {
  const int top = f.exponent_bits + f.mantissa_bits;
  const uint32_t magnitude = code & ((1u << top) - 1);
  Number n;
  n.negative = code >> top & 1;
  n.infinite = f.infinity != f.nan && magnitude == f.infinity;
  n.nan = magnitude > f.max_finite && !n.infinite;
  const int field = static_cast<int>(magnitude >> f.mantissa_bits);
  n.significand = (magnitude & ((1u << f.mantissa_bits) - 1)) + (field > 0 ? 1u << f.mantissa_bits : 0);
  n.exponent = std::max(field, 1) - f.bias;
  return n;
}

constexpr Format kF32{8, 23, 127, 0x7f7fffff, 0x7f800000, 0x7fffffff};

const Format& format_of(InputType type) {
  switch (type) {
    case InputType::kF16:
      return kF16;
    case InputType::kBf16:
      return kBf16;
    case InputType::kTf32:
      return kTf32;
    case InputType::kE4m3:
      return kE4m3;
    default:
      return kE5m2;
  }
}

int64_t shifted(int64_t significand, int left) {
  if (significand == 0) return 0;
  if (left >= 0) return significand << left;
  return left <= -63 ? 0 : significand >> -left;
}

// sum * 2^unit in the format `out` with `bits` fraction bits: cut, or rounded to nearest even.
uint32_t encode(const Format& out, int bits, bool nearest, int64_t sum, int unit) {
  if (sum == 0) return 0;
  const uint32_t sign = sum < 0 ? 1u << (out.exponent_bits + out.mantissa_bits) : 0;
  const uint64_t magnitude = static_cast<uint64_t>(std::abs(sum));
  const int top = 63 - std::countl_zero(magnitude);
  const int exponent = std::max(top + unit, 1 - out.bias);
  const int drop = exponent - bits - unit;  // bits of the magnitude below the last kept one
  uint64_t kept = drop <= 0 ? magnitude << -drop : drop > 63 ? 0 : magnitude >> drop;
  if (nearest && drop > 0 && drop <= 63) {
    const uint64_t rest = magnitude - (kept << drop);
    const uint64_t half = uint64_t{1} << (drop - 1);
    kept += rest > half || (rest == half && (kept & 1));
  }
  if (kept == 0) return nearest ? sign : 0;
  // As a code: significand * 2^(exponent - bits).
  uint64_t code = kept << (out.mantissa_bits - bits);
  code += static_cast<uint64_t>(exponent - 1 + out.bias) << out.mantissa_bits;
  return sign | static_cast<uint32_t>(std::min<uint64_t>(code, out.infinity));
}

uint32_t reference_sum(const SumModel& model, ResultType result, const Format& fx, const Format& fy,
                       const uint32_t* x, const uint32_t* y, int count, uint32_t c_code) {
  const Format& out = result == ResultType::kF16 ? kF16 : kF32;
  const Number c = take_apart(out, c_code);
  bool nan = c.nan, plus = c.infinite && !c.negative, minus = c.infinite && c.negative;
  int largest = c.significand != 0 ? c.exponent : -126;
  for (int k = 0; k < count; ++k) {
    const Number a = take_apart(fx, x[k]), b = take_apart(fy, y[k]);
    const bool infinite = a.infinite || b.infinite;
    nan |= a.nan || b.nan || (a.infinite && b.significand == 0 && !b.infinite) ||
           (b.infinite && a.significand == 0 && !a.infinite);
    plus |= infinite && a.negative == b.negative;
    minus |= infinite && a.negative != b.negative;
    if (a.significand != 0 && b.significand != 0) largest = std::max(largest, a.exponent + b.exponent);
  }
  if (nan || (plus && minus)) return out.nan;
  if (plus || minus) return out.infinity | (minus ? 1u << (out.exponent_bits + out.mantissa_bits) : 0);
  const int f = model.fraction_bits;
  int64_t sum = shifted(c.significand, f - out.mantissa_bits + c.exponent - largest) * (c.negative ? -1 : 1);
  for (int k = 0; k < count; ++k) {
    const Number a = take_apart(fx, x[k]), b = take_apart(fy, y[k]);
    const int left = f - fx.mantissa_bits - fy.mantissa_bits + a.exponent + b.exponent - largest;
    sum += shifted(a.significand * b.significand, left) * (a.negative != b.negative ? -1 : 1);
  }
  const bool nearest = result == ResultType::kF16;
  return encode(out, nearest ? 10 : model.result_bits, nearest, sum, largest - f);
}

// --- random operands ---

// What the exponents of the codes look like.
enum class Spread { kAnyBits, kNear, kWide, kTiny, kSubnormal, kHuge, kSparse, kSpecials };

uint32_t random_code(std::mt19937& random, const Format& f, Spread spread) {
  const int top = f.exponent_bits + f.mantissa_bits;
  const uint32_t bits = static_cast<uint32_t>(random());
  const uint32_t sign = (bits >> 31) << top;
  if (spread == Spread::kSparse && random() % 3) return sign;
  if (spread == Spread::kAnyBits || (spread == Spread::kSpecials && random() % 8 == 0)) {
    const uint32_t magnitude = bits & ((1u << top) - 1);
    if (spread == Spread::kAnyBits) return sign | std::min(magnitude, f.max_finite);
    return sign | (random() % 3 ? f.infinity : random() % 2 ? f.nan : 0);
  }
  const int fields = 1 << f.exponent_bits;
  int field = f.bias;
  if (spread == Spread::kNear) field += static_cast<int>(random() % 3) - 1;
  if (spread == Spread::kWide) field += static_cast<int>(random() % 31) - 15;
  if (spread == Spread::kTiny) field = static_cast<int>(random() % 5);
  if (spread == Spread::kSubnormal) field = random() % 16 == 0;
  if (spread == Spread::kHuge) field = fields - 1 - static_cast<int>(random() % 4);
  field = std::clamp(field, 0, fields - 1);
  const uint32_t fraction = bits & ((1u << f.mantissa_bits) - 1);
  return sign | std::min((static_cast<uint32_t>(field) << f.mantissa_bits) | fraction, f.max_finite);
}

void put(RawPanel& raw, InputType type, int k, int v, uint32_t code) {
  const int bytes = input_bytes(type);
  const uint32_t stored =
      type == InputType::kTf32 ? code << 13 | 0x1abc : code;  // low bits of tf32 do not count
  raw.word[k * bytes / 4][v] |= stored << (8 * (k * bytes % 4));
}

uint32_t accumulator_code(ResultType result, float value) {
  return result == ResultType::kF16 ? f32_to_f16(value) : std::bit_cast<uint32_t>(value);
}

void compare(InputType tx, InputType ty, ResultType result, const SumModel& model, Spread spread,
             std::mt19937& random) {
  const Format& fx = format_of(tx);
  const Format& fy = format_of(ty);
  const int depth = 32 / input_bytes(tx);
  RawPanel raw_x{}, raw_y{};
  uint32_t x[kPanelVectors][kPanelDepth], y[kPanelVectors][kPanelDepth];
  for (int v = 0; v < kPanelVectors; ++v) {
    for (int k = 0; k < depth; ++k) {
      put(raw_x, tx, k, v, x[v][k] = random_code(random, fx, spread));
      put(raw_y, ty, k, v, y[v][k] = random_code(random, fy, spread));
    }
  }
  const Spread c_spread = random() % 2 ? spread : random() % 2 ? Spread::kSparse : Spread::kWide;
  float d[kPanelVectors][kPanelVectors];
  uint32_t c[kPanelVectors][kPanelVectors];
  for (int i = 0; i < kPanelVectors; ++i) {
    for (int j = 0; j < kPanelVectors; ++j) {
      const Format& fc = result == ResultType::kF16 ? kF16 : kF32;
      c[i][j] = random_code(random, fc, c_spread);
      d[i][j] = result == ResultType::kF16 ? f16_to_f32(static_cast<uint16_t>(c[i][j]))
                                           : std::bit_cast<float>(c[i][j]);
    }
  }
  Panel px, py;
  ASSERT_EQ(decode(tx, raw_x, kPanelWords, false, px), depth);
  ASSERT_EQ(decode(ty, raw_y, kPanelWords, false, py), depth);
  multiply_add(model, Accumulation::kHardware, result, px, kPanelVectors, py, depth, d);
  for (int i = 0; i < kPanelVectors; ++i) {
    for (int j = 0; j < kPanelVectors; ++j) {
      uint32_t want = c[i][j];
      for (int k = 0; k < depth; k += model.chunk)
        want =
            reference_sum(model, result, fx, fy, x[i] + k, y[j] + k, std::min(model.chunk, depth - k), want);
      const Format& out = result == ResultType::kF16 ? kF16 : kF32;
      const bool nan = take_apart(out, want).nan;
      const uint32_t got = accumulator_code(result, d[i][j]);
      ASSERT_EQ(nan ? out.nan : want, got) << std::hex << "c " << c[i][j] << " at " << i << ", " << j
                                           << " spread " << static_cast<int>(spread);
    }
  }
}

constexpr Spread kSpreads[] = {Spread::kAnyBits,   Spread::kNear, Spread::kWide,   Spread::kTiny,
                               Spread::kSubnormal, Spread::kHuge, Spread::kSparse, Spread::kSpecials};

void compare_all(InputType tx, InputType ty, ResultType result, const SumModel& model) {
  std::mt19937 random(static_cast<unsigned>(tx) * 100 + static_cast<unsigned>(ty));
  for (Spread spread : kSpreads) {
    for (int n = 0; n < 12; ++n) {
      compare(tx, ty, result, model, spread, random);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(TensorCore, HardwareF16) {
  compare_all(InputType::kF16, InputType::kF16, ResultType::kF32, kSum16Bit);
  compare_all(InputType::kF16, InputType::kF16, ResultType::kF16, kSum16Bit);
}
TEST(TensorCore, HardwareBf16) {
  compare_all(InputType::kBf16, InputType::kBf16, ResultType::kF32, kSum16Bit);
}
TEST(TensorCore, HardwareTf32) {
  compare_all(InputType::kTf32, InputType::kTf32, ResultType::kF32, kSumTf32);
}
TEST(TensorCore, HardwareFp8EveryPair) {
  for (InputType x : {InputType::kE4m3, InputType::kE5m2}) {
    for (InputType y : {InputType::kE4m3, InputType::kE5m2}) {
      compare_all(x, y, ResultType::kF32, kSumFp8);
      compare_all(x, y, ResultType::kF16, kSumFp8);
    }
  }
}
TEST(TensorCore, ShorterChunksChain) {
  compare_all(InputType::kBf16, InputType::kBf16, ResultType::kF32, {4, 24, 23});
  compare_all(InputType::kE4m3, InputType::kE5m2, ResultType::kF32, {8, 13, 13});
}

// What makes the model worth having: 2^14 + 32 products just below its last kept bit vanish in FP8, not in 16
// bits.
TEST(TensorCore, Fp8LosesSmallProducts) {
  RawPanel ones{};
  for (auto& word : ones.word)
    for (uint32_t& v : word) v = 0x38383838;  // e4m3 1.0
  Panel p;
  const int depth = decode(InputType::kE4m3, ones, kPanelWords, false, p);
  float d[kPanelVectors][kPanelVectors];
  for (auto& row : d) std::fill(row, row + kPanelVectors, 8192.0f);
  multiply_add(kSumFp8, Accumulation::kHardware, ResultType::kF32, p, 16, p, depth, d);
  EXPECT_EQ(d[3][5], 8192.0f + 32.0f);
  std::fill(d[3], d[3] + kPanelVectors, 16384.0f);
  multiply_add(kSumFp8, Accumulation::kHardware, ResultType::kF32, p, 16, p, depth, d);
  EXPECT_EQ(d[3][5], 16384.0f);
  multiply_add(kSumFp8, Accumulation::kPlain, ResultType::kF32, p, 16, p, depth, d);
  EXPECT_EQ(d[3][5], 16416.0f);
}

TEST(TensorCore, SumsOf33BitsKeepTheirSign) {
  RawPanel raw{};
  for (auto& word : raw.word)
    for (uint32_t& v : word) v = 0x3fff3fff;  // f16 1.9990
  Panel p, n;
  decode(InputType::kF16, raw, kPanelWords, false, p);
  decode(InputType::kF16, raw, kPanelWords, true, n);
  const double want = 16 * (0x7ff / 1024.0) * (0x7ff / 1024.0) + 1.5;
  float d[kPanelVectors][kPanelVectors];
  for (auto& row : d) std::fill(row, row + kPanelVectors, 1.5f);
  multiply_add(kSum16Bit, Accumulation::kHardware, ResultType::kF32, p, 1, p, 16, d);
  EXPECT_NEAR(d[0][0], want, 1e-4);
  std::fill(d[0], d[0] + kPanelVectors, -1.5f);
  multiply_add(kSum16Bit, Accumulation::kHardware, ResultType::kF32, n, 1, p, 16, d);
  EXPECT_NEAR(d[0][0], -want, 1e-4);
}

TEST(TensorCore, PlainIsFp32InOrder) {
  std::mt19937 random(5);
  RawPanel rx{}, ry{};
  for (int v = 0; v < kPanelVectors; ++v) {
    for (int k = 0; k < 16; ++k) {
      put(rx, InputType::kBf16, k, v, random_code(random, kBf16, Spread::kWide));
      put(ry, InputType::kBf16, k, v, random_code(random, kBf16, Spread::kWide));
    }
  }
  Panel x, y;
  decode(InputType::kBf16, rx, kPanelWords, false, x);
  decode(InputType::kBf16, ry, kPanelWords, true, y);
  float d[kPanelVectors][kPanelVectors] = {}, want[kPanelVectors][kPanelVectors] = {};
  multiply_add(kSum16Bit, Accumulation::kPlain, ResultType::kF32, x, 7, y, 16, d);
  for (int i = 0; i < 7; ++i)
    for (int j = 0; j < kPanelVectors; ++j)
      for (int k = 0; k < 16; ++k) want[i][j] += x.value[k][i] * y.value[k][j];
  EXPECT_EQ(std::memcmp(d, want, sizeof d), 0);  // rows 7.. untouched
  d[0][0] = NAN;
  multiply_add(kSum16Bit, Accumulation::kPlain, ResultType::kF32, x, 1, y, 16, d);
  EXPECT_EQ(std::bit_cast<uint32_t>(d[0][0]), kCanonicalNanF32);
}

TEST(TensorCore, IntegersWrapOrClamp) {
  std::mt19937 random(9);
  RawPanel x, y;
  for (int w = 0; w < kPanelWords; ++w)
    for (int v = 0; v < kPanelVectors; ++v) x.word[w][v] = random(), y.word[w][v] = random();
  for (InputType tx : {InputType::kS8, InputType::kU8}) {
    for (InputType ty : {InputType::kS8, InputType::kU8}) {
      int32_t d[kPanelVectors][kPanelVectors], s[kPanelVectors][kPanelVectors];
      for (auto* m : {d, s})
        for (int i = 0; i < 16; ++i)
          for (int j = 0; j < 16; ++j) m[i][j] = j % 3 == 0 ? 0x7fffff00 : j % 3 == 1 ? 5 - i : -0x7fffff00;
      multiply_add(tx, x, 16, ty, y, kPanelWords, false, d);
      multiply_add(tx, x, 16, ty, y, kPanelWords, true, s);
      for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 16; ++j) {
          int64_t want = j % 3 == 0 ? 0x7fffff00 : j % 3 == 1 ? 5 - i : -0x7fffff00;
          for (int k = 0; k < 32; ++k) {
            const uint8_t a = static_cast<uint8_t>(x.word[k / 4][i] >> 8 * (k % 4));
            const uint8_t b = static_cast<uint8_t>(y.word[k / 4][j] >> 8 * (k % 4));
            want += int64_t{tx == InputType::kS8 ? static_cast<int8_t>(a) : int{a}} *
                    (ty == InputType::kS8 ? static_cast<int8_t>(b) : int{b});
          }
          ASSERT_EQ(d[i][j], static_cast<int32_t>(want));
          ASSERT_EQ(s[i][j], std::clamp<int64_t>(want, INT32_MIN, INT32_MAX));
        }
      }
    }
  }
}

}  // namespace
}  // namespace ptxsim::numeric
