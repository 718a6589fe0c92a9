// The fixed binary tree ((0+1)+(2+3))+... over matrices that arrive in order; an absent one counts as +0.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/error.h"
#include "ops/linear_blocks.h"

namespace contender::cpu {

// A stack with one matrix per set bit of the number of terms so far. The bottom one is the destination
// itself; the others lie one after the other in `workspace`: (tree_levels(terms) - 1) * round_up(rows * cols,
// 16) floats.
class TreeSum {
 public:
  struct Matrix {
    float* data = nullptr;
    int64_t ld = 0;
  };

  TreeSum(float* dst, int64_t ld, int64_t rows, int64_t cols, float* workspace)
      : dst_{dst, ld}, rows_(rows), cols_(cols), workspace_(workspace) {}

  // Where the next term is to be written.
  Matrix next() const {
    if (depth_ == 0) return dst_;
    return {workspace_ + (depth_ - 1) * round_up(rows_ * cols_, 16), cols_};
  }
  // The next term stands in next(), or is absent.
  void push(bool present) {
    CHECK(depth_ < kMaxLevels, "more than 2^{} terms", kMaxLevels);
    present_[static_cast<size_t>(depth_++)] = present;
    for (int64_t n = ++terms_; n % 2 == 0; n /= 2) merge_top();
  }
  // Call after a power of two of terms: dst holds the sum.
  void finish() {
    CHECK(depth_ == 1, "{} terms are not a power of two", terms_);
    if (!present_[0]) {
      for (int64_t r = 0; r < rows_; ++r) std::fill_n(dst_.data + r * dst_.ld, cols_, 0.0f);
    }
  }

 private:
  static constexpr int64_t kMaxLevels = 31;

  void merge_top() {
    depth_ -= 2;
    const Matrix a = next();
    const bool has_a = present_[static_cast<size_t>(depth_++)];
    const Matrix b = next();
    const bool has_b = present_[static_cast<size_t>(depth_)];
    if (has_a && has_b) {
      for_each(a, b, [](float& x, float y) { x = x + y; });
    } else if (has_a) {
      for_each(a, a, [](float& x, float) { x = x + 0.0f; });  // -0 becomes +0, as in the full tree
    } else if (has_b) {
      for_each(a, b, [](float& x, float y) { x = y + 0.0f; });
    }
    present_[static_cast<size_t>(depth_ - 1)] = has_a || has_b;
  }
  template <class F>
  void for_each(Matrix a, Matrix b, F f) {
    for (int64_t r = 0; r < rows_; ++r) {
      float* x = a.data + r * a.ld;
      const float* y = b.data + r * b.ld;
      for (int64_t c = 0; c < cols_; ++c) f(x[c], y[c]);
    }
  }

  Matrix dst_;
  int64_t rows_;
  int64_t cols_;
  float* workspace_;
  std::array<bool, kMaxLevels> present_{};
  int64_t depth_ = 0;
  int64_t terms_ = 0;
};

}  // namespace contender::cpu
