#include "ops/linear.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/cuda/products.h"

namespace contender {
namespace {

using cuda::sm_count;
using test::Captured;
using test::DeviceArray;
using test::DeviceTensor;
using test::DeviceWeight;
using test::expect_product;
using test::expect_same;
using test::Matrix;
using test::random_bf16;
using test::same_bits;

// A BF16 result is the F32 one, with what is added to it, rounded once.
template <class F>
void expect_rounded(const Matrix& got, const Matrix& f32, const F& sum) {
  for (int64_t i = 0; i < got.rows; ++i) {
    for (int64_t j = 0; j < got.cols; ++j)
      ASSERT_TRUE(same_bits(got.at(i, j), test::rounded(sum(f32.at(i, j), i, j), DType::kBF16)))
          << i << " " << j;
  }
  EXPECT_TRUE(got.padding_untouched());
}
class CudaLinearPack : public testing::TestWithParam<std::tuple<int, int, int>> {};

TEST_P(CudaLinearPack, FormsAreRowMajorRoundedAndFit) {
  const auto [n, k, groups] = GetParam();
  const DeviceWeight w(n, k, 1, groups);
  const std::vector<uint8_t> forward = w.forward.download(), backward = w.backward.download();
  const int64_t stride = round_up(2 * n * k, 64);  // of both forms
  std::vector<uint8_t> want_forward(forward.size(), 0xFF), want_backward(backward.size(), 0xFF);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t l = 0; l < k; ++l) {
        const uint16_t half = test::to_bf16(w.at(g, i, l));
        std::memcpy(&want_forward[g * stride + 2 * (i * k + l)], &half, 2);
        std::memcpy(&want_backward[g * stride + 2 * (l * n + i)], &half, 2);
      }
    }
  }
  EXPECT_TRUE(forward == want_forward);
  EXPECT_TRUE(backward == want_backward);
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaLinearPack,
                         testing::Values(std::tuple{1, 1, 3}, std::tuple{64, 64, 1}, std::tuple{65, 7, 2},
                                         std::tuple{132, 68, 2}, std::tuple{6, 130, 1}, std::tuple{0, 8, 1}));

class CudaLinear : public testing::TestWithParam<std::tuple<int, int, int, int>> {};

TEST_P(CudaLinear, Forward) {
  const auto [m, n, k, slices] = GetParam();
  const Matrix x = random_bf16(m, k, 1, 8), old = random_bf16(m, n, 2, 4), bias = Matrix::random(1, n, 3);
  const DeviceWeight w(n, k, 4);
  const DeviceTensor dx(DType::kBF16, x), exact(DType::kF32, m, n, 4), y(DType::kBF16, m, n, 4),
      sum(DType::kBF16, old), d_bias(DType::kF32, bias);
  LinearArgs args = {.x = dx.tensor(), .w = w.view, .y = exact.tensor(), .slices = slices};
  cuda::linear({}, args);
  args.y = y.tensor();
  cuda::linear({}, args);
  args.y = sum.tensor();
  args.bias = d_bias.f32();
  args.accumulate = true;
  cuda::linear({}, args);
  const Matrix f32 = exact.download();
  expect_product(
      f32, [&](int64_t i, int64_t l) { return x.at(i, l); },
      [&](int64_t l, int64_t j) { return w.at(0, j, l); }, k, slices);
  expect_rounded(y.download(), f32, [](float v, int64_t, int64_t) { return v; });
  expect_rounded(sum.download(), f32,
                 [&](float v, int64_t i, int64_t j) { return old.at(i, j) + (v + bias.at(0, j)); });
}

TEST_P(CudaLinear, Dgrad) {
  const auto [m, k, n, slices] = GetParam();  // n is contracted here
  const Matrix dy = random_bf16(m, n, 5, 8), old = random_bf16(m, k, 6, 4);
  const DeviceWeight w(n, k, 7);
  const DeviceTensor d_dy(DType::kBF16, dy), exact(DType::kF32, m, k, 4), dx(DType::kBF16, m, k, 4),
      sum(DType::kBF16, old);
  LinearDgradArgs args = {.dy = d_dy.tensor(), .w = w.view, .dx = exact.tensor(), .slices = slices};
  cuda::linear_dgrad({}, args);
  args.dx = dx.tensor();
  cuda::linear_dgrad({}, args);
  args.dx = sum.tensor();
  args.accumulate = true;
  cuda::linear_dgrad({}, args);
  const Matrix f32 = exact.download();
  expect_product(
      f32, [&](int64_t i, int64_t l) { return dy.at(i, l); },
      [&](int64_t l, int64_t j) { return w.at(0, l, j); }, n, slices);
  expect_rounded(dx.download(), f32, [](float v, int64_t, int64_t) { return v; });
  expect_rounded(sum.download(), f32, [&](float v, int64_t i, int64_t j) { return old.at(i, j) + v; });
}

