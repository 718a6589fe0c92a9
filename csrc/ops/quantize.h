// Block-scaled FP8 (E4M3) quantisation, DeepSeek-V3 section 3.3 (arXiv 2412.19437): FP32 scales of blocks, 1
// where the block is all zero; data = round-to-nearest-even(x / scale), saturating.
//   weights, 128x128: scale = amax / 448, so that what is FP8 already keeps its codes.
//   activations and gradients, 1x128 and 128x1: amax / 448 rounded up to a power of two. So what is stored in
//   one form is exact in the other, but for values below 2^-13 of the largest of their new block.
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

// Rows sorted by group (expert): [offsets[g], offsets[g + 1]) are those of group g. Blocks along the rows
// begin anew in each group; those of group g stand behind the ceil(size / 128) blocks of every group before
// it. Without offsets all rows are one group.
inline constexpr int64_t kQuantizeBlock = 128;
// The most that `rows` rows in `num_groups` groups, whatever their sizes, can have.
constexpr int64_t max_row_blocks(int64_t rows, int64_t num_groups) {
  return (rows + (kQuantizeBlock - 1) * num_groups) / kQuantizeBlock;
}

// Blocks of 128 rows and one column, the codes transposed so that rows lie innermost, where they were: column
// r of `data` is row r.
struct QTransposed {
  Tensor data;   // kE4M3 [cols, rows]
  Tensor scale;  // kF32 [max_row_blocks(rows, groups) or more, cols]; on CUDA its rows are 16-byte aligned
};

// Rows by group (offsets), where they are; or by chain (segments, ops/exec.h: leaves of a group are quantised
// apart, as layouts deal them out), and column r of `t` is then the row of place r. Rows that none has are
// not read; their codes, and the scales of blocks that none has, are not written. The dtype of x says what is
// quantised: activations (F32; on CUDA or BF16), or what 1x128 quantisation has stored (kE4M3, each code
// times its scale, rounded to F32).
struct QuantizeTransposedArgs {
  Tensor x;        // [rows, cols]
  Tensor x_scale;  // [rows, ceil(cols / 128)] of a kE4M3 x, else empty
  QTransposed t;
  QTensor q;  // 1x128 of the same x, read once for both; or empty, as it is with a kE4M3 x
  int64_t num_groups = 1;
  const int32_t* offsets = nullptr;  // [G + 1] or null; offsets[0] = 0, offsets[G] <= rows
  RowSegments segments;              // with places; or empty. With neither, all rows are one group
};

// The places of a table of segments, which is checked on the way: a table that breaks the rules of
// ops/exec.h, or names more rows than there are, ends the job.
struct RowPlacesArgs {
  RowSegments segments;  // places: not read
  int64_t num_groups = 1;
  int64_t rows = 0;
  RowPlace* places = nullptr;  // [num_groups * num_leaves + 1]
};

// Weights of each group in 128x128 blocks and, in the same pass, their transposes: the same codes and scales.
struct QuantizeWeightArgs {
  Tensor x;  // [G * N, K] F32
  int64_t num_groups = 1;
  QTensor q;           // [G * N, K], scale [G * ceil(N / 128), ceil(K / 128)], or empty
  QTensor transposed;  // [G * K, N], scale [G * ceil(K / 128), ceil(N / 128)], or empty
};

// Leaves of each group: of a table with places, or 1; exit 1 where there is no way to tell groups apart, or
// two.
int64_t check_chains(const RowSegments& segments, const int32_t* offsets, int64_t num_groups);
// Shapes and dtypes of those above, as far as the host can see; exit 1 with the numbers otherwise.
void check_quantize_transposed(const QuantizeTransposedArgs& args);
void check_row_places(const RowPlacesArgs& args);
void check_quantize_weight(const QuantizeWeightArgs& args);

Cost quantize_cost(int64_t rows, int64_t cols, QLayout layout, DType activation = DType::kF32);
// `source` is the dtype of x; with_rows: q too.
Cost quantize_transposed_cost(int64_t rows, int64_t cols, DType source, bool with_rows,
                              int64_t num_groups = 1);
// q and transposed.
Cost quantize_weight_cost(int64_t n, int64_t k, int64_t num_groups = 1);

// E4M3 <-> float, bit-exact reference conversion (no infinities; 0x7F / 0xFF are NaN; saturates at 448).
uint8_t float_to_e4m3(float v);
float e4m3_to_float(uint8_t v);

}  // namespace contender
