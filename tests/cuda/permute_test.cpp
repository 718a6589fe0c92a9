#include "ops/permute.h"

#include <gtest/gtest.h>

#include <numeric>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::Matrix;
using test::rounded;
using test::same_bits;

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

struct RowShape {
  int64_t cols, padding;  // padding 0 or a multiple of 16 bytes keeps the rows in pieces
};
constexpr RowShape kRowShapes[] = {{19, 3}, {1, 0}, {64, 8}, {2056, 0}, {2048, 1}};

TEST(CudaPermute, GatherWritesZerosForMinusOne) {
  const std::vector<int32_t> index = {4, -1, 0, 4, 2, -1, 1, 3, 0};
  const DeviceArray<int32_t> device_index(index);
  for (DType dtype : kTypes) {
    for (const RowShape& s : kRowShapes) {
      const Matrix x = rounded(Matrix::random(5, s.cols, 1, s.padding), dtype);
      const DeviceTensor dx(dtype, x), dy(dtype, 9, s.cols, s.padding);
      cuda::gather_rows({}, {.x = dx.tensor(), .index = device_index.data(), .y = dy.tensor()});
      const Matrix y = dy.download();
      for (int64_t i = 0; i < 9; ++i) {
        for (int64_t c = 0; c < s.cols; ++c)
          ASSERT_TRUE(same_bits(y.at(i, c), index[i] < 0 ? 0.0f : x.at(index[i], c))) << i << " " << c;
      }
      EXPECT_TRUE(y.padding_untouched());
    }
  }
}

TEST(CudaPermute, GatherWithoutAnIndexCopies) {
  for (const RowShape& s : kRowShapes) {
    const Matrix x = Matrix::random(11, s.cols, 2, s.padding);
    const DeviceTensor dx(DType::kF32, x), dy(DType::kF32, 11, s.cols);
    cuda::gather_rows({}, {.x = dx.tensor(), .y = dy.tensor()});
    const Matrix y = dy.download();
    for (int64_t i = 0; i < 11; ++i) {
      for (int64_t c = 0; c < s.cols; ++c) ASSERT_TRUE(same_bits(y.at(i, c), x.at(i, c)));
    }
  }
}

// To nearest even, and back without loss; the CPU's bits.
TEST(CudaPermute, GatherWithoutAnIndexConverts) {
  for (const RowShape& s : kRowShapes) {
    for (int64_t rows : {0, 1, 11}) {
      const Matrix x = Matrix::random(rows, s.cols, 2, s.padding);
      const DeviceTensor dx(DType::kF32, x), half(DType::kBF16, rows, s.cols, s.padding),
          back(DType::kF32, rows, s.cols, 1);
      cuda::gather_rows({}, {.x = dx.tensor(), .y = half.tensor()});
      cuda::gather_rows({}, {.x = half.tensor(), .y = back.tensor()});
      const Matrix got = half.download(), wide = back.download();
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t c = 0; c < s.cols; ++c) {
          ASSERT_TRUE(same_bits(got.at(i, c), rounded(x.at(i, c), DType::kBF16))) << i << " " << c;
          ASSERT_TRUE(same_bits(wide.at(i, c), got.at(i, c))) << i << " " << c;
        }
      }
      EXPECT_TRUE(got.padding_untouched() && wide.padding_untouched());
    }
  }
}

// Heads in two slices to heads in a row, of any size of element, aligned or not; other columns are untouched.
TEST(CudaPermute, CopyHeadsLeavesOtherColumns) {
  struct Case {
    int64_t width;
    Heads from, to;
  };
  const Case cases[] = {{16, {4, 24, 8, 2, 64}, {4, 16, 0}},
                        {24, {4, 24, 8, 4, 0}, {4, 32, 8, 1, 40}},
                        {5, {3, 7, 2}, {3, 5, 1}},
                        {64, {1, 0, 16}, {1, 0, 0}}};
  for (DType dtype : kTypes) {
    for (const Case& s : cases) {
      for (int64_t rows : {0, 1, 70}) {
        const int64_t from = round_up(s.from.column(s.from.count - 1) + s.width, 8),
                      to = round_up(s.to.column(s.to.count - 1) + s.width, 8);
        Matrix x = rounded(Matrix::random(rows, from, 5, 8), dtype), want = Matrix::poisoned(rows, to, 8);
        const DeviceTensor dx(dtype, x), dy(dtype, rows, to, 8);
        cuda::copy_heads(
            {}, {.x = dx.tensor(), .x_heads = s.from, .y = dy.tensor(), .y_heads = s.to, .width = s.width});
        cpu::copy_heads(
            {}, {.x = x.tensor(), .x_heads = s.from, .y = want.tensor(), .y_heads = s.to, .width = s.width});
        const Matrix y = dy.download();
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < to; ++c)
            ASSERT_TRUE(same_bits(y.at(r, c), want.at(r, c)) ||
                        (std::isnan(y.at(r, c)) && std::isnan(want.at(r, c))))
                << r << " " << c;
        }
        EXPECT_TRUE(y.padding_untouched());
      }
    }
  }
}

