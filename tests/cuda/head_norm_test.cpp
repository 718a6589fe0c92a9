#include <gtest/gtest.h>

#include "cuda/ops.h"
#include "ops/norm.h"
#include "tests/cuda/device_array.h"
#include "tests/cuda/segment_table.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::Matrix;
using test::same_bits;
using test::SegmentTable;

// Heads of `dim` columns, here and there.
struct NormHeads {
  int64_t dim;
  Heads from, to;
};
std::ostream& operator<<(std::ostream& o, const NormHeads& s) {
  return o << s.from.count << " x " << s.dim << " at " << s.from.offset << " of " << s.from.stride;
}

class CudaHeadNorm : public testing::TestWithParam<std::tuple<DType, NormHeads>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  NormHeads shape() const { return std::get<1>(GetParam()); }
  int64_t columns_of(const Heads& heads) const {
    return round_up(heads.column(heads.count - 1) + shape().dim, 8);
  }
  Matrix random(int64_t rows, const Heads& heads, uint64_t seed) const {
    return test::rounded(Matrix::random(rows, columns_of(heads), seed, 8), dtype());
  }
  DeviceTensor poison(int64_t rows, const Heads& heads) const {
    return DeviceTensor(dtype(), rows, columns_of(heads));
  }
  Tensor head(const DeviceTensor& t, const Heads& heads, int64_t h) const {
    return head_columns(t.tensor(), heads, h, shape().dim);
  }
};

// The bits of rms_norm on each head's columns; other columns stay NaN.
TEST_P(CudaHeadNorm, IsTheNormOfEachHead) {
  const auto [dim, from, to] = shape();
  const DeviceTensor gamma(DType::kF32, Matrix::random(1, dim, 1));
  for (const int64_t m : {0, 1, 77}) {
    const DeviceTensor x(dtype(), random(m, from, 2)), y = poison(m, to), want = poison(m, to);
    const DeviceArray<float> rstd(from.count * m), want_rstd(from.count * m);
    HeadNormArgs args = {.x = x.tensor(),
                         .x_heads = from,
                         .gamma = gamma.tensor(),
                         .y = y.tensor(),
                         .y_heads = to,
                         .rstd = rstd.data()};
    cuda::head_norm({}, args);
    for (int64_t h = 0; h < from.count; ++h)
      cuda::rms_norm({}, {.x = head(x, from, h),
                          .gamma = gamma.tensor(),
                          .y = head(want, to, h),
                          .rstd = want_rstd.data() + h * m});
    EXPECT_TRUE(y.same_bytes(want)) << m;
    EXPECT_TRUE(same_bits(rstd.download(), want_rstd.download())) << m;
    args.y = x.tensor();  // in place
    args.y_heads = from;
    cuda::head_norm({}, args);
    const Matrix in_place = x.download(), apart = y.download();
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < from.count * dim; ++c)
        ASSERT_TRUE(same_bits(in_place.at(r, from.column(c / dim) + c % dim),
                              apart.at(r, to.column(c / dim) + c % dim)));
    }
  }
}

