#include "ops/head.h"

#include "ops/head_blocks.h"

namespace contender {

int64_t head_workspace_bytes(int64_t h, int64_t vocab_local, int32_t) {
  return HeadFloats(h, vocab_local).total() * 4;
}

int64_t head_bwd_workspace_bytes(int64_t h, int64_t vocab_local, int32_t, int32_t num_leaves) {
  return HeadBwdFloats(h, vocab_local, num_leaves).total() * 4;
}

Cost head_cost(int64_t m, int64_t h, int64_t vocab_local) {
  Cost cost = linear_cost(m, vocab_local, h);
  cost.bytes -= 4.0 * static_cast<double>(m * vocab_local);  // the logits stay in the cache
  return cost;
}

Cost head_bwd_cost(int64_t m, int64_t h, int64_t vocab_local) {
  const double dm = static_cast<double>(m), dh = static_cast<double>(h),
               dv = static_cast<double>(vocab_local);
  // h and w are read, dh and dw written.
  return {.flops = 3 * linear_cost(m, vocab_local, h).flops, .bytes = 4 * (2 * dm * dh + 2 * dv * dh)};
}

}  // namespace contender
