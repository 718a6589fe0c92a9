// The rows of a leaf (ops/exec.h: RowSegments), one after the other.
#pragma once

#include "ops/exec.h"

namespace contender::cuda {

// Finds the row of a position in a chain; positions are asked for in ascending order.
struct RowCursor {
  const RowSegment* next = nullptr;      // the segment behind the one looked at
  int start = 0, begin = 0, length = 0;  // of that: position of its first row, the row, their number
  __device__ int row(int position) {
    while (position - start >= length) {
      start += length;
      begin = next->begin;
      length = next->end - begin;
      ++next;
    }
    return begin + position - start;
  }
};

}  // namespace contender::cuda