// No rows, one, tails of a tile and of a step, no contracted values, several stages; in pieces and not.
INSTANTIATE_TEST_SUITE_P(Shapes, CudaLinear,
                         testing::Values(std::tuple{0, 64, 64, 1}, std::tuple{1, 64, 64, 1},
                                         std::tuple{3, 1, 1, 1}, std::tuple{5, 40, 0, 1},
                                         std::tuple{65, 68, 72, 1}, std::tuple{64, 36, 200, 1},
                                         std::tuple{17, 33, 50, 1}, std::tuple{2, 130, 333, 1}));
INSTANTIATE_TEST_SUITE_P(Slices, CudaLinear,
                         testing::Values(std::tuple{9, 72, 64, 2}, std::tuple{66, 40, 288, 4},
                                         std::tuple{5, 20, 60, 4}, std::tuple{3, 8, 64, 8}));

// Of configs/nano.toml: hidden 64, heads of 16, 24, 32 columns, experts of 32, a vocabulary of 272; and
// lengths that are multiples of 8 but not of a step of 16, whole and as slices.
INSTANTIATE_TEST_SUITE_P(Nano, CudaLinear,
                         testing::Values(std::tuple{24, 64, 64, 4}, std::tuple{1, 272, 64, 4},
                                         std::tuple{7, 64, 272, 1}, std::tuple{30, 96, 64, 4},
                                         std::tuple{33, 64, 96, 4}, std::tuple{9, 64, 32, 4},
                                         std::tuple{9, 24, 40, 1}, std::tuple{9, 40, 24, 1},
                                         std::tuple{9, 72, 24, 4}, std::tuple{2, 8, 72, 2},
                                         std::tuple{9, 8, 8, 1}, std::tuple{9, 8, 16, 1}));

// The slices are the products over their columns, summed as ((0+1)+(2+3)): two on each of two ranks, then the
// tree between the ranks, give the same bits.
TEST(CudaLinearSlices, AreChainsSummedInTheTree) {
  constexpr int64_t kM = 9, kN = 36, kK = 4 * 24;
  const Matrix x = random_bf16(kM, kK, 8);
  const DeviceWeight w(kN, kK, 9);
  const DeviceTensor dx(DType::kBF16, x), whole(DType::kF32, kM, kN);
  cuda::linear({}, {.x = dx.tensor(), .w = w.view, .y = whole.tensor(), .slices = 4});
  const auto part = [&](int64_t begin, int64_t end, int32_t slices) {
    Matrix columns = Matrix::poisoned(kN, end - begin);
    for (int64_t j = 0; j < kN; ++j)
      std::copy_n(&w.master.values[j * w.master.ld + begin], end - begin, &columns.at(j, 0));
    const DeviceWeight local(columns, 1);
    const DeviceTensor y(DType::kF32, kM, kN);
    cuda::linear(
        {}, {.x = dx.tensor().col_range(begin, end), .w = local.view, .y = y.tensor(), .slices = slices});
    return y.download();
  };
  const Matrix got = whole.download();
  std::vector<Matrix> slice, rank;
  for (int64_t s = 0; s < 4; ++s) slice.push_back(part(s * 24, (s + 1) * 24, 1));
  for (int64_t r = 0; r < 2; ++r) rank.push_back(part(r * 48, (r + 1) * 48, 2));
  for (size_t i = 0; i < got.values.size(); ++i) {
    ASSERT_TRUE(same_bits(got.values[i], (slice[0].values[i] + slice[1].values[i]) +
                                             (slice[2].values[i] + slice[3].values[i])));
    ASSERT_TRUE(same_bits(got.values[i], rank[0].values[i] + rank[1].values[i]));
  }
}

