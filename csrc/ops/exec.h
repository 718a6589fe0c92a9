// What every operator gets besides its Args: where to run, and scratch memory. Operators never allocate,
// synchronise, read a config or ask for a rank.
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace contender {

struct Stream;

struct Exec {
  Stream* stream = nullptr;
  void* workspace = nullptr;    // 64-byte aligned, contents undefined before and after
  int64_t workspace_bytes = 0;  // at least <op>_workspace_bytes(args); checked by the operator
};

// Work and traffic of one call, for benches, the planner and the log: multiply-adds count two flops; bytes
// are the compulsory reads and writes of the operands.
struct Cost {
  double flops = 0;
  double bytes = 0;
  Cost& operator+=(const Cost& o) {
    flops += o.flops;
    bytes += o.bytes;
    return *this;
  }
};

// Rows [begin, end) of the token dimension that belong to `group` (expert; 0 where there is one) and `leaf`
// (virtual data slot). Sums over tokens are made in a canonical order that no layout changes:
//   within a (group, leaf): one chain of fused multiply-adds over its segments, in list order, rows
//   ascending, from 0; over leaves: the fixed binary tree ((0+1)+(2+3))+..., num_leaves a power of two, an
//   absent leaf counts as +0.
// Segments are sorted by (group, leaf).
struct RowSegment {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t group = 0;
  int32_t leaf = 0;
};
struct RowSegments {
  const RowSegment* data = nullptr;  // [count], host memory
  int32_t count = 0;
  int32_t num_leaves = 1;  // power of two
};

}  // namespace contender
