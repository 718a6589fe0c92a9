#include "ops/norm.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/norm_ref.h"
#include "tests/ref/row_sum_ref.h"

namespace contender {
namespace {

using test::kEps;
using test::Matrix;
using test::same_bits;

std::vector<double> row_of(const Matrix& m, int64_t r) {
  std::vector<double> v(static_cast<size_t>(m.cols));
  for (int64_t c = 0; c < m.cols; ++c) v[c] = m.at(r, c);
  return v;
}

// A row has about H/16 + 6 roundings in its mean, halved by the square root, and three after it.
double row_eps(int64_t h) { return kEps * (static_cast<double>(h) / 16 + 12); }

class CpuNorm : public testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(CpuNorm, ForwardWithResidual) {
  const auto [m, h] = GetParam();
  Matrix x = Matrix::random(m, h, 1, 3), delta = Matrix::random(m, h, 2, 1), gamma = Matrix::random(1, h, 3);
  Matrix plain = x, y = Matrix::poisoned(m, h, 2), y_plain = Matrix::poisoned(m, h);
  std::vector<float> rstd = test::poisoned(m);
  cpu::rms_norm({}, {.x = plain.tensor(), .gamma = gamma.tensor(), .eps = 1e-6f, .y = y_plain.tensor()});
  cpu::rms_norm({}, {.x = x.tensor(),
                     .delta = delta.tensor(),
                     .gamma = gamma.tensor(),
                     .eps = 1e-6f,
                     .y = y.tensor(),
                     .rstd = rstd.data()});
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < h; ++c) ASSERT_TRUE(same_bits(x.at(r, c), plain.at(r, c) + delta.at(r, c)));
    const auto want = ref::rms_norm(row_of(x, r), row_of(gamma, 0), 1e-6);
    const auto want_plain = ref::rms_norm(row_of(plain, r), row_of(gamma, 0), 1e-6);
    const double want_rstd = ref::rms_rstd(row_of(x, r), 1e-6);
    test::expect_close(rstd[r], want_rstd, want_rstd, row_eps(h), "rstd", r);
    for (int64_t c = 0; c < h; ++c) {
      test::expect_close(y.at(r, c), want[c], std::abs(want[c]), row_eps(h), "y", r, c);
      test::expect_close(y_plain.at(r, c), want_plain[c], std::abs(want_plain[c]), row_eps(h), "y_plain", r,
                         c);
    }
  }
  EXPECT_TRUE(y.padding_untouched());
}

// With `sum` the stream goes there and x stays; the bits are those of the addition in place.
TEST_P(CpuNorm, SumLeavesTheInput) {
  const auto [m, h] = GetParam();
  Matrix x = Matrix::random(m, h, 1, 3), delta = Matrix::random(m, h, 2, 1), gamma = Matrix::random(1, h, 3);
  Matrix stream = x, kept = x, sum = Matrix::poisoned(m, h, 2), y = Matrix::poisoned(m, h), y_sum = y;
  std::vector<float> rstd = test::poisoned(m), rstd_sum = rstd;
  RmsNormArgs args = {.x = stream.tensor(),
                      .delta = delta.tensor(),
                      .gamma = gamma.tensor(),
                      .y = y.tensor(),
                      .rstd = rstd.data()};
  cpu::rms_norm({}, args);
  args.x = kept.tensor();
  args.sum = sum.tensor();
  args.y = y_sum.tensor();
  args.rstd = rstd_sum.data();
  cpu::rms_norm({}, args);
  EXPECT_TRUE(same_bits(kept.values, x.values) && sum.padding_untouched());
  EXPECT_TRUE(same_bits(y_sum.values, y.values) && same_bits(rstd_sum, rstd));
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < h; ++c) ASSERT_TRUE(same_bits(sum.at(r, c), stream.at(r, c)));
  }
}

