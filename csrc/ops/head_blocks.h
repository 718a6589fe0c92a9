// Workspace of the CPU's head, in floats, in this order: used by the sizes of ops/ and the pointers of cpu/.
// Not part of the contract.
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

}  // namespace contender
