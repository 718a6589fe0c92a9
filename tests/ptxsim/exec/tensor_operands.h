// What the tests of mma and wgmma share.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>

#include "numeric/float_formats.h"
#include "numeric/tensor_core.h"

namespace ptxsim::testing {

// "{%r4,%r5,%r6}"
inline std::string registers(const std::string& prefix, int first, int count) {
  std::string s = "{";
  for (int k = 0; k < count; ++k) s += (k ? "," : "") + prefix + std::to_string(first + k);
  return s + "}";
}

// Codes with values of a few binary orders, some of them negative.
inline uint32_t random_code(std::mt19937& random, numeric::InputType type) {
  const uint32_t bits = static_cast<uint32_t>(random());
  const float value =
      std::ldexp(static_cast<float>(bits >> 8) * 0x1p-24f + 0.5f, static_cast<int>(bits & 7) - 4) *
      (bits & 8 ? -1.0f : 1.0f);
  const uint32_t f = std::bit_cast<uint32_t>(value);
  using namespace numeric;
  switch (type) {
    case InputType::kF16:
      return narrow<kF16, Round::kZero, Overflow::kFinite>(f);
    case InputType::kBf16:
      return narrow<kBf16, Round::kZero, Overflow::kFinite>(f);
    case InputType::kTf32:
      return f;
    case InputType::kE4m3:
      return narrow<kE4m3, Round::kZero, Overflow::kFinite>(f);
    case InputType::kE5m2:
      return narrow<kE5m2, Round::kZero, Overflow::kFinite>(f);
    default:
      return bits >> 8 & 0xff;
  }
}

}  // namespace ptxsim::testing
