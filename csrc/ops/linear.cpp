#include "ops/linear.h"

#include <algorithm>

#include "ops/linear_blocks.h"

namespace contender {

int64_t packed_forward_bytes(int64_t n, int64_t k, const WeightFormat& f) {
  return round_up(round_up(n, f.panel) * k * dtype_size(f.dtype), 64);
}
int64_t packed_backward_bytes(int64_t n, int64_t k, const WeightFormat& f) {
  return round_up(round_up(k, f.panel) * n * dtype_size(f.dtype), 64);
}

WeightView WeightView::group(int64_t g) const {
  CHECK(0 <= g && g < num_groups, "group {} of {}", g, num_groups);
  WeightView v = {.n = n, .k = k, .num_groups = 1, .format = format};
  if (forward) v.forward = static_cast<const char*>(forward) + g * packed_forward_bytes(n, k, format);
  if (backward) v.backward = static_cast<const char*>(backward) + g * packed_backward_bytes(n, k, format);
  return v;
}

// The slices of a tile are summed in registers and on the stack: they need no workspace.
int64_t linear_workspace_bytes(int64_t m, int64_t n, int64_t k, int32_t) {
  return round_up(product_scratch_floats(m, std::max(n, k)) * 4, 64);
}

int64_t linear_wgrad_workspace_bytes(int64_t m, int64_t n, int64_t k, int32_t num_leaves) {
  const int64_t rows = std::min(m, kOuterRows);
  const int64_t n_block = std::min(n, kOuterN);
  const int64_t k_block = std::min(k, kOuterK);
  const int64_t tree =
      (tree_levels(num_leaves) - 1) * round_up(n_block * k_block, 16);  // the first level is dw itself
  return (outer_left_floats(rows, n_block) + outer_right_floats(rows, k_block) + tree) * 4;
}

Cost linear_cost(int64_t m, int64_t n, int64_t k, DType activation, DType weight) {
  return {.flops = 2 * static_cast<double>(m * n) * static_cast<double>(k),
          .bytes = static_cast<double>(m * (k + n) * dtype_size(activation) + n * k * dtype_size(weight))};
}

}  // namespace contender
