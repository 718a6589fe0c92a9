// What every operator gets besides its Args: where to run, and scratch memory. Operators never allocate,
// synchronise, read a config or ask for a rank.
//
// Every pointer in an Args struct, those inside Tensors and RowSegments included, is memory of the backend's
// device (Device::alloc); scalars and shapes are the host's.
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
// are the compulsory reads and writes of the operands, of a backend whose activations are `activation`.
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
// Segments are a dense table [num_groups][num_leaves][parts] in device memory, rows of empty ones equal: its
// size is known to the host, its contents need not be.
struct RowSegment {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t group = 0;
  int32_t leaf = 0;
};
inline constexpr int32_t kMaxLeaves = 512;  // of a sum, on every backend
// The rows of a (group, leaf) one after the other are its chain. FP8 lays the chains behind each other, in
// the order of the table, and cuts each into blocks of 128 rows: where a chain begins.
struct RowPlace {
  int32_t row = 0;
  int32_t block = 0;
};
struct RowSegments {
  const RowSegment* data = nullptr;  // [count]
  int32_t count = 0;
  int32_t num_leaves = 1;            // power of two
  const RowPlace* places = nullptr;  // [num_groups * num_leaves + 1], the last one the end; FP8 reads it
};

// Where the columns of `count` heads lie in a row: head h begins at
//   offset + (h / per_slice) * slice_stride + (h % per_slice) * stride.
// Fused projections keep the heads of each virtual slice together; per_slice = 0: one slice has them all.
struct Heads {
  int64_t count = 1;
  int64_t stride = 0;
  int64_t offset = 0;
  int64_t per_slice = 0;
  int64_t slice_stride = 0;
  constexpr int64_t column(int64_t h) const {
    if (per_slice == 0) return offset + h * stride;
    return offset + h / per_slice * slice_stride + h % per_slice * stride;
  }
};

// `width` columns of each head lie inside a row of `cols`; exit 1 with the numbers otherwise.
inline void check_heads(const Heads& h, int64_t width, int64_t cols) {
  CHECK(h.count >= 1 && h.per_slice >= 0 && (h.per_slice == 0 || h.count % h.per_slice == 0),
        "{} heads, {} in a slice", h.count, h.per_slice);
  CHECK(h.offset >= 0 && h.stride >= 0 && h.slice_stride >= 0 && h.column(h.count - 1) + width <= cols,
        "{} heads of {} columns at {}, {} apart, slices {} apart, in {} columns", h.count, width, h.offset,
        h.stride, h.slice_stride, cols);
}

// The columns of head h.
inline Tensor head_columns(const Tensor& t, const Heads& heads, int64_t h, int64_t width) {
  return t.col_range(heads.column(h), heads.column(h) + width);
}

}  // namespace contender
