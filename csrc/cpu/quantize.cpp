#include "ops/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "cpu/cpu_ops.h"

namespace contender::cpu {
namespace {

constexpr float kE4m3Max = 448.0f;

struct BlockShape {
  int64_t rows, cols;
};
BlockShape block_shape(QLayout layout) {
  switch (layout) {
    case QLayout::k1x128:
      return {1, kQuantizeBlock};
    case QLayout::k128x1:
      return {kQuantizeBlock, 1};
    case QLayout::k128x128:
      return {kQuantizeBlock, kQuantizeBlock};
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

// amax / 448, of activations rounded up to a power of two. A NaN is not part of amax: it becomes a NaN code
// and leaves its neighbours alone. Blocks so small that the quotient underflows count as zero.
float block_scale(float amax, QLayout layout) {
  const float scale = amax / kE4m3Max;
  if (scale == 0) return 1.0f;
  if (layout == QLayout::k128x128) return scale;
  constexpr uint32_t kMantissa = 0x7FFFFF, kSmallest = 0x00800000;
  return std::bit_cast<float>(std::max((std::bit_cast<uint32_t>(scale) + kMantissa) & ~kMantissa, kSmallest));
}

float abs_max(float amax, float v) { return std::abs(v) > amax ? std::abs(v) : amax; }

// Calls visit(block column, first column, one past the last) along a row.
template <class F>
void for_each_block(int64_t cols, int64_t block_cols, const F& visit) {
  for (int64_t b = 0; b * block_cols < cols; ++b)
    visit(b, b * block_cols, std::min(cols, (b + 1) * block_cols));
}

// At most 128 x 128 values, of columns from c0 on, into block `block` of t, rows to columns from r0 on.
void transpose_block(const Tensor& x, const QTransposed& t, int64_t block, int64_t r0, int64_t c0) {
  for (int64_t c = 0; c < x.cols; ++c) {
    float amax = 0;
    for (int64_t r = 0; r < x.rows; ++r) amax = abs_max(amax, x.row(r)[c]);
    const float scale = block_scale(amax, QLayout::k128x1);
    t.scale.row(block)[c0 + c] = scale;
    uint8_t* to = static_cast<uint8_t*>(t.data.data) + (c0 + c) * t.data.ld + r0;
    for (int64_t r = 0; r < x.rows; ++r) to[r] = float_to_e4m3(x.row(r)[c] / scale);
  }
}

// `count` rows of x, a block of t: to its columns from `column` on; and each to its row of q.
void transpose_rows(const Exec& exec, const QuantizeTransposedArgs& args, const int64_t* rows, int64_t count,
                    int64_t block, int64_t column) {
  const bool stored = args.x.dtype == DType::kE4M3;
  float tile[kQuantizeBlock][kQuantizeBlock];
  for (int64_t c0 = 0; c0 < args.x.cols; c0 += kQuantizeBlock) {
    const int64_t b = c0 / kQuantizeBlock, cols = std::min(kQuantizeBlock, args.x.cols - c0);
    for (int64_t r = 0; r < count; ++r) {
      const Tensor x = args.x.row_range(rows[r], rows[r] + 1).col_range(c0, c0 + cols);
      if (stored) {
        dequantize(exec, {.q = {.data = x,
                                .scale = args.x_scale.row_range(rows[r], rows[r] + 1).col_range(b, b + 1)},
                          .y = f32_tensor(tile[r], 1, cols)});
      } else {
        std::copy_n(x.f32(), cols, tile[r]);
      }
    }
    transpose_block({tile, DType::kF32, count, cols, kQuantizeBlock}, args.t, block, column, c0);
  }
  for (int64_t r = 0; args.q.data && r < count; ++r)
    quantize(exec, {.x = args.x.row_range(rows[r], rows[r] + 1),
                    .q = {.data = args.q.data.row_range(rows[r], rows[r] + 1),
                          .scale = args.q.scale.row_range(rows[r], rows[r] + 1)}});
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
    for (int64_t b = 0; b < args.q.scale.cols; ++b) scale[b] = block_scale(scale[b], args.q.layout);
    for (int64_t r = r0; r < r1; ++r) {
      const float* x = args.x.row(r);
      uint8_t* q = codes(args.q, r);
      for_each_block(cols, block.cols, [&](int64_t b, int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) q[c] = float_to_e4m3(x[c] / scale[b]);
      });
    }
  }
}

void quantize_transposed(const Exec& exec, const QuantizeTransposedArgs& args) {
  check_quantize_transposed(args);
  const int64_t rows = args.x.rows;
  std::array<int64_t, kQuantizeBlock> block_rows;
  // Rows row_of(i), i ascending, of a chain that begins at `place`.
  const auto transpose_chain = [&](int64_t count, RowPlace place, const auto& row_of) {
    for (int64_t i = 0; i < count; i += kQuantizeBlock, ++place.block) {
      const int64_t n = std::min(count - i, kQuantizeBlock);
      for (int64_t r = 0; r < n; ++r) block_rows[static_cast<size_t>(r)] = row_of();
      transpose_rows(exec, args, block_rows.data(), n, place.block, place.row + i);
    }
  };
  if (args.segments.data) {
    const int64_t leaves = args.segments.num_leaves, chains = args.num_groups * leaves;
    for (int64_t c = 0; c < chains; ++c) {
      const RowPlace* place = args.segments.places + c;
      const int64_t parts = args.segments.count / chains;
      const RowSegment* segment = args.segments.data + c * parts;
      int64_t row = segment->begin;
      transpose_chain(place[1].row - place[0].row, *place, [&] {
        while (row == segment->end) row = (++segment)->begin;
        return row++;
      });
    }
    return;
  }
  if (args.offsets) CHECK(args.offsets[0] == 0, "offsets[0] = {}", args.offsets[0]);
  int32_t block = 0;
  for (int64_t g = 0; g < args.num_groups; ++g) {
    const int64_t begin = args.offsets ? args.offsets[g] : 0, end = args.offsets ? args.offsets[g + 1] : rows;
    CHECK(begin <= end && end <= rows, "group {}: rows [{}, {}) of {}", g, begin, end, rows);
    int64_t row = begin;
    transpose_chain(end - begin, {narrow<int32_t>(begin), block}, [&] { return row++; });
    block += narrow<int32_t>(ceil_div(end - begin, kQuantizeBlock));
  }
}

void row_places(const Exec&, const RowPlacesArgs& args) {
  check_row_places(args);
  const RowSegments& s = args.segments;
  const int64_t chains = args.num_groups * s.num_leaves, parts = s.count / chains;
  RowPlace at;
  for (int64_t c = 0; c < chains; ++c) {
    args.places[c] = at;
    const int32_t first = at.row;
    for (int64_t i = c * parts; i < (c + 1) * parts; ++i) {
      const RowSegment& r = s.data[i];
      CHECK(0 <= r.begin && r.begin <= r.end && r.end <= args.rows && r.group == c / s.num_leaves &&
                r.leaf == c % s.num_leaves,
            "segment {}: rows [{}, {}) of {}, group {}, leaf {}", i, r.begin, r.end, args.rows, r.group,
            r.leaf);
      at.row += r.end - r.begin;
    }
    CHECK(at.row <= args.rows, "segments name {} rows of {}", at.row, args.rows);
    at.block += narrow<int32_t>(ceil_div(int64_t{at.row} - first, kQuantizeBlock));
  }
  args.places[chains] = at;
}

void quantize_weight(const Exec& exec, const QuantizeWeightArgs& args) {
  check_quantize_weight(args);
  const int64_t groups = args.num_groups, n = args.x.rows / groups, k = args.x.cols;
  const int64_t n_blocks = ceil_div(n, kQuantizeBlock), k_blocks = ceil_div(k, kQuantizeBlock);
  uint8_t block[kQuantizeBlock * kQuantizeBlock];
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t n0 = 0; n0 < n; n0 += kQuantizeBlock) {
      for (int64_t k0 = 0; k0 < k; k0 += kQuantizeBlock) {
        const int64_t rows = std::min(kQuantizeBlock, n - n0), cols = std::min(kQuantizeBlock, k - k0);
        float scale;
        quantize(exec, {.x = args.x.row_range(g * n + n0, g * n + n0 + rows).col_range(k0, k0 + cols),
                        .q = {.data = {block, DType::kE4M3, rows, cols},
                              .scale = f32_tensor(&scale, 1, 1),
                              .layout = QLayout::k128x128}});
        if (args.q.data) {
          args.q.scale.row(g * n_blocks + n0 / kQuantizeBlock)[k0 / kQuantizeBlock] = scale;
          for (int64_t r = 0; r < rows; ++r)
            std::copy_n(block + r * cols, cols, codes(args.q, g * n + n0 + r) + k0);
        }
        if (!args.transposed.data) continue;
        args.transposed.scale.row(g * k_blocks + k0 / kQuantizeBlock)[n0 / kQuantizeBlock] = scale;
        for (int64_t c = 0; c < cols; ++c)
          for (int64_t r = 0; r < rows; ++r)
            codes(args.transposed, g * k + k0 + c)[n0 + r] = block[r * cols + c];
      }
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
