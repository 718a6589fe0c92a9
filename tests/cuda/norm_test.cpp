#include "ops/norm.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"
#include "tests/cuda/segment_table.h"
#include "tests/ref/norm_ref.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::kEps;
using test::Matrix;
using test::same_bits;
using test::SegmentTable;

std::vector<double> values_of_row(const Matrix& m, int64_t r) {
  std::vector<double> v(static_cast<size_t>(m.cols));
  for (int64_t c = 0; c < m.cols; ++c) v[c] = m.at(r, c);
  return v;
}

// A thread adds 32 squares, a butterfly 5 sums, the warps 16; the square root halves it; three roundings
// follow. Then the rounding to the tensor's format.
double norm_eps(DType dtype) { return 40 * kEps + (dtype == DType::kBF16 ? test::eps_of(dtype) : 0); }

struct NormShape {
  int64_t rows, cols, padding;
};
std::ostream& operator<<(std::ostream& o, const NormShape& s) {
  return o << s.rows << "x" << s.cols << "+" << s.padding;
}

class CudaNorm : public testing::TestWithParam<std::tuple<DType, NormShape>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  NormShape shape() const { return std::get<1>(GetParam()); }
  Matrix random(uint64_t seed, double decades = 3.0) const {
    return test::rounded(Matrix::random(shape().rows, shape().cols, seed, shape().padding, decades), dtype());
  }
  DeviceTensor poison() const { return DeviceTensor(dtype(), shape().rows, shape().cols, shape().padding); }
};

TEST_P(CudaNorm, ForwardWithResidual) {
  const auto [m, h, padding] = shape();
  const Matrix x = random(1), delta = random(2), gamma = Matrix::random(1, h, 3);
  const DeviceTensor dx(dtype(), x), ddelta(dtype(), delta), dgamma(DType::kF32, gamma), y = poison(),
                                                                                         y_plain = poison();
  const DeviceArray<float> rstd(m);
  cuda::rms_norm({}, {.x = dx.tensor(), .gamma = dgamma.tensor(), .y = y_plain.tensor()});
  const Matrix got_plain = y_plain.download();
  cuda::rms_norm({}, {.x = dx.tensor(),
                      .delta = ddelta.tensor(),
                      .gamma = dgamma.tensor(),
                      .y = y.tensor(),
                      .rstd = rstd.data()});
  const Matrix stream = dx.download(), got = y.download();
  const std::vector<float> got_rstd = rstd.download();
  for (int64_t r = 0; r < m; ++r) {
    const auto want = ref::rms_norm(values_of_row(stream, r), values_of_row(gamma, 0), 1e-6);
    const auto want_plain = ref::rms_norm(values_of_row(x, r), values_of_row(gamma, 0), 1e-6);
    const double want_rstd = ref::rms_rstd(values_of_row(stream, r), 1e-6);
    test::expect_close(got_rstd[r], want_rstd, want_rstd, norm_eps(DType::kF32), "rstd", r);
    for (int64_t c = 0; c < h; ++c) {
      ASSERT_TRUE(same_bits(stream.at(r, c), test::rounded(x.at(r, c) + delta.at(r, c), dtype())));
      test::expect_close(got.at(r, c), want[c], std::abs(want[c]), norm_eps(dtype()), "y", r, c);
      test::expect_close(got_plain.at(r, c), want_plain[c], std::abs(want_plain[c]), norm_eps(dtype()),
                         "y_plain", r, c);
    }
  }
  EXPECT_TRUE(stream.padding_untouched() && got.padding_untouched() && got_plain.padding_untouched());
}

// With `sum` the stream goes there and x stays; the bits are those of the addition in place.
TEST_P(CudaNorm, SumLeavesTheInput) {
  const auto [m, h, padding] = shape();
  const Matrix x = random(1), delta = random(2), gamma = Matrix::random(1, h, 3);
  const DeviceTensor stream(dtype(), x), kept(dtype(), x), untouched(dtype(), x), ddelta(dtype(), delta),
      dgamma(DType::kF32, gamma), sum = poison(), y = poison(), y_sum = poison();
  const DeviceArray<float> rstd(m), rstd_sum(m);
  RmsNormArgs args = {.x = stream.tensor(),
                      .delta = ddelta.tensor(),
                      .gamma = dgamma.tensor(),
                      .y = y.tensor(),
                      .rstd = rstd.data()};
  cuda::rms_norm({}, args);
  args.x = kept.tensor();
  args.sum = sum.tensor();
  args.y = y_sum.tensor();
  args.rstd = rstd_sum.data();
  cuda::rms_norm({}, args);
  EXPECT_TRUE(kept.same_bytes(untouched) && y_sum.same_bytes(y));
  EXPECT_TRUE(same_bits(rstd_sum.download(), rstd.download()));
  const Matrix got = sum.download(), want = stream.download();
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < h; ++c) ASSERT_TRUE(same_bits(got.at(r, c), want.at(r, c))) << r << " " << c;
  }
  EXPECT_TRUE(got.padding_untouched());
}

