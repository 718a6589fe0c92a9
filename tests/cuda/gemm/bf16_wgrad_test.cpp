#include <gtest/gtest.h>

#include <array>

#include "cuda/gemm/bf16_gemm.h"
#include "tests/cuda/products.h"
#include "tests/cuda/segment_table.h"

namespace contender {
namespace {

using cuda::bf16_wgrad;
using test::DeviceArray;
using test::DeviceTensor;
using test::expect_product;
using test::expect_same;
using test::Matrix;
using test::random_bf16;
using test::same_bits;
using test::SegmentTable;

Matrix run_wgrad(const DeviceTensor& dy, const DeviceTensor& x, const SegmentTable& segments,
                 int64_t groups = 1, int tile = -1) {
  const DeviceTensor dw(DType::kF32, groups * dy.tensor().cols, x.tensor().cols, 4);
  bf16_wgrad({},
             LinearWgradArgs{.dy = dy.tensor(),
                             .x = x.tensor(),
                             .dw = dw.tensor(),
                             .segments = segments.device(),
                             .num_groups = groups},
             tile);
  return dw.download();
}
bool can_sum(int tile, int leaves) { return leaves <= std::array{1, 4, 8, 64, 512}[tile]; }

class Bf16Wgrad : public testing::TestWithParam<std::tuple<int, int, int, int>> {};

// Every tile, near the sum in double, and of the same bits.
TEST_P(Bf16Wgrad, SumsTheRowsOfTheSegments) {
  const auto [m, n, k, leaves] = GetParam();
  const Matrix dy = random_bf16(m, n, 21, 16 - n % 8), x = random_bf16(m, k, 22, 16 - k % 8);
  const SegmentTable segments(m, leaves);
  std::vector<int64_t> rows;
  for (int32_t i = 0; i < segments.host().count; ++i) {
    for (int64_t r = segments.host().data[i].begin; r < segments.host().data[i].end; ++r) rows.push_back(r);
  }
  const DeviceTensor d_dy(DType::kBF16, dy), d_x(DType::kBF16, x);
  const Matrix want = run_wgrad(d_dy, d_x, segments);
  expect_product(
      want, [&](int64_t i, int64_t l) { return dy.at(rows[l], i); },
      [&](int64_t l, int64_t j) { return x.at(rows[l], j); }, static_cast<int64_t>(rows.size()), leaves);
  for (int tile = 0; tile < cuda::kBf16WgradTiles; ++tile) {
    if (can_sum(tile, leaves)) expect_same(run_wgrad(d_dy, d_x, segments, 1, tile), want);
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, Bf16Wgrad,
                         testing::Values(std::tuple{0, 8, 8, 1}, std::tuple{1, 8, 16, 2},
                                         std::tuple{64, 64, 64, 1}, std::tuple{330, 136, 264, 1},
                                         std::tuple{150, 72, 136, 1}, std::tuple{300, 24, 40, 8},
                                         std::tuple{290, 136, 72, 4}, std::tuple{90, 8, 8, 64},
                                         std::tuple{70, 9, 37, 2}, std::tuple{1300, 72, 80, 512}));

// However a leaf's rows are cut into segments, and wherever they lie, their chain has the same bits; leaves
// are added in the tree; an absent leaf or group counts as +0.
TEST(Bf16WgradOrder, IsThatOfTheRowsOfALeaf) {
  constexpr int32_t kRows = 140;
  constexpr int64_t kN = 72, kK = 40;
  const Matrix dy = random_bf16(kRows, kN, 23), x = random_bf16(kRows, kK, 24);
  const DeviceTensor d_dy(DType::kBF16, dy), d_x(DType::kBF16, x);
  const SegmentTable whole({{0, 70, 0, 0}, {0, 0, 0, 1}, {70, 90, 0, 2}, {90, 140, 0, 3}}, 4);
  const Matrix want = run_wgrad(d_dy, d_x, whole);
  const SegmentTable cut({{0, 1, 0, 0},
                          {1, 33, 0, 0},
                          {33, 33, 0, 0},
                          {33, 70, 0, 0},
                          {7, 7, 0, 1},
                          {140, 140, 0, 1},
                          {0, 0, 0, 1},
                          {0, 0, 0, 1},
                          {70, 88, 0, 2},
                          {88, 88, 0, 2},
                          {88, 90, 0, 2},
                          {0, 0, 0, 2},
                          {90, 140, 0, 3},
                          {0, 0, 0, 3},
                          {0, 0, 0, 3},
                          {0, 0, 0, 3}},
                         4);
  for (const int tile : {1, 2, 3, 4}) expect_same(run_wgrad(d_dy, d_x, cut, 1, tile), want);

  // The same rows elsewhere, with NaN rows of nobody in between, as group 2 of 3.
  const auto at = [](int32_t r) { return r < 50 ? r + 150 : 2 * (r - 50) % 150 + 2 * (r - 50) / 150; };
  const auto scatter = [&](const Matrix& from) {
    Matrix to = Matrix::poisoned(2 * kRows, from.cols, 8);
    for (int32_t r = 0; r < kRows; ++r) std::copy_n(&from.values[r * from.ld], from.cols, &to.at(at(r), 0));
    return to;
  };
  std::vector<RowSegment> table;
  for (int32_t chain = 0; chain < 3 * 4; ++chain) {
    const int32_t begin = chain < 8 ? 0 : std::vector{0, 70, 70, 90}[chain - 8],
                  end = chain < 8 ? 0 : std::vector{70, 70, 90, 140}[chain - 8];
    for (int32_t r = begin; r < begin + 70; ++r)
      table.push_back(r < end ? RowSegment{at(r), at(r) + 1, chain / 4, chain % 4}
                              : RowSegment{0, 0, chain / 4, chain % 4});
  }
  const Matrix groups = run_wgrad(DeviceTensor(DType::kBF16, scatter(dy)),
                                  DeviceTensor(DType::kBF16, scatter(x)), SegmentTable(table, 4), 3);
  std::vector<Matrix> leaf;
  for (const auto& [begin, end] : {std::pair{0, 70}, {70, 90}, {90, 140}})
    leaf.push_back(run_wgrad(d_dy, d_x, SegmentTable({{begin, end, 0, 0}}, 1)));
  for (int64_t i = 0; i < kN; ++i) {
    for (int64_t j = 0; j < kK; ++j) {
      ASSERT_TRUE(
          same_bits(want.at(i, j), (leaf[0].at(i, j) + 0.0f) + (leaf[1].at(i, j) + leaf[2].at(i, j))));
      ASSERT_TRUE(same_bits(groups.at(2 * kN + i, j), want.at(i, j))) << i << " " << j;
      for (const int64_t empty : {0, 1}) ASSERT_TRUE(same_bits(groups.at(empty * kN + i, j), 0.0f));
    }
  }
}

TEST(Bf16WgradHeads, StridedColumns) {
  constexpr int64_t kM = 70, kHeads = 3, kN = 16, kK = 40, kNStride = 24, kKStride = 48;
  const DeviceTensor dy(DType::kBF16, random_bf16(kM, kHeads * kNStride, 31)),
      x(DType::kBF16, random_bf16(kM, kHeads * kKStride, 32)), dw(DType::kF32, kHeads * kN, kK, 4),
      want(DType::kF32, kHeads * kN, kK, 4);
  const SegmentTable segments(kM, 2);
  bf16_wgrad({}, HeadsWgradArgs{.dy = dy.tensor(),
                                .dy_stride = kNStride,
                                .x = x.tensor(),
                                .x_stride = kKStride,
                                .dw = dw.tensor(),
                                .num_heads = kHeads,
                                .segments = segments.device()});
  for (int64_t h = 0; h < kHeads; ++h)
    bf16_wgrad({}, LinearWgradArgs{.dy = dy.tensor().col_range(h * kNStride, h * kNStride + kN),
                                   .x = x.tensor().col_range(h * kKStride, h * kKStride + kK),
                                   .dw = want.tensor().row_range(h * kN, (h + 1) * kN),
                                   .segments = segments.device()});
  EXPECT_TRUE(dw.same_bytes(want));
}

TEST(Bf16WgradErrors, SayWhatIsWrong) {
  const DeviceTensor dy(DType::kBF16, 5, 8), x(DType::kBF16, 5, 16), dw(DType::kF32, 8, 16),
      half(DType::kBF16, 8, 16), odd(DType::kBF16, 5, 9), dw9(DType::kF32, 9, 16);
  const SegmentTable one(5, 1);
  LinearWgradArgs args = {.dy = dy.tensor(), .x = x.tensor(), .dw = half.tensor(), .segments = one.device()};
  EXPECT_THROW(bf16_wgrad({}, args), Error);
  args.dw = dw.tensor();
  EXPECT_EQ(cuda::bf16_wgrad_refuses(args), "");
  for (const int32_t leaves : {0, 3, 1024}) {
    args.segments.num_leaves = leaves;
    EXPECT_THROW(bf16_wgrad({}, args), Error);
  }
  args = {.dy = odd.tensor(), .x = x.tensor(), .dw = dw9.tensor(), .segments = one.device()};
  EXPECT_NE(cuda::bf16_wgrad_refuses(args), "");  // rows of 18 bytes
}

}  // namespace
}  // namespace contender
