// Matrix products of the CPU backend, below the operators: every element is one chain of fused multiply-adds
// in ascending order of the contracted index, kept in a register from first to last or stored and reloaded
// exactly between chunks.
#pragma once

#include <cstdint>

#include "ops/linear_blocks.h"

namespace contender::cpu {

// c[m, n] = a[m, k] b[k, n] (+ bias) or c += that. b is in panels: [ceil(n / kWeightPanel)][k][kWeightPanel].
struct Product {
  int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  int64_t lda = 0;
  const float* panels = nullptr;
  float* c = nullptr;
  int64_t ldc = 0;
  const float* bias = nullptr;  // [n] or null
  int32_t slices = 1;           // power of two; k % slices == 0
  bool accumulate = false;
  float* scratch = nullptr;  // product_scratch_floats(m, k)
};
void product(const Product& p);

// c[n, k] = sum over rows r of left[r, n] * right[r, k], a chain over the rows; with `resume` the chains go
// on from the values in c. Operands are packed by the two functions below with the same `capacity` (rows the
// buffers were made for).
struct OuterProduct {
  int64_t rows = 0, n = 0, k = 0;
  int64_t capacity = 0;
  const float* left = nullptr;   // outer_left_floats(capacity, n)
  const float* right = nullptr;  // outer_right_floats(capacity, k)
  float* c = nullptr;
  int64_t ldc = 0;
  bool resume = false;
};
void outer_product(const OuterProduct& p);

// Packs `rows` rows of src as rows [at, at + rows) of the buffer; calls come in ascending order of `at`.
void pack_outer_left(const float* src, int64_t ld, int64_t rows, int64_t n, int64_t at, int64_t capacity,
                     float* packed);
void pack_outer_right(const float* src, int64_t ld, int64_t rows, int64_t k, int64_t at, int64_t capacity,
                      float* packed);

}  // namespace contender::cpu