// The bits of rms_norm_bwd on each head's columns, of rows that no segment has too, for any number of leaves;
// and where dx is dy's memory.
TEST_P(CudaHeadNorm, BackwardIsThatOfEachHead) {
  const auto [dim, from, to] = shape();
  const DeviceTensor gamma(DType::kF32, Matrix::random(1, dim, 1));
  for (const auto& [m, leaves] : {std::pair<int64_t, int>{0, 4}, {1, 1}, {77, 64}, {700, 8}, {1300, 512}}) {
    const DeviceTensor x(dtype(), random(m, from, 2)), dy(dtype(), random(m, to, 3)),
        dx = poison(m, from), want = poison(m, from), dgamma(DType::kF32, from.count, dim, 5),
        want_dgamma(DType::kF32, from.count, dim, 5);
    const DeviceArray<float> rstd(test::random_values(from.count * m, 4, 1.0));
    const SegmentTable segments(m, leaves);
    const test::DeviceWorkspace workspace(head_norm_bwd_workspace_bytes(m, dim, from.count, leaves));
    HeadNormBwdArgs args = {.dy = dy.tensor(),
                            .dy_heads = to,
                            .x = x.tensor(),
                            .x_heads = from,
                            .gamma = gamma.tensor(),
                            .rstd = rstd.data(),
                            .dx = dx.tensor(),
                            .dx_heads = from,
                            .dgamma = dgamma.tensor(),
                            .segments = segments.device()};
    cuda::head_norm_bwd(workspace.exec(), args);
    for (int64_t h = 0; h < from.count; ++h)
      cuda::rms_norm_bwd({}, {.dy = head(dy, to, h),
                              .x = head(x, from, h),
                              .gamma = gamma.tensor(),
                              .rstd = rstd.data() + h * m,
                              .dx = head(want, from, h),
                              .dgamma = want_dgamma.tensor().row_range(h, h + 1),
                              .segments = segments.device()});
    EXPECT_TRUE(dx.same_bytes(want) && dgamma.same_bytes(want_dgamma)) << m << " rows, " << leaves;
    const Matrix apart = dx.download();
    args.dx = dy.tensor();
    args.dx_heads = to;
    cuda::head_norm_bwd(workspace.exec(), args);
    EXPECT_TRUE(dgamma.same_bytes(want_dgamma));
    const Matrix in_place = dy.download();
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < from.count * dim; ++c)
        ASSERT_TRUE(same_bits(in_place.at(r, to.column(c / dim) + c % dim),
                              apart.at(r, from.column(c / dim) + c % dim)));
    }
  }
}
// Every team width; aligned and not; in slices; the nano model's head sizes.
INSTANTIATE_TEST_SUITE_P(Shapes, CudaHeadNorm,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(NormHeads{16, {4, 24, 8, 2, 64}, {4, 16, 0}},
                                                          NormHeads{24, {2, 24, 8}, {2, 28, 4}},
                                                          NormHeads{32, {3, 40, 16}, {3, 32, 8}},
                                                          NormHeads{1, {2, 3, 1}, {2, 1, 0}},
                                                          NormHeads{5, {3, 7, 2}, {3, 5, 1}},
                                                          NormHeads{64, {2, 64, 0}, {2, 72, 8}},
                                                          NormHeads{128, {2, 136, 8, 1, 144}, {2, 128, 0}},
                                                          NormHeads{256, {2, 256, 0}, {2, 264, 8}},
                                                          NormHeads{201, {1, 0, 3}, {1, 0, 0}})));

// More heads than the grid has teams.
TEST(CudaHeadNormGrid, WalksOn) {
  constexpr int64_t kRows = 2300, kDim = 256;
  const Heads heads = {.count = 2, .stride = kDim};
  const DeviceTensor x(DType::kBF16, Matrix::random(kRows, 2 * kDim, 5)), y(DType::kBF16, kRows, 2 * kDim),
      want(DType::kBF16, kRows, 2 * kDim), gamma(DType::kF32, Matrix::random(1, kDim, 6));
  cuda::head_norm(
      {}, {.x = x.tensor(), .x_heads = heads, .gamma = gamma.tensor(), .y = y.tensor(), .y_heads = heads});
  for (int64_t h = 0; h < heads.count; ++h)
    cuda::rms_norm({}, {.x = head_columns(x.tensor(), heads, h, kDim),
                        .gamma = gamma.tensor(),
                        .y = head_columns(want.tensor(), heads, h, kDim)});
  EXPECT_TRUE(y.same_bytes(want));
}

TEST(CudaHeadNormErrors, ShapesAreChecked) {
  const DeviceTensor x(DType::kF32, 2, 300), gamma(DType::kF32, 1, 257), half(DType::kF32, 1, 150),
      bf16(DType::kBF16, 2, 300);
  EXPECT_THROW(cuda::head_norm({}, {.x = x.tensor(), .gamma = gamma.tensor(), .y = x.tensor()}), Error);
  HeadNormArgs args = {.x = x.tensor(),
                       .x_heads = {.count = 2, .stride = 150},
                       .gamma = half.tensor(),
                       .y = bf16.tensor(),
                       .y_heads = {.count = 2, .stride = 150}};
  EXPECT_THROW(cuda::head_norm({}, args), Error);
  args.y = x.tensor();
  args.y_heads.offset = 1;
  EXPECT_THROW(cuda::head_norm({}, args), Error);
}

}  // namespace
}  // namespace contender
