// What: moving rows, the weighted sum of a token's expert outputs, and sums over rows.
// Precision: FP32; one fused multiply-add per term, experts ascending; row dots in lanes (lanes.h).
#include "ops/permute.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "cpu/cpu_ops.h"
#include "cpu/lanes.h"
#include "cpu/row_sum.h"

namespace contender::cpu {

namespace {

char* row_bytes(const Tensor& t, int64_t r) {
  return static_cast<char*>(t.data) + r * t.ld * dtype_size(t.dtype);
}

// To nearest even; NaN stays NaN.
uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
float from_bf16(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }

void convert_rows(const Tensor& x, const Tensor& y) {
  CHECK(x.rows == y.rows, "x has {} rows, y {}", x.rows, y.rows);
  for (int64_t r = 0; r < y.rows; ++r) {
    if (x.dtype == DType::kF32 && y.dtype == DType::kBF16) {
      std::transform(x.row(r), x.row(r) + x.cols, reinterpret_cast<uint16_t*>(row_bytes(y, r)), to_bf16);
    } else if (x.dtype == DType::kBF16 && y.dtype == DType::kF32) {
      const auto* from = reinterpret_cast<const uint16_t*>(row_bytes(x, r));
      std::transform(from, from + x.cols, y.row(r), from_bf16);
    } else {
      fail(ExitCode::kInternal, "rows of {} to {}", dtype_name(x.dtype), dtype_name(y.dtype));
    }
  }
}

}  // namespace

void gather_rows(const Exec&, const GatherRowsArgs& a) {
  CHECK(a.x.cols == a.y.cols && (!a.index || a.x.dtype == a.y.dtype), "x has {} columns ({}), y {} ({})",
        a.x.cols, dtype_name(a.x.dtype), a.y.cols, dtype_name(a.y.dtype));
  if (a.x.dtype != a.y.dtype) return convert_rows(a.x, a.y);
  const auto bytes = static_cast<size_t>(a.y.cols * dtype_size(a.y.dtype));
  for (int64_t i = 0; i < a.y.rows; ++i) {
    const int64_t from = a.index ? a.index[i] : i;
    CHECK(-1 <= from && from < a.x.rows, "index[{}] = {} of {} rows", i, from, a.x.rows);
    if (from < 0) {
      std::memset(row_bytes(a.y, i), 0, bytes);
    } else {
      std::memcpy(row_bytes(a.y, i), row_bytes(a.x, from), bytes);
    }
  }
}

void scatter_rows(const Exec&, const ScatterRowsArgs& a) {
  CHECK(a.x.cols == a.y.cols && a.x.dtype == a.y.dtype, "x has {} columns ({}), y {} ({})", a.x.cols,
        dtype_name(a.x.dtype), a.y.cols, dtype_name(a.y.dtype));
  const auto bytes = static_cast<size_t>(a.x.cols * dtype_size(a.x.dtype));
  for (int64_t i = 0; i < a.x.rows; ++i) {
    const int32_t to = a.index[i];
    CHECK(-1 <= to && to < a.y.rows, "index[{}] = {} of {} rows", i, to, a.y.rows);
    if (to >= 0) std::memcpy(row_bytes(a.y, to), row_bytes(a.x, i), bytes);
  }
}

void copy_heads(const Exec&, const CopyHeadsArgs& a) {
  check_copy_heads(a);
  const int64_t size = dtype_size(a.x.dtype);
  for (int64_t r = 0; r < a.y.rows; ++r) {
    for (int64_t h = 0; h < a.y_heads.count; ++h)
      std::memcpy(row_bytes(a.y, r) + a.y_heads.column(h) * size,
                  row_bytes(a.x, r) + a.x_heads.column(h) * size, static_cast<size_t>(a.width * size));
  }
}

void combine(const Exec&, const CombineArgs& a) {
  const int64_t h = a.y.cols;
  CHECK(a.x.cols == h && a.pos.rows == a.y.rows &&
            (!a.weight || (a.weight.rows == a.y.rows && a.pos.cols == a.weight.cols)),
        "x [{}, {}], pos [{}, {}], weight [{}, {}], y [{}, {}]", a.x.rows, a.x.cols, a.pos.rows, a.pos.cols,
        a.weight.rows, a.weight.cols, a.y.rows, h);
  for (int64_t t = 0; t < a.y.rows; ++t) {
    float* __restrict y = a.y.row(t);
    const int32_t* pos = a.pos.i32() + t * a.pos.ld;
    const float* weight = a.weight ? a.weight.row(t) : nullptr;
    if (!a.accumulate) std::memset(y, 0, static_cast<size_t>(h) * sizeof(float));
    for (int64_t j = 0; j < a.pos.cols; ++j) {
      CHECK(0 <= pos[j] && pos[j] < a.x.rows, "pos[{}, {}] = {} of {} rows", t, j, pos[j], a.x.rows);
      const float* __restrict x = a.x.row(pos[j]);
      const float w = weight ? weight[j] : 1.0f;
      for (int64_t c = 0; c < h; ++c) y[c] = std::fma(w, x[c], y[c]);
    }
  }
}

void combine_bwd(const Exec&, const CombineBwdArgs& a) {
  const int64_t h = a.dy.cols;
  CHECK(a.x.cols == h && a.dx.cols == h && a.dx.rows == a.x.rows && a.pos.rows == a.dy.rows &&
            a.weight.rows == a.dy.rows && a.dweight.rows == a.dy.rows && a.pos.cols == a.weight.cols &&
            a.pos.cols == a.dweight.cols,
        "dy [{}, {}], x [{}, {}], dx [{}, {}], pos [{}, {}]", a.dy.rows, h, a.x.rows, a.x.cols, a.dx.rows,
        a.dx.cols, a.pos.rows, a.pos.cols);
  for (int64_t t = 0; t < a.dy.rows; ++t) {
    const float* __restrict dy = a.dy.row(t);
    const int32_t* pos = a.pos.i32() + t * a.pos.ld;
    for (int64_t j = 0; j < a.pos.cols; ++j) {
      CHECK(0 <= pos[j] && pos[j] < a.x.rows, "pos[{}, {}] = {} of {} rows", t, j, pos[j], a.x.rows);
      a.dweight.row(t)[j] = row_dot(dy, a.x.row(pos[j]), h);
      float* __restrict dx = a.dx.row(pos[j]);
      const float w = a.weight.row(t)[j];
      for (int64_t c = 0; c < h; ++c) dx[c] = w * dy[c];
    }
  }
}

void add(const Exec&, const AddArgs& args) {
  CHECK(args.a.rows == args.y.rows && args.b.rows == args.y.rows && args.a.cols == args.y.cols &&
            args.b.cols == args.y.cols,
        "a [{}, {}], b [{}, {}], y [{}, {}]", args.a.rows, args.a.cols, args.b.rows, args.b.cols, args.y.rows,
        args.y.cols);
  for (int64_t r = 0; r < args.y.rows; ++r) {
    const float* a = args.a.row(r);
    const float* b = args.b.row(r);
    float* y = args.y.row(r);
    for (int64_t c = 0; c < args.y.cols; ++c) y[c] = a[c] + b[c];
  }
}

void column_sum(const Exec& exec, const ColumnSumArgs& a) {
  const int64_t n = a.dy.cols;
  CHECK(a.sum.rows == 1 && a.sum.cols == n, "dy has {} columns, sum is [{}, {}]", n, a.sum.rows, a.sum.cols);
  CHECK(exec.workspace_bytes >= column_sum_workspace_bytes(n, a.segments.num_leaves), "workspace of {} bytes",
        exec.workspace_bytes);
  check_segments(a.segments, a.dy.rows);
  canonical_row_sum(a.segments, n, a.sum.f32(), static_cast<float*>(exec.workspace),
                    [&](int64_t begin, int64_t end, float* __restrict acc) {
                      for (int64_t r = begin; r < end; ++r) {
                        const float* __restrict dy = a.dy.row(r);
                        for (int64_t c = 0; c < n; ++c) acc[c] += dy[c];
                      }
                    });
}

}  // namespace contender::cpu
