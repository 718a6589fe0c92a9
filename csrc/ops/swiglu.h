// SwiGLU: y = silu(gate) * up, silu(g) = g / (1 + exp(-g)). Gate and up are the two halves of one product's
// output, or of each of its virtual slices: gate_up = [gate_0 | up_0 | gate_1 | ...], y = [y_0 | y_1 | ...].
#pragma once

#include "ops/exec.h"
#include "ops/quantize.h"

namespace contender {

struct SwigluArgs {
  Tensor gate_up;      // [M, 2I] = [gate | up]
  Tensor y;            // [M, I]
  int32_t slices = 1;  // I % slices == 0
};
struct SwigluBwdArgs {
  Tensor dy;        // [M, I]
  Tensor gate_up;   // [M, 2I]
  Tensor dgate_up;  // [M, 2I] overwritten
  int32_t slices = 1;
};
struct SwigluQuantizeArgs {
  SwigluArgs swiglu;  // y may be empty
  QTensor q;          // 1x128 of y
};
Cost swiglu_cost(int64_t m, int64_t i, DType activation = DType::kF32);
Cost swiglu_bwd_cost(int64_t m, int64_t i, DType activation = DType::kF32);
Cost swiglu_quantize_cost(int64_t m, int64_t i, DType activation = DType::kF32);  // without y

}  // namespace contender
