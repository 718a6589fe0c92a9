#include "ops/swiglu.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"
#include "tests/ref/swiglu_ref.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::kEps;
using test::Matrix;
using test::same_bits;

struct GateShape {
  int64_t rows, cols, padding;
};
std::ostream& operator<<(std::ostream& o, const GateShape& s) {
  return o << s.rows << "x" << s.cols << "+" << s.padding;
}

class CudaSwiglu : public testing::TestWithParam<std::tuple<DType, GateShape>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  GateShape shape() const { return std::get<1>(GetParam()); }
  double step() const { return dtype() == DType::kBF16 ? test::eps_of(dtype()) : 0; }
  // Into both tails of the sigmoid, where its exponential overflows and underflows.
  Matrix gate_up() const {
    Matrix x = Matrix::random(shape().rows, 2 * shape().cols, 1, shape().padding, 2.0);
    for (int64_t r = 0; r < x.rows; ++r) x.at(r, 0) *= 60;
    return test::rounded(x, dtype());
  }
  DeviceTensor poison(int64_t cols) const {
    return DeviceTensor(dtype(), shape().rows, cols, shape().padding);
  }
};

// exp: 4 halves of an ulp, grown by nothing; sum, reciprocal, two products: one each. The slope adds three
// roundings of terms up to 1 + |g|.
TEST_P(CudaSwiglu, ForwardAndBackward) {
  const auto [m, n, padding] = shape();
  const Matrix x = gate_up(), dy = test::rounded(Matrix::random(m, n, 2, padding), dtype());
  const DeviceTensor dx(dtype(), x), ddy(dtype(), dy), y = poison(n), grad = poison(2 * n), again = poison(n);
  cuda::swiglu({}, {.gate_up = dx.tensor(), .y = y.tensor()});
  cuda::swiglu({}, {.gate_up = dx.tensor(), .y = again.tensor()});
  cuda::swiglu_bwd({}, {.dy = ddy.tensor(), .gate_up = dx.tensor(), .dgate_up = grad.tensor()});
  const Matrix got = y.download(), got_grad = grad.download();
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      const double g = x.at(r, c), u = x.at(r, n + c), d = dy.at(r, c), s = 1 / (1 + std::exp(-g));
      const double want = ref::swiglu(g, u), du = d * g * s, dg = d * u * s * (1 + g * (1 - s));
      test::expect_close(got.at(r, c), want, std::abs(want), 10 * kEps + step(), "y", r, c);
      test::expect_close(got_grad.at(r, n + c), du, std::abs(du), 10 * kEps + step(), "dup", r, c);
      EXPECT_LE(std::abs(got_grad.at(r, c) - dg),
                20 * kEps * std::abs(d * u) * s * (1 + std::abs(g)) + step() * std::abs(dg) + 1e-37)
          << r << " " << c;
    }
  }
  EXPECT_TRUE(got.padding_untouched() && got_grad.padding_untouched() && again.same_bytes(y));
}

TEST_P(CudaSwiglu, QuantizeIsTheComposition) {
  const auto [m, n, padding] = shape();
  const int64_t blocks = ceil_div(n, 128);
  const DeviceTensor dx(dtype(), gate_up()), y = poison(n), y_fused = poison(n);
  cuda::swiglu({}, {.gate_up = dx.tensor(), .y = y.tensor()});
  Matrix want_y = y.download(), want_scale = Matrix::poisoned(m, blocks, 1);
  std::vector<uint8_t> want(static_cast<size_t>(m * (n + padding)), 0xFF);
  cpu::quantize(
      {}, {.x = want_y.tensor(),
           .q = {.data = {want.data(), DType::kE4M3, m, n, n + padding}, .scale = want_scale.tensor()}});
  for (const Tensor& y_out : {Tensor(), y_fused.tensor()}) {
    const DeviceArray<uint8_t> codes(m * (n + padding));
    const DeviceTensor scale(DType::kF32, m, blocks, 1);
    cuda::swiglu_quantize(
        {}, {.swiglu = {.gate_up = dx.tensor(), .y = y_out},
             .q = {.data = {codes.data(), DType::kE4M3, m, n, n + padding}, .scale = scale.tensor()}});
    EXPECT_EQ(codes.download(), want);
    const Matrix got_scale = scale.download();
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t b = 0; b < blocks; ++b)
        ASSERT_TRUE(same_bits(got_scale.at(r, b), want_scale.at(r, b))) << r << " " << b;
    }
    EXPECT_TRUE(got_scale.padding_untouched());
  }
  EXPECT_TRUE(y_fused.same_bytes(y));
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaSwiglu,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(GateShape{0, 8, 0}, GateShape{1, 1, 0},
                                                          GateShape{3, 15, 1}, GateShape{5, 128, 8},
                                                          GateShape{9, 200, 0}, GateShape{9, 83, 3},
                                                          GateShape{37, 256, 0}, GateShape{4, 1408, 0})));

