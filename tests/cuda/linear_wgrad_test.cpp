#include <gtest/gtest.h>
#include <unistd.h>

#include "ops/linear.h"
#include "tests/cuda/products.h"
#include "tests/ref/row_sum_ref.h"

namespace contender {
namespace {

using cuda::sm_count;
using test::Captured;
using test::DeviceArray;
using test::DeviceTensor;
using test::expect_product;
using test::expect_same;
using test::Matrix;
using test::random_bf16;
using test::same_bits;

// The table that a list of segments, in the order of the chains, makes; empty ones lie anywhere within
// `rows`.
std::vector<RowSegment> dense(const std::vector<RowSegment>& list, int64_t groups, int32_t leaves,
                              int32_t rows) {
  std::vector<std::vector<RowSegment>> chains(groups * leaves);
  size_t parts = 1;
  for (const RowSegment& s : list) {
    std::vector<RowSegment>& chain = chains[s.group * leaves + s.leaf];
    chain.push_back(s);
    parts = std::max(parts, chain.size());
  }
  std::vector<RowSegment> table;
  for (int32_t c = 0; c < static_cast<int32_t>(chains.size()); ++c) {
    for (size_t part = 0; part < parts; ++part) {
      const int32_t nowhere = rows - static_cast<int32_t>(part) % (rows + 1);
      table.push_back(part < chains[c].size() ? chains[c][part]
                                              : RowSegment{nowhere, nowhere, c / leaves, c % leaves});
    }
  }
  return table;
}

struct DeviceSegments {
  DeviceArray<RowSegment> table;
  RowSegments view;
  DeviceSegments(const std::vector<RowSegment>& values, int32_t leaves)
      : table(values), view{table.data(), static_cast<int32_t>(values.size()), leaves} {}
};

Matrix run_wgrad(const DeviceTensor& dy, const DeviceTensor& x, const std::vector<RowSegment>& list,
                 int32_t leaves, int64_t groups = 1, int64_t padding = 4) {
  const DeviceTensor dw(DType::kF32, groups * dy.tensor().cols, x.tensor().cols, padding);
  const DeviceSegments segments(dense(list, groups, leaves, narrow<int32_t>(x.tensor().rows)), leaves);
  cuda::linear_wgrad({}, {.dy = dy.tensor(),
                          .x = x.tensor(),
                          .dw = dw.tensor(),
                          .segments = segments.view,
                          .num_groups = groups});
  return dw.download();
}

class CudaLinearWgrad : public testing::TestWithParam<std::tuple<int, int, int, int>> {};

TEST_P(CudaLinearWgrad, SumsTheRowsOfTheSegments) {
  const auto [m, n, k, leaves] = GetParam();
  const Matrix dy = random_bf16(m, n, 21, 8), x = random_bf16(m, k, 22, 8);
  const std::vector<RowSegment> list = ref::test_segments(m, leaves);
  std::vector<int64_t> rows;
  for (const RowSegment& s : list) {
    for (int64_t r = s.begin; r < s.end; ++r) rows.push_back(r);
  }
  const Matrix got = run_wgrad(DeviceTensor(DType::kBF16, dy), DeviceTensor(DType::kBF16, x), list, leaves);
  expect_product(
      got, [&](int64_t i, int64_t l) { return dy.at(rows[l], i); },
      [&](int64_t l, int64_t j) { return x.at(rows[l], j); }, static_cast<int64_t>(rows.size()), leaves);
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaLinearWgrad,
                         testing::Values(std::tuple{0, 8, 8, 1}, std::tuple{1, 1, 1, 2},
                                         std::tuple{3, 64, 64, 1}, std::tuple{40, 65, 17, 1},
                                         std::tuple{150, 72, 136, 1}, std::tuple{200, 24, 40, 8},
                                         std::tuple{60, 13, 70, 4}, std::tuple{90, 8, 8, 64},
                                         std::tuple{1300, 9, 37, 512}));

// However a leaf's rows are cut into segments, and wherever they lie, their chain has the same bits; leaves
// are added in the tree; an absent leaf or group counts as +0.
TEST(CudaLinearWgradOrder, IsThatOfTheRowsOfALeaf) {
  constexpr int64_t kRows = 140, kN = 72, kK = 40;
  const Matrix dy = random_bf16(kRows, kN, 23), x = random_bf16(kRows, kK, 24);
  const DeviceTensor d_dy(DType::kBF16, dy), d_x(DType::kBF16, x);
  const std::vector<RowSegment> whole = {{0, 70, 0, 0}, {70, 90, 0, 2}, {90, 140, 0, 3}};
  const Matrix want = run_wgrad(d_dy, d_x, whole, 4);
  const std::vector<RowSegment> cut = {{0, 1, 0, 0},   {1, 33, 0, 0},  {33, 33, 0, 0}, {33, 70, 0, 0},
                                       {70, 88, 0, 2}, {88, 90, 0, 2}, {90, 140, 0, 3}};
  expect_same(run_wgrad(d_dy, d_x, cut, 4), want);

  // The same rows elsewhere, with rows of nobody in between, as group 2 of 4.
  const auto scatter = [](const Matrix& from) {
    Matrix to = random_bf16(2 * kRows, from.cols, 25, 8);
    for (int64_t r = 0; r < kRows; ++r)
      std::copy_n(&from.values[r * from.ld], from.cols,
                  &to.at(r < 50 ? r + 150 : 2 * (r - 50) % 150 + 2 * (r - 50) / 150, 0));
    return to;
  };
  std::vector<RowSegment> scattered = {{0, 3, 0, 1}};
  for (int32_t r = 0; r < kRows; ++r) {
    const int32_t at = r < 50 ? r + 150 : 2 * (r - 50) % 150 + 2 * (r - 50) / 150;
    scattered.push_back({at, at + 1, 2, r < 70 ? 0 : r < 90 ? 2 : 3});
  }
  const Matrix groups = run_wgrad(DeviceTensor(DType::kBF16, scatter(dy)),
                                  DeviceTensor(DType::kBF16, scatter(x)), scattered, 4, 4);
  std::vector<Matrix> leaf;
  for (const RowSegment& s : whole) leaf.push_back(run_wgrad(d_dy, d_x, {{s.begin, s.end, 0, 0}}, 1));
  for (int64_t i = 0; i < kN; ++i) {
    for (int64_t j = 0; j < kK; ++j) {
      ASSERT_TRUE(
          same_bits(want.at(i, j), (leaf[0].at(i, j) + 0.0f) + (leaf[1].at(i, j) + leaf[2].at(i, j))));
      ASSERT_TRUE(same_bits(groups.at(2 * kN + i, j), want.at(i, j))) << i << " " << j;
      for (const int64_t empty : {1, 3}) ASSERT_TRUE(same_bits(groups.at(empty * kN + i, j), 0.0f));
    }
  }
}

TEST(CudaLinearWgradOrder, LargeTilesHaveTheSameBits) {
  constexpr int64_t kK = 12 * 128, kRows = 70;
  const int64_t n = ceil_div(sm_count(), 12) * 128;
  const DeviceTensor dy(DType::kBF16, random_bf16(kRows, n, 26)), x(DType::kBF16, random_bf16(kRows, kK, 27)),
      all(DType::kF32, n, kK), slabs(DType::kF32, n, kK);
  const std::vector<RowSegment> list = {{0, 20, 0, 0}, {20, 70, 0, 1}};
  const DeviceSegments segments(list, 2);
  cuda::linear_wgrad({}, {.dy = dy.tensor(), .x = x.tensor(), .dw = all.tensor(), .segments = segments.view});
  for (int64_t c = 0; c < n; c += 200) {
    const int64_t end = std::min(n, c + 200);
    cuda::linear_wgrad({}, {.dy = dy.tensor().col_range(c, end),
                            .x = x.tensor(),
                            .dw = slabs.tensor().row_range(c, end),
                            .segments = segments.view});
  }
  EXPECT_TRUE(slabs.same_bytes(all));
}

// More segments of a leaf than a block has threads.
TEST(CudaLinearWgradOrder, ManySegments) {
  constexpr int32_t kGroups = 3, kEach = 300;
  constexpr int64_t kRows = 2 * kGroups * kEach, kN = 4, kK = 8;
  const DeviceTensor dy(DType::kBF16, random_bf16(kRows, kN, 28)),
      x(DType::kBF16, random_bf16(kRows, kK, 29));
  std::vector<RowSegment> list;
  for (int32_t i = 0; i < kGroups * kEach; ++i) list.push_back({2 * i, 2 * i + 1, i / kEach, 0});
  const Matrix got = run_wgrad(dy, x, list, 1, kGroups);
  for (int32_t g = 0; g < kGroups; ++g) {
    std::vector<RowSegment> own(list.begin() + g * kEach, list.begin() + (g + 1) * kEach);
    for (RowSegment& s : own) s.group = 0;
    const Matrix want = run_wgrad(dy, x, own, 1);
    for (int64_t i = 0; i < kN; ++i) {
      for (int64_t j = 0; j < kK; ++j) ASSERT_TRUE(same_bits(got.at(g * kN + i, j), want.at(i, j)));
    }
  }
}

// No segments at all: the sum is 0, and every element of it is written.
TEST(CudaLinearWgradOrder, NoSegments) {
  const DeviceTensor dy(DType::kBF16, 3, 24), x(DType::kBF16, 3, 40), dw(DType::kF32, 2 * 24, 40);
  cuda::linear_wgrad({}, {.dy = dy.tensor(),
                          .x = x.tensor(),
                          .dw = dw.tensor(),
                          .segments = {.num_leaves = 64},
                          .num_groups = 2});
  for (const float v : dw.download().values) ASSERT_TRUE(same_bits(v, 0.0f));
}

// Each head has the bits of a gradient of its own; what lies between heads is not read.
TEST(CudaLinearHeadsWgrad, IsTheGradientOfEachHead) {
  constexpr int64_t kHeads = 3;
  for (const auto& [m, n, k, n_stride, k_stride] :
       {std::tuple{70, 16, 40, 24, 48}, std::tuple{70, 5, 33, 6, 35}, std::tuple{33, 24, 32, 24, 32},
        std::tuple{1, 32, 16, 40, 16}, std::tuple{0, 16, 24, 16, 24}, std::tuple{40, 72, 130, 72, 136}}) {
    const DeviceTensor dy(DType::kBF16, random_bf16(m, kHeads * n_stride, 30)),
        x(DType::kBF16, random_bf16(m, kHeads * k_stride, 31)), dw(DType::kF32, kHeads * n, k, 4),
        want(DType::kF32, kHeads * n, k, 4);
    const DeviceSegments segments(dense(ref::test_segments(m, 4), 1, 4, m), 4);
    HeadsWgradArgs args = {.dy = dy.tensor(),
                           .dy_stride = n_stride,
                           .x = x.tensor(),
                           .x_stride = k_stride,
                           .dw = dw.tensor(),
                           .num_heads = kHeads,
                           .segments = segments.view};
    cuda::heads_wgrad({}, args);
    for (int64_t h = 0; h < kHeads; ++h) {
      cuda::linear_wgrad({}, {.dy = dy.tensor().col_range(h * n_stride, h * n_stride + n),
                              .x = x.tensor().col_range(h * k_stride, h * k_stride + k),
                              .dw = want.tensor().row_range(h * n, (h + 1) * n),
                              .segments = segments.view});
    }
    EXPECT_TRUE(dw.same_bytes(want));
    args.x_stride = 2 * k_stride;
    EXPECT_THROW(cuda::heads_wgrad({}, args), Error);  // the last head leaves x
  }
}

// One launch each, which reads the table that the device holds when it runs.
TEST(CudaLinearWgradGraph, OneLaunchThatSeesANewTable) {
  constexpr int64_t kM = 70, kN = 16, kK = 24;
  const DeviceTensor dy(DType::kBF16, random_bf16(kM, 2 * kN, 32)),
      x(DType::kBF16, random_bf16(kM, 2 * kK, 33)), dw(DType::kF32, 4 * kN, 2 * kK, 4),
      heads(DType::kF32, 2 * kN, kK);
  const std::vector<RowSegment> first = {{0, 9, 0, 0}, {9, 20, 0, 1}, {20, 70, 1, 0}};
  const std::vector<RowSegment> second = {{0, 0, 0, 0}, {0, 30, 0, 1}, {65, 66, 1, 1}};
  DeviceSegments segments(dense(first, 2, 2, kM), 2);
  RowSegments of_first_group = segments.view;
  of_first_group.count /= 2;
  const Captured wgrad([&](const Exec& exec) {
    cuda::linear_wgrad(
        exec,
        {.dy = dy.tensor(), .x = x.tensor(), .dw = dw.tensor(), .segments = segments.view, .num_groups = 2});
  });
  const Captured by_head([&](const Exec& exec) {
    cuda::heads_wgrad(exec, {.dy = dy.tensor(),
                             .dy_stride = kN,
                             .x = x.tensor(),
                             .x_stride = kK,
                             .dw = heads.tensor(),
                             .num_heads = 2,
                             .segments = of_first_group});
  });
  EXPECT_EQ(wgrad.launches(), 1u);
  EXPECT_EQ(by_head.launches(), 1u);
  for (const auto* list : {&first, &second, &first}) {
    segments.table.upload(dense(*list, 2, 2, kM));
    wgrad.replay();
    by_head.replay();
    const Matrix got = dw.download(), got_heads = heads.download();
    expect_same(got, run_wgrad(dy, x, *list, 2, 2));
    for (int64_t i = 0; i < 2 * kN; ++i) {
      for (int64_t j = 0; j < kK; ++j)
        ASSERT_TRUE(same_bits(got_heads.at(i, j), got.at(i, i / kN * kK + j))) << i << " " << j;
    }
  }
}

TEST(CudaLinearWgradErrors, SayWhatIsWrong) {
  const DeviceTensor x(DType::kBF16, 3, 16), dy(DType::kBF16, 3, 8), f32(DType::kF32, 3, 16),
      dw(DType::kF32, 8, 16);
  const DeviceSegments three({{0, 1, 0, 0}, {1, 2, 0, 0}, {2, 3, 0, 1}}, 2);
  LinearWgradArgs args = {.dy = dy.tensor(), .x = f32.tensor(), .dw = dw.tensor()};
  EXPECT_THROW(cuda::linear_wgrad({}, args), Error);  // F32 activations
  args.x = x.tensor();
  args.segments = three.view;
  EXPECT_THROW(cuda::linear_wgrad({}, args), Error);  // three segments are no table of two leaves
  for (const int32_t leaves : {0, 3, 1024}) {
    args.segments = {.num_leaves = leaves};
    EXPECT_THROW(cuda::linear_wgrad({}, args), Error);
  }
}

// A table that does not fit the rows ends the launch with a line that says where, whichever product is taken.
TEST(CudaLinearWgradDeathTest, NamesTheSegment) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [](int64_t n, const RowSegment& wrong) {
    dup2(STDERR_FILENO, STDOUT_FILENO);  // what kernels print
    const DeviceTensor x(DType::kBF16, 3, 16), dy(DType::kBF16, 3, n), dw(DType::kF32, n, 16);
    const DeviceSegments segments({{0, 2, 0, 0}, wrong}, 2);
    cuda::linear_wgrad({},
                       {.dy = dy.tensor(), .x = x.tensor(), .dw = dw.tensor(), .segments = segments.view});
    test::exit_with_words(7);
  };
  const auto failed = testing::ExitedWithCode(7);
  EXPECT_EXIT(run(8, {2, 4, 0, 1}), failed, "bf16wgrd refuses group 0: rows .2, 4., they may end at 3");
  EXPECT_EXIT(run(9, {2, 4, 0, 1}), failed, "segment 1 of group 0: rows .2, 4. of 3");
  EXPECT_EXIT(run(9, {2, 3, 0, 0}), failed, "group 0, leaf 0 of 2");
}

}  // namespace
}  // namespace contender
