// cuBLAS as the baseline of the products, loaded at run time: nothing here needs it, and rows without it say
// "-". Matrices are row-major with dense rows; operands BF16, sums FP32.
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace contender::bench {

bool have_cublas();
// y [m, n] = x [m, k] w [n, k]^T for each of `batch` matrices that many elements apart.
struct CublasProduct {
  int64_t m = 0, n = 0, k = 0;
  const void* x = nullptr;
  int64_t ldx = 0;
  const void* w = nullptr;
  int64_t ldw = 0;
  void* y = nullptr;
  int64_t ldy = 0;
  DType y_dtype = DType::kBF16;
  bool x_transposed = false;  // x is [k, m]
  bool w_transposed = false;  // w is [k, n]
  int64_t batch = 1, x_step = 0, w_step = 0, y_step = 0;
};
void cublas_product(const CublasProduct& p);

}  // namespace contender::bench
