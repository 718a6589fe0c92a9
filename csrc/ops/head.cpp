#include "ops/head.h"

#include <algorithm>

#include "ops/head_blocks.h"

namespace contender {

int64_t head_workspace_bytes(int64_t h, int64_t vocab_local, int32_t) {
  return HeadFloats(h, vocab_local).total() * 4;
}

int64_t head_bwd_workspace_bytes(int64_t m, int64_t h, int64_t vocab_local, int32_t slices,
                                 int32_t num_leaves) {
  return std::max(HeadBwdFloats(h, vocab_local, num_leaves).total() * 4,
                  head_bwd_sum_bytes(m, h, slices) + head_bwd_gradient_bytes(m, vocab_local));
}

// The logits stay in the cache.
Cost head_cost(int64_t m, int64_t h, int64_t vocab_local, DType activation, DType weight) {
  return {.flops = linear_cost(m, vocab_local, h).flops,
          .bytes = static_cast<double>(h * (m * dtype_size(activation) + vocab_local * dtype_size(weight)))};
}

// h and w are read, dh and dw written.
Cost head_bwd_cost(int64_t m, int64_t h, int64_t vocab_local, DType activation, DType weight) {
  const int64_t weight_bytes = dtype_size(weight) + dtype_size(DType::kF32);
  return {.flops = 3 * linear_cost(m, vocab_local, h).flops,
          .bytes = static_cast<double>(h * (2 * m * dtype_size(activation) + vocab_local * weight_bytes))};
}

}  // namespace contender