// Against the CPU backend on the same (rounded) inputs, whose own backward is checked by finite differences.
// dgamma has the same bits.
TEST_P(CudaNorm, Backward) {
  const auto [m, h, padding] = shape();
  Matrix x = random(4, 1.0), dy = random(5), gamma = Matrix::random(1, h, 6), before = random(7);
  std::vector<float> rstd(static_cast<size_t>(m));
  for (int64_t r = 0; r < m; ++r) rstd[r] = static_cast<float>(ref::rms_rstd(values_of_row(x, r), 1e-6));
  const SegmentTable segments(m, 4);

  Matrix want = Matrix::poisoned(m, h), want_dgamma = Matrix::poisoned(1, h);
  test::Workspace host(rms_norm_bwd_workspace_bytes(m, h, 4));
  cpu::rms_norm_bwd(host.exec(), {.dy = dy.tensor(),
                                  .x = x.tensor(),
                                  .gamma = gamma.tensor(),
                                  .rstd = rstd.data(),
                                  .dx = want.tensor(),
                                  .dgamma = want_dgamma.tensor(),
                                  .segments = segments.host()});

  const DeviceTensor d_x(dtype(), x), d_dy(dtype(), dy), d_gamma(DType::kF32, gamma),
      d_dx = poison(), d_sum(dtype(), before), d_dgamma(DType::kF32, 1, h);
  const DeviceArray<float> d_rstd(rstd);
  const test::DeviceWorkspace workspace(rms_norm_bwd_workspace_bytes(m, h, 4));
  RmsNormBwdArgs args = {.dy = d_dy.tensor(),
                         .x = d_x.tensor(),
                         .gamma = d_gamma.tensor(),
                         .rstd = d_rstd.data(),
                         .dx = d_dx.tensor(),
                         .dgamma = d_dgamma.tensor(),
                         .segments = segments.device()};
  cuda::rms_norm_bwd(workspace.exec(), args);
  EXPECT_TRUE(same_bits(d_dgamma.download().values, want_dgamma.values));
  args.dx = d_sum.tensor();
  args.accumulate = true;
  cuda::rms_norm_bwd(workspace.exec(), args);
  const Matrix dx = d_dx.download(), sum = d_sum.download();
  for (int64_t r = 0; r < m; ++r) {
    double scale = 0;
    for (int64_t c = 0; c < h; ++c)
      scale = std::max(scale, static_cast<double>(rstd[r]) * std::abs(dy.at(r, c) * gamma.at(0, c)));
    for (int64_t c = 0; c < h; ++c) {
      const double w = want.at(r, c), s = w + before.at(r, c);
      const double step = dtype() == DType::kBF16 ? test::eps_of(dtype()) : 0;
      EXPECT_LE(std::abs(dx.at(r, c) - w), 40 * kEps * scale + step * std::abs(w)) << r << " " << c;
      EXPECT_LE(std::abs(sum.at(r, c) - s), 40 * kEps * (scale + std::abs(s)) + step * std::abs(s))
          << r << " " << c;
    }
  }
  EXPECT_TRUE(dx.padding_untouched() && sum.padding_untouched());
}

// Fused quantisation is rms_norm, of x + delta, followed by quantisation of the stored y, with or without y.
TEST_P(CudaNorm, QuantizeIsTheComposition) {
  const auto [m, h, padding] = shape();
  const int64_t blocks = ceil_div(h, 128);
  const Matrix x = random(10), delta = random(12), gamma = Matrix::random(1, h, 11);
  const DeviceTensor dx(dtype(), x), ddelta(dtype(), delta), dgamma(DType::kF32, gamma),
      y = poison(), y_fused = poison(), sum = poison();
  const RmsNormArgs norm = {
      .x = dx.tensor(), .delta = ddelta.tensor(), .sum = sum.tensor(), .gamma = dgamma.tensor()};
  RmsNormArgs plain = norm;
  plain.y = y.tensor();
  cuda::rms_norm({}, plain);
  Matrix want_y = y.download(), want_scale = Matrix::poisoned(m, blocks, 1);
  std::vector<uint8_t> want(static_cast<size_t>(m * (h + padding)), 0xFF);
  cpu::quantize(
      {}, {.x = want_y.tensor(),
           .q = {.data = {want.data(), DType::kE4M3, m, h, h + padding}, .scale = want_scale.tensor()}});
  for (const Tensor& y_out : {Tensor(), y_fused.tensor()}) {
    const DeviceArray<uint8_t> codes(m * (h + padding));
    const DeviceTensor scale(DType::kF32, m, blocks, 1);
    RmsNormArgs fused = norm;
    fused.y = y_out;
    cuda::rms_norm_quantize(
        {}, {.norm = fused,
             .q = {.data = {codes.data(), DType::kE4M3, m, h, h + padding}, .scale = scale.tensor()}});
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

// Every team width, whole pieces and tails, aligned and not.
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaNorm,
    testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                     testing::Values(NormShape{0, 64, 0}, NormShape{1, 1, 0}, NormShape{3, 64, 8},
                                     NormShape{9, 257, 2}, NormShape{5, 512, 0}, NormShape{3, 1032, 0},
                                     NormShape{2, 7168, 0}, NormShape{2, 4100, 1}, NormShape{2, 8200, 8})));