// A row has the same bits alone and among others, in large tiles and small ones; and again.
TEST(CudaLinearInvariance, RowKeepsItsBits) {
  constexpr int64_t kN = 12 * 128, kK = 136;
  const int64_t m = ceil_div(sm_count(), 12) * 128;  // enough for large tiles
  const Matrix x = random_bf16(m, kK, 10);
  const DeviceWeight w(kN, kK, 11);
  const DeviceTensor dx(DType::kBF16, x), all(DType::kF32, m, kN), again(DType::kF32, m, kN),
      slabs(DType::kF32, m, kN);
  cuda::linear({}, {.x = dx.tensor(), .w = w.view, .y = all.tensor()});
  cuda::linear({}, {.x = dx.tensor(), .w = w.view, .y = again.tensor()});
  for (int64_t r = 0; r < m; r += 200) {
    const int64_t end = std::min(m, r + 200);
    cuda::linear({},
                 {.x = dx.tensor().row_range(r, end), .w = w.view, .y = slabs.tensor().row_range(r, end)});
  }
  EXPECT_TRUE(again.same_bytes(all));
  EXPECT_TRUE(slabs.same_bytes(all));
  const Matrix want = all.download();
  for (const int64_t r : {int64_t{0}, int64_t{77}, m - 1}) {
    Matrix row = Matrix::poisoned(1, kN);
    std::copy_n(&want.values[r * kN], kN, &row.at(0, 0));
    const DeviceTensor y(DType::kF32, 1, kN);
    cuda::linear({}, {.x = dx.tensor().row_range(r, r + 1), .w = w.view, .y = y.tensor()});
    expect_same(y.download(), row);
  }
}

// Rows of no group at the end stay as they are, and what is in x there is of no account.
TEST(CudaLinearGrouped, IsTheProductOfEachGroup) {
  for (const auto& [n, k, spare] :
       {std::tuple{40, 24, 0}, std::tuple{33, 30, 1}, std::tuple{72, 136, 70}, std::tuple{32, 64, 200}}) {
    constexpr int64_t kGroups = 40;  // more than a warp looks at in one go
    std::vector<int32_t> offsets = {0, 0, 5, 5, 70, 71, 71};
    while (offsets.size() < kGroups) offsets.push_back(offsets.back() + (offsets.size() % 11 == 0 ? 130 : 1));
    offsets.push_back(offsets.back());  // an empty one at the end
    const int64_t used = offsets.back(), m = used + spare;
    const DeviceWeight w(n, k, 12, kGroups);
    const auto rows = [&](int64_t cols, uint64_t seed) {
      Matrix all = Matrix::poisoned(m, cols, 8);
      const Matrix values = random_bf16(used, cols, seed, 8);
      std::copy(values.values.begin(), values.values.end(), all.values.begin());
      return all;
    };
    const DeviceTensor x(DType::kBF16, rows(k, 13)), dy(DType::kBF16, rows(n, 14)), y(DType::kBF16, m, n, 4),
        dx(DType::kBF16, m, k, 4), want_y(DType::kBF16, m, n, 4), want_dx(DType::kBF16, m, k, 4);
    const DeviceArray<int32_t> d_offsets(offsets);
    cuda::grouped_linear({}, {.x = x.tensor(), .w = w.view, .y = y.tensor(), .offsets = d_offsets.data()});
    cuda::grouped_linear_dgrad(
        {}, {.dy = dy.tensor(), .w = w.view, .dx = dx.tensor(), .offsets = d_offsets.data()});
    for (int64_t g = 0; g < kGroups; ++g) {
      const int64_t begin = offsets[g], end = offsets[g + 1];
      cuda::linear({}, {.x = x.tensor().row_range(begin, end),
                        .w = w.view.group(g),
                        .y = want_y.tensor().row_range(begin, end)});
      cuda::linear_dgrad({}, {.dy = dy.tensor().row_range(begin, end),
                              .w = w.view.group(g),
                              .dx = want_dx.tensor().row_range(begin, end)});
    }
    EXPECT_TRUE(y.same_bytes(want_y));
    EXPECT_TRUE(dx.same_bytes(want_dx));
  }
}

