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

void check_swiglu(const Tensor& gate_up, const Tensor& y) {
  CHECK(gate_up.cols % 2 == 0, "gate_up has {} columns", gate_up.cols);
  CHECK(!y || (y.rows == gate_up.rows && y.cols * 2 == gate_up.cols), "gate_up [{}, {}], y [{}, {}]",
        gate_up.rows, gate_up.cols, y.rows, y.cols);
}

void swiglu_columns(const float* gate, const float* up, float* y, int64_t n) {
  for_each_vector(n, [&](auto d, int64_t c) {
    const auto g = hn::LoadU(d, gate + c);
    hn::StoreU(hn::Mul(hn::Mul(g, vec_sigmoid(d, g)), hn::LoadU(d, up + c)), d, y + c);
  });
}

}  // namespace

void swiglu(const Exec&, const SwigluArgs& a) {
  check_swiglu(a.gate_up, a.y);
  for (int64_t r = 0; r < a.y.rows; ++r) {
    const float* gate = a.gate_up.row(r);
    swiglu_columns(gate, gate + a.y.cols, a.y.row(r), a.y.cols);
  }
}

void swiglu_bwd(const Exec&, const SwigluBwdArgs& a) {
  check_swiglu(a.gate_up, a.dy);
  check_swiglu(a.dgate_up, a.dy);
  const int64_t n = a.dy.cols;
  for (int64_t r = 0; r < a.dy.rows; ++r) {
    const float* gate = a.gate_up.row(r);
    const float* dy_row = a.dy.row(r);
    float* dgate = a.dgate_up.row(r);
    for_each_vector(n, [&](auto d, int64_t c) {
      const auto one = hn::Set(d, 1.0f);
      const auto g = hn::LoadU(d, gate + c), u = hn::LoadU(d, gate + n + c), dy = hn::LoadU(d, dy_row + c);
      const auto s = vec_sigmoid(d, g);
      const auto slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));
      hn::StoreU(hn::Mul(hn::Mul(dy, u), slope), d, dgate + c);
      hn::StoreU(hn::Mul(dy, hn::Mul(g, s)), d, dgate + n + c);
    });
  }
}

void swiglu_quantize(const Exec& exec, const SwigluQuantizeArgs& a) {
  const Tensor& gate_up = a.swiglu.gate_up;
  check_swiglu(gate_up, a.swiglu.y);
  CHECK(a.q.layout == QLayout::k1x128, "layout {}", static_cast<int>(a.q.layout));
  const int64_t n = gate_up.cols / 2;
  for (int64_t r = 0; r < gate_up.rows; ++r) {
    for (int64_t c = 0; c < n; c += kQuantizeBlock) {
      const int64_t cols = std::min(kQuantizeBlock, n - c);
      float block[kQuantizeBlock];
      swiglu_columns(gate_up.row(r) + c, gate_up.row(r) + n + c, block, cols);
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