TEST(CudaPermute, ScatterSkipsMinusOneAndLeavesOtherRows) {
  const std::vector<int32_t> index = {3, -1, 0, 5};
  const DeviceArray<int32_t> device_index(index);
  for (DType dtype : kTypes) {
    for (const RowShape& s : kRowShapes) {
      const Matrix x = rounded(Matrix::random(4, s.cols, 3, s.padding), dtype);
      const DeviceTensor dx(dtype, x), dy(dtype, 6, s.cols, s.padding);
      cuda::scatter_rows({}, {.x = dx.tensor(), .index = device_index.data(), .y = dy.tensor()});
      const Matrix y = dy.download();
      for (int64_t c = 0; c < s.cols; ++c) {
        for (int64_t i : {0, 2, 3}) ASSERT_TRUE(same_bits(y.at(index[i], c), x.at(i, c)));
        for (int64_t r : {1, 2, 4}) ASSERT_TRUE(std::isnan(y.at(r, c)));
      }
      EXPECT_TRUE(y.padding_untouched());
    }
  }
}

TEST(CudaPermute, BytesAreMovedWhateverTheirType) {
  const std::vector<int32_t> index = {1, 0};
  const DeviceArray<int32_t> device_index(index);
  for (int64_t cols : {5, 32}) {
    std::vector<uint8_t> values(static_cast<size_t>(2 * cols));
    std::iota(values.begin(), values.end(), uint8_t{1});
    const DeviceArray<uint8_t> x(values), y(2 * cols);
    cuda::gather_rows({}, {.x = {x.data(), DType::kE4M3, 2, cols},
                           .index = device_index.data(),
                           .y = {y.data(), DType::kE4M3, 2, cols}});
    std::rotate(values.begin(), values.begin() + cols, values.end());
    EXPECT_EQ(y.download(), values);
  }
}

TEST(CudaPermute, NoRowsAndWrongShapes) {
  const DeviceTensor none(DType::kF32, 0, 8), some(DType::kF32, 2, 8), narrow(DType::kF32, 2, 7),
      bf16(DType::kBF16, 2, 8);
  cuda::gather_rows({}, {.x = none.tensor(), .y = none.tensor()});
  cuda::scatter_rows({}, {.x = none.tensor(), .y = none.tensor()});
  // Rows of a wider tensor, none of them; zeros where there is nothing to gather from.
  const DeviceTensor wide(DType::kF32, 4, 24);
  const DeviceArray<int32_t> nothing(2);
  const Tensor strided = wide.tensor().col_range(8, 16);
  cuda::gather_rows({}, {.x = strided, .y = strided.row_range(4, 4)});
  cuda::scatter_rows({}, {.x = strided.row_range(2, 2), .y = strided});
  cuda::scatter_rows({},
                     {.x = strided.row_range(0, 2), .index = nothing.data(), .y = strided.row_range(4, 4)});
  for (float v : wide.download().values) EXPECT_TRUE(std::isnan(v));
  for (const Tensor& empty : {strided.row_range(0, 0), Tensor(nullptr, DType::kF32, 0, 8, 24)})
    cuda::gather_rows({}, {.x = empty, .index = nothing.data(), .y = strided.row_range(1, 3)});
  const Matrix zeros = wide.download();
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t c = 0; c < 24; ++c)
      EXPECT_EQ(std::isnan(zeros.at(r, c)), !(1 <= r && r < 3 && 8 <= c && c < 16)) << r << " " << c;
  }
  EXPECT_THROW(cuda::gather_rows({}, {.x = none.tensor(), .y = some.tensor()}), Error);
  EXPECT_THROW(cuda::gather_rows({}, {.x = some.tensor(), .y = narrow.tensor()}), Error);
  EXPECT_THROW(cuda::gather_rows({}, {.x = some.tensor(), .index = nothing.data(), .y = bf16.tensor()}),
               Error);
  EXPECT_THROW(cuda::gather_rows({}, {.x = some.tensor(), .y = bf16.tensor().row_range(0, 1)}), Error);
}

