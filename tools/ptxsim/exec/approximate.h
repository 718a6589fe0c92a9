// Functions of one f32 lane that become vector code, for the .approx instructions.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "numeric/float_formats.h"

namespace ptxsim::alu {

// By masks: with conditional expressions the compiler makes branches of constants, and no vector code.
inline uint32_t choose(bool condition, uint32_t yes, uint32_t no) {
  const uint32_t mask = 0u - condition;
  return (yes & mask) | (no & ~mask);
}
inline float choose(bool condition, float yes, float no) {
  return std::bit_cast<float>(choose(condition, std::bit_cast<uint32_t>(yes), std::bit_cast<uint32_t>(no)));
}

// 2^x = 2^n 2^f, |f| <= 1/2, by the Taylor polynomial of degree 7 (relative error below 2^-27).
inline constexpr auto kEx2 = [](float x) {
  constexpr float kRound = 0x1.8p23f;  // x + kRound has the rounded x in its low bits
  x = choose(x < -160.f, -160.f, x);
  x = choose(x > 130.f, 130.f, x);
  const float shifted = x + kRound;
  const float f = x - (shifted - kRound);
  const int n =
      static_cast<int>(std::bit_cast<uint32_t>(shifted)) - static_cast<int>(std::bit_cast<uint32_t>(kRound));
  float p = std::fma(0x1.ffcbfcp-17f, f, 0x1.430912p-13f);
  p = std::fma(p, f, 0x1.5d87fep-10f);
  p = std::fma(p, f, 0x1.3b2ab6p-7f);
  p = std::fma(p, f, 0x1.c6b08ep-5f);
  p = std::fma(p, f, 0x1.ebfbep-3f);
  p = std::fma(p, f, 0x1.62e43p-1f);
  p = std::fma(p, f, 1.f);
  // In two steps, so that results below the normal range are rounded once.
  const int half = n >> 1;
  const float low = std::bit_cast<float>(static_cast<uint32_t>(half + 127) << 23);
  const float high = std::bit_cast<float>(static_cast<uint32_t>(n - half + 127) << 23);
  return p * low * high;
};

// log2(2^e m) = e + 2 / ln 2 * atanh(t), t = (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)): odd series up to
// t^9 (relative error below 2^-28).
inline constexpr auto kLg2 = [](float x) {
  const uint32_t small = std::bit_cast<uint32_t>(x) < 0x800000u;  // subnormal: scaled by 2^23
  const float scaled = x * std::bit_cast<float>(0x3f800000u + (small * 23u << 23));
  const uint32_t shifted = std::bit_cast<uint32_t>(scaled) - 0x3f3504f3u;  // 0x3f3504f3: sqrt(1/2)
  const float e = static_cast<float>((static_cast<int>(shifted) >> 23) - static_cast<int>(small * 23u));
  const float m = std::bit_cast<float>((shifted & 0x7fffffu) + 0x3f3504f3u);
  const float t = (m - 1.f) / (m + 1.f), s = t * t;
  float p = std::fma(0x1.484b14p-2f, s, 0x1.a61762p-2f);
  p = std::fma(p, s, 0x1.2776c6p-1f);
  p = std::fma(p, s, 0x1.ec709ep-1f);
  const float high = 0x1.715476p+1f * t;
  const float low = std::fma(0x1.715476p+1f, t, -high) + t * std::fma(p, s, 0x1.4ae0cp-25f);
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  uint32_t r = std::bit_cast<uint32_t>(e + high + low);
  r = choose(bits < 0x7f800000u, r, numeric::kCanonicalNanF32);
  r = choose(bits == 0x7f800000u, bits, r);
  return std::bit_cast<float>(choose(bits << 1 == 0, 0xff800000u, r));
};

}  // namespace ptxsim::alu