// No row has a group; there are no rows.
TEST(CudaLinearGrouped, NoRows) {
  const DeviceWeight w(24, 40, 33, 3);
  const DeviceArray<int32_t> offsets(std::vector<int32_t>{0, 0, 0, 0});
  for (const int64_t m : {0, 5}) {
    const DeviceTensor x(DType::kBF16, m, 40), y(DType::kBF16, m, 24), untouched(DType::kBF16, m, 24);
    cuda::grouped_linear({}, {.x = x.tensor(), .w = w.view, .y = y.tensor(), .offsets = offsets.data()});
    EXPECT_TRUE(y.same_bytes(untouched));
  }
}

// Large tiles, of which groups start anywhere.
TEST(CudaLinearGrouped, LargeTiles) {
  constexpr int64_t kN = 12 * 128, kK = 32;
  const int32_t m = static_cast<int32_t>(ceil_div(sm_count(), 12) * 128), middle = m / 3 + 5;
  const DeviceWeight w(kN, kK, 15, 3);
  const DeviceTensor x(DType::kBF16, random_bf16(m, kK, 16)), y(DType::kBF16, m, kN),
      want(DType::kBF16, m, kN);
  const DeviceArray<int32_t> offsets(std::vector<int32_t>{0, middle, middle, m});
  cuda::grouped_linear({}, {.x = x.tensor(), .w = w.view, .y = y.tensor(), .offsets = offsets.data()});
  for (const auto& [g, begin, end] : {std::tuple{0, 0, middle}, std::tuple{2, middle, m}}) {
    cuda::linear({}, {.x = x.tensor().row_range(begin, end),
                      .w = w.view.group(g),
                      .y = want.tensor().row_range(begin, end)});
  }
  EXPECT_TRUE(y.same_bytes(want));
}

TEST(CudaLinearHeads, StridedColumnsBothWays) {
  constexpr int64_t kM = 70, kHeads = 3;
  for (const auto& [n, k, n_stride, k_stride] : {std::tuple{16, 40, 24, 48}, std::tuple{5, 33, 6, 35}}) {
    const DeviceWeight w(n, k, 17, kHeads);
    const DeviceTensor in_k(DType::kBF16, random_bf16(kM, kHeads * k_stride, 18)),
        in_n(DType::kBF16, random_bf16(kM, kHeads * n_stride, 19));
    const DeviceTensor y(DType::kBF16, kM, kHeads * n_stride), want_y(DType::kBF16, kM, kHeads * n_stride),
        yt(DType::kBF16, kM, kHeads * k_stride), want_yt(DType::kBF16, kM, kHeads * k_stride);
    HeadsLinearArgs args = {
        .x = in_k.tensor(), .x_stride = k_stride, .w = w.view, .y = y.tensor(), .y_stride = n_stride};
    cuda::heads_linear({}, args);
    args = {.x = in_n.tensor(),
            .x_stride = n_stride,
            .w = w.view,
            .y = yt.tensor(),
            .y_stride = k_stride,
            .transposed = true};
    cuda::heads_linear({}, args);
    for (int64_t h = 0; h < kHeads; ++h) {
      const auto n_cols = [&](const DeviceTensor& t) {
        return t.tensor().col_range(h * n_stride, h * n_stride + n);
      };
      const auto k_cols = [&](const DeviceTensor& t) {
        return t.tensor().col_range(h * k_stride, h * k_stride + k);
      };
      cuda::linear({}, {.x = k_cols(in_k), .w = w.view.group(h), .y = n_cols(want_y)});
      cuda::linear_dgrad({}, {.dy = n_cols(in_n), .w = w.view.group(h), .dx = k_cols(want_yt)});
    }
    EXPECT_TRUE(y.same_bytes(want_y));  // the gaps between heads stay poisoned in both
    EXPECT_TRUE(yt.same_bytes(want_yt));
    args.x_stride = 2 * n_stride;
    EXPECT_THROW(cuda::heads_linear({}, args), Error);  // the last head leaves x
  }
}

