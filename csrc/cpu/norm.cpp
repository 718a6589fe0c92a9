// What: RMSNorm with its residual addition, its backward, and its fusion with 1x128 quantisation.
// Math: rstd = 1 / sqrt(mean(x^2) + eps);  y = (x * rstd) * gamma
//       dx = rstd * (dy * gamma - xhat * mean(dy * gamma * xhat)), xhat = x * rstd;  dgamma = sum over rows
//       of dy * xhat
// Heads: a head's columns are rows of their own.
// Precision: FP32; row sums in lanes (lanes.h), so a row's bits depend on the row alone.
#include "ops/norm.h"

#include <cmath>

#include "cpu/cpu_ops.h"
#include "cpu/lanes.h"
#include "cpu/row_sum.h"

namespace contender::cpu {
namespace {

constexpr int64_t kQuantizeBlock = 128;

void check_norm(const RmsNormArgs& a) {
  CHECK(a.gamma.rows == 1 && a.gamma.cols == a.x.cols, "x has {} columns, gamma is [{}, {}]", a.x.cols,
        a.gamma.rows, a.gamma.cols);
  CHECK(!a.delta || (a.delta.rows == a.x.rows && a.delta.cols == a.x.cols), "x [{}, {}], delta [{}, {}]",
        a.x.rows, a.x.cols, a.delta.rows, a.delta.cols);
  CHECK(!a.sum || (a.delta && a.sum.rows == a.x.rows && a.sum.cols == a.x.cols),
        "x [{}, {}], delta [{}, {}], sum [{}, {}]", a.x.rows, a.x.cols, a.delta.rows, a.delta.cols,
        a.sum.rows, a.sum.cols);
  CHECK(!a.y || (a.y.rows == a.x.rows && a.y.cols == a.x.cols), "x [{}, {}], y [{}, {}]", a.x.rows, a.x.cols,
        a.y.rows, a.y.cols);
}

// The row to norm, after the residual addition, and its rstd.
struct NormRow {
  const float* x;
  float rstd;
};
NormRow update_row(const RmsNormArgs& a, int64_t r) {
  const int64_t h = a.x.cols;
  const float* x = a.x.row(r);
  if (a.delta) {
    const float* delta = a.delta.row(r);
    float* sum = a.sum ? a.sum.row(r) : a.x.row(r);
    for (int64_t c = 0; c < h; ++c) sum[c] = x[c] + delta[c];
    x = sum;
  }
  const float mean = row_dot(x, x, h) / static_cast<float>(h);
  const float rstd = 1.0f / std::sqrt(mean + a.eps);
  if (a.rstd) a.rstd[r] = rstd;
  return {x, rstd};
}

void scale_row(const float* x, const float* gamma, float rstd, float* y, int64_t n) {
  for (int64_t c = 0; c < n; ++c) y[c] = (x[c] * rstd) * gamma[c];
}

// mean(dy * gamma * xhat) of a row.
float projection(const float* dy, const float* gamma, const float* x, float rstd, int64_t h) {
  Lanes sum = lanes_set(0.0f);
  for (int64_t c = 0; c < h; c += kLanes) {
    const int64_t n = h - c;
    const Lanes g = lanes_mul(lanes_load_n(dy + c, n), lanes_load_n(gamma + c, n));
    sum = lanes_fma(g, lanes_mul(lanes_load_n(x + c, n), lanes_set(rstd)), sum);
  }
  return lanes_sum(sum) / static_cast<float>(h);
}

}  // namespace

void rms_norm(const Exec&, const RmsNormArgs& a) {
  check_norm(a);
  CHECK(a.y.rows == a.x.rows && a.y.cols == a.x.cols, "x [{}, {}], y [{}, {}]", a.x.rows, a.x.cols, a.y.rows,
        a.y.cols);
  for (int64_t r = 0; r < a.x.rows; ++r) {
    const auto [x, rstd] = update_row(a, r);
    scale_row(x, a.gamma.f32(), rstd, a.y.row(r), a.x.cols);
  }
}

void rms_norm_bwd(const Exec& exec, const RmsNormBwdArgs& a) {
  const int64_t h = a.x.cols;
  CHECK(a.dy.rows == a.x.rows && a.dx.rows == a.x.rows && a.dy.cols == h && a.dx.cols == h &&
            a.gamma.cols == h && a.dgamma.cols == h && a.dgamma.rows == 1,
        "x [{}, {}], dy [{}, {}], dx [{}, {}], gamma of {}, dgamma of {}", a.x.rows, h, a.dy.rows, a.dy.cols,
        a.dx.rows, a.dx.cols, a.gamma.cols, a.dgamma.cols);
  CHECK(exec.workspace_bytes >= rms_norm_bwd_workspace_bytes(a.x.rows, h, a.segments.num_leaves),
        "workspace of {} bytes", exec.workspace_bytes);
  check_segments(a.segments, a.x.rows);
  const float* __restrict gamma = a.gamma.f32();
  canonical_row_sum(a.segments, h, a.dgamma.f32(), static_cast<float*>(exec.workspace),
                    [&](int64_t begin, int64_t end, float* __restrict acc) {
                      for (int64_t r = begin; r < end; ++r) {
                        const float* __restrict dy = a.dy.row(r);
                        const float* __restrict x = a.x.row(r);
                        const float rstd = a.rstd[r];
                        for (int64_t c = 0; c < h; ++c) acc[c] = std::fma(dy[c], x[c] * rstd, acc[c]);
                      }
                    });
  for (int64_t r = 0; r < a.x.rows; ++r) {
    const float* dy = a.dy.row(r);
    const float* __restrict x = a.x.row(r);
    float* dx = a.dx.row(r);
    const float rstd = a.rstd[r];
    const float mean = projection(dy, gamma, x, rstd, h);
    if (a.accumulate) {
      for (int64_t c = 0; c < h; ++c)
        dx[c] = std::fma(rstd, std::fma(-(x[c] * rstd), mean, dy[c] * gamma[c]), dx[c]);
    } else {
      for (int64_t c = 0; c < h; ++c) dx[c] = rstd * std::fma(-(x[c] * rstd), mean, dy[c] * gamma[c]);
    }
  }
}

void rms_norm_quantize(const Exec& exec, const RmsNormQuantizeArgs& a) {
  check_norm(a.norm);
  CHECK(a.q.layout == QLayout::k1x128, "layout {}", static_cast<int>(a.q.layout));
  const RmsNormArgs& n = a.norm;
  for (int64_t r = 0; r < n.x.rows; ++r) {
    const auto [x, rstd] = update_row(n, r);
    for (int64_t c = 0; c < n.x.cols; c += kQuantizeBlock) {
      const int64_t cols = std::min(kQuantizeBlock, n.x.cols - c);
      float block[kQuantizeBlock];
      scale_row(x + c, n.gamma.f32() + c, rstd, block, cols);
      if (n.y) std::copy_n(block, cols, n.y.row(r) + c);
      const int64_t b = c / kQuantizeBlock;
      quantize(exec, {.x = f32_tensor(block, 1, cols),
                      .q = {.data = a.q.data.row_range(r, r + 1).col_range(c, c + cols),
                            .scale = a.q.scale.row_range(r, r + 1).col_range(b, b + 1),
                            .layout = QLayout::k1x128}});
    }
  }
}

void head_norm(const Exec& exec, const HeadNormArgs& a) {
  check_head_norm(a);
  const int64_t d = a.gamma.cols;
  for (int64_t h = 0; h < a.x_heads.count; ++h)
    rms_norm(exec, {.x = head_columns(a.x, a.x_heads, h, d),
                    .gamma = a.gamma,
                    .eps = a.eps,
                    .y = head_columns(a.y, a.y_heads, h, d),
                    .rstd = a.rstd ? a.rstd + h * a.x.rows : nullptr});
}

void head_norm_bwd(const Exec& exec, const HeadNormBwdArgs& a) {
  check_head_norm_bwd(a);
  const int64_t d = a.gamma.cols;
  for (int64_t h = 0; h < a.x_heads.count; ++h)
    rms_norm_bwd(exec, {.dy = head_columns(a.dy, a.dy_heads, h, d),
                        .x = head_columns(a.x, a.x_heads, h, d),
                        .gamma = a.gamma,
                        .rstd = a.rstd + h * a.x.rows,
                        .dx = head_columns(a.dx, a.dx_heads, h, d),
                        .dgamma = a.dgamma.row_range(h, h + 1),
                        .segments = a.segments});
}

}  // namespace contender::cpu
