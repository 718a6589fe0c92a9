// The token losses as functions of logp in double: values only, so that gradients come from differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/loss.h"

namespace contender::ref {

struct LossProblem {
  std::vector<int32_t> offsets;
  std::vector<double> logp_old, logp_ref, advantage, weight, tis;
  double eps_low, eps_high, kl_beta;
  RatioLevel level;
  PolicyObjective objective;
  KlEstimator kl;

  int64_t sequence_of(int64_t t) const {
    return std::upper_bound(offsets.begin(), offsets.end(), static_cast<int32_t>(t)) - offsets.begin() - 1;
  }
  double ratio(const std::vector<double>& logp, int64_t t) const {
    if (level == RatioLevel::kToken) return std::exp(logp[t] - logp_old[t]);
    const int64_t s = sequence_of(t);
    double mean = 0;
    for (int32_t u = offsets[s]; u < offsets[s + 1]; ++u)
      mean += (logp[u] - logp_old[u]) / (offsets[s + 1] - offsets[s]);
    return std::exp(mean);
  }
  double kl_of(const std::vector<double>& logp, int64_t t) const {
    const double d = logp[t] - logp_ref[t];
    if (kl == KlEstimator::kK1) return d;
    if (kl == KlEstimator::kK2) return d * d / 2;
    if (kl == KlEstimator::kK3) return std::exp(-d) - 1 + d;
    return 0;
  }
  // The loss of token t; CISPO's stopped ratio is taken at `frozen`.
  double token(const std::vector<double>& logp, const std::vector<double>& frozen, int64_t t) const {
    const double a = advantage[t];
    double policy;
    if (objective == PolicyObjective::kCispo) {
      policy = -std::clamp(ratio(frozen, t), 1 - eps_low, 1 + eps_high) * a * logp[t];
    } else {
      const double r = ratio(logp, t);
      policy = -std::min(r * a, std::clamp(r, 1 - eps_low, 1 + eps_high) * a);
    }
    return weight[t] * tis[t] * (policy + kl_beta * kl_of(logp, t));
  }
  double total(const std::vector<double>& logp, const std::vector<double>& frozen) const {
    double sum = 0;
    for (size_t t = 0; t < logp.size(); ++t) sum += token(logp, frozen, static_cast<int64_t>(t));
    return sum;
  }
};

}  // namespace contender::ref