// Backward against central differences of the double reference: L = sum dy * norm(x).
TEST_P(CpuNorm, BackwardMatchesFiniteDifferences) {
  const auto [m, h] = GetParam();
  Matrix x = Matrix::random(m, h, 4, 1, 1.0), gamma = Matrix::random(1, h, 5),
         dy = Matrix::random(m, h, 6, 2);
  Matrix y = Matrix::poisoned(m, h), dx = Matrix::poisoned(m, h), dgamma = Matrix::poisoned(1, h);
  std::vector<float> rstd = test::poisoned(m);
  cpu::rms_norm({}, {.x = x.tensor(), .gamma = gamma.tensor(), .y = y.tensor(), .rstd = rstd.data()});
  const std::vector<RowSegment> list = ref::test_segments(m, 4);
  const RowSegments segments{list.data(), static_cast<int32_t>(list.size()), 4};
  test::Workspace workspace(rms_norm_bwd_workspace_bytes(m, h, 4));
  RmsNormBwdArgs args = {.dy = dy.tensor(),
                         .x = x.tensor(),
                         .gamma = gamma.tensor(),
                         .rstd = rstd.data(),
                         .dx = dx.tensor(),
                         .dgamma = dgamma.tensor(),
                         .segments = segments};
  cpu::rms_norm_bwd(workspace.exec(), args);

  auto loss = [&](std::vector<double> row, int64_t r) {
    const auto out = ref::rms_norm(row, row_of(gamma, 0), 1e-6);
    double sum = 0;
    for (int64_t c = 0; c < h; ++c) sum += out[c] * dy.at(r, c);
    return sum;
  };
  for (int64_t r = 0; r < m; ++r) {
    double row_scale = 0;
    for (int64_t c = 0; c < h; ++c)
      row_scale = std::max(row_scale, std::abs(static_cast<double>(dy.at(r, c)) * gamma.at(0, c)));
    for (int64_t c = 0; c < std::min<int64_t>(h, 24); ++c) {
      std::vector<double> up = row_of(x, r), down = up;
      up[c] += 1e-6;
      down[c] -= 1e-6;
      const double want = (loss(up, r) - loss(down, r)) / 2e-6;
      test::expect_close(dx.at(r, c), want, rstd[r] * row_scale, 1e-5 + 4 * row_eps(h), "dx", r, c);
    }
  }
  for (int64_t c = 0; c < h; ++c) {
    const float want = ref::canonical_sum(
        segments, [&](float acc, int64_t r) { return std::fma(dy.at(r, c), x.at(r, c) * rstd[r], acc); });
    ASSERT_TRUE(same_bits(dgamma.at(0, c), want));
  }

  Matrix residual = Matrix::random(m, h, 7), summed = residual;
  args.dx = summed.tensor();
  args.accumulate = true;
  cpu::rms_norm_bwd(workspace.exec(), args);
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < h; ++c) {
      const double want = static_cast<double>(residual.at(r, c)) + dx.at(r, c);
      test::expect_close(summed.at(r, c), want, std::abs(residual.at(r, c)) + std::abs(dx.at(r, c)), 4 * kEps,
                         "dx +=", r, c);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuNorm,
                         testing::Values(std::tuple(0, 8), std::tuple(1, 1), std::tuple(3, 5),
                                         std::tuple(7, 64), std::tuple(18, 257)));

// A row has the same bits alone, among others, and at another alignment.
TEST(CpuNorm, RowsAreIndependent) {
  Matrix x = Matrix::random(6, 83, 8), gamma = Matrix::random(1, 83, 9), y = Matrix::poisoned(6, 83);
  cpu::rms_norm({}, {.x = x.tensor(), .gamma = gamma.tensor(), .y = y.tensor()});
  for (int64_t r = 0; r < 6; ++r) {
    Matrix one = Matrix::poisoned(1, 83, 1), y_one = Matrix::poisoned(1, 83, 1);
    for (int64_t c = 0; c < 83; ++c) one.at(0, c) = x.at(r, c);
    cpu::rms_norm({}, {.x = one.tensor(), .gamma = gamma.tensor(), .y = y_one.tensor()});
    for (int64_t c = 0; c < 83; ++c) EXPECT_TRUE(same_bits(y.at(r, c), y_one.at(0, c)));
  }
}

// Heads in two slices, as a fused projection lays them out, here and there at different places.
constexpr Heads kSliced = {.count = 4, .stride = 24, .offset = 3, .per_slice = 2, .slice_stride = 70};
constexpr Heads kInOrder = {.count = 4, .stride = 24, .offset = 1};

