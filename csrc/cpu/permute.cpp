// What: moving rows, the weighted sum of a token's expert outputs, and sums over rows.
// Precision: FP32; one fused multiply-add per term, experts ascending; row dots in lanes (lanes.h).
#include "ops/permute.h"

#include <cmath>
#include <cstring>

#include "cpu/cpu_ops.h"
#include "cpu/lanes.h"
#include "cpu/row_sum.h"

namespace contender::cpu {

void gather_rows(const Exec&, const GatherRowsArgs& a) {
  CHECK(a.x.cols == a.y.cols, "x has {} columns, y {}", a.x.cols, a.y.cols);
  const size_t bytes = static_cast<size_t>(a.y.cols) * sizeof(float);
  for (int64_t i = 0; i < a.y.rows; ++i) {
    const int32_t from = a.index ? a.index[i] : static_cast<int32_t>(i);
    CHECK(-1 <= from && from < a.x.rows, "index[{}] = {} of {} rows", i, from, a.x.rows);
    if (from < 0) {
      std::memset(a.y.row(i), 0, bytes);
    } else {
      std::memcpy(a.y.row(i), a.x.row(from), bytes);
    }
  }
}

void scatter_rows(const Exec&, const ScatterRowsArgs& a) {
  CHECK(a.x.cols == a.y.cols, "x has {} columns, y {}", a.x.cols, a.y.cols);
  const size_t bytes = static_cast<size_t>(a.x.cols) * sizeof(float);
  for (int64_t i = 0; i < a.x.rows; ++i) {
    const int32_t to = a.index[i];
    CHECK(-1 <= to && to < a.y.rows, "index[{}] = {} of {} rows", i, to, a.y.rows);
    if (to >= 0) std::memcpy(a.y.row(to), a.x.row(i), bytes);
  }
}

void combine(const Exec&, const CombineArgs& a) {
  const int64_t h = a.y.cols;
  CHECK(a.x.cols == h && a.pos.rows == a.y.rows && a.weight.rows == a.y.rows && a.pos.cols == a.weight.cols,
        "x [{}, {}], pos [{}, {}], weight [{}, {}], y [{}, {}]", a.x.rows, a.x.cols, a.pos.rows, a.pos.cols,
        a.weight.rows, a.weight.cols, a.y.rows, h);
  for (int64_t t = 0; t < a.y.rows; ++t) {
    float* __restrict y = a.y.row(t);
    const int32_t* pos = a.pos.i32() + t * a.pos.ld;
    const float* weight = a.weight.row(t);
    if (!a.accumulate) std::memset(y, 0, static_cast<size_t>(h) * sizeof(float));
    for (int64_t j = 0; j < a.pos.cols; ++j) {
      CHECK(0 <= pos[j] && pos[j] < a.x.rows, "pos[{}, {}] = {} of {} rows", t, j, pos[j], a.x.rows);
      const float* __restrict x = a.x.row(pos[j]);
      const float w = weight[j];
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
