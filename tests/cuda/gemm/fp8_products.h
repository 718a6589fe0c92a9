// What the tests of the FP8 products share: operands on the device, and results beside the CPU backend's.
#pragma once

#include <gtest/gtest.h>

#include "cpu/fp8_gemm.h"
#include "cuda/common/stream.h"
#include "cuda/gemm/fp8_gemm.h"
#include "tests/cpu/fp8_inputs.h"
#include "tests/cuda/device_array.h"

namespace contender::cuda {

inline std::ostream& operator<<(std::ostream& o, const Fp8Tile& t) {
  return o << t.block_m() << "x" << t.block_n << " cluster " << t.cluster;
}

}  // namespace contender::cuda

namespace contender::test {

// A copy on the device of an Fp8Matrix or Fp8Columns.
template <class Host>
struct DeviceFp8 {
  Host host;
  DeviceArray<uint8_t> codes;
  DeviceTensor scale;

  explicit DeviceFp8(Host matrix)
      : host(std::move(matrix)), codes(host.codes), scale(DType::kF32, host.scale) {}
  auto tensor() {
    auto t = host.tensor();
    t.data.data = codes.data();
    t.scale.data = scale.tensor().data;
    return t;
  }
};
using DeviceFp8Matrix = DeviceFp8<Fp8Matrix>;
using DeviceFp8Columns = DeviceFp8<Fp8Columns>;

// Codes and scales that a product writes, 1x128.
struct Fp8Output {
  int64_t rows, cols, ld;
  DeviceArray<uint8_t> codes;
  DeviceTensor scale;
  Fp8Output(int64_t rows, int64_t cols)
      : rows(rows),
        cols(cols),
        ld(cols + 16),
        codes(rows * ld),
        scale(DType::kF32, rows, ceil_div(cols, 128), 1) {}
  QTensor tensor() const {
    return {.data = {codes.data(), DType::kE4M3, rows, cols, ld},
            .scale = scale.tensor(),
            .layout = QLayout::k1x128};
  }
};

// The same bits, or NaN in both: what was poisoned and has to stay so.
inline bool same_or_nan(float a, float b) { return same_bits(a, b) || (std::isnan(a) && std::isnan(b)); }
inline bool same_or_nan(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return same_or_nan(x, y); });
}

inline void expect_same_matrix(const Matrix& got, const Matrix& want) {
  ASSERT_TRUE(got.rows == want.rows && got.cols == want.cols);
  for (int64_t i = 0; i < got.rows; ++i) {
    for (int64_t j = 0; j < got.cols; ++j)
      ASSERT_TRUE(same_or_nan(got.at(i, j), want.at(i, j)))
          << i << " " << j << ": " << got.at(i, j) << ", expected " << want.at(i, j);
  }
  EXPECT_TRUE(got.padding_untouched());
}

}  // namespace contender::test
