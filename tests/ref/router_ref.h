// Routing by sorting, and its weights in double as a function of the logits at a fixed selection.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "ops/router.h"

namespace contender::ref {

// Indices by descending value; a stable sort keeps the lower index first among equals.
inline std::vector<int32_t> ranking(const std::vector<float>& v) {
  std::vector<int32_t> order(v.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return v[a] > v[b]; });
  return order;
}

inline std::vector<int32_t> select_experts(const RouterShape& s, const std::vector<float>& biased) {
  const size_t size = static_cast<size_t>(s.num_experts / s.n_group);
  std::vector<float> group_scores;
  for (int64_t g = 0; g < s.n_group; ++g) {
    std::vector<float> group(biased.begin() + g * static_cast<int64_t>(size),
                             biased.begin() + (g + 1) * static_cast<int64_t>(size));
    std::stable_sort(group.begin(), group.end(), std::greater<>());
    group_scores.push_back(s.group_score == GroupScore::kTop2Sum && size > 1 ? group[0] + group[1]
                                                                             : group[0]);
  }
  std::vector<int32_t> groups = ranking(group_scores);
  groups.resize(static_cast<size_t>(s.topk_group));
  std::vector<int32_t> chosen;
  for (int32_t e : ranking(biased)) {
    if (std::find(groups.begin(), groups.end(), e / static_cast<int32_t>(size)) != groups.end())
      chosen.push_back(e);
  }
  chosen.resize(static_cast<size_t>(s.top_k));
  return chosen;
}

inline std::vector<double> router_scores(ScoreFunc f, const std::vector<double>& logits) {
  std::vector<double> s(logits.size());
  double sum = 0;
  for (size_t e = 0; e < s.size(); ++e) sum += std::exp(logits[e]);
  for (size_t e = 0; e < s.size(); ++e)
    s[e] = f == ScoreFunc::kSigmoid ? 1 / (1 + std::exp(-logits[e])) : std::exp(logits[e]) / sum;
  return s;
}

inline std::vector<double> router_weights(const RouterShape& shape, const std::vector<double>& logits,
                                          const std::vector<int32_t>& expert) {
  const std::vector<double> s = router_scores(shape.score_func, logits);
  double sum = 0;
  for (int32_t e : expert) sum += s[e];
  std::vector<double> w;
  for (int32_t e : expert) w.push_back(s[e] / (shape.norm_topk_prob ? sum : 1.0) * shape.scale);
  return w;
}

}  // namespace contender::ref
