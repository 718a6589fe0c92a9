// Rotary embedding in double as a complex product, and YaRN's frequencies as vectors, after the published
// Python (DeepSeek-V3's modeling file, yarn_find_correction_range and yarn_linear_ramp_mask).
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <vector>

#include "ops/rope.h"

namespace contender::ref {

inline std::vector<double> yarn_inv_freq(const RopeConfig& c) {
  const double pi = std::acos(-1.0), d = static_cast<double>(c.dim);
  auto find_dim = [&](double rotations) {
    return (d * std::log(c.original_max_position / (rotations * 2 * pi))) / (2 * std::log(c.theta));
  };
  double low = std::max(std::floor(find_dim(c.beta_fast)), 0.0);
  double high = std::min(std::ceil(find_dim(c.beta_slow)), d - 1);
  if (low == high) high += 0.001;
  std::vector<double> inv_freq;
  for (int64_t i = 0; i < c.dim / 2; ++i) {
    const double freq_extra = 1.0 / std::pow(c.theta, 2.0 * static_cast<double>(i) / d);
    const double freq_inter = 1.0 / (c.yarn_factor * std::pow(c.theta, 2.0 * static_cast<double>(i) / d));
    const double mask = 1.0 - std::min(1.0, std::max(0.0, (static_cast<double>(i) - low) / (high - low)));
    inv_freq.push_back(c.yarn_factor > 1 ? freq_inter * (1 - mask) + freq_extra * mask : freq_extra);
  }
  return inv_freq;
}

// One head's rotated columns at a position; `mscale` multiplies the result.
inline std::vector<double> rope(const std::vector<double>& x, const std::vector<double>& inv_freq,
                                double position, bool interleaved, double mscale) {
  std::vector<double> y(x.size());
  const size_t half = x.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const size_t re = interleaved ? 2 * i : i, im = interleaved ? 2 * i + 1 : i + half;
    const auto z = std::complex<double>(x[re], x[im]) * std::polar(mscale, position * inv_freq[i]);
    y[re] = z.real();
    y[im] = z.imag();
  }
  return y;
}

}  // namespace contender::ref
