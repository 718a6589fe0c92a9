#include "ops/embedding.h"

#include "ops/permute.h"

namespace contender {

int64_t embedding_bwd_workspace_bytes(int64_t vocab_local, int64_t h, int32_t num_leaves) {
  return column_sum_workspace_bytes(vocab_local * h, num_leaves);
}

Cost embedding_cost(int64_t tokens, int64_t h, DType activation, DType table) {
  Cost cost = rows_cost(tokens, h, 1, activation);
  cost += rows_cost(tokens, h, 1, table);
  return cost;
}

// Every row of dtable is written, those without tokens too.
Cost embedding_bwd_cost(int64_t tokens, int64_t vocab_local, int64_t h, DType activation) {
  Cost cost = rows_cost(tokens, h, 1, activation);
  cost += rows_cost(vocab_local, h, 1);
  return cost;
}

}  // namespace contender
