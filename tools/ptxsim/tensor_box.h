// Moves one box of a tensor between global and shared memory as TMA does: pure functions over pointers.
//
// A box is a list of rows: dimension 0 is the row, dimensions 1.. count rows, the lower ones fastest. In
// shared memory rows follow each other at pitch_of(); with a swizzle the 16-byte chunk at address a lies at
// a ^ (a >> 7 & (span / 16 - 1)) << 4, where a is the shared address, not an offset in the box. What lies
// outside the tensor is filled on loads and left alone on stores. Source: PTX ISA 9.0, 5.5.3 to 5.5.7.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "tensor_map.h"

namespace ptxsim {

// The part of a row of the box that lies inside the tensor.
struct BoxRow {
  uint32_t index = 0;   // of the row in the box
  uint64_t global = 0;  // address of its first element inside
  uint32_t first = 0;   // that element's place in the row, in elements
  uint32_t count = 0;   // elements inside; 0: none, `global` and `first` mean nothing
};

// What is wrong with a box that tensormap.replace may have made (inner dimension, swizzle); empty where
// nothing is.
std::string check_box(const TensorMap& m);

// Elements along a dimension: ceil(box / step).
inline uint32_t box_count(const TensorMap& m, int d) { return (m.box[d] + m.step[d] - 1) / m.step[d]; }
// Elements of one row; rows; bytes between rows in shared memory (a row narrower than the swizzle takes its
// whole span).
uint32_t row_elements(const TensorMap& m);
uint32_t box_rows(const TensorMap& m);
uint32_t pitch_of(const TensorMap& m);
// Bytes that complete_tx counts: the whole box, inside the tensor or not.
uint32_t box_bytes(const TensorMap& m);
// Bytes of shared memory that a box spans.
uint32_t box_extent(const TensorMap& m);

// Where the box starts. Tiles: `at` for every dimension. im2col: `at` too, and `offset` of the filter in W,
// H, D.
struct BoxPlace {
  int32_t at[kMaxTensorRank] = {};
  uint16_t offset[3] = {};
};

// Calls f(const BoxRow&) for every row in order.
template <class F>
void for_each_row(const TensorMap& m, const BoxPlace& place, F f);

// Calls f(address, bytes) for the pieces of shared memory that a box at `shared_address` uses: the rows, or
// where only_inside what of them lies inside the tensor. A row's place is its swizzled one.
template <class F>
void for_each_shared_piece(const TensorMap& m, const BoxPlace& place, uint32_t shared_address,
                           bool only_inside, F f);

// Lowest and one past the highest global address that the box touches; false where it lies outside
// altogether.
bool global_hull(const TensorMap& m, const BoxPlace& place, uint64_t* begin, uint64_t* end);

// `shared` is where the byte of shared address `shared_address` (a multiple of 128) lies.
void load_box(const TensorMap& m, const BoxPlace& place, std::byte* shared, uint32_t shared_address);
void store_box(const TensorMap& m, const BoxPlace& place, const std::byte* shared, uint32_t shared_address);
// Gives the elements that lie inside to `reduce`, row by row.
using ReduceElements = void (*)(std::byte* global, const std::byte* values, uint32_t elements);
void reduce_box(const TensorMap& m, const BoxPlace& place, const std::byte* shared, uint32_t shared_address,
                ReduceElements reduce);

// --- inline part ---

namespace box_detail {

// Elements [first, first + count) of a row that starts at coordinate `at` of dimension 0.
inline void clip(const TensorMap& m, int64_t at, uint32_t elements, BoxRow* row) {
  const int64_t size = static_cast<int64_t>(m.dim[0]);
  const int64_t low = at < 0 ? -at : 0;
  const int64_t high =
      size - at < static_cast<int64_t>(elements) ? size - at : static_cast<int64_t>(elements);
  row->first = static_cast<uint32_t>(low);
  row->count = high > low ? static_cast<uint32_t>(high - low) : 0;
  row->global = m.address + static_cast<uint64_t>(at + low) * m.stride[0];
}

template <class F>
void tile_rows(const TensorMap& m, const BoxPlace& place, F f) {
  BoxRow inner;
  clip(m, place.at[0], m.box[0], &inner);
  uint32_t count[kMaxTensorRank];
  for (int d = 1; d < kMaxTensorRank; ++d) count[d] = box_count(m, d);
  // Whether coordinate k along d lies inside, and its offset.
  const auto coordinate = [&](int d, uint32_t k) { return int64_t{place.at[d]} + int64_t{k} * m.step[d]; };
  const auto inside = [&](int d, int64_t x) { return x >= 0 && x < static_cast<int64_t>(m.dim[d]); };
  uint32_t index = 0;
  for (uint32_t k4 = 0; k4 < count[4]; ++k4) {
    const int64_t x4 = coordinate(4, k4);
    for (uint32_t k3 = 0; k3 < count[3]; ++k3) {
      const int64_t x3 = coordinate(3, k3);
      for (uint32_t k2 = 0; k2 < count[2]; ++k2) {
        const int64_t x2 = coordinate(2, k2);
        const bool plane = inside(4, x4) && inside(3, x3) && inside(2, x2);
        const uint64_t base = inner.global + static_cast<uint64_t>(x4) * m.stride[4] +
                              static_cast<uint64_t>(x3) * m.stride[3] +
                              static_cast<uint64_t>(x2) * m.stride[2];
        for (uint32_t k1 = 0; k1 < count[1]; ++k1) {
          const int64_t x1 = coordinate(1, k1);
          BoxRow row = inner;
          row.index = index++;
          row.global = base + static_cast<uint64_t>(x1) * m.stride[1];
          if (!plane || !inside(1, x1)) row.count = 0;
          f(static_cast<const BoxRow&>(row));
        }
      }
    }
  }
}

// im2col: `pixels` positions of the bounding box, W fastest, then H, D, and the batch without end; a position
// is a row of `channels` elements.
template <class F>
void im2col_rows(const TensorMap& m, const BoxPlace& place, F f) {
  const int spatial = m.rank - 2;
  BoxRow inner;
  clip(m, place.at[0], m.channels, &inner);
  int64_t x[3], low[3], high[3];
  for (int d = 0; d < spatial; ++d) {
    low[d] = m.lower[d];
    high[d] = static_cast<int64_t>(m.dim[d + 1]) + m.upper[d];  // one past the last base
    x[d] = place.at[d + 1];
  }
  int64_t batch = place.at[m.rank - 1];
  for (uint32_t k = 0; k < m.pixels; ++k) {
    BoxRow row = inner;
    row.index = k;
    bool inside = batch >= 0 && batch < static_cast<int64_t>(m.dim[m.rank - 1]);
    row.global += static_cast<uint64_t>(batch) * m.stride[m.rank - 1];
    for (int d = 0; d < spatial; ++d) {
      const int64_t at = x[d] + place.offset[d];
      inside = inside && at >= 0 && at < static_cast<int64_t>(m.dim[d + 1]);
      row.global += static_cast<uint64_t>(at) * m.stride[d + 1];
    }
    if (!inside) row.count = 0;
    f(static_cast<const BoxRow&>(row));
    int d = 0;
    for (; d < spatial; ++d) {
      x[d] += m.step[d + 1];
      if (x[d] < high[d]) break;
      x[d] = low[d];
    }
    if (d == spatial) ++batch;
  }
}

// Adjacent pieces become one.
template <class F>
struct Joined {
  F f;
  uint64_t begin = 0, end = 0;
  void add(uint64_t at, uint64_t bytes) {
    if (at != end) {
      flush();
      begin = at;
    }
    end = at + bytes;
  }
  void flush() {
    if (end > begin) f(begin, end - begin);
    begin = end = 0;
  }
};

}  // namespace box_detail

template <class F>
void for_each_shared_piece(const TensorMap& m, const BoxPlace& place, uint32_t shared_address,
                           bool only_inside, F f) {
  const uint32_t size = static_cast<uint32_t>(size_of(m.type)), bytes = row_elements(m) * size,
                 pitch = pitch_of(m);
  box_detail::Joined<F> joined{f};
  for_each_row(m, place, [&](const BoxRow& row) {
    const uint32_t at = shared_address + row.index * pitch;
    const uint32_t first = only_inside ? row.first * size : 0,
                   last = only_inside ? (row.first + row.count) * size : bytes;
    if (only_inside && row.count == 0) return;
    if (m.swizzle == Swizzle::kNone || last - first == pitch) {
      joined.add(at + first, last - first);
      return;
    }
    const uint32_t flip = (at >> 7 & (span_of(m.swizzle) / 16 - 1)) * 16;
    for (uint32_t k = first; k < last;) {
      const uint32_t piece = (k / 16 + 1) * 16 < last ? (k / 16 + 1) * 16 - k : last - k;
      joined.add(at + (k ^ flip), piece);
      k += piece;
    }
  });
  joined.flush();
}

template <class F>
void for_each_row(const TensorMap& m, const BoxPlace& place, F f) {
  if (m.im2col) {
    box_detail::im2col_rows(m, place, f);
  } else {
    box_detail::tile_rows(m, place, f);
  }
}

}  // namespace ptxsim