// An element has the same bits in every row, column and alignment.
TEST(CudaSwigluPlace, DoesNotMatter) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Matrix value = Matrix::poisoned(1, 2);
    value.at(0, 0) = test::rounded(0.7310585f, dtype);
    value.at(0, 1) = -1.25f;
    std::vector<float> bits[3];
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {70, 64}, {3, 37}}) {
      Matrix x = Matrix::poisoned(rows, 2 * cols), dy = Matrix::poisoned(rows, cols);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          x.at(r, c) = value.at(0, 0);
          x.at(r, cols + c) = value.at(0, 1);
          dy.at(r, c) = 0.3f;
        }
      }
      const DeviceTensor dx(dtype, x), ddy(dtype, dy), y(dtype, rows, cols), grad(dtype, rows, 2 * cols);
      cuda::swiglu({}, {.gate_up = dx.tensor(), .y = y.tensor()});
      cuda::swiglu_bwd({}, {.dy = ddy.tensor(), .gate_up = dx.tensor(), .dgate_up = grad.tensor()});
      const Matrix got = y.download(), got_grad = grad.download();
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          bits[0].push_back(got.at(r, c));
          bits[1].push_back(got_grad.at(r, c));
          bits[2].push_back(got_grad.at(r, cols + c));
        }
      }
    }
    for (const std::vector<float>& b : bits) EXPECT_TRUE(same_bits(b, std::vector<float>(b.size(), b[0])));
  }
}

// A slice is a call of its own; quantised blocks of 128 columns may lie in several. Slices of whole pieces
// and others, in rows that are aligned and in rows that are not.
TEST(CudaSwigluSlices, AreCallsOfTheirOwn) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [width, slices, padding] : {std::tuple{16, 4, 0}, {32, 2, 8}, {17, 3, 2}, {72, 4, 3}}) {
      const int64_t rows = 5, cols = int64_t{width} * slices;
      const DeviceTensor x(dtype, Matrix::random(rows, 2 * cols, 6, padding)),
          dy(dtype, Matrix::random(rows, cols, 7, padding)), y(dtype, rows, cols), want(dtype, rows, cols),
          y_fused(dtype, rows, cols), dx(dtype, rows, 2 * cols, padding),
          want_dx(dtype, rows, 2 * cols, padding);
      cuda::swiglu({}, {.gate_up = x.tensor(), .y = y.tensor(), .slices = slices});
      cuda::swiglu_bwd({},
                       {.dy = dy.tensor(), .gate_up = x.tensor(), .dgate_up = dx.tensor(), .slices = slices});
      for (int64_t s = 0; s < slices; ++s) {
        const int64_t begin = s * width, end = begin + width;
        const Tensor part = x.tensor().col_range(2 * begin, 2 * end);
        cuda::swiglu({}, {.gate_up = part, .y = want.tensor().col_range(begin, end)});
        cuda::swiglu_bwd({}, {.dy = dy.tensor().col_range(begin, end),
                              .gate_up = part,
                              .dgate_up = want_dx.tensor().col_range(2 * begin, 2 * end)});
      }
      EXPECT_TRUE(y.same_bytes(want) && dx.same_bytes(want_dx)) << width << " " << slices;
      const DeviceArray<uint8_t> want_codes(rows * cols);
      const DeviceTensor want_scale(DType::kF32, rows, ceil_div(cols, 128));
      cuda::quantize(
          {}, {.x = want.tensor(),
               .q = {.data = {want_codes.data(), DType::kE4M3, rows, cols}, .scale = want_scale.tensor()}});
      for (const Tensor& y_out : {Tensor(), y_fused.tensor()}) {
        const DeviceArray<uint8_t> codes(rows * cols);
        const DeviceTensor scale(DType::kF32, rows, ceil_div(cols, 128));
        cuda::swiglu_quantize(
            {}, {.swiglu = {.gate_up = x.tensor(), .y = y_out, .slices = slices},
                 .q = {.data = {codes.data(), DType::kE4M3, rows, cols}, .scale = scale.tensor()}});
        EXPECT_EQ(codes.download(), want_codes.download()) << width << " " << slices;
        EXPECT_TRUE(scale.same_bytes(want_scale)) << width << " " << slices;
      }
      EXPECT_TRUE(y_fused.same_bytes(want)) << width << " " << slices;
      EXPECT_FALSE(std::isnan(y.download().at(rows - 1, cols - 1)));
    }
  }
}

TEST(CudaSwigluErrors, ShapesAreChecked) {
  const DeviceTensor x(DType::kF32, 2, 8), y(DType::kF32, 2, 3), bf16(DType::kBF16, 2, 4);
  EXPECT_THROW(cuda::swiglu({}, {.gate_up = x.tensor(), .y = y.tensor()}), Error);
  EXPECT_THROW(cuda::swiglu({}, {.gate_up = x.tensor(), .y = bf16.tensor()}), Error);
  EXPECT_THROW(cuda::swiglu({}, {.gate_up = x.tensor(), .y = x.tensor().col_range(0, 4), .slices = 3}),
               Error);
}

}  // namespace
}  // namespace contender
