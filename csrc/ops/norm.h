// RMSNorm: y = x * rstd * gamma, rstd = 1 / sqrt(mean(x^2) + eps). Fused with the residual addition and with
// quantisation.
#pragma once

#include "ops/exec.h"
#include "ops/quantize.h"

namespace contender {

struct RmsNormArgs {
  Tensor x;      // [M, H]
  Tensor delta;  // [M, H] or empty: the residual stream is updated first, x + delta, then normed
  Tensor sum;    // [M, H] where x + delta goes; empty: in place of x
  Tensor gamma;  // [1, H]
  float eps = 1e-6f;
  Tensor y;               // [M, H]
  float* rstd = nullptr;  // [M] or null, saved for the backward
};

struct RmsNormBwdArgs {
  Tensor dy;                    // [M, H]
  Tensor x;                     // [M, H] the normed input (after the residual addition)
  Tensor gamma;                 // [1, H]
  const float* rstd = nullptr;  // [M]
  Tensor dx;  // [M, H]; dx += when accumulate (the residual stream's gradient), else overwritten
  bool accumulate = false;
  Tensor dgamma;  // [1, H] overwritten, canonical sum over rows by segments (group 0)
  RowSegments segments;
};

// rms_norm, then 1x128 quantisation of y; y itself may be empty.
struct RmsNormQuantizeArgs {
  RmsNormArgs norm;
  QTensor q;
};

// RMSNorm of each head of a row (Qwen3's q and k): y_h = x_h * rstd_h * gamma.
struct HeadNormArgs {
  Tensor x;       // [M, ...]
  Heads x_heads;  // columns of the heads in x
  Tensor gamma;   // [1, D]
  float eps = 1e-6f;
  Tensor y;
  Heads y_heads;
  float* rstd = nullptr;  // [heads, M] or null
};
// dgamma has a row per head: each head is a use of gamma of its own, summed later in head order.
struct HeadNormBwdArgs {
  Tensor dy;
  Heads dy_heads;
  Tensor x;
  Heads x_heads;
  Tensor gamma;                 // [1, D]
  const float* rstd = nullptr;  // [heads, M]
  Tensor dx;                    // heads overwritten, other columns untouched
  Heads dx_heads;
  Tensor dgamma;  // [heads, D], any ld; overwritten, canonical sums over rows by segments (group 0)
  RowSegments segments;
};

// Shapes fit each other and the heads their rows; exit 1 with the numbers otherwise.
void check_head_norm(const HeadNormArgs& args);
void check_head_norm_bwd(const HeadNormBwdArgs& args);

int64_t head_norm_bwd_workspace_bytes(int64_t m, int64_t d, int64_t heads, int32_t num_leaves);
int64_t rms_norm_bwd_workspace_bytes(int64_t m, int64_t h, int32_t num_leaves);
// Heads: m is rows times heads, h the width of a head.
Cost rms_norm_cost(int64_t m, int64_t h, DType activation = DType::kF32);
Cost rms_norm_residual_cost(int64_t m, int64_t h, DType activation = DType::kF32);  // with delta
Cost rms_norm_bwd_cost(int64_t m, int64_t h, DType activation = DType::kF32);       // without accumulate
Cost rms_norm_quantize_cost(int64_t m, int64_t h, DType activation = DType::kF32);  // without delta and y

}  // namespace contender