// One launch each, which reads what the device holds when it runs.
TEST(CudaLinearGraph, OneLaunchThatSeesNewOffsets) {
  constexpr int64_t kM = 70, kN = 32, kK = 64, kGroups = 2;
  const DeviceWeight w(kN, kK, 34, kGroups);
  const DeviceTensor x(DType::kBF16, random_bf16(kM, kK, 35)), y(DType::kBF16, kM, kN),
      want(DType::kBF16, kM, kN), dx(DType::kBF16, kM, kK);
  DeviceArray<int32_t> offsets(std::vector<int32_t>{0, 0, 0});
  const Captured grouped([&](const Exec& exec) {
    cuda::grouped_linear(exec, {.x = x.tensor(), .w = w.view, .y = y.tensor(), .offsets = offsets.data()});
  });
  const Captured sliced([&](const Exec& exec) {
    cuda::linear(exec, {.x = x.tensor(), .w = w.view.group(0), .y = y.tensor(), .slices = 4});
  });
  const Captured dgrad([&](const Exec& exec) {
    cuda::linear_dgrad(exec, {.dy = y.tensor(), .w = w.view.group(0), .dx = dx.tensor(), .slices = 4});
  });
  for (const Captured* c : {&grouped, &sliced, &dgrad}) EXPECT_EQ(c->launches(), 1u);
  grouped.replay();
  EXPECT_TRUE(y.same_bytes(want));  // nothing
  for (const int32_t middle : {3, 66}) {
    offsets.upload({0, middle, 69});
    grouped.replay();
    for (const auto& [g, begin, end] : {std::tuple{0, 0, middle}, std::tuple{1, middle, 69}}) {
      cuda::linear({}, {.x = x.tensor().row_range(begin, end),
                        .w = w.view.group(g),
                        .y = want.tensor().row_range(begin, end)});
    }
    EXPECT_TRUE(y.same_bytes(want));
  }
}

TEST(CudaLinearErrors, SayWhatIsWrong) {
  const DeviceWeight w(8, 16, 30);
  const DeviceTensor x(DType::kBF16, 3, 16), y(DType::kBF16, 3, 8), f32(DType::kF32, 3, 16);
  WeightView panels = w.view;
  panels.format = kCpuWeights;
  EXPECT_THROW(cuda::linear({}, {.x = x.tensor(), .w = panels, .y = y.tensor()}), Error);
  EXPECT_THROW(cuda::linear({}, {.x = f32.tensor(), .w = w.view, .y = y.tensor()}), Error);
  EXPECT_THROW(cuda::linear({}, {.x = y.tensor(), .w = w.view, .y = y.tensor()}), Error);
  EXPECT_THROW(
      cuda::linear({}, {.x = x.tensor(), .w = {.n = 8, .k = 16, .format = kCudaWeights}, .y = y.tensor()}),
      Error);
  for (const int32_t slices : {0, 3, 32})
    EXPECT_THROW(cuda::linear({}, {.x = x.tensor(), .w = w.view, .y = y.tensor(), .slices = slices}), Error);
  EXPECT_THROW(cuda::grouped_linear({}, {.x = x.tensor(), .w = w.view, .y = y.tensor()}), Error);
}

// Offsets that leave x end the launch with a line that says where, whichever product is taken.
TEST(CudaLinearDeathTest, NamesTheGroup) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [](int64_t k, const std::vector<int32_t>& values) {
    dup2(STDERR_FILENO, STDOUT_FILENO);  // what kernels print
    const DeviceWeight w(8, k, 36, 2);
    const DeviceTensor x(DType::kBF16, 5, k), y(DType::kBF16, 5, 8);
    const DeviceArray<int32_t> offsets(values);
    cuda::grouped_linear({}, {.x = x.tensor(), .w = w.view, .y = y.tensor(), .offsets = offsets.data()});
    test::exit_with_words(7);
  };
  const auto failed = testing::ExitedWithCode(7);
  EXPECT_EXIT(run(16, {0, 3, 6}), failed, "bf16gemm refuses group 1: rows .3, 6., they may end at 5");
  EXPECT_EXIT(run(16, {0, 4, 3}), failed, "bf16gemm refuses group 1: rows .4, 3.");
  EXPECT_EXIT(run(15, {0, 3, 6}), failed, "group 1 of 2: rows .3, 6. of 5");
  EXPECT_EXIT(run(15, {0, 4, 3}), failed, "group 1 of 2: rows .4, 3. of 5");
}

}  // namespace
}  // namespace contender
