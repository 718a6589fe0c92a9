// AdamW in double, one element.
#pragma once

#include <cmath>

namespace contender::ref {

struct AdamwState {
  double w, m, v;
};

inline AdamwState adamw(AdamwState s, double g, double lr, double beta1, double beta2, double eps,
                        double decay, int step) {
  s.m = beta1 * s.m + (1 - beta1) * g;
  s.v = beta2 * s.v + (1 - beta2) * g * g;
  const double m_hat = s.m / (1 - std::pow(beta1, step)), v_hat = s.v / (1 - std::pow(beta2, step));
  s.w -= lr * decay * s.w;
  s.w -= lr * m_hat / (std::sqrt(v_hat) + eps);
  return s;
}

}  // namespace contender::ref
