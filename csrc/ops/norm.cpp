#include "ops/norm.h"

#include "ops/permute.h"

namespace contender {

void check_head_norm(const HeadNormArgs& a) {
  const int64_t d = a.gamma.cols;
  CHECK(a.gamma.rows == 1 && d > 0, "gamma is [{}, {}]", a.gamma.rows, d);
  CHECK(a.y.rows == a.x.rows && a.y_heads.count == a.x_heads.count,
        "norm of {} rows, {} heads to {} rows, {}", a.x.rows, a.x_heads.count, a.y.rows, a.y_heads.count);
  check_heads(a.x_heads, d, a.x.cols);
  check_heads(a.y_heads, d, a.y.cols);
}

void check_head_norm_bwd(const HeadNormBwdArgs& a) {
  const int64_t d = a.gamma.cols, heads = a.x_heads.count;
  CHECK(a.gamma.rows == 1 && d > 0 && a.dgamma.rows == heads && a.dgamma.cols == d,
        "{} heads, gamma [{}, {}], dgamma [{}, {}]", heads, a.gamma.rows, d, a.dgamma.rows, a.dgamma.cols);
  CHECK(a.dy.rows == a.x.rows && a.dx.rows == a.x.rows && a.dy_heads.count == heads &&
            a.dx_heads.count == heads,
        "x of {} rows, {} heads, dy {}, {}, dx {}, {}", a.x.rows, heads, a.dy.rows, a.dy_heads.count,
        a.dx.rows, a.dx_heads.count);
  check_heads(a.x_heads, d, a.x.cols);
  check_heads(a.dy_heads, d, a.dy.cols);
  check_heads(a.dx_heads, d, a.dx.cols);
}

// The heads one after the other.
int64_t head_norm_bwd_workspace_bytes(int64_t, int64_t d, int64_t, int32_t num_leaves) {
  return column_sum_workspace_bytes(d, num_leaves);
}

int64_t rms_norm_bwd_workspace_bytes(int64_t, int64_t h, int32_t num_leaves) {
  return column_sum_workspace_bytes(h, num_leaves);
}

// Squares and their sum, then two products, per element; x read, y written.
Cost rms_norm_cost(int64_t m, int64_t h, DType activation) {
  return {.flops = 4 * static_cast<double>(m * h), .bytes = rows_cost(m, h, 2, activation).bytes};
}

// delta read too, the sum written.
Cost rms_norm_residual_cost(int64_t m, int64_t h, DType activation) {
  return {.flops = 5 * static_cast<double>(m * h), .bytes = rows_cost(m, h, 4, activation).bytes};
}

// Row dot, dx and the chain of dgamma; dy and x read, dx written.
Cost rms_norm_bwd_cost(int64_t m, int64_t h, DType activation) {
  return {.flops = 10 * static_cast<double>(m * h), .bytes = rows_cost(m, h, 3, activation).bytes};
}

// y is quantised where it is made: neither written nor read.
Cost rms_norm_quantize_cost(int64_t m, int64_t h, DType activation) {
  Cost cost = rms_norm_cost(m, h, activation);
  cost += quantize_cost(m, h, QLayout::k1x128, activation);
  cost.bytes -= rows_cost(m, h, 2, activation).bytes;
  return cost;
}

}  // namespace contender