// A row has the same bits alone and among many, in another place, at another alignment; and again.
TEST(CudaNormRows, AreIndependent) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t h : {64, 1536}) {
      const int64_t m = h == 64 ? 4300 : 600;  // more than a grid does at once
      const Matrix x = Matrix::random(m, h, 8), dy = Matrix::random(m, h, 18),
                   gamma = Matrix::random(1, h, 9);
      const DeviceTensor dx(dtype, x), ddy(dtype, dy), dgamma(DType::kF32, gamma), y(dtype, m, h),
          g(dtype, m, h), again(dtype, m, h), sum(DType::kF32, 1, h);
      const DeviceArray<float> rstd(m);
      const SegmentTable all({{0, static_cast<int32_t>(m), 0, 0}}, 1), row({{0, 1, 0, 0}}, 1);
      cuda::rms_norm({}, {.x = dx.tensor(), .gamma = dgamma.tensor(), .y = y.tensor(), .rstd = rstd.data()});
      cuda::rms_norm({}, {.x = dx.tensor(), .gamma = dgamma.tensor(), .y = again.tensor()});
      EXPECT_TRUE(y.same_bytes(again));
      cuda::rms_norm_bwd({}, {.dy = ddy.tensor(),
                              .x = dx.tensor(),
                              .gamma = dgamma.tensor(),
                              .rstd = rstd.data(),
                              .dx = g.tensor(),
                              .dgamma = sum.tensor(),
                              .segments = all.device()});
      const Matrix want = y.download(), want_g = g.download();
      for (const int64_t r : {int64_t{0}, int64_t{17}, m - 1}) {
        Matrix one = Matrix::poisoned(1, h, 1), one_dy = one;
        for (int64_t c = 0; c < h; ++c) one.at(0, c) = x.at(r, c);
        for (int64_t c = 0; c < h; ++c) one_dy.at(0, c) = dy.at(r, c);
        const DeviceTensor d_one(dtype, one), d_dy(dtype, one_dy), y_one(dtype, 1, h, 1), g_one(dtype, 1, h);
        cuda::rms_norm({}, {.x = d_one.tensor().col_range(0, h),
                            .gamma = dgamma.tensor(),
                            .y = y_one.tensor(),
                            .rstd = rstd.data()});
        cuda::rms_norm_bwd({}, {.dy = d_dy.tensor(),
                                .x = d_one.tensor(),
                                .gamma = dgamma.tensor(),
                                .rstd = rstd.data(),
                                .dx = g_one.tensor(),
                                .dgamma = sum.tensor(),
                                .segments = row.device()});
        const Matrix got = y_one.download(), got_g = g_one.download();
        for (int64_t c = 0; c < h; ++c) {
          ASSERT_TRUE(same_bits(got.at(0, c), want.at(r, c))) << r << " " << c;
          ASSERT_TRUE(same_bits(got_g.at(0, c), want_g.at(r, c))) << r << " " << c;
        }
      }
    }
  }
}

TEST(CudaNormErrors, ShapesAreChecked) {
  const DeviceTensor x(DType::kF32, 2, 8), gamma(DType::kF32, 1, 7), wide(DType::kF32, 1, 16392),
      bf16(DType::kBF16, 2, 8), right(DType::kF32, 1, 8);
  EXPECT_THROW(cuda::rms_norm({}, {.x = x.tensor(), .gamma = gamma.tensor(), .y = x.tensor()}), Error);
  EXPECT_THROW(cuda::rms_norm({}, {.x = wide.tensor(), .gamma = wide.tensor(), .y = wide.tensor()}), Error);
  EXPECT_THROW(cuda::rms_norm({}, {.x = x.tensor(), .gamma = right.tensor(), .y = bf16.tensor()}), Error);
}

}  // namespace
}  // namespace contender
