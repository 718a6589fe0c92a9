#include "ops/permute.h"

#include <bit>

namespace contender {

Cost rows_cost(int64_t rows, int64_t cols, double passes) {
  return {.flops = 0, .bytes = passes * static_cast<double>(rows) * static_cast<double>(cols) * 4};
}

// One row of partial sums for each level of the tree over the leaves.
int64_t column_sum_workspace_bytes(int64_t n, int32_t num_leaves) {
  CHECK(num_leaves >= 1, "num_leaves {}", num_leaves);
  return (std::bit_width(static_cast<uint32_t>(num_leaves)) - 1) * n * static_cast<int64_t>(sizeof(float));
}

}  // namespace contender
