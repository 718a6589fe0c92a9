// Workspace of the head: used by the sizes of ops/ and the pointers of cpu/ (HeadFloats, HeadBwdFloats: in
// floats, in their order) and cuda/ (the rest). Not part of the contract.
#pragma once

#include "ops/head.h"
#include "ops/linear_blocks.h"

namespace contender {

struct HeadFloats {
  int64_t logits = 0;   // [kHeadChunkRows, spread_stride(V_local)]
  int64_t scratch = 0;  // of the product

  HeadFloats(int64_t h, int64_t vocab)
      : logits(kHeadChunkRows * spread_stride(vocab)), scratch(product_scratch_floats(kHeadChunkRows, h)) {}
  int64_t total() const { return logits + scratch; }
};

struct HeadBwdFloats {
  int64_t rows = kHeadChunkRows;  // indices of the chunk's rows, int32
  int64_t h = 0;                  // [kHeadChunkRows, spread_stride(H)] the rows themselves
  int64_t logits = 0;             // [kHeadChunkRows, spread_stride(V_local)], then their gradients
  int64_t dh = 0;                 // [kHeadChunkRows, spread_stride(H)]
  int64_t left = 0;               // gradients of a block of the vocabulary, packed
  int64_t right = 0;              // rows of h, packed
  int64_t tree = 0;               // partial dw of the leaves

  HeadBwdFloats(int64_t hidden, int64_t vocab, int32_t num_leaves)
      : h(kHeadChunkRows * spread_stride(hidden)),
        logits(kHeadChunkRows * spread_stride(vocab)),
        dh(h),
        left(outer_left_floats(kHeadChunkRows, std::min(vocab, kOuterN))),
        right(outer_right_floats(kHeadChunkRows, hidden)),
        tree((tree_levels(num_leaves) - 1) * round_up(vocab * hidden, 16)) {}
  int64_t total() const { return rows + h + logits + dh + left + right + tree; }
};

// CUDA's backward pass: the unfinished sums of dh, then gradients of logits of all rows and as many blocks of
// columns as fit.
inline constexpr int64_t kHeadColumnBlock = 128;
// Slice sums of dh that wait for others in the tree, and the one that is made.
inline int32_t head_bwd_levels(int32_t slices) { return static_cast<int32_t>(tree_levels(slices)); }
inline int64_t head_bwd_sum_bytes(int64_t m, int64_t hidden, int32_t slices) {
  return head_bwd_levels(slices) * round_up(m, kHeadColumnBlock) * round_up(hidden, kHeadColumnBlock) * 4;
}
// 64 MiB hold gradients of 4,096 columns of 8,192 rows; below 1,024 columns the sums of dh would travel more
// than they are worked on.
inline int64_t head_bwd_gradient_bytes(int64_t m, int64_t vocab) {
  const int64_t whole = 2 * m * round_up(vocab, kHeadColumnBlock);
  return std::min(whole, std::max<int64_t>(64 << 20, 2 * m * 1024));
}

}  // namespace contender