// A row that does not exist is the end of the job, not a stray access.
TEST(CudaPermuteDeathTest, RowsOutsideTrap) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto status_of = [](int32_t at, auto&& run) {
    const DeviceTensor x(DType::kF32, Matrix::random(2, 8, 4)), y(DType::kF32, 2, 8);
    const DeviceArray<int32_t> index(std::vector<int32_t>{0, at});
    run(x.tensor(), index.data(), y.tensor());
    return cudaDeviceSynchronize() == cudaSuccess ? 0 : 3;
  };
  const auto gather = [](const Tensor& x, int32_t* index, const Tensor& y) {
    cuda::gather_rows({}, {.x = x, .index = index, .y = y});
  };
  const auto combine = [](const Tensor& x, int32_t* index, const Tensor& y) {
    cuda::combine({}, {.x = x, .pos = i32_tensor(index, 2, 1), .weight = x.col_range(0, 1), .y = y});
  };
  EXPECT_EXIT(std::_Exit(status_of(1, gather)), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(std::_Exit(status_of(2, gather)), testing::ExitedWithCode(3), "");
  EXPECT_EXIT(std::_Exit(status_of(-2, gather)), testing::ExitedWithCode(3), "");
  EXPECT_EXIT(std::_Exit(status_of(2, combine)), testing::ExitedWithCode(3), "");
}

// Every token's experts at rows that nobody else names; two rows are named by nobody.
std::vector<int32_t> spread_positions(int64_t tokens, int64_t top_k) {
  const int64_t n = tokens * top_k;
  std::vector<int32_t> pos(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) pos[i] = static_cast<int32_t>(n + 1 - (n % 7 == 0 ? i : i * 7 % n));
  return pos;
}

using CombineCase = std::tuple<DType, int, int, int>;
class CudaCombine : public testing::TestWithParam<CombineCase> {};

// F32: the bits of the CPU. BF16: the bits of the CPU on the rounded inputs, rounded once.
TEST_P(CudaCombine, ForwardAndBackward) {
  const auto [dtype, tokens, top_k, h] = GetParam();
  const int64_t rows = static_cast<int64_t>(tokens) * top_k + 2;
  Matrix x = rounded(Matrix::random(rows, h, 10, 8), dtype),
         dy = rounded(Matrix::random(tokens, h, 12), dtype);
  Matrix weight = Matrix::random(tokens, top_k, 11, 2);
  std::vector<int32_t> pos = spread_positions(tokens, top_k);
  const DeviceTensor device_x(dtype, x), device_dy(dtype, dy), device_weight(DType::kF32, weight);
  const DeviceArray<int32_t> device_pos(pos);
  const Tensor pos_t = i32_tensor(pos.data(), tokens, top_k),
               device_pos_t = i32_tensor(device_pos.data(), tokens, top_k);

  const DeviceTensor y(dtype, tokens, h, 8);
  cuda::combine(
      {}, {.x = device_x.tensor(), .pos = device_pos_t, .weight = device_weight.tensor(), .y = y.tensor()});
  Matrix want = Matrix::poisoned(tokens, h, 8);
  cpu::combine({}, {.x = x.tensor(), .pos = pos_t, .weight = weight.tensor(), .y = want.tensor()});
  want = rounded(want, dtype);
  const Matrix once = y.download();
  cuda::combine({}, {.x = device_x.tensor(),
                     .pos = device_pos_t,
                     .weight = device_weight.tensor(),
                     .y = y.tensor(),
                     .accumulate = true});
  Matrix want_twice = want;
  cpu::combine({}, {.x = x.tensor(),
                    .pos = pos_t,
                    .weight = weight.tensor(),
                    .y = want_twice.tensor(),
                    .accumulate = true});
  const Matrix twice = y.download();

  const DeviceTensor ones(DType::kF32,
                          Matrix{std::vector<float>(tokens * top_k, 1.0f), tokens, top_k, top_k}),
      by_ones(dtype, tokens, h), unweighted(dtype, tokens, h);
  cuda::combine(
      {}, {.x = device_x.tensor(), .pos = device_pos_t, .weight = ones.tensor(), .y = by_ones.tensor()});
  cuda::combine({}, {.x = device_x.tensor(), .pos = device_pos_t, .y = unweighted.tensor()});
  EXPECT_TRUE(unweighted.same_bytes(by_ones));

  const DeviceTensor device_dx(dtype, rows, h, 8), device_dweight(DType::kF32, tokens, top_k, 1);
  cuda::combine_bwd({}, {.dy = device_dy.tensor(),
                         .x = device_x.tensor(),
                         .pos = device_pos_t,
                         .weight = device_weight.tensor(),
                         .dx = device_dx.tensor(),
                         .dweight = device_dweight.tensor()});
  const Matrix dx = device_dx.download(), dweight = device_dweight.download();
  EXPECT_TRUE(once.padding_untouched() && dx.padding_untouched() && dweight.padding_untouched());
  for (int64_t c = 0; c < h; ++c) EXPECT_TRUE(std::isnan(dx.at(0, c)) && std::isnan(dx.at(1, c)));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < h; ++c) {
      ASSERT_TRUE(same_bits(once.at(t, c), want.at(t, c))) << t << " " << c;
      ASSERT_TRUE(same_bits(twice.at(t, c), rounded(want_twice.at(t, c), dtype))) << t << " " << c;
      for (int64_t j = 0; j < top_k; ++j)
        ASSERT_TRUE(same_bits(dx.at(pos[t * top_k + j], c), rounded(weight.at(t, j) * dy.at(t, c), dtype)));
    }
    // A chain of at most h / 32 + 8 terms, then a tree of 5 levels.
    for (int64_t j = 0; j < top_k; ++j) {
      double dot = 0, scale = 0;
      for (int64_t c = 0; c < h; ++c) {
        const double term = static_cast<double>(dy.at(t, c)) * x.at(pos[t * top_k + j], c);
        dot += term;
        scale += std::abs(term);
      }
      test::expect_close(dweight.at(t, j), dot, scale, test::kEps * (h / 32 + 14), "dweight", t, j);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaCombine,
    testing::Values(CombineCase{DType::kF32, 1, 1, 1}, CombineCase{DType::kF32, 3, 2, 33},
                    CombineCase{DType::kF32, 9, 8, 1088}, CombineCase{DType::kF32, 0, 2, 8},
                    CombineCase{DType::kBF16, 1, 1, 1}, CombineCase{DType::kBF16, 5, 9, 61},
                    CombineCase{DType::kBF16, 4, 8, 2304}, CombineCase{DType::kBF16, 3, 6, 64}));

