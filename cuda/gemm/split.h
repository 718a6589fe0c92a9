// The second half of a product whose contracted dimension is split over blocks: the sum of partial products.
#pragma once

#include "base/tensor.h"
#include "ops/exec.h"

namespace contender::cuda {

inline constexpr int kMaxSplits = 32;

// Bytes of `splits` partial products [m, n]: F32, rows of round_up(n, 4).
constexpr int64_t split_row(int64_t n) { return (n + 3) / 4 * 4; }
constexpr int64_t split_bytes(int64_t splits, int64_t m, int64_t n) { return splits * m * split_row(n) * 4; }

// y = the sum in the tree ((0+1)+(2+3))+..., then bias and, with `accumulate`, the old value, rounded once:
// what a product in so many slices would give.
struct SplitSumArgs {
  const float* partials = nullptr;  // [splits][m][split_row(n)]
  int splits = 2;                   // 2, 4, ..., kMaxSplits
  Tensor y;                         // [m, n] BF16 or F32
  const float* bias = nullptr;      // [n] or null
  bool accumulate = false;
};
void sum_splits(const Exec& exec, const SplitSumArgs& args);

}  // namespace contender::cuda
