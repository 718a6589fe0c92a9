// Inputs and comparisons shared by the operator tests: random values over decades, poisoned outputs, scratch
// memory.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/philox.h"
#include "ops/exec.h"

namespace contender::test {

// Normal values times 10^uniform(-decades, 0).
inline std::vector<float> random_values(int64_t n, uint64_t seed, double decades = 3.0, double scale = 1.0) {
  std::vector<float> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const PhiloxBlock b = philox(seed, RandomStream::kTest, static_cast<uint64_t>(i));
    v[i] = static_cast<float>(scale * std::pow(10.0, -decades * uniform01(b[2])) * normal01(b[0], b[1]));
  }
  return v;
}
inline int32_t random_below(int32_t n, uint64_t seed, uint64_t i) {
  return static_cast<int32_t>(
      (uint64_t{philox(seed, RandomStream::kTest, i)[3]} * static_cast<uint64_t>(n)) >> 32);
}

inline std::vector<float> poisoned(int64_t n) {
  return std::vector<float>(static_cast<size_t>(n), std::numeric_limits<float>::quiet_NaN());
}

// A matrix that owns its values: rows of `ld` floats, the columns past `cols` poisoned and checked by
// `padding_untouched`.
struct Matrix {
  std::vector<float> values;
  int64_t rows = 0, cols = 0, ld = 0;

  static Matrix poisoned(int64_t rows, int64_t cols, int64_t padding = 0) {
    return {test::poisoned(rows * (cols + padding)), rows, cols, cols + padding};
  }
  static Matrix random(int64_t rows, int64_t cols, uint64_t seed, int64_t padding = 0, double decades = 3.0) {
    Matrix m = poisoned(rows, cols, padding);
    const std::vector<float> v = random_values(rows * cols, seed, decades);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(v.data() + r * cols, cols, m.values.data() + r * m.ld);
    return m;
  }
  Tensor tensor() { return {values.data(), DType::kF32, rows, cols, ld}; }
  float& at(int64_t r, int64_t c) { return values[static_cast<size_t>(r * ld + c)]; }
  float at(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * ld + c)]; }
  bool padding_untouched() const {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = cols; c < ld; ++c) {
        if (!std::isnan(at(r, c))) return false;
      }
    }
    return true;
  }
};

// Scratch memory, poisoned, exactly as large as the operator asks for.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : storage_(poisoned((bytes + 3) / 4 + 16)), bytes_(bytes) {}
  Exec exec() {
    const auto at = reinterpret_cast<uintptr_t>(storage_.data());
    return {.stream = nullptr,
            .workspace = storage_.data() + ((64 - at % 64) % 64) / 4,
            .workspace_bytes = bytes_};
  }

 private:
  std::vector<float> storage_;
  int64_t bytes_;
};

inline bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) { return same_bits(x, y); });
}

// The error metric: |got - want| <= eps * scale, where `scale` is the sum of the magnitudes that made `want`.
inline void expect_close(double got, double want, double scale, double eps, const char* what, int64_t i = 0,
                         int64_t j = 0) {
  EXPECT_LE(std::abs(got - want), eps * scale + 1e-37)
      << what << "[" << i << ", " << j << "] = " << got << ", expected " << want;
}

inline constexpr double kEps = 1.0 / (1 << 24);  // half an ulp of 1 in FP32

}  // namespace contender::test
