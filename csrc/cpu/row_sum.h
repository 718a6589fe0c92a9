// Sums over rows in the canonical order of RowSegments (ops/exec.h), shared by every operator that has one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/exec.h"

namespace contender::cpu {

// Segments of a sum that has one group: sorted by leaf, inside [0, rows).
inline void check_segments(const RowSegments& s, int64_t rows) {
  CHECK(s.num_leaves >= 1 && (s.num_leaves & (s.num_leaves - 1)) == 0, "num_leaves {} is not a power of two",
        s.num_leaves);
  for (int32_t i = 0; i < s.count; ++i) {
    const RowSegment& r = s.data[i];
    CHECK(r.group == 0 && 0 <= r.leaf && r.leaf < s.num_leaves, "segment {}: group {}, leaf {} of {}", i,
          r.group, r.leaf, s.num_leaves);
    CHECK(0 <= r.begin && r.begin <= r.end && r.end <= rows, "segment {}: rows [{}, {}) of {}", i, r.begin,
          r.end, rows);
    CHECK(i == 0 || s.data[i - 1].leaf <= r.leaf, "segment {} is not sorted by leaf", i);
  }
}

// out[0, n) = the sum of leaves [leaf, leaf + count), whose segments are [first, last). `add_rows(begin, end,
// acc)` continues the chains in acc over those rows. scratch: n floats for each level of the tree below.
template <class AddRows>
void sum_leaves(const RowSegment* first, const RowSegment* last, int32_t leaf, int32_t count, int64_t n,
                float* out, float* scratch, const AddRows& add_rows) {
  if (count == 1 || first == last) {
    std::fill_n(out, n, 0.0f);
    for (; first != last; ++first) add_rows(first->begin, first->end, out);
    return;
  }
  const int32_t right_leaf = leaf + count / 2;
  const RowSegment* middle =
      std::partition_point(first, last, [&](const RowSegment& s) { return s.leaf < right_leaf; });
  sum_leaves(first, middle, leaf, count / 2, n, out, scratch, add_rows);
  sum_leaves(middle, last, right_leaf, count / 2, n, scratch, scratch + n, add_rows);
  for (int64_t i = 0; i < n; ++i) out[i] += scratch[i];
}

template <class AddRows>
void canonical_row_sum(const RowSegments& s, int64_t n, float* out, float* scratch, const AddRows& add_rows) {
  sum_leaves(s.data, s.data + s.count, 0, s.num_leaves, n, out, scratch, add_rows);
}

}  // namespace contender::cpu
