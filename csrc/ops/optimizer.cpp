#include "ops/optimizer.h"

namespace contender {

// Master weight and both moments are read and written, the gradient is read.
Cost adamw_cost(int64_t n, DType moment_dtype) {
  const double count = static_cast<double>(n);
  return {.flops = 17 * count, .bytes = count * (3 * 4 + 4 * static_cast<double>(dtype_size(moment_dtype)))};
}

}  // namespace contender
