#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "ops/permute.h"
#include "tests/cuda/device_array.h"
#include "tests/cuda/segment_table.h"

namespace contender {
namespace {

using test::DeviceTensor;
using test::Matrix;
using test::same_bits;
using test::SegmentTable;

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
  for (const int leaves : {1, 2, 8, 64, 512}) {
    const SegmentTable segments(m, leaves);
    Matrix want = Matrix::poisoned(1, n);
    test::Workspace host(column_sum_workspace_bytes(n, leaves));
    cpu::column_sum(host.exec(), {.dy = dy.tensor(), .sum = want.tensor(), .segments = segments.host()});
    cuda::column_sum({}, {.dy = device.tensor(), .sum = sum.tensor(), .segments = segments.device()});
    cuda::column_sum({}, {.dy = device.tensor(), .sum = again.tensor(), .segments = segments.device()});
    EXPECT_TRUE(same_bits(sum.download().values, want.values)) << leaves;
    EXPECT_TRUE(again.same_bytes(sum));
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaSum,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(SumShape{0, 8, 0}, SumShape{1, 1, 0},
                                                          SumShape{5, 300, 8}, SumShape{77, 129, 3},
                                                          SumShape{400, 256, 0})));

// More segments than lanes, most of them empty, and a leaf of none.
TEST(CudaSumSegments, ManyOfAnyLength) {
  constexpr int64_t kRows = 3000, kCols = 8;
  Matrix dy = Matrix::random(kRows, kCols, 4);
  const DeviceTensor device(DType::kF32, dy), sum(DType::kF32, 1, kCols);
  for (const auto& [leaves, parts] : {std::pair{1, 1}, {64, 33}, {512, 3}, {8, 500}, {2, 0}}) {
    std::vector<RowSegment> list;
    int32_t row = 0;
    for (int32_t i = 0; i < leaves * parts; ++i) {
      const int32_t length =
          i / parts == 3 ? 0 : test::random_below(3, 5, static_cast<uint64_t>(i)) * (i % 2);
      list.push_back({row, std::min<int32_t>(row + length, kRows), 0, i / parts});
      row = std::min<int32_t>(row + length + i % 5 / 4, kRows);
    }
    const SegmentTable segments(list, leaves);
    cuda::column_sum({}, {.dy = device.tensor(), .sum = sum.tensor(), .segments = segments.device()});
    const Matrix got = sum.download();
    for (int64_t c = 0; c < kCols; ++c) {
      const float want =
          ref::canonical_sum(segments.host(), [&](float acc, int64_t r) { return acc + dy.at(r, c); });
      EXPECT_TRUE(same_bits(got.at(0, c), want)) << leaves << " leaves, " << parts << " parts, column " << c;
    }
  }
}

// Only the device sees the table: a segment outside the rows or out of its place ends the job.
TEST(CudaSumDeathTest, SegmentsAreChecked) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [](const RowSegment& second) {
    dup2(STDERR_FILENO, STDOUT_FILENO);
    const DeviceTensor dy(DType::kF32, Matrix::random(4, 8, 6)), sum(DType::kF32, 1, 8);
    const SegmentTable segments({{0, 2, 0, 0}, second}, 2);
    cuda::column_sum({}, {.dy = dy.tensor(), .sum = sum.tensor(), .segments = segments.device()});
    const cudaError_t error = cudaDeviceSynchronize();
    std::fflush(stdout);  // what the kernel printed
    std::_Exit(error == cudaSuccess ? 0 : 3);
  };
  EXPECT_EXIT(run({2, 4, 0, 1}), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(run({2, 5, 0, 1}), testing::ExitedWithCode(3), "rows .2, 5. of 4");
  EXPECT_EXIT(run({2, 1, 0, 1}), testing::ExitedWithCode(3), "rows .2, 1. of 4");
  EXPECT_EXIT(run({2, 4, 0, 0}), testing::ExitedWithCode(3), "group 0, leaf 0");
  EXPECT_EXIT(run({2, 4, 1, 1}), testing::ExitedWithCode(3), "group 1, leaf 1");
}

TEST(CudaSumErrors, ShapesAreChecked) {
  const DeviceTensor a(DType::kF32, 2, 8), b(DType::kF32, 2, 7), c(DType::kBF16, 2, 8);
  EXPECT_THROW(cuda::add({}, {.a = a.tensor(), .b = b.tensor(), .y = a.tensor()}), Error);
  EXPECT_THROW(cuda::add({}, {.a = a.tensor(), .b = c.tensor(), .y = a.tensor()}), Error);
  EXPECT_THROW(cuda::column_sum({}, {.dy = a.tensor(), .sum = b.tensor(), .segments = {nullptr, 0, 1}}),
               Error);
  for (const RowSegments& wrong : {RowSegments{nullptr, 0, 3}, {nullptr, 0, 1024}, {nullptr, 3, 2}})
    EXPECT_THROW(
        cuda::column_sum({}, {.dy = a.tensor(), .sum = a.tensor().row_range(0, 1), .segments = wrong}),
        Error);
}

}  // namespace
}  // namespace contender
