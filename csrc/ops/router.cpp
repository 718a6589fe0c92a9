#include "ops/router.h"

namespace contender {

// An exponential and a division for each score, and one comparison for the selection.
Cost router_cost(int64_t tokens, const RouterShape& shape) {
  const double n = static_cast<double>(tokens) * static_cast<double>(shape.num_experts);
  const double selected = static_cast<double>(tokens) * static_cast<double>(shape.top_k);
  return {.flops = 24 * n, .bytes = 4 * (2 * n + 2 * selected)};
}

}  // namespace contender
