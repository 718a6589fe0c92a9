// Block-scaled FP8 (E4M3) quantisation, DeepSeek-V3 section 3.3 (arXiv 2412.19437): scale = amax / 448 of
// each block, FP32, 1 where the block is all zero; data = round-to-nearest-even(x / scale), saturating.
#pragma once

#include "ops/exec.h"

namespace contender {

enum class QLayout : uint8_t {
  k1x128,    // activations: one scale per row and 128 columns; scale [rows, ceil(cols/128)]
  k128x1,    // activations re-quantised for wgrad: one scale per 128 rows and column; scale [ceil(rows/128),
             // cols]
  k128x128,  // weights: scale [ceil(rows/128), ceil(cols/128)]
};

struct QTensor {
  Tensor data;   // kE4M3 [rows, cols]
  Tensor scale;  // kF32, shape by layout
  QLayout layout = QLayout::k1x128;
};

struct QuantizeArgs {
  Tensor x;   // [rows, cols]
  QTensor q;  // data and scale overwritten
};
struct DequantizeArgs {
  QTensor q;
  Tensor y;  // [rows, cols] F32
};
Cost quantize_cost(int64_t rows, int64_t cols, QLayout layout, DType activation = DType::kF32);

// E4M3 <-> float, bit-exact reference conversion (no infinities; 0x7F / 0xFF are NaN; saturates at 448).
uint8_t float_to_e4m3(float v);
float e4m3_to_float(uint8_t v);

}  // namespace contender
