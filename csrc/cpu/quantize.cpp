#include "ops/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "cpu/cpu_ops.h"

namespace contender::cpu {
namespace {

constexpr int64_t kBlock = 128;
constexpr float kE4m3Max = 448.0f;

struct BlockShape {
  int64_t rows, cols;
};
BlockShape block_shape(QLayout layout) {
  switch (layout) {
    case QLayout::k1x128:
      return {1, kBlock};
    case QLayout::k128x1:
      return {kBlock, 1};
    case QLayout::k128x128:
      return {kBlock, kBlock};
  }
  fail(ExitCode::kInternal, "unknown layout {}", static_cast<int>(layout));
}

void check_shapes(const QTensor& q, const Tensor& x, BlockShape block) {
  CHECK(q.data.dtype == DType::kE4M3, "dtype {}", dtype_name(q.data.dtype));
  CHECK(q.data.rows == x.rows && q.data.cols == x.cols, "{} x {}, quantised {} x {}", x.rows, x.cols,
        q.data.rows, q.data.cols);
  CHECK(q.scale.rows == ceil_div(x.rows, block.rows) && q.scale.cols == ceil_div(x.cols, block.cols),
        "scale {} x {} for {} x {} in blocks of {} x {}", q.scale.rows, q.scale.cols, x.rows, x.cols,
        block.rows, block.cols);
}

uint8_t* codes(const QTensor& q, int64_t row) { return static_cast<uint8_t*>(q.data.data) + row * q.data.ld; }

// amax / 448. A NaN is not part of amax: it becomes a NaN code and leaves its neighbours alone. Blocks so
// small that the quotient underflows count as zero.
float block_scale(float amax) {
  const float scale = amax / kE4m3Max;
  return scale == 0 ? 1.0f : scale;
}

float abs_max(float amax, float v) { return std::abs(v) > amax ? std::abs(v) : amax; }

// Calls visit(block column, first column, one past the last) along a row.
template <class F>
void for_each_block(int64_t cols, int64_t block_cols, const F& visit) {
  for (int64_t b = 0; b * block_cols < cols; ++b)
    visit(b, b * block_cols, std::min(cols, (b + 1) * block_cols));
}

}  // namespace

void quantize(const Exec&, const QuantizeArgs& args) {
  const BlockShape block = block_shape(args.q.layout);
  check_shapes(args.q, args.x, block);
  const int64_t rows = args.x.rows, cols = args.x.cols;
  for (int64_t r0 = 0; r0 < rows; r0 += block.rows) {
    const int64_t r1 = std::min(rows, r0 + block.rows);
    float* scale = args.q.scale.row(r0 / block.rows);
    std::fill_n(scale, args.q.scale.cols, 0.0f);
    for (int64_t r = r0; r < r1; ++r) {
      const float* x = args.x.row(r);
      for_each_block(cols, block.cols, [&](int64_t b, int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) scale[b] = abs_max(scale[b], x[c]);
      });
    }
    for (int64_t b = 0; b < args.q.scale.cols; ++b) scale[b] = block_scale(scale[b]);
    for (int64_t r = r0; r < r1; ++r) {
      const float* x = args.x.row(r);
      uint8_t* q = codes(args.q, r);
      for_each_block(cols, block.cols, [&](int64_t b, int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) q[c] = float_to_e4m3(x[c] / scale[b]);
      });
    }
  }
}

void dequantize(const Exec&, const DequantizeArgs& args) {
  const BlockShape block = block_shape(args.q.layout);
  check_shapes(args.q, args.y, block);
  static const std::array<float, 256> kValue = [] {
    std::array<float, 256> v;
    for (int code = 0; code < 256; ++code) v[code] = e4m3_to_float(static_cast<uint8_t>(code));
    return v;
  }();
  for (int64_t r = 0; r < args.y.rows; ++r) {
    const float* scale = args.q.scale.row(r / block.rows);
    const uint8_t* q = codes(args.q, r);
    float* y = args.y.row(r);
    for_each_block(args.y.cols, block.cols, [&](int64_t b, int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) y[c] = kValue[q[c]] * scale[b];
    });
  }
}

}  // namespace contender::cpu
