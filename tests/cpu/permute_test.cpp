#include "ops/permute.h"

#include <gtest/gtest.h>

#include <numeric>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/row_sum_ref.h"

namespace contender {
namespace {

using test::Matrix;
using test::same_bits;

TEST(CpuPermute, GatherWritesZerosForMinusOne) {
  Matrix x = Matrix::random(5, 19, 1, 3);
  const std::vector<int32_t> index = {4, -1, 0, 4, 2, -1};
  Matrix y = Matrix::poisoned(6, 19, 2);
  cpu::gather_rows({}, {.x = x.tensor(), .index = index.data(), .y = y.tensor()});
  for (int64_t i = 0; i < 6; ++i) {
    for (int64_t c = 0; c < 19; ++c)
      EXPECT_TRUE(same_bits(y.at(i, c), index[i] < 0 ? 0.0f : x.at(index[i], c)));
  }
  EXPECT_TRUE(y.padding_untouched());
}

// To nearest even, and back without loss; other dtypes than these two are not converted.
TEST(CpuPermute, GatherWithoutAnIndexConverts) {
  const auto f32 = [](uint32_t bits) { return std::bit_cast<float>(bits); };
  Matrix x = Matrix::poisoned(2, 4, 1), back = x;
  const uint32_t in[2][4] = {{0x3F808000, 0x3F818000, 0x3F808001, 0xBF807FFF},
                             {0x7F7FFFFF, 0xFF800000, 0x80000000, 0x7F800001}};
  const uint32_t want[2][4] = {{0x3F80, 0x3F82, 0x3F81, 0xBF80}, {0x7F80, 0xFF80, 0x8000, 0x7FC0}};
  for (int64_t r = 0; r < 2; ++r) {
    for (int64_t c = 0; c < 4; ++c) x.at(r, c) = f32(in[r][c]);
  }
  std::vector<uint16_t> half(2 * 6, 0x5555);
  const Tensor bf16(half.data(), DType::kBF16, 2, 4, 6);
  cpu::gather_rows({}, {.x = x.tensor(), .y = bf16});
  cpu::gather_rows({}, {.x = bf16, .y = back.tensor()});
  for (int64_t r = 0; r < 2; ++r) {
    for (int64_t c = 0; c < 4; ++c) {
      EXPECT_EQ(half[r * 6 + c], want[r][c]) << r << " " << c;
      EXPECT_TRUE(same_bits(back.at(r, c), f32(want[r][c] << 16))) << r << " " << c;
    }
    EXPECT_EQ(half[r * 6 + 4], 0x5555);
  }
  EXPECT_TRUE(back.padding_untouched());
  const int32_t index[2] = {0, 1};
  EXPECT_THROW(cpu::gather_rows({}, {.x = x.tensor(), .index = index, .y = bf16}), Error);
  EXPECT_THROW(cpu::gather_rows({}, {.x = x.tensor(), .y = {back.values.data(), DType::kI32, 2, 4}}), Error);
}

TEST(CpuPermute, ScatterSkipsMinusOneAndLeavesOtherRows) {
  Matrix x = Matrix::random(4, 17, 2, 1);
  const std::vector<int32_t> index = {3, -1, 0, 5};
  Matrix y = Matrix::poisoned(6, 17);
  cpu::scatter_rows({}, {.x = x.tensor(), .index = index.data(), .y = y.tensor()});
  for (int64_t c = 0; c < 17; ++c) {
    EXPECT_TRUE(same_bits(y.at(3, c), x.at(0, c)));
    EXPECT_TRUE(same_bits(y.at(0, c), x.at(2, c)));
    EXPECT_TRUE(same_bits(y.at(5, c), x.at(3, c)));
    for (int64_t r : {1, 2, 4}) EXPECT_TRUE(std::isnan(y.at(r, c)));
  }
}

TEST(CpuPermute, CopyHeadsLeavesOtherColumns) {
  const Heads sliced = {.count = 4, .stride = 6, .offset = 1, .per_slice = 2, .slice_stride = 15};
  const Heads in_order = {.count = 4, .stride = 8, .offset = 2};
  constexpr int64_t kWidth = 5;
  for (const int64_t rows : {0, 1, 7}) {
    Matrix x = Matrix::random(rows, 27, 5, 2), y = Matrix::poisoned(rows, 31, 1);
    cpu::copy_heads(
        {}, {.x = x.tensor(), .x_heads = sliced, .y = y.tensor(), .y_heads = in_order, .width = kWidth});
    for (int64_t r = 0; r < rows; ++r) {
      int64_t copied = 0;
      for (int64_t h = 0; h < 4; ++h) {
        for (int64_t c = 0; c < kWidth; ++c)
          EXPECT_TRUE(same_bits(y.at(r, 2 + 8 * h + c), x.at(r, 1 + h / 2 * 15 + h % 2 * 6 + c)));
      }
      for (int64_t c = 0; c < 31; ++c) copied += !std::isnan(y.at(r, c));
      EXPECT_EQ(copied, 4 * kWidth);
    }
    EXPECT_TRUE(y.padding_untouched());
    EXPECT_THROW(
        cpu::copy_heads(
            {}, {.x = x.tensor(), .x_heads = sliced, .y = y.tensor(), .y_heads = in_order, .width = 6}),
        Error);
  }
}

TEST(CpuPermute, RowsOutsideAreNamed) {
  Matrix x = Matrix::random(2, 4, 3);
  const int32_t index = 2;
  Matrix y = Matrix::poisoned(1, 4);
  EXPECT_THROW(cpu::gather_rows({}, {.x = x.tensor(), .index = &index, .y = y.tensor()}), Error);
  EXPECT_THROW(cpu::scatter_rows({}, {.x = y.tensor(), .index = &index, .y = x.tensor()}), Error);
}

TEST(CpuPermute, NoRows) {
  Matrix none = Matrix::poisoned(0, 8);
  cpu::gather_rows({}, {.x = none.tensor(), .y = none.tensor()});
  cpu::scatter_rows({}, {.x = none.tensor(), .y = none.tensor()});
  cpu::add({}, {.a = none.tensor(), .b = none.tensor(), .y = none.tensor()});
}

class CpuCombine : public testing::TestWithParam<std::tuple<int, int, int>> {};

// Combine is one chain of fmas; its backward is exact per element (dx) and a dot product (dweight).
TEST_P(CpuCombine, ForwardAndBackward) {
  const auto [tokens, top_k, h] = GetParam();
  const int64_t rows = static_cast<int64_t>(tokens) * top_k + 2;
  Matrix x = Matrix::random(rows, h, 10, 1);
  Matrix weight = Matrix::random(tokens, top_k, 11, 2);
  Matrix dy = Matrix::random(tokens, h, 12);
  std::vector<int32_t> pos(static_cast<size_t>(tokens) * top_k);
  for (size_t i = 0; i < pos.size(); ++i) pos[i] = static_cast<int32_t>(rows - 1 - (i * 7) % pos.size());
  if (pos.size() % 7 == 0) std::iota(pos.begin(), pos.end(), 1);
  const Tensor pos_t = i32_tensor(pos.data(), tokens, top_k);

  Matrix y = Matrix::poisoned(tokens, h, 1);
  cpu::combine({}, {.x = x.tensor(), .pos = pos_t, .weight = weight.tensor(), .y = y.tensor()});
  Matrix twice = y;
  cpu::combine(
      {},
      {.x = x.tensor(), .pos = pos_t, .weight = weight.tensor(), .y = twice.tensor(), .accumulate = true});
  Matrix ones = weight, by_ones = Matrix::poisoned(tokens, h), unweighted = by_ones;
  std::fill(ones.values.begin(), ones.values.end(), 1.0f);
  cpu::combine({}, {.x = x.tensor(), .pos = pos_t, .weight = ones.tensor(), .y = by_ones.tensor()});
  cpu::combine({}, {.x = x.tensor(), .pos = pos_t, .y = unweighted.tensor()});
  EXPECT_TRUE(same_bits(unweighted.values, by_ones.values));
  Matrix dx = Matrix::poisoned(rows, h);
  Matrix dweight = Matrix::poisoned(tokens, top_k);
  cpu::combine_bwd({}, {.dy = dy.tensor(),
                        .x = x.tensor(),
                        .pos = pos_t,
                        .weight = weight.tensor(),
                        .dx = dx.tensor(),
                        .dweight = dweight.tensor()});
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < h; ++c) {
      float want = 0, again = y.at(t, c);
      for (int64_t j = 0; j < top_k; ++j) {
        const int64_t p = pos[t * top_k + j];
        want = std::fma(weight.at(t, j), x.at(p, c), want);
        again = std::fma(weight.at(t, j), x.at(p, c), again);
        ASSERT_TRUE(same_bits(dx.at(p, c), weight.at(t, j) * dy.at(t, c)));
      }
      ASSERT_TRUE(same_bits(y.at(t, c), want));
      ASSERT_TRUE(same_bits(twice.at(t, c), again));
    }
    for (int64_t j = 0; j < top_k; ++j) {
      double want = 0, scale = 0;
      for (int64_t c = 0; c < h; ++c) {
        const double term = static_cast<double>(dy.at(t, c)) * x.at(pos[t * top_k + j], c);
        want += term;
        scale += std::abs(term);
      }
      test::expect_close(dweight.at(t, j), want, scale, test::kEps * (h / 16 + 6), "dweight", t, j);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuCombine,
                         testing::Values(std::tuple(1, 1, 1), std::tuple(3, 2, 33), std::tuple(9, 4, 48),
                                         std::tuple(0, 2, 8)));

TEST(CpuPermute, AddInPlace) {
  Matrix a = Matrix::random(3, 21, 20, 1), b = Matrix::random(3, 21, 21);
  Matrix y = a;
  cpu::add({}, {.a = y.tensor(), .b = b.tensor(), .y = y.tensor()});
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t c = 0; c < 21; ++c) EXPECT_TRUE(same_bits(y.at(r, c), a.at(r, c) + b.at(r, c)));
  }
}

