// RMSNorm in double, by its definition.
#pragma once

#include <cmath>
#include <vector>

namespace contender::ref {

inline double rms_rstd(const std::vector<double>& x, double eps) {
  double sum = 0;
  for (double v : x) sum += v * v;
  return 1 / std::sqrt(sum / static_cast<double>(x.size()) + eps);
}

inline std::vector<double> rms_norm(const std::vector<double>& x, const std::vector<double>& gamma,
                                    double eps) {
  std::vector<double> y(x.size());
  const double rstd = rms_rstd(x, eps);
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * rstd * gamma[i];
  return y;
}

}  // namespace contender::ref
