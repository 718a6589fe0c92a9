// Causal attention of one sequence and one query head in double, from dense rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace contender::ref {

using Rows = std::vector<std::vector<double>>;

struct AttentionHead {
  Rows o;
  std::vector<double> lse;
};

// q [n][d_qk] are the last n positions of k [m][d_qk], v [m][d_v].
inline AttentionHead attention(const Rows& q, const Rows& k, const Rows& v, double scale) {
  AttentionHead out;
  for (size_t i = 0; i < q.size(); ++i) {
    const size_t visible = k.size() - q.size() + i + 1;
    std::vector<double> s(visible);
    for (size_t j = 0; j < visible; ++j) {
      for (size_t c = 0; c < q[i].size(); ++c) s[j] += scale * q[i][c] * k[j][c];
    }
    const double max = *std::max_element(s.begin(), s.end());
    double sum = 0;
    for (double& x : s) sum += x = std::exp(x - max);
    std::vector<double> o(v[0].size());
    for (size_t j = 0; j < visible; ++j) {
      for (size_t c = 0; c < o.size(); ++c) o[c] += s[j] / sum * v[j][c];
    }
    out.o.push_back(o);
    out.lse.push_back(max + std::log(sum));
  }
  return out;
}

}  // namespace contender::ref
