// What: rotary position embedding in place, forward and backward.
// Math: (a, b) -> (a cos - b sin, a sin + b cos); the backward is the transpose, (a cos + b sin, b cos - a
// sin). Precision: FP32, one product and one fused multiply-add per element.
#include "ops/rope.h"

#include <cmath>

#include "cpu/cpu_ops.h"

namespace contender::cpu {
namespace {

// Pair i is (x[i * stride], x[i * stride + offset]).
template <int64_t kStride>
void rotate(float* x, int64_t offset, const float* cos, const float* sin, int64_t pairs, float sign) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = x[i * kStride], b = x[i * kStride + offset], s = sign * sin[i];
    x[i * kStride] = std::fma(a, cos[i], -(b * s));
    x[i * kStride + offset] = std::fma(a, s, b * cos[i]);
  }
}

}  // namespace

void rope(const Exec&, const RopeArgs& a) {
  const int64_t dim = a.table.cols, half = dim / 2;
  CHECK(dim % 2 == 0 && a.num_heads >= 1, "rope over {} columns, {} heads", dim, a.num_heads);
  CHECK((a.num_heads - 1) * a.head_stride + a.offset + dim <= a.x.cols,
        "{} heads of stride {}, offset {}, dim {} in {} columns", a.num_heads, a.head_stride, a.offset, dim,
        a.x.cols);
  const float sign = a.inverse ? -1.0f : 1.0f;
  for (int64_t t = 0; t < a.x.rows; ++t) {
    const int32_t p = a.positions[t];
    CHECK(0 <= p && p < a.table.rows, "position {} of a table of {}", p, a.table.rows);
    const float* cos = a.table.row(p);
    for (int64_t h = 0; h < a.num_heads; ++h) {
      float* x = a.x.row(t) + h * a.head_stride + a.offset;
      if (a.interleaved) {
        rotate<2>(x, 1, cos, cos + half, half, sign);
      } else {
        rotate<1>(x, half, cos, cos + half, half, sign);
      }
    }
  }
}

}  // namespace contender::cpu
