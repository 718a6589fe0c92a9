#include "ops/permute.h"

#include <bit>

namespace contender {

void check_copy_heads(const CopyHeadsArgs& a) {
  CHECK(a.x.rows == a.y.rows && a.x_heads.count == a.y_heads.count && a.x.dtype == a.y.dtype && a.width >= 0,
        "{} columns of {} heads, {} rows ({}) to {} heads, {} rows ({})", a.width, a.x_heads.count, a.x.rows,
        dtype_name(a.x.dtype), a.y_heads.count, a.y.rows, dtype_name(a.y.dtype));
  check_heads(a.x_heads, a.width, a.x.cols);
  check_heads(a.y_heads, a.width, a.y.cols);
}

Cost rows_cost(int64_t rows, int64_t cols, double passes, DType activation) {
  return {.bytes = passes * static_cast<double>(rows * cols * dtype_size(activation))};
}

// One row of partial sums for each level of the tree over the leaves.
int64_t column_sum_workspace_bytes(int64_t n, int32_t num_leaves) {
  CHECK(num_leaves >= 1, "num_leaves {}", num_leaves);
  return (std::bit_width(static_cast<uint32_t>(num_leaves)) - 1) * n * static_cast<int64_t>(sizeof(float));
}

}  // namespace contender
