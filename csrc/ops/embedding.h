// Token embedding over a vocabulary shard: rows outside [vocab_begin, vocab_begin + V_local) give zeros, so
// shards sum to the whole.
#pragma once

#include "ops/exec.h"

namespace contender {

struct EmbeddingArgs {
  const int32_t* tokens = nullptr;  // [T]
  Tensor table;                     // [V_local, H]
  int64_t vocab_begin = 0;
  Tensor y;  // [T, H]
};
// dtable overwritten; canonical sum over tokens by segments (group 0).
struct EmbeddingBwdArgs {
  const int32_t* tokens = nullptr;  // [T]
  Tensor dy;                        // [T, H]
  int64_t vocab_begin = 0;
  Tensor dtable;  // [V_local, H]
  RowSegments segments;
};
int64_t embedding_bwd_workspace_bytes(int64_t vocab_local, int64_t h, int32_t num_leaves);
Cost embedding_cost(int64_t tokens, int64_t h, DType activation = DType::kF32, DType table = DType::kF32);
Cost embedding_bwd_cost(int64_t tokens, int64_t vocab_local, int64_t h, DType activation = DType::kF32);

}  // namespace contender
