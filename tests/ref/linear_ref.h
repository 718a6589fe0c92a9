// Matrix products: the naive loop with the contract's chain of std::fma in float (the backend must give these
// bits), and the same sum in double (it must be near that).
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace contender::ref {

// The fixed binary tree over a power of two of terms.
inline float tree_sum(std::vector<float> terms) {
  while (terms.size() > 1) {
    std::vector<float> half;
    for (size_t i = 0; i < terms.size(); i += 2) half.push_back(terms[i] + terms[i + 1]);
    terms = half;
  }
  return terms[0];
}

// sum over l of a(i, l) b(l, j), operands given as functions of two indices: `slices` chains, tree-summed.
template <class A, class B>
float chain_dot(const A& a, const B& b, int64_t i, int64_t j, int64_t k, int32_t slices = 1) {
  std::vector<float> terms;
  for (int32_t s = 0; s < slices; ++s) {
    float acc = 0.0f;
    for (int64_t l = s * (k / slices); l < (s + 1) * (k / slices); ++l) acc = std::fma(a(i, l), b(l, j), acc);
    terms.push_back(acc);
  }
  return tree_sum(terms);
}

// The same in double, and the sum of magnitudes that scales its error bound.
struct DoubleDot {
  double value = 0;
  double magnitude = 0;
};
template <class A, class B>
DoubleDot double_dot(const A& a, const B& b, int64_t i, int64_t j, int64_t k) {
  DoubleDot r;
  for (int64_t l = 0; l < k; ++l) {
    const double term = static_cast<double>(a(i, l)) * b(l, j);
    r.value += term;
    r.magnitude += std::abs(term);
  }
  return r;
}

}  // namespace contender::ref
