// Block sizes of the CPU's matrix products, shared by the workspace sizes of ops/ and the loops of cpu/. Not
// part of the contract.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "ops/linear.h"

namespace contender {

// Products: rows are taken in blocks whose slice of x stays in the L2 cache while all panels of the weight
// pass by.
inline constexpr int64_t kRowBlock = 96;

// Rows this many floats apart fall into one set of the L1 cache (64 sets of 64 bytes), which has fewer ways
// than a tile has rows.
inline bool rows_share_a_cache_set(int64_t ld) { return ld * 4 % 4096 == 0; }
// A stride for rows of n floats that keeps them aligned and off each other's sets.
inline int64_t spread_stride(int64_t n) {
  const int64_t ld = round_up(n, 16) + 16;
  return rows_share_a_cache_set(ld) ? ld + 16 : ld;
}

// Floats to copy a block of rows of length k into.
inline int64_t product_scratch_floats(int64_t m, int64_t k) {
  return std::min(m, kRowBlock) * spread_stride(k);
}

// Sums of outer products (wgrad): a block of kOuterN x kOuterK results is finished over chunks of kOuterRows
// packed rows.
inline constexpr int64_t kOuterRows = 256;
inline constexpr int64_t kOuterN = 516;
inline constexpr int64_t kOuterK = 512;
inline constexpr int64_t kOuterTile = 12;  // widest packed tile of columns of the left operand

inline int64_t outer_left_floats(int64_t rows, int64_t n) {
  return round_up(rows * round_up(n, kOuterTile) + 16, 16);
}
inline int64_t outer_right_floats(int64_t rows, int64_t k) { return rows * round_up(k, kWeightPanel); }

// Buffers that a binary tree over `terms` needs when they arrive in order.
inline int64_t tree_levels(int32_t terms) { return std::bit_width(static_cast<uint32_t>(terms)); }

}  // namespace contender
