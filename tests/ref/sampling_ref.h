// Truncated sampling distributions in double, by sorting everything.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "ops/sampling.h"

namespace contender::ref {

// Probability of every token under `params` (temperature > 0); ids >= limit get 0.
inline std::vector<double> sampling_probabilities(const std::vector<float>& logits, int64_t limit,
                                                  const SampleParams& params) {
  const double inv_temperature = 1.0f / params.temperature;
  const auto n = static_cast<size_t>(limit);
  const double max = *std::max_element(logits.begin(), logits.begin() + limit);
  std::vector<double> p(logits.size(), 0.0);
  for (size_t i = 0; i < n; ++i) p[i] = std::exp((logits[i] - max) * inv_temperature);

  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (params.top_k > 0) order.resize(std::min(n, static_cast<size_t>(params.top_k)));
  double total = 0, mass = 0;
  for (const size_t i : order) total += p[i];
  size_t kept = 0;
  while (kept < order.size() && (params.top_p >= 1 || mass < static_cast<double>(params.top_p) * total))
    mass += p[order[kept++]];
  order.resize(kept);

  std::vector<double> result(logits.size(), 0.0);
  double sum = 0;
  for (const size_t i : order) {
    if (p[i] >= params.min_p) sum += result[i] = p[i];
  }
  for (double& v : result) v /= sum;
  return result;
}

}  // namespace contender::ref