// A head's columns are rows of their own; other columns are untouched.
TEST(CpuHeadNorm, IsTheNormOfEachHead) {
  constexpr int64_t kDim = 24, kRows = 9, kHeads = 4;
  Matrix x = Matrix::random(kRows, 150, 20), gamma = Matrix::random(1, kDim, 21),
         dy = Matrix::random(kRows, 100, 22);
  Matrix y = Matrix::poisoned(kRows, 100), want = y, dx = Matrix::poisoned(kRows, 150), want_dx = dx,
         dgamma = Matrix::poisoned(kHeads, kDim, 5), want_dgamma = dgamma;
  std::vector<float> rstd = test::poisoned(kHeads * kRows), want_rstd = rstd;
  const std::vector<RowSegment> list = ref::test_segments(kRows, 4);
  const RowSegments segments{list.data(), static_cast<int32_t>(list.size()), 4};
  test::Workspace workspace(head_norm_bwd_workspace_bytes(kRows, kDim, kHeads, 4));
  cpu::head_norm({}, {.x = x.tensor(),
                      .x_heads = kSliced,
                      .gamma = gamma.tensor(),
                      .y = y.tensor(),
                      .y_heads = kInOrder,
                      .rstd = rstd.data()});
  cpu::head_norm_bwd(workspace.exec(), {.dy = dy.tensor(),
                                        .dy_heads = kInOrder,
                                        .x = x.tensor(),
                                        .x_heads = kSliced,
                                        .gamma = gamma.tensor(),
                                        .rstd = rstd.data(),
                                        .dx = dx.tensor(),
                                        .dx_heads = kSliced,
                                        .dgamma = dgamma.tensor(),
                                        .segments = segments});
  for (int64_t h = 0; h < kHeads; ++h) {
    const int64_t at = h / 2 * 70 + h % 2 * 24 + 3, to = h * 24 + 1;
    cpu::rms_norm({}, {.x = x.tensor().col_range(at, at + kDim),
                       .gamma = gamma.tensor(),
                       .y = want.tensor().col_range(to, to + kDim),
                       .rstd = want_rstd.data() + h * kRows});
    cpu::rms_norm_bwd(workspace.exec(), {.dy = dy.tensor().col_range(to, to + kDim),
                                         .x = x.tensor().col_range(at, at + kDim),
                                         .gamma = gamma.tensor(),
                                         .rstd = want_rstd.data() + h * kRows,
                                         .dx = want_dx.tensor().col_range(at, at + kDim),
                                         .dgamma = want_dgamma.tensor().row_range(h, h + 1),
                                         .segments = segments});
  }
  EXPECT_TRUE(same_bits(y.values, want.values) && same_bits(rstd, want_rstd));
  EXPECT_TRUE(same_bits(dx.values, want_dx.values) && same_bits(dgamma.values, want_dgamma.values));
  EXPECT_FALSE(std::isnan(y.at(kRows - 1, 96)) || std::isnan(dgamma.at(kHeads - 1, kDim - 1)));
}

TEST(CpuHeadNorm, HeadsMustFit) {
  Matrix x = Matrix::random(2, 149, 23), gamma = Matrix::random(1, 24, 24), y = Matrix::poisoned(2, 97);
  HeadNormArgs args = {
      .x = x.tensor(), .x_heads = kSliced, .gamma = gamma.tensor(), .y = y.tensor(), .y_heads = kInOrder};
  cpu::head_norm({}, args);
  args.y.cols = 96;
  EXPECT_THROW(cpu::head_norm({}, args), Error);
  args.y.cols = 97;
  args.x_heads.slice_stride = 100;
  EXPECT_THROW(cpu::head_norm({}, args), Error);
}

// Fused quantisation is rms_norm followed by quantize, with or without y.
TEST(CpuNorm, QuantizeIsTheComposition) {
  constexpr int64_t kRows = 3, kCols = 300, kBlocks = 3;
  Matrix x = Matrix::random(kRows, kCols, 10), gamma = Matrix::random(1, kCols, 11),
         y = Matrix::poisoned(kRows, kCols);
  cpu::rms_norm({}, {.x = x.tensor(), .gamma = gamma.tensor(), .y = y.tensor()});
  std::vector<uint8_t> want(kRows * kCols, 0x7F), got = want;
  Matrix want_scale = Matrix::poisoned(kRows, kBlocks), got_scale = want_scale,
         y_fused = Matrix::poisoned(kRows, kCols);
  cpu::quantize({}, {.x = y.tensor(),
                     .q = {.data = {want.data(), DType::kE4M3, kRows, kCols}, .scale = want_scale.tensor()}});
  for (const Tensor& y_out : {Tensor(), y_fused.tensor()}) {
    std::fill(got.begin(), got.end(), 0x7F);
    cpu::rms_norm_quantize(
        {}, {.norm = {.x = x.tensor(), .gamma = gamma.tensor(), .y = y_out},
             .q = {.data = {got.data(), DType::kE4M3, kRows, kCols}, .scale = got_scale.tensor()}});
    EXPECT_EQ(got, want);
    EXPECT_TRUE(same_bits(got_scale.values, want_scale.values));
  }
  EXPECT_TRUE(same_bits(y_fused.values, y.values));
}

}  // namespace
}  // namespace contender
