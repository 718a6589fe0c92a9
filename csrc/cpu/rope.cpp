// What: rotary position embedding, in place or into another layout of heads, forward and backward.
// Math: (a, b) -> (a cos - b sin, a sin + b cos); the backward is the transpose, (a cos + b sin, b cos - a
// sin). Precision: FP32, one product and one fused multiply-add per element.
#include "ops/rope.h"

#include <cmath>

#include "cpu/cpu_ops.h"

namespace contender::cpu {
namespace {

// Pair i is (x[i * stride], x[i * stride + offset]).
template <int64_t kStride>
void rotate(const float* x, float* y, int64_t offset, const float* cos, const float* sin, int64_t pairs,
            float sign) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = x[i * kStride], b = x[i * kStride + offset], s = sign * sin[i];
    y[i * kStride] = std::fma(a, cos[i], -(b * s));
    y[i * kStride + offset] = std::fma(a, s, b * cos[i]);
  }
}

}  // namespace

void rope(const Exec&, const RopeArgs& a) {
  const int64_t dim = a.table.cols, half = dim / 2;
  const Tensor& out = a.y ? a.y : a.x;
  const Heads& out_heads = a.y ? a.y_heads : a.x_heads;
  check_rope(a);
  const float sign = a.inverse ? -1.0f : 1.0f;
  for (int64_t t = 0; t < a.x.rows; ++t) {
    const int32_t p = a.positions[t];
    CHECK(0 <= p && p < a.table.rows, "position {} of a table of {}", p, a.table.rows);
    const float* cos = a.table.row(p);
    for (int64_t h = 0; h < a.x_heads.count; ++h) {
      const float* x = a.x.row(t) + a.x_heads.column(h);
      float* y = out.row(t) + out_heads.column(h);
      if (a.interleaved) {
        rotate<2>(x, y, 1, cos, cos + half, half, sign);
      } else {
        rotate<1>(x, y, half, cos, cos + half, half, sign);
      }
    }
  }
}

}  // namespace contender::cpu
