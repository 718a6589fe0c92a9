// Matrices for the tensor cores: elements of a format, an exact product, the error that truncating
// accumulators may make.
#pragma once

#include "tests/ptxsim/silicon/formats.h"
#include "tests/ptxsim/silicon/harness.h"

namespace silicon {

struct Matrix {
  int rows, columns;
  std::vector<double> v;
  Matrix(int rows, int columns) : rows(rows), columns(columns), v(size_t(rows) * columns) {}
  double& at(int r, int c) { return v[size_t(r) * columns + c]; }
  double at(int r, int c) const { return v[size_t(r) * columns + c]; }
};

// Integers -limit..limit: every product and sum is exact in every accumulator, so the result has to be.
inline Matrix whole_numbers(int rows, int columns, int limit, uint64_t seed) {
  Matrix m(rows, columns);
  Random random(seed);
  for (double& v : m.v) v = int(random.below(2 * limit + 1)) - limit;
  return m;
}
// Over decades, rounded to the format.
inline Matrix reals(const Format& f, int rows, int columns, double low, double high, uint64_t seed) {
  Matrix m(rows, columns);
  Random random(seed);
  for (double& v : m.v) v = decode(f, encode(f, random.real(low, high), Round::kNearestEven, true));
  return m;
}

// D = A B + C against doubles. Products and C are aligned to the largest and cut after `fraction_bits`,
// `step` products at a time, and the sum keeps 24 bits (`result_bits` of them): each step may lose so much,
// and no more.
inline void expect_product(const Matrix& a, const Matrix& b, const Matrix& c, const std::vector<float>& d,
                           int step, int fraction_bits, int result_bits, const char* what) {
  int wrong = 0;
  for (int m = 0; m < a.rows; ++m)
    for (int n = 0; n < b.columns; ++n) {
      double sum = c.at(m, n), bound = 0;
      for (int k = 0; k < a.columns; k += step) {
        double largest = std::fabs(sum) + bound;
        for (int i = k; i < std::min(k + step, a.columns); ++i) {
          const double p = a.at(m, i) * b.at(i, n);
          largest = std::max(largest, std::fabs(p));
          sum += p;
        }
        bound += (step + 1) * 2 * largest * std::ldexp(1.0, -fraction_bits) +
                 (std::fabs(sum) + bound) * std::ldexp(1.0, 1 - result_bits);
      }
      const float got = d[size_t(m) * b.columns + n];
      if (std::fabs(got - sum) <= bound) continue;
      if (++wrong <= 3)
        ADD_FAILURE() << what << " D[" << m << "][" << n << "] = " << got << ", expected " << sum << " +- "
                      << bound;
    }
  if (wrong > 3) ADD_FAILURE() << what << ": " << wrong << " of " << d.size() << " differ";
}
inline void expect_exact(const Matrix& a, const Matrix& b, const Matrix& c, const std::vector<float>& d,
                         const char* what) {
  std::vector<float> want(size_t(a.rows) * b.columns);
  for (int m = 0; m < a.rows; ++m)
    for (int n = 0; n < b.columns; ++n) {
      double sum = c.at(m, n);
      for (int k = 0; k < a.columns; ++k) sum += a.at(m, k) * b.at(k, n);
      want[size_t(m) * b.columns + n] = float(sum);
    }
  expect_same(d, want, what);
}

}  // namespace silicon
