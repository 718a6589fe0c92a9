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
inline constexpr int64_t kRowPad =
    48;  // floats after a copied row: keeps it aligned, and off its neighbours' cache sets

// Floats to copy a block of rows of length k into.
inline int64_t product_scratch_floats(int64_t m, int64_t k) {
  return std::min(m, kRowBlock) * (round_up(k, 16) + kRowPad);
}

// Sums of outer products (wgrad): a block of kOuterN x kOuterK results is finished over chunks of kOuterRows
// packed rows.
inline constexpr int64_t kOuterRows = 256;
inline constexpr int64_t kOuterN = 240;
inline constexpr int64_t kOuterK = 256;
inline constexpr int64_t kOuterTile = 12;  // widest packed tile of columns of the left operand

inline int64_t outer_left_floats(int64_t rows, int64_t n) {
  return round_up(rows * round_up(n, kOuterTile) + 16, 16);
}
inline int64_t outer_right_floats(int64_t rows, int64_t k) { return rows * round_up(k, kWeightPanel); }

// Buffers that a binary tree over `terms` needs when they arrive in order.
inline int64_t tree_levels(int32_t terms) { return std::bit_width(static_cast<uint32_t>(terms)); }

}  // namespace contender
