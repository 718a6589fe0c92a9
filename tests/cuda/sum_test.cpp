#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "ops/permute.h"
#include "tests/cuda/device_array.h"
#include "tests/ref/row_sum_ref.h"

namespace contender {
namespace {

using test::DeviceTensor;
using test::Matrix;
using test::same_bits;

struct SumShape {
  int64_t rows, cols, padding;
};
std::ostream& operator<<(std::ostream& o, const SumShape& s) {
  return o << s.rows << "x" << s.cols << "+" << s.padding;
}

class CudaSum : public testing::TestWithParam<std::tuple<DType, SumShape>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  SumShape shape() const { return std::get<1>(GetParam()); }
  Matrix random(uint64_t seed) const {
    return test::rounded(Matrix::random(shape().rows, shape().cols, seed, shape().padding), dtype());
  }
};

// y = a + b in its own memory, then in that of a.
TEST_P(CudaSum, Add) {
  const auto [m, n, padding] = shape();
  const Matrix a = random(1), b = random(2);
  const DeviceTensor da(dtype(), a), db(dtype(), b), y(dtype(), m, n, padding);
  cuda::add({}, {.a = da.tensor(), .b = db.tensor(), .y = y.tensor()});
  const Matrix got = y.download();
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < n; ++c)
      ASSERT_TRUE(same_bits(got.at(r, c), test::rounded(a.at(r, c) + b.at(r, c), dtype()))) << r << " " << c;
  }
  EXPECT_TRUE(got.padding_untouched());
  cuda::add({}, {.a = da.tensor(), .b = db.tensor(), .y = da.tensor()});
  const Matrix in_place = da.download();
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < n; ++c) ASSERT_TRUE(same_bits(in_place.at(r, c), got.at(r, c))) << r << " " << c;
  }
}

// The CPU backend's bits, twice.
TEST_P(CudaSum, ColumnSum) {
  const auto [m, n, padding] = shape();
  Matrix dy = random(3);
  const DeviceTensor device(dtype(), dy), sum(DType::kF32, 1, n), again(DType::kF32, 1, n);
  for (const int leaves : {1, 2, 8, 64}) {
    const std::vector<RowSegment> list = ref::test_segments(static_cast<int32_t>(m), leaves);
    const RowSegments segments{list.data(), static_cast<int32_t>(list.size()), leaves};
    Matrix want = Matrix::poisoned(1, n);
    test::Workspace host(column_sum_workspace_bytes(n, leaves));
    cpu::column_sum(host.exec(), {.dy = dy.tensor(), .sum = want.tensor(), .segments = segments});
    cuda::column_sum({}, {.dy = device.tensor(), .sum = sum.tensor(), .segments = segments});
    cuda::column_sum({}, {.dy = device.tensor(), .sum = again.tensor(), .segments = segments});
    EXPECT_TRUE(same_bits(sum.download().values, want.values)) << leaves;
    EXPECT_TRUE(again.same_bytes(sum));
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaSum,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(SumShape{0, 8, 0}, SumShape{1, 1, 0},
                                                          SumShape{5, 300, 8}, SumShape{77, 129, 3},
                                                          SumShape{400, 256, 0})));

TEST(CudaSumErrors, ShapesAreChecked) {
  const DeviceTensor a(DType::kF32, 2, 8), b(DType::kF32, 2, 7), c(DType::kBF16, 2, 8);
  EXPECT_THROW(cuda::add({}, {.a = a.tensor(), .b = b.tensor(), .y = a.tensor()}), Error);
  EXPECT_THROW(cuda::add({}, {.a = a.tensor(), .b = c.tensor(), .y = a.tensor()}), Error);
  EXPECT_THROW(cuda::column_sum({}, {.dy = a.tensor(), .sum = b.tensor(), .segments = {nullptr, 0, 1}}),
               Error);
}

}  // namespace
}  // namespace contender
