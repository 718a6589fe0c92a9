// The output head in double: logits, softmax statistics, and the gradients of sum(dlogp * logp + dentropy *
// entropy).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace contender::ref {

struct HeadRow {
  std::vector<double> z;  // logits * inv_temperature
  double lse = 0, logp = 0, entropy = 0;
};

inline HeadRow head_row(const std::vector<double>& logits, double inv_temperature, int64_t target) {
  HeadRow r;
  for (const double l : logits) r.z.push_back(l * inv_temperature);
  const double max = *std::max_element(r.z.begin(), r.z.end());
  double sum = 0;
  for (const double z : r.z) sum += std::exp(z - max);
  r.lse = max + std::log(sum);
  r.entropy = r.lse;
  for (const double z : r.z) r.entropy -= std::exp(z - r.lse) * z;
  r.logp = r.z[target] - r.lse;
  return r;
}

inline std::vector<double> head_dlogits(const HeadRow& r, double inv_temperature, int64_t target,
                                        double dlogp, double dentropy) {
  std::vector<double> d;
  for (size_t v = 0; v < r.z.size(); ++v) {
    const double p = std::exp(r.z[v] - r.lse);
    const double onehot = static_cast<int64_t>(v) == target ? 1 : 0;
    d.push_back((dlogp * (onehot - p) - dentropy * p * (r.z[v] - r.lse + r.entropy)) * inv_temperature);
  }
  return d;
}

}  // namespace contender::ref
