// Matrix products: y = x w^T and its two gradients; plain, grouped by expert, and batched over heads.
//
// Contract (all backends in `exact` mode): an element of the result is one chain of fused multiply-adds in
// ascending order of the contracted index, from +0; it does not depend on M, on the row's place, or on its
// neighbours. With `slices` > 1 the contracted dimension is cut into that many equal virtual slices, each one
// chain, summed in the fixed binary tree
// ((0+1)+(2+3)): so a product whose contracted dimension is sharded over tensor-parallel ranks (slices / tp
// local ones each, tree continued across ranks) has the same bits in every layout.
#pragma once

#include "ops/exec.h"

namespace contender {

// How a backend packs weights: a form is a row of panels of `panel` output columns, each
// [contracted index][panel], zero-padded; panel = 1 leaves a row-major matrix, [N, K] forward, [K, N]
// backward.
struct WeightFormat {
  DType dtype = DType::kF32;
  int64_t panel = 32;
};
inline constexpr WeightFormat kCpuWeights{DType::kF32, 32};
inline constexpr WeightFormat kCudaWeights{DType::kBF16, 1};

// A weight in the forms that products read. Packed by Ops::pack_weight after every change of the master copy.
struct WeightView {
  const void* forward = nullptr;   // packed for y = x w^T   (contracts K)
  const void* backward = nullptr;  // packed for dx = dy w   (contracts N)
  int64_t n = 0;                   // output features of one group
  int64_t k = 0;                   // input features
  int64_t num_groups = 1;          // experts or heads, packed one after the other
  WeightFormat format = kCpuWeights;

  WeightView group(int64_t g) const;  // view of one group
};

inline constexpr int64_t kWeightPanel = kCpuWeights.panel;

// Bytes of ONE packed form of one [n, k] group, a multiple of 64. `forward` and `backward` forms may differ.
int64_t packed_forward_bytes(int64_t n, int64_t k, const WeightFormat& format = kCpuWeights);
int64_t packed_backward_bytes(int64_t n, int64_t k, const WeightFormat& format = kCpuWeights);

struct PackWeightArgs {
  Tensor master;             // [num_groups * n, k]
  void* forward = nullptr;   // num_groups * packed_forward_bytes(n, k, Ops::weights), or null
  void* backward = nullptr;  // num_groups * packed_backward_bytes(n, k, Ops::weights), or null
  int64_t n = 0;
  int64_t k = 0;
  int64_t num_groups = 1;
};

struct LinearArgs {
  Tensor x;                     // [M, K]
  WeightView w;                 // [N, K]
  Tensor y;                     // [M, N]
  const float* bias = nullptr;  // [N], added last, or null
  int32_t slices = 1;           // virtual slices of K; K % slices == 0
  bool accumulate = false;      // y += result (one rounding) instead of y = result
};

struct LinearDgradArgs {
  Tensor dy;           // [M, N]
  WeightView w;        // [N, K]
  Tensor dx;           // [M, K]
  int32_t slices = 1;  // virtual slices of N; N % slices == 0
  bool accumulate = false;
};

// dw[g] = sum over the rows r of group g of dy[r]^T x[r], in the canonical order of RowSegments. Groups
// without rows get 0.
struct LinearWgradArgs {
  Tensor dy;  // [M, N]
  Tensor x;   // [M, K]
  Tensor dw;  // [num_groups * N, K], overwritten
  RowSegments segments;
  int64_t num_groups = 1;
};

// Rows sorted by group (expert): rows [offsets[g], offsets[g+1]) are multiplied with group g of w. Rows
// behind the last group, of which M may have some, have no effect, and their results are not written.
struct GroupedLinearArgs {
  Tensor x;                          // [M, K]
  WeightView w;                      // [G][N, K]
  Tensor y;                          // [M, N]
  const int32_t* offsets = nullptr;  // [G + 1], offsets[0] = 0, offsets[G] <= M; empty groups allowed
};
struct GroupedLinearDgradArgs {
  Tensor dy;     // [M, N]
  WeightView w;  // [G][N, K]
  Tensor dx;     // [M, K]
  const int32_t* offsets = nullptr;
};

// One small product per head on strided columns: y[:, h*y_stride : +N] = x[:, h*x_stride : +K] w[h]^T
// (transposed = false)
//                                               y[:, h*y_stride : +K] = x[:, h*x_stride : +N] w[h]
//                                               (transposed = true)
// MLA's absorbed form: q_nope -> latent space (transposed, w = W_UK), latent output -> v (w = W_UV).
struct HeadsLinearArgs {
  Tensor x;
  int64_t x_stride = 0;
  WeightView w;  // [heads][N, K]
  Tensor y;
  int64_t y_stride = 0;
  bool transposed = false;
};

// One weight gradient per head on strided columns:
//   dw[h] = sum over rows of dy[:, h*dy_stride : +N]^T x[:, h*x_stride : +K], canonical by segments (group
//   0).
struct HeadsWgradArgs {
  Tensor dy;
  int64_t dy_stride = 0;
  Tensor x;
  int64_t x_stride = 0;
  Tensor dw;  // [heads * N, K], overwritten
  int64_t num_heads = 1;
  RowSegments segments;
};

int64_t linear_workspace_bytes(int64_t m, int64_t n, int64_t k, int32_t slices);  // all but wgrad
int64_t linear_wgrad_workspace_bytes(int64_t m, int64_t n, int64_t k, int32_t num_leaves);
// Any of the three products; `weight` is the dtype of w, or of dw.
Cost linear_cost(int64_t m, int64_t n, int64_t k, DType activation = DType::kF32, DType weight = DType::kF32);

}  // namespace contender
