// Block-scaled FP8 operands for tests of products: normal values, the magnitude of each block over decades,
// quantised by the definition; what was quantised is kept, and where padding lies there are NaN codes.
#pragma once

#include <cmath>
#include <vector>

#include "tests/cpu/op_inputs.h"
#include "tests/ref/gemm_ref.h"

namespace contender::test {

inline constexpr uint8_t kNanCode = 0x7F;

inline float fp8_value(uint64_t seed, int64_t r, int64_t c, int64_t row_block, int64_t col_block,
                       double decades) {
  const PhiloxBlock b = philox(seed, RandomStream::kTest, static_cast<uint64_t>(r), static_cast<uint32_t>(c));
  const PhiloxBlock block = philox(seed + 1000, RandomStream::kTest, static_cast<uint64_t>(row_block),
                                   static_cast<uint32_t>(col_block));
  return static_cast<float>(std::pow(10.0, -decades * uniform01(block[0])) * normal01(b[0], b[1]));
}

// Of shape [rows, cols], 1x128 or, for `groups` matrices one below the other, 128x128.
struct Fp8Matrix {
  int64_t rows, cols, ld, groups;
  QLayout layout;
  std::vector<float> values;  // [rows, cols], before quantisation
  std::vector<uint8_t> codes;
  Matrix scale;

  Fp8Matrix(int64_t rows, int64_t cols, QLayout layout, uint64_t seed, int64_t groups = 1,
            int64_t padding = 16, double decades = 3)
      : rows(rows),
        cols(cols),
        ld(cols + padding),
        groups(groups),
        layout(layout),
        values(static_cast<size_t>(rows * cols)),
        codes(static_cast<size_t>(rows * ld), kNanCode),
        scale(Matrix::poisoned(groups * ceil_div(rows / groups, block_rows()), ceil_div(cols, 128), 4)) {
    for (int64_t s = 0; s < scale.rows; ++s) {
      for (int64_t b = 0; b < scale.cols; ++b) quantize_block(s, b, seed, decades);
    }
  }

  int64_t block_rows() const { return layout == QLayout::k1x128 ? 1 : 128; }
  int64_t group_rows() const { return rows / groups; }
  QTensor tensor() {
    return {.data = {codes.data(), DType::kE4M3, rows, cols, ld}, .scale = scale.tensor(), .layout = layout};
  }
  // Rows from `first` on (1x128), or those of group `first`.
  ref::Fp8Operand operand(int64_t first = 0) const {
    const int64_t row = layout == QLayout::k1x128 ? first : first * group_rows();
    const int64_t scale_row = layout == QLayout::k1x128 ? first : first * (scale.rows / groups);
    return {.codes = codes.data() + row * ld,
            .ld = ld,
            .scale = scale.values.data() + scale_row * scale.ld,
            .scale_ld = scale.ld,
            .rows_per_scale = block_rows()};
  }
  double value(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * cols + c)]; }

 private:
  void quantize_block(int64_t s, int64_t b, uint64_t seed, double decades) {
    const int64_t per_group = scale.rows / groups;
    const int64_t begin = s / per_group * group_rows() + s % per_group * block_rows();
    const int64_t end = std::min(begin + block_rows(), (s / per_group + 1) * group_rows());
    float amax = 0;
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = b * 128; c < std::min(cols, b * 128 + 128); ++c) {
        const float v = fp8_value(seed, r, c, s, b, decades);
        values[static_cast<size_t>(r * cols + c)] = v;
        amax = std::max(amax, std::abs(v));
      }
    }
    const float block_scale = amax == 0 ? 1.0f : amax / 448.0f;
    scale.at(s, b) = block_scale;
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = b * 128; c < std::min(cols, b * 128 + 128); ++c)
        codes[static_cast<size_t>(r * ld + c)] =
            float_to_e4m3(values[static_cast<size_t>(r * cols + c)] / block_scale);
    }
  }
};

// [features, tokens], scaled along the tokens; blocks begin anew at each of `offsets`. Tokens behind the last
// are NaN codes.
struct Fp8Columns {
  int64_t features, tokens, ld;
  std::vector<float> values;
  std::vector<uint8_t> codes;
  Matrix scale;

  Fp8Columns(int64_t features, int64_t tokens, const std::vector<int32_t>& offsets, uint64_t seed,
             double decades = 3)
      : features(features),
        tokens(tokens),
        ld(round_up(tokens, 16) + 16),
        values(static_cast<size_t>(features * tokens)),
        codes(static_cast<size_t>(features * ld), kNanCode),
        scale(
            Matrix::poisoned(fp8_wgrad_blocks(tokens, static_cast<int64_t>(offsets.size()) - 1), features)) {
    int64_t block = 0;
    for (size_t g = 0; g + 1 < offsets.size(); ++g) {
      for (int64_t t = offsets[g]; t < offsets[g + 1]; t += 128, ++block) {
        const int64_t end = std::min<int64_t>(t + 128, offsets[g + 1]);
        for (int64_t f = 0; f < features; ++f) quantize_block(f, t, end, block, seed, decades);
      }
    }
  }
  QTransposed tensor() {
    return {.data = {codes.data(), DType::kE4M3, features, tokens, ld}, .scale = scale.tensor()};
  }
  // Contracted indices stay those of the matrix: blocks are counted from the first of `block`.
  ref::Fp8Operand operand(int64_t block) const {
    return {.codes = codes.data(),
            .ld = ld,
            .scale = scale.values.data() + block * scale.ld,
            .scale_ld = 1,
            .scale_step = scale.ld};
  }

 private:
  void quantize_block(int64_t f, int64_t begin, int64_t end, int64_t block, uint64_t seed, double decades) {
    float amax = 0;
    for (int64_t t = begin; t < end; ++t) {
      const float v = fp8_value(seed, f, t, f, block, decades);
      values[static_cast<size_t>(f * tokens + t)] = v;
      amax = std::max(amax, std::abs(v));
    }
    const float block_scale = amax == 0 ? 1.0f : amax / 448.0f;
    scale.at(block, f) = block_scale;
    for (int64_t t = begin; t < end; ++t)
      codes[static_cast<size_t>(f * ld + t)] =
          float_to_e4m3(values[static_cast<size_t>(f * tokens + t)] / block_scale);
  }
};

}  // namespace contender::test