class CpuColumnSum : public testing::TestWithParam<std::tuple<int, int, int>> {};

TEST_P(CpuColumnSum, CanonicalOrder) {
  const auto [rows, n, leaves] = GetParam();
  Matrix dy = Matrix::random(rows, n, 30, 3);
  const std::vector<RowSegment> list = ref::test_segments(rows, leaves);
  const RowSegments segments{list.data(), static_cast<int32_t>(list.size()), leaves};
  Matrix sum = Matrix::poisoned(1, n);
  test::Workspace workspace(column_sum_workspace_bytes(n, leaves));
  cpu::column_sum(workspace.exec(), {.dy = dy.tensor(), .sum = sum.tensor(), .segments = segments});
  for (int64_t c = 0; c < n; ++c) {
    const float want = ref::canonical_sum(segments, [&](float acc, int64_t r) { return acc + dy.at(r, c); });
    EXPECT_TRUE(same_bits(sum.at(0, c), want)) << c << ": " << sum.at(0, c) << " " << want;
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuColumnSum,
                         testing::Values(std::tuple(0, 5, 1), std::tuple(1, 1, 1), std::tuple(40, 33, 1),
                                         std::tuple(40, 16, 2), std::tuple(57, 70, 8), std::tuple(0, 3, 4)));

// Ranks that hold some leaves each and continue the tree get the bits of one rank that holds all.
TEST(CpuPermute, ColumnSumOfLeavesComposes) {
  constexpr int64_t kRows = 32, kCols = 20;
  Matrix dy = Matrix::random(kRows, kCols, 31);
  const std::vector<RowSegment> all = {{0, 8, 0, 0}, {8, 16, 0, 1}, {16, 24, 0, 2}, {24, 32, 0, 3}};
  const std::vector<RowSegment> two = {{0, 8, 0, 0}, {8, 16, 0, 1}};
  test::Workspace workspace(column_sum_workspace_bytes(kCols, 4));
  auto sum = [&](Tensor rows, const std::vector<RowSegment>& list, int32_t leaves) {
    Matrix out = Matrix::poisoned(1, kCols);
    cpu::column_sum(workspace.exec(), {.dy = rows,
                                       .sum = out.tensor(),
                                       .segments = {list.data(), static_cast<int32_t>(list.size()), leaves}});
    return out;
  };
  const Matrix whole = sum(dy.tensor(), all, 4);
  const Matrix left = sum(dy.tensor().row_range(0, 16), two, 2),
               right = sum(dy.tensor().row_range(16, 32), two, 2);
  for (int64_t c = 0; c < kCols; ++c) EXPECT_TRUE(same_bits(whole.at(0, c), left.at(0, c) + right.at(0, c)));
}

TEST(CpuPermute, SegmentsAreChecked) {
  Matrix dy = Matrix::random(4, 3, 32), sum = Matrix::poisoned(1, 3);
  test::Workspace workspace(column_sum_workspace_bytes(3, 4));
  auto run = [&](std::vector<RowSegment> list, int32_t leaves) {
    cpu::column_sum(workspace.exec(), {.dy = dy.tensor(),
                                       .sum = sum.tensor(),
                                       .segments = {list.data(), static_cast<int32_t>(list.size()), leaves}});
  };
  EXPECT_THROW(run({{0, 5, 0, 0}}, 1), Error);
  EXPECT_THROW(run({{0, 4, 1, 0}}, 1), Error);
  EXPECT_THROW(run({{0, 2, 0, 1}, {2, 4, 0, 0}}, 2), Error);
  EXPECT_THROW(run({{0, 4, 0, 0}}, 3), Error);
}

}  // namespace
}  // namespace contender
