// A BF16 product and a weight gradient as launchers see them, from the Args of ops/linear.h. Shapes, dtypes
// and packed forms are checked here: exit 1 with the numbers.
#pragma once

#include <cstdint>

#include "ops/linear.h"

namespace contender::cuda {

// C [m, n] = A [m, k] B [n, k]^T; strides in elements, *_layer from one head or group to the next.
struct Product {
  const void* a = nullptr;
  int64_t lda = 0, a_layer = 0;
  const void* b = nullptr;
  int64_t ldb = 0, b_layer = 0;
  void* c = nullptr;
  int64_t ldc = 0, c_layer = 0;
  int64_t m = 0, n = 0, k = 0, layers = 1;
  int slices = 1;  // of k, a power of two
  DType c_type = DType::kBF16;
  const float* bias = nullptr;       // [n] or null
  const int32_t* offsets = nullptr;  // [layers + 1], where `grouped`
  bool grouped = false;              // rows dealt out to the layers, not all rows for every one
  bool accumulate = false;
};
Product product_of(const LinearArgs& args);
Product product_of(const LinearDgradArgs& args);
Product product_of(const GroupedLinearArgs& args);
Product product_of(const GroupedLinearDgradArgs& args);
Product product_of(const HeadsLinearArgs& args);

// dw [groups * n, k] F32; dy and x are the columns of the first group or head.
struct WgradProduct {
  Tensor dy, x, dw;
  RowSegments segments;
  int64_t dy_group = 0, x_group = 0, groups = 1;
  bool shared_rows = false;  // by all heads
  // Segments of a leaf.
  int64_t parts() const { return segments.count / ((shared_rows ? 1 : groups) * segments.num_leaves); }
};
WgradProduct product_of(const LinearWgradArgs& args);
WgradProduct product_of(const HeadsWgradArgs& args);

}  // namespace contender::cuda
