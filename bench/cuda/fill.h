#pragma once

#include "base/tensor.h"

namespace contender::bench {

// n values of F32 or BF16, uniform in (-scale, scale).
void fill_random(void* data, DType dtype, int64_t n, uint64_t seed, float scale);

}  // namespace contender::bench
