// cuBLASLt's block-scaled FP8 product as a baseline, loaded at run time like cuBLAS (cublas.h).
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace contender::bench {

// Codes [rows, k], E4M3. Scales FP32 in the library's order: of 1x128 blocks [ceil(k / 128)][rows], of
// 128x128 blocks [ceil(rows / 128)][ceil(k / 128) rounded up to 4].
struct CublasFp8Operand {
  const void* codes = nullptr;
  const void* scale = nullptr;
  int64_t rows = 0;
  bool square_blocks = false;
};

// y [x.rows, w.rows] = x w^T, BF16 or F32. Not possible: no library, or it has no algorithm for it.
class CublasFp8Product {
 public:
  CublasFp8Product(const CublasFp8Operand& x, const CublasFp8Operand& w, int64_t k, const Tensor& y);
  CublasFp8Product(const CublasFp8Product&) = delete;
  ~CublasFp8Product();
  bool possible() const { return possible_; }
  void run() const;

 private:
  struct Algorithm {
    uint64_t data[8];
  };
  const void *x_, *w_;
  void* y_;
  void *desc_ = nullptr, *w_layout_ = nullptr, *x_layout_ = nullptr, *y_layout_ = nullptr;
  Algorithm algorithm_ = {};
  bool possible_ = false;
};

}  // namespace contender::bench
