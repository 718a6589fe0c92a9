// AdamW (Loshchilov & Hutter, arXiv 1711.05101) on a flat shard, and the order-free global norm.
#pragma once

#include "base/exact_sum.h"
#include "ops/exec.h"
#include "ops/linear.h"
#include "ops/quantize.h"

namespace contender {

// What products read of a weight [num_groups * n, k], written as pack_weight and quantize_weight would from
// its new values. A form that is null or empty is left out.
struct WeightCopies {
  int64_t n = 0;
  int64_t k = 0;
  int64_t num_groups = 1;
  void* forward = nullptr;  // PackWeightArgs
  void* backward = nullptr;
  QTensor q;  // QuantizeWeightArgs
  QTensor transposed;
  bool any() const { return forward || backward || q.data || transposed.data; }
};

struct AdamwArgs {
  int64_t n = 0;
  float* master = nullptr;           // [n] FP32 weights, updated
  const float* grad = nullptr;       // [n]
  void* m = nullptr;                 // [n] first moment, moment_dtype
  void* v = nullptr;                 // [n] second moment, moment_dtype
  DType moment_dtype = DType::kF32;  // or kBF16 (stored round-to-nearest-even, arithmetic in FP32)
  const float* grad_scale =
      nullptr;  // device scalar: gradient clip factor; 0 with skip leaves everything untouched
  const int32_t* skip = nullptr;  // device flag or null: non-zero means do nothing (non-finite step)
  float lr = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float eps = 1e-8f;
  float weight_decay = 0;      // decoupled: w -= lr * weight_decay * w
  float bias_correction1 = 1;  // 1 - beta1^t
  float bias_correction2 = 1;  // 1 - beta2^t
  WeightCopies copies;         // where the shard is a whole weight: n = num_groups * n * k of them
};
struct SquareSumArgs {
  const float* x = nullptr;
  int64_t n = 0;
  ExactSum* sum = nullptr;  // += squares
};
Cost adamw_cost(int64_t n, DType moment_dtype, const WeightCopies& copies = {},
                const WeightFormat& format = kCudaWeights);

// The copies fit the shard; exit 1 with the numbers otherwise.
void check_adamw_copies(const AdamwArgs& args);

}  // namespace contender
