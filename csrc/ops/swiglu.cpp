#include "ops/swiglu.h"

namespace contender {

// An exponential (about 20 operations), a division and two products per element; gate and up read, y written.
Cost swiglu_cost(int64_t m, int64_t i) {
  const double n = static_cast<double>(m) * static_cast<double>(i);
  return {.flops = 24 * n, .bytes = 3 * 4 * n};
}

}  // namespace contender
