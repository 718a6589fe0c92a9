#include "ops/embedding.h"

#include "ops/permute.h"

namespace contender {

int64_t embedding_bwd_workspace_bytes(int64_t vocab_local, int64_t h, int32_t num_leaves) {
  return column_sum_workspace_bytes(vocab_local * h, num_leaves);
}

Cost embedding_cost(int64_t tokens, int64_t h) { return rows_cost(tokens, h, 2); }

}  // namespace contender