// A token's rows do not depend on how many others are in the call, nor on the place; twice the same is the
// same.
TEST(CudaCombine, BatchDoesNotMatter) {
  constexpr int64_t kTokens = 6, kTopK = 3, kHidden = 200, kRows = kTokens * kTopK + 2;
  for (DType dtype : kTypes) {
    const DeviceTensor x(dtype, Matrix::random(kRows, kHidden, 20)),
        dy(dtype, Matrix::random(kTokens, kHidden, 21)),
        weight(DType::kF32, Matrix::random(kTokens, kTopK, 22));
    const DeviceArray<int32_t> pos(spread_positions(kTokens, kTopK));
    const auto run = [&](int64_t begin, int64_t end, const DeviceTensor& y, const DeviceTensor& dx,
                         const DeviceTensor& dweight) {
      const Tensor p = i32_tensor(pos.data(), kTokens, kTopK).row_range(begin, end),
                   w = weight.tensor().row_range(begin, end);
      cuda::combine({}, {.x = x.tensor(), .pos = p, .weight = w, .y = y.tensor().row_range(begin, end)});
      cuda::combine_bwd({}, {.dy = dy.tensor().row_range(begin, end),
                             .x = x.tensor(),
                             .pos = p,
                             .weight = w,
                             .dx = dx.tensor(),
                             .dweight = dweight.tensor().row_range(begin, end)});
    };
    const DeviceTensor y(dtype, kTokens, kHidden), y1(dtype, kTokens, kHidden), dx(dtype, kRows, kHidden),
        dx1(dtype, kRows, kHidden), dw(DType::kF32, kTokens, kTopK), dw1(DType::kF32, kTokens, kTopK);
    run(0, kTokens, y, dx, dw);
    for (int64_t t = kTokens - 1; t >= 0; --t) run(t, t + 1, y1, dx1, dw1);
    EXPECT_TRUE(y.same_bytes(y1) && dx.same_bytes(dx1) && dw.same_bytes(dw1));
    run(0, kTokens, y1, dx1, dw1);
    EXPECT_TRUE(y.same_bytes(y1) && dx.same_bytes(dx1) && dw.same_bytes(dw1));
  }
}

}  // namespace
}  // namespace contender
