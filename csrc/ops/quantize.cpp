#include "ops/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace contender {
namespace {

constexpr int kMantissaBits = 3;
constexpr int kBias = 7;
constexpr float kMax = 448.0f;

}  // namespace

uint8_t float_to_e4m3(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  const uint32_t sign = bits >> 31 << 7;
  if (std::isnan(v)) return static_cast<uint8_t>(sign | 0x7F);
  const float magnitude = std::min(std::abs(v), kMax);
  uint32_t code;
  if (magnitude < 0x1p-6f) {
    // Subnormal: at 2^14 the last bit of a float weighs 2^-9, the step of these codes, so the addition rounds
    // to it.
    code = std::bit_cast<uint32_t>(magnitude + 0x1p14f) - std::bit_cast<uint32_t>(0x1p14f);
  } else {
    constexpr int kDropped = 23 - kMantissaBits;
    const uint32_t m = std::bit_cast<uint32_t>(magnitude);
    const uint32_t rounded =
        m + (uint32_t{1} << (kDropped - 1)) - 1 + (m >> kDropped & 1);  // to nearest, ties to even
    code = (rounded >> kDropped) - (uint32_t{127 - kBias} << kMantissaBits);
  }
  return static_cast<uint8_t>(sign | code);
}

float e4m3_to_float(uint8_t v) {
  const int exponent = v >> kMantissaBits & 15, mantissa = v & 7;
  float magnitude;
  if ((v & 0x7F) == 0x7F) {
    magnitude = std::nanf("");
  } else if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  } else {
    magnitude = std::bit_cast<float>(static_cast<uint32_t>(exponent + 127 - kBias) << 23 |
                                     static_cast<uint32_t>(mantissa) << (23 - kMantissaBits));
  }
  return v & 0x80 ? -magnitude : magnitude;
}

Cost quantize_cost(int64_t rows, int64_t cols, QLayout layout, DType activation) {
  const int64_t scales = layout == QLayout::k1x128   ? rows * ceil_div(cols, 128)
                         : layout == QLayout::k128x1 ? ceil_div(rows, 128) * cols
                                                     : ceil_div(rows, 128) * ceil_div(cols, 128);
  const int64_t n = rows * cols;
  return {.flops = 2 * static_cast<double>(n),
          .bytes = static_cast<double>(n * (dtype_size(activation) + 1) + 4 * scales)};
}

}  // namespace contender
