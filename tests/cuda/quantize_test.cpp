#include "ops/quantize.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::Matrix;
using test::same_bits;

// A quantised matrix on the device beside one on the host, padded alike.
struct QuantizedPair {
  int64_t rows, cols, ld;
  QLayout layout;
  std::vector<uint8_t> codes;
  Matrix scale;
  DeviceArray<uint8_t> device_codes;
  DeviceTensor device_scale;

  QuantizedPair(int64_t rows, int64_t cols, int64_t padding, int64_t scale_padding, QLayout layout)
      : rows(rows),
        cols(cols),
        ld(cols + padding),
        layout(layout),
        codes(static_cast<size_t>(rows * ld), 0xFF),
        scale(Matrix::poisoned(layout == QLayout::k1x128 ? rows : ceil_div(rows, 128),
                               layout == QLayout::k128x1 ? cols : ceil_div(cols, 128), scale_padding)),
        device_codes(rows * ld),
        device_scale(DType::kF32, scale) {}
  QTensor host() {
    return {.data = {codes.data(), DType::kE4M3, rows, cols, ld}, .scale = scale.tensor(), .layout = layout};
  }
  QTensor device() const {
    return {.data = {device_codes.data(), DType::kE4M3, rows, cols, ld},
            .scale = device_scale.tensor(),
            .layout = layout};
  }
  // Bit for bit, padding included; a NaN's sign aside.
  void expect_equal() const {
    const std::vector<uint8_t> got = device_codes.download();
    for (int64_t i = 0; i < rows * ld; ++i) {
      const bool nan = (codes[i] & 0x7F) == 0x7F && i % ld < cols;
      ASSERT_EQ(nan ? got[i] & 0x7F : got[i], nan ? 0x7F : codes[i]) << i / ld << " " << i % ld;
    }
    EXPECT_TRUE(same_bits(device_scale.download().values, scale.values));
  }
};

struct QuantShape {
  int64_t rows, cols, padding;
};
std::ostream& operator<<(std::ostream& o, const QuantShape& s) {
  return o << s.rows << "x" << s.cols << "+" << s.padding;
}

class CudaQuantize : public testing::TestWithParam<std::tuple<DType, QLayout, QuantShape>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  // Magnitudes over ten decades, so that a wrong scale shows; the first block zero, one NaN, one infinity.
  Matrix input() const {
    const auto [rows, cols, padding] = std::get<2>(GetParam());
    Matrix x = Matrix::random(rows, cols, 42, padding, 10.0);
    for (int64_t r = 0; r < std::min<int64_t>(rows, 128); ++r) {
      for (int64_t c = 0; c < std::min<int64_t>(cols, 128); ++c) x.at(r, c) = 0;
    }
    if (rows > 1 && cols > 128) {
      x.at(rows - 1, cols - 1) = NAN;
      x.at(rows / 2, 128) = -INFINITY;
    }
    return test::rounded(x, dtype());
  }
};

TEST_P(CudaQuantize, EqualsTheCpuBackend) {
  const auto [rows, cols, padding] = std::get<2>(GetParam());
  Matrix x = input();
  QuantizedPair q(rows, cols, padding, 3, std::get<1>(GetParam()));
  const DeviceTensor device(dtype(), x);
  cpu::quantize({}, {.x = x.tensor(), .q = q.host()});
  cuda::quantize({}, {.x = device.tensor(), .q = q.device()});
  q.expect_equal();
  const std::vector<uint8_t> first = q.device_codes.download();
  cuda::quantize({}, {.x = device.tensor(), .q = q.device()});
  EXPECT_EQ(q.device_codes.download(), first);

  Matrix want = Matrix::poisoned(rows, cols, padding);
  const DeviceTensor y(DType::kF32, want);
  cpu::dequantize({}, {.q = q.host(), .y = want.tensor()});
  cuda::dequantize({}, {.q = q.device(), .y = y.tensor()});
  const Matrix got = y.download();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      if (std::isnan(want.at(r, c))) {
        ASSERT_TRUE(std::isnan(got.at(r, c)));
      } else {
        ASSERT_TRUE(same_bits(got.at(r, c), want.at(r, c))) << r << " " << c;
      }
    }
  }
  EXPECT_TRUE(got.padding_untouched());
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaQuantize,
    testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                     testing::Values(QLayout::k1x128, QLayout::k128x1, QLayout::k128x128),
                     testing::Values(QuantShape{0, 64, 0}, QuantShape{1, 1, 0}, QuantShape{1, 136, 8},
                                     QuantShape{130, 129, 2}, QuantShape{150, 300, 0},
                                     QuantShape{256, 256, 16}, QuantShape{257, 200, 0})));

