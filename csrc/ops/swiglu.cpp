#include "ops/swiglu.h"

#include "ops/permute.h"

namespace contender {

// An exponential (about 20 operations), a division and two products per element; gate and up read, y written.
Cost swiglu_cost(int64_t m, int64_t i, DType activation) {
  return {.flops = 24 * static_cast<double>(m * i), .bytes = rows_cost(m, i, 3, activation).bytes};
}

// Seven products more; dy, gate and up read, two gradients written.
Cost swiglu_bwd_cost(int64_t m, int64_t i, DType activation) {
  return {.flops = 31 * static_cast<double>(m * i), .bytes = rows_cost(m, i, 5, activation).bytes};
}

// y is quantised where it is made: neither written nor read.
Cost swiglu_quantize_cost(int64_t m, int64_t i, DType activation) {
  Cost cost = swiglu_cost(m, i, activation);
  cost += quantize_cost(m, i, QLayout::k1x128, activation);
  cost.bytes -= rows_cost(m, i, 2, activation).bytes;
  return cost;
}

}  // namespace contender
