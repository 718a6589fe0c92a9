#include "ops/sampling.h"

namespace contender {

int64_t sample_workspace_bytes(int64_t vocab) {
  return 2 * round_up(vocab * 4, 64);  // a weight and an id of every token
}

Cost sample_cost(int64_t batch, int64_t vocab) {
  const double n = static_cast<double>(batch * vocab);
  return {.flops = 2 * 20 * n, .bytes = 4 * n};  // two exponentials per logit, about 20 operations each
}

}  // namespace contender
