// What: SwiGLU, its backward, and its fusion with 1x128 quantisation.
// Math: s = sigmoid(g);  y = g s u;  du = dy g s;  dg = dy u s (1 + g (1 - s))
// Precision: FP32, element by element: an element has the same bits whatever its place.
#include "ops/swiglu.h"

#include <algorithm>

#include "cpu/cpu_ops.h"
#include "cpu/vec_loop.h"

namespace contender::cpu {
namespace {

constexpr int64_t kQuantizeBlock = 128;

void check_swiglu(const Tensor& gate_up, const Tensor& y, int32_t slices) {
  CHECK(slices >= 1 && gate_up.cols % (2 * slices) == 0, "gate_up has {} columns in {} slices", gate_up.cols,
        slices);
  CHECK(!y || (y.rows == gate_up.rows && y.cols * 2 == gate_up.cols), "gate_up [{}, {}], y [{}, {}]",
        gate_up.rows, gate_up.cols, y.rows, y.cols);
}

// f(gate_column, first, n) for the parts [first, first + n) of y's columns [begin, end) that lie in one slice
// of `width`; their gates begin at gate_column of gate_up, their ups `width` later.
template <class F>
void for_each_slice(int64_t width, int64_t begin, int64_t end, const F& f) {
  for (int64_t c = begin; c < end;) {
    const int64_t slice_begin = c / width * width, stop = std::min(slice_begin + width, end);
    f(slice_begin + c, c, stop - c);
    c = stop;
  }
}

// Columns [begin, end) of a row of y.
void swiglu_columns(const float* gate_up, int64_t width, int64_t begin, int64_t end, float* y) {
  for_each_slice(width, begin, end, [&](int64_t gate_column, int64_t first, int64_t n) {
    const float *gate = gate_up + gate_column, *up = gate + width;
    for_each_vector(n, [&](auto d, int64_t c) {
      const auto g = hn::LoadU(d, gate + c);
      hn::StoreU(hn::Mul(hn::Mul(g, vec_sigmoid(d, g)), hn::LoadU(d, up + c)), d, y + (first - begin) + c);
    });
  });
}

void swiglu_bwd_columns(const float* gate, const float* up, const float* dy_row, float* dgate, float* dup,
                        int64_t n) {
  for_each_vector(n, [&](auto d, int64_t c) {
    const auto one = hn::Set(d, 1.0f);
    const auto g = hn::LoadU(d, gate + c), u = hn::LoadU(d, up + c), dy = hn::LoadU(d, dy_row + c);
    const auto s = vec_sigmoid(d, g);
    const auto slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));
    hn::StoreU(hn::Mul(hn::Mul(dy, u), slope), d, dgate + c);
    hn::StoreU(hn::Mul(dy, hn::Mul(g, s)), d, dup + c);
  });
}

}  // namespace

void swiglu(const Exec&, const SwigluArgs& a) {
  check_swiglu(a.gate_up, a.y, a.slices);
  const int64_t n = a.y.cols;
  for (int64_t r = 0; r < a.y.rows; ++r) swiglu_columns(a.gate_up.row(r), n / a.slices, 0, n, a.y.row(r));
}

void swiglu_bwd(const Exec&, const SwigluBwdArgs& a) {
  check_swiglu(a.gate_up, a.dy, a.slices);
  check_swiglu(a.dgate_up, a.dy, a.slices);
  const int64_t width = a.dy.cols / a.slices;
  for (int64_t r = 0; r < a.dy.rows; ++r) {
    const float *gate_up = a.gate_up.row(r), *dy = a.dy.row(r);
    float* dgate_up = a.dgate_up.row(r);
    for_each_slice(width, 0, a.dy.cols, [&](int64_t gate_column, int64_t first, int64_t n) {
      swiglu_bwd_columns(gate_up + gate_column, gate_up + gate_column + width, dy + first,
                         dgate_up + gate_column, dgate_up + gate_column + width, n);
    });
  }
}

void swiglu_quantize(const Exec& exec, const SwigluQuantizeArgs& a) {
  const Tensor& gate_up = a.swiglu.gate_up;
  check_swiglu(gate_up, a.swiglu.y, a.swiglu.slices);
  CHECK(a.q.layout == QLayout::k1x128, "layout {}", static_cast<int>(a.q.layout));
  const int64_t n = gate_up.cols / 2;
  for (int64_t r = 0; r < gate_up.rows; ++r) {
    for (int64_t c = 0; c < n; c += kQuantizeBlock) {
      const int64_t cols = std::min(kQuantizeBlock, n - c);
      float block[kQuantizeBlock];
      swiglu_columns(gate_up.row(r), n / a.swiglu.slices, c, c + cols, block);
      if (a.swiglu.y) std::copy_n(block, cols, a.swiglu.y.row(r) + c);
      const int64_t b = c / kQuantizeBlock;
      quantize(exec, {.x = f32_tensor(block, 1, cols),
                      .q = {.data = a.q.data.row_range(r, r + 1).col_range(c, c + cols),
                            .scale = a.q.scale.row_range(r, r + 1).col_range(b, b + 1),
                            .layout = QLayout::k1x128}});
    }
  }
}

}  // namespace contender::cpu