// The short division is the long one: scales of every magnitude, mantissas next to all ones, quotients at and
// beside the middles between codes.
TEST(CudaQuantizeDivision, IsCorrectlyRounded) {
  constexpr int64_t kRows = 600;
  Matrix x = Matrix::random(kRows, 128, 43, 0, 3.0);
  for (int64_t r = 0; r < kRows; ++r) {
    const uint32_t exponent = static_cast<uint32_t>(r) % 250 + 2;
    const uint32_t mantissa =
        r % 3 == 0 ? 0x7FFFFF - static_cast<uint32_t>(r) / 3 % 4 : philox(1, RandomStream::kTest, r)[0] >> 9;
    const float amax = std::bit_cast<float>(exponent << 23 | mantissa), scale = amax / 448.0f;
    for (int64_t c = 1; c < 128; ++c) {
      const int code = static_cast<int>(c) % 126;
      const float middle =
          (e4m3_to_float(static_cast<uint8_t>(code)) + e4m3_to_float(static_cast<uint8_t>(code + 1))) / 2;
      const float v = middle * scale;
      const float beside[3] = {v, std::nextafterf(v, 0.0f), std::nextafterf(v, INFINITY)};
      x.at(r, c) = r % 2 == 0 ? std::min(beside[c % 3], amax) : std::clamp(x.at(r, c) * amax, -amax, amax);
    }
    x.at(r, 0) = amax;
  }
  QuantizedPair q(kRows, 128, 0, 0, QLayout::k1x128);
  const DeviceTensor device(DType::kF32, x);
  cpu::quantize({}, {.x = x.tensor(), .q = q.host()});
  cuda::quantize({}, {.x = device.tensor(), .q = q.device()});
  q.expect_equal();
}

// A row's codes and scales depend on the row alone.
TEST(CudaQuantizeRows, AreIndependent) {
  const Matrix x = Matrix::random(70, 300, 44);
  const DeviceTensor device(DType::kBF16, x);
  QuantizedPair all(70, 300, 0, 0, QLayout::k1x128), one(1, 300, 0, 0, QLayout::k1x128);
  cuda::quantize({}, {.x = device.tensor(), .q = all.device()});
  const std::vector<uint8_t> codes = all.device_codes.download();
  const Matrix scale = all.device_scale.download();
  for (const int64_t r : {0, 33, 69}) {
    cuda::quantize({}, {.x = device.tensor().row_range(r, r + 1), .q = one.device()});
    const std::vector<uint8_t> alone = one.device_codes.download();
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), codes.begin() + r * 300));
    for (int64_t b = 0; b < 3; ++b)
      EXPECT_TRUE(same_bits(one.device_scale.download().at(0, b), scale.at(r, b)));
  }
}

// All 256 codes.
TEST(CudaDequantize, EveryCode) {
  QuantizedPair q(2, 128, 0, 0, QLayout::k1x128);
  for (int i = 0; i < 256; ++i) q.codes[i] = static_cast<uint8_t>(i);
  q.device_codes.upload(q.codes);
  q.device_scale.upload({{1.0f, 0.37f}, 2, 1, 1});
  const DeviceTensor y(DType::kF32, 2, 128);
  cuda::dequantize({}, {.q = q.device(), .y = y.tensor()});
  const Matrix got = y.download();
  for (int i = 0; i < 256; ++i) {
    const float want = e4m3_to_float(static_cast<uint8_t>(i)) * (i < 128 ? 1.0f : 0.37f);
    const float value = got.at(i / 128, i % 128);
    EXPECT_TRUE(std::isnan(want) ? std::isnan(value) : same_bits(value, want)) << i;
  }
}

// Roundings to the two neighbours are as frequent as their distances ask: no bias. Of n values spread evenly
// between two codes, those rounded up are n / 2 within 5 sigma.
TEST(CudaQuantizeRounding, HasNoBias) {
  constexpr int64_t kRows = 64;
  Matrix x = Matrix::poisoned(kRows, 128);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < 128; ++c)
      x.at(r, c) = c == 0
                       ? 448.0f
                       : 16.0f + 2.0f * static_cast<float>(uniform01(philox(
                                            5, RandomStream::kTest, static_cast<uint64_t>(r * 128 + c))[0]));
  }
  QuantizedPair q(kRows, 128, 0, 0, QLayout::k1x128);
  const DeviceTensor device(DType::kF32, x);
  cuda::quantize({}, {.x = device.tensor(), .q = q.device()});
  const std::vector<uint8_t> codes = q.device_codes.download();
  const uint8_t upper = float_to_e4m3(18.0f), lower = float_to_e4m3(16.0f);
  int64_t up = 0, n = 0;
  for (int64_t i = 0; i < kRows * 128; ++i) {
    if (i % 128 == 0) continue;
    ASSERT_TRUE(codes[i] == upper || codes[i] == lower) << int{codes[i]};
    up += codes[i] == upper;
    ++n;
  }
  EXPECT_LE(std::abs(static_cast<double>(up) - static_cast<double>(n) / 2),
            2.5 * std::sqrt(static_cast<double>(n)));
}

TEST(CudaQuantizeErrors, WrongScaleAndDtype) {
  const DeviceTensor x(DType::kF32, 1, 2), y(DType::kBF16, 1, 2);
  QuantizedPair q(1, 2, 0, 0, QLayout::k1x128);
  q.layout = QLayout::k128x1;  // would need a scale per column
  EXPECT_THROW(cuda::quantize({}, {.x = x.tensor(), .q = q.device()}), Error);
  q.layout = QLayout::k1x128;
  EXPECT_THROW(cuda::dequantize({}, {.q = q.device(), .y = y.tensor()}), Error);
}

}  // namespace
}  // namespace contender
