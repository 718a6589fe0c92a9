#include "ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace contender {
namespace {

double yarn_mscale(const RopeConfig& c, double mscale) {
  const bool none = c.yarn_factor <= 1 || c.scaling == RopeScaling::kLlama3;
  return none ? 1.0 : 0.1 * mscale * std::log(c.yarn_factor) + 1.0;
}

// The (fractional) pair whose wavelength makes `rotations` turns over the original context.
double correction_dim(const RopeConfig& c, double rotations) {
  return static_cast<double>(c.dim) * std::log(c.original_max_position / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(c.theta));
}

// Radians per position of pair i: interpolated by yarn_factor where a pair turns less than beta_slow times
// over the original context, kept where it turns more than beta_fast times, and a ramp between.
double inverse_frequency(const RopeConfig& c, int64_t pair) {
  const double kept = std::pow(c.theta, -2.0 * static_cast<double>(pair) / static_cast<double>(c.dim));
  if (c.yarn_factor <= 1) return kept;
  if (c.scaling == RopeScaling::kLlama3) {
    const double turns = c.original_max_position * kept / (2 * std::numbers::pi);
    const double share = std::clamp((turns - c.beta_slow) / (c.beta_fast - c.beta_slow), 0.0, 1.0);
    return kept / c.yarn_factor * (1 - share) + kept * share;
  }
  const double low = std::max(std::floor(correction_dim(c, c.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction_dim(c, c.beta_slow)), static_cast<double>(c.dim - 1));
  if (low == high) high += 0.001;  // as in the published code: no division by zero
  const double ramp = std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
  return kept / c.yarn_factor * ramp + kept * (1 - ramp);
}

}  // namespace

std::vector<float> rope_table(const RopeConfig& config, int64_t max_position) {
  CHECK(config.dim > 0 && config.dim % 2 == 0, "rope dim {}", config.dim);
  const int64_t half = config.dim / 2;
  const double mscale = yarn_mscale(config, config.mscale) / yarn_mscale(config, config.mscale_all_dim);
  std::vector<float> table(static_cast<size_t>(max_position * config.dim));
  for (int64_t i = 0; i < half; ++i) {
    const double frequency = inverse_frequency(config, i);
    for (int64_t p = 0; p < max_position; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      table[static_cast<size_t>(p * config.dim + i)] = static_cast<float>(std::cos(angle) * mscale);
      table[static_cast<size_t>(p * config.dim + half + i)] = static_cast<float>(std::sin(angle) * mscale);
    }
  }
  return table;
}

double yarn_softmax_scale(const RopeConfig& config) {
  const double m = yarn_mscale(config, config.mscale_all_dim);
  return m * m;
}

void check_rope(const RopeArgs& a) {
  const int64_t dim = a.table.cols;
  CHECK(dim % 2 == 0, "rope over {} columns", dim);
  check_heads(a.x_heads, dim, a.x.cols);
  if (!a.y) return;
  check_heads(a.y_heads, dim, a.y.cols);
  CHECK(a.y.rows == a.x.rows && a.y_heads.count == a.x_heads.count,
        "rope of {} rows, {} heads to {} rows, {}", a.x.rows, a.x_heads.count, a.y.rows, a.y_heads.count);
}

Cost rope_cost(int64_t tokens, int64_t num_heads, int64_t dim, DType activation) {
  const int64_t row_bytes = 2 * num_heads * dim * dtype_size(activation) + dim * dtype_size(DType::kF32);
  return {.flops = 3 * static_cast<double>(tokens * num_heads * dim),
          .bytes = static_cast<double>(tokens * row_bytes)};
}

}  // namespace contender
