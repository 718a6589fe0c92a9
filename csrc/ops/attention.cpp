#include "ops/attention.h"

#include "ops/linear_blocks.h"

namespace contender {
namespace {

constexpr int64_t kRows = 16;  // query rows that a backend handles at once, at most

int64_t floats(int64_t n) { return round_up(n, kRows) * static_cast<int64_t>(sizeof(float)); }

// Pairs (query, visible key) of a sequence, all heads.
double visible_pairs(const AttentionShape& shape, const AttentionSeq& s) {
  const double q = s.q_len, kv = s.kv_len;
  return static_cast<double>(shape.num_heads) * q * (kv - (q - 1) / 2);
}

}  // namespace

// Transposed queries, scores, partial sums of exponentials, outputs of one tile of rows.
int64_t attention_workspace_bytes(const AttentionShape& shape, int64_t, int64_t max_kv_len) {
  return floats(kRows * shape.d_qk) + floats(kRows * round_up(max_kv_len, kAttentionBlock)) +
         floats(kRows * kAttentionBlock) + floats(kRows * shape.d_v);
}

// Transposed queries and output gradients, probabilities, score gradients of one tile; value gradients and
// the tree of cache rows of one sequence, of which a GPU keeps tiles of kRows keys.
int64_t attention_bwd_workspace_bytes(const AttentionShape& shape, int64_t max_kv_len, int32_t head_slices) {
  return floats(kRows * shape.d_qk) + floats(kRows * shape.d_v) + 2 * floats(kRows * max_kv_len) +
         floats(max_kv_len * shape.d_v) +
         tree_levels(head_slices) * floats(round_up(max_kv_len, kRows) * shape.row_width);
}

Cost attention_cost(const AttentionShape& shape, const AttentionSeq* seqs, int64_t num_seqs,
                    DType activation) {
  const double size = static_cast<double>(dtype_size(activation));
  Cost cost;
  for (int64_t i = 0; i < num_seqs; ++i) {
    const double pair = static_cast<double>(shape.d_qk + shape.d_v);
    cost.flops += 2 * pair * visible_pairs(shape, seqs[i]);
    cost.bytes += size * (pair * static_cast<double>(seqs[i].q_len * shape.num_heads) +
                          static_cast<double>(seqs[i].kv_len * shape.row_width));
  }
  return cost;
}

// Five products over the visible pairs: scores again, dP, dq, dk over d_qk or d_v, and dv.
Cost attention_bwd_cost(const AttentionShape& shape, const AttentionSeq* seqs, int64_t num_seqs,
                        DType activation) {
  const double size = static_cast<double>(dtype_size(activation));
  Cost cost;
  for (int64_t i = 0; i < num_seqs; ++i) {
    const double pair = static_cast<double>(3 * shape.d_qk + 2 * shape.d_v);
    cost.flops += 2 * pair * visible_pairs(shape, seqs[i]);
    cost.bytes += size * (2 * static_cast<double>(shape.d_qk + shape.d_v) *
                              static_cast<double>(seqs[i].q_len * shape.num_heads) +
                          2 * static_cast<double>(seqs[i].kv_len * shape.row_width));
  }
  return cost;
}

}  // namespace contender
