// A dense table of row segments (ops/exec.h) on the host, for the reference, and on the device.
#pragma once

#include <vector>

#include "ops/exec.h"
#include "tests/cuda/device_array.h"
#include "tests/ref/row_sum_ref.h"

namespace contender::test {

class SegmentTable {
 public:
  SegmentTable(std::vector<RowSegment> table, int32_t num_leaves)
      : host_(std::move(table)), device_(host_), num_leaves_(num_leaves) {}
  // ref::test_segments of `rows` rows.
  SegmentTable(int64_t rows, int32_t num_leaves)
      : SegmentTable(ref::test_segments(static_cast<int32_t>(rows), num_leaves), num_leaves) {}

  RowSegments host() const { return {host_.data(), static_cast<int32_t>(host_.size()), num_leaves_}; }
  RowSegments device() const { return {device_.data(), static_cast<int32_t>(host_.size()), num_leaves_}; }

 private:
  std::vector<RowSegment> host_;
  DeviceArray<RowSegment> device_;
  int32_t num_leaves_;
};

}  // namespace contender::test
