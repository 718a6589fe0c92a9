#include "ops/norm.h"

#include "ops/permute.h"

namespace contender {

int64_t rms_norm_bwd_workspace_bytes(int64_t, int64_t h, int32_t num_leaves) {
  return column_sum_workspace_bytes(h, num_leaves);
}

// Squares and their sum, then two products, per element; x read, y written.
Cost rms_norm_cost(int64_t m, int64_t h) {
  const double n = static_cast<double>(m) * static_cast<double>(h);
  return {.flops = 4 * n, .bytes = 2 * 4 * n};
}

// Row dot, dx and the chain of dgamma; dy and x read, dx written.
Cost rms_norm_bwd_cost(int64_t m, int64_t h) {
  const double n = static_cast<double>(m) * static_cast<double>(h);
  return {.flops = 10 * n, .bytes = 3 * 4 * n};
}

}  // namespace contender
