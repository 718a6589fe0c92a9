// The canonical order of RowSegments, element by element.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/exec.h"

namespace contender::ref {

// leaf_sum(acc, row) continues one element's chain; the tree is written as pairs, level by level.
template <class Step>
float canonical_sum(const RowSegments& s, const Step& step) {
  std::vector<float> leaves(static_cast<size_t>(s.num_leaves), 0.0f);
  for (int32_t i = 0; i < s.count; ++i) {
    for (int64_t r = s.data[i].begin; r < s.data[i].end; ++r)
      leaves[s.data[i].leaf] = step(leaves[s.data[i].leaf], r);
  }
  for (size_t n = leaves.size(); n > 1; n /= 2) {
    for (size_t i = 0; i < n / 2; ++i) leaves[i] = leaves[2 * i] + leaves[2 * i + 1];
  }
  return leaves[0];
}

// Segments used by the tests, a dense table: two per leaf, leaves without rows, rows that belong to none.
// Where there are many leaves, each has 0 to 3 rows.
inline std::vector<RowSegment> test_segments(int32_t rows, int32_t num_leaves) {
  if (num_leaves == 1) return {{0, rows / 2, 0, 0}, {rows / 2, rows, 0, 0}};
  std::vector<RowSegment> s;
  int32_t begin = 0;
  for (int32_t leaf = 0; leaf < num_leaves; ++leaf) {
    if (leaf == 1) {
      s.insert(s.end(), 2, {begin, begin, 0, leaf});
      continue;
    }
    const int32_t most = num_leaves > 64 ? std::min(leaf % 4, rows - begin) : (rows - begin) / 3;
    const int32_t end = leaf == num_leaves - 1 ? rows : begin + most;
    s.push_back({begin, begin + (end - begin) / 2, 0, leaf});
    s.push_back({begin + (end - begin) / 2, end, 0, leaf});
    begin = end < rows ? end + 1 : end;
  }
  return s;
}

}  // namespace contender::ref
