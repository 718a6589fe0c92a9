#include "ops/linear.h"

#include <gtest/gtest.h>

#include "cuda/ops.h"
#include "tests/cuda/device_array.h"
#include "tests/ref/linear_ref.h"
#include "tests/ref/row_sum_ref.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::kEps;
using test::Matrix;
using test::same_bits;

// Products of BF16 values are exact. A step of 16 cuts 17 addends, each by at most 2^-25 of the largest, and
// the sum by 2^-23 of itself: 10.5 kEps of the magnitude. Each level of a tree rounds once more.
double chain_eps(int64_t length, int64_t chains) {
  return kEps * (11.0 * static_cast<double>(ceil_div(length, 16)) + static_cast<double>(chains));
}

Matrix random_bf16(int64_t rows, int64_t cols, uint64_t seed, int64_t padding = 0) {
  return test::rounded(Matrix::random(rows, cols, seed, padding), DType::kBF16);
}

// A weight [groups * n, k] on the device with both packed forms; `master` is what they keep of it.
struct DeviceWeight {
  Matrix master;
  DeviceArray<uint8_t> forward, backward;
  WeightView view;

  DeviceWeight(Matrix values, int64_t groups)
      : master(test::rounded(values, DType::kBF16)),
        forward(groups * packed_forward_bytes(values.rows / groups, values.cols)),
        backward(groups * packed_backward_bytes(values.rows / groups, values.cols)),
        view{.forward = forward.data(),
             .backward = backward.data(),
             .n = values.rows / groups,
             .k = values.cols,
             .num_groups = groups} {
    const DeviceTensor unrounded(DType::kF32, values);
    cuda::pack_weight({}, {.master = unrounded.tensor(),
                           .forward = forward.data(),
                           .backward = backward.data(),
                           .n = view.n,
                           .k = view.k,
                           .num_groups = groups});
    CUDA_CHECK(cudaDeviceSynchronize());
  }
  DeviceWeight(int64_t n, int64_t k, uint64_t seed, int64_t groups = 1)
      : DeviceWeight(Matrix::random(groups * n, k, seed, k % 4 == 0 ? 4 : 1), groups) {}
  float at(int64_t g, int64_t n, int64_t k) const { return master.at(g * view.n + n, k); }
};

// Every element against the double sum of a(i, l) b(l, j).
template <class A, class B>
void expect_product(const Matrix& got, const A& a, const B& b, int64_t length, int64_t slices) {
  for (int64_t i = 0; i < got.rows; ++i) {
    for (int64_t j = 0; j < got.cols; ++j) {
      const ref::DoubleDot want = ref::double_dot(a, b, i, j, length);
      test::expect_close(got.at(i, j), want.value, want.magnitude, chain_eps(length, slices), "product", i,
                         j);
    }
  }
  EXPECT_TRUE(got.padding_untouched());
}
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
void expect_same(const Matrix& got, const Matrix& want) {
  ASSERT_TRUE(got.rows == want.rows && got.cols == want.cols);
  for (int64_t i = 0; i < got.rows; ++i) {
    for (int64_t j = 0; j < got.cols; ++j)
      ASSERT_TRUE(same_bits(got.at(i, j), want.at(i, j))) << i << " " << j;
  }
}

class CudaLinearPack : public testing::TestWithParam<std::tuple<int, int, int>> {};

TEST_P(CudaLinearPack, FormsAreRowMajorRoundedAndFit) {
  const auto [n, k, groups] = GetParam();
  const DeviceWeight w(n, k, 1, groups);
  const std::vector<uint8_t> forward = w.forward.download(), backward = w.backward.download();
  ASSERT_LE(2 * n * k, packed_forward_bytes(n, k));
  ASSERT_LE(2 * n * k, packed_backward_bytes(n, k));
  std::vector<uint8_t> want_forward(forward.size(), 0xFF), want_backward(backward.size(), 0xFF);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t l = 0; l < k; ++l) {
        const uint16_t half = test::to_bf16(w.at(g, i, l));
        std::memcpy(&want_forward[g * packed_forward_bytes(n, k) + 2 * (i * k + l)], &half, 2);
        std::memcpy(&want_backward[g * packed_backward_bytes(n, k) + 2 * (l * n + i)], &half, 2);
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

int64_t sm_count() {
  int count = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
  return count;
}

// A row has the same bits alone and among others, in large tiles and small ones, in pieces of 16 bytes and
// element by element (its start is not aligned); and again.
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
    Matrix one = Matrix::poisoned(1, kK + 1), row = Matrix::poisoned(1, kN);
    std::copy_n(&x.values[r * kK], kK, &one.at(0, 1));
    std::copy_n(&want.values[r * kN], kN, &row.at(0, 0));
    const DeviceTensor d_one(DType::kBF16, one), y(DType::kF32, 1, kN);
    cuda::linear({}, {.x = d_one.tensor().col_range(1, kK + 1), .w = w.view, .y = y.tensor()});
    expect_same(y.download(), row);
  }
}

TEST(CudaLinearGrouped, IsTheProductOfEachGroup) {
  for (const auto& [n, k] : {std::pair{40, 24}, std::pair{33, 30}, std::pair{72, 136}}) {
    constexpr int64_t kGroups = 40;  // more than a warp looks at in one go
    std::vector<int32_t> offsets = {0, 0, 5, 5, 70, 71, 71};
    while (offsets.size() < kGroups) offsets.push_back(offsets.back() + (offsets.size() % 11 == 0 ? 130 : 1));
    offsets.push_back(offsets.back());  // an empty one at the end
    const int64_t m = offsets.back();
    const DeviceWeight w(n, k, 12, kGroups);
    const DeviceTensor x(DType::kBF16, random_bf16(m, k, 13, 8)), dy(DType::kBF16, random_bf16(m, n, 14, 8)),
        y(DType::kBF16, m, n, 4), dx(DType::kBF16, m, k, 4), want_y(DType::kBF16, m, n, 4),
        want_dx(DType::kBF16, m, k, 4);
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

Matrix run_wgrad(const DeviceTensor& dy, const DeviceTensor& x, const std::vector<RowSegment>& list,
                 int32_t leaves, int64_t groups = 1, int64_t padding = 4) {
  const DeviceTensor dw(DType::kF32, groups * dy.tensor().cols, x.tensor().cols, padding);
  cuda::linear_wgrad({}, {.dy = dy.tensor(),
                          .x = x.tensor(),
                          .dw = dw.tensor(),
                          .segments = {list.data(), static_cast<int32_t>(list.size()), leaves},
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
                                         std::tuple{60, 13, 70, 4}, std::tuple{90, 8, 8, 64}));

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

  // The same rows elsewhere, with rows of nobody in between, as group 2 of 4; rows unaligned.
  const auto scatter = [](const Matrix& from) {
    Matrix to = random_bf16(2 * kRows, from.cols, 25, 1);
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
  const RowSegments segments = {list.data(), 2, 2};
  cuda::linear_wgrad({}, {.dy = dy.tensor(), .x = x.tensor(), .dw = all.tensor(), .segments = segments});
  for (int64_t c = 0; c < n; c += 200) {
    const int64_t end = std::min(n, c + 200);
    cuda::linear_wgrad({}, {.dy = dy.tensor().col_range(c, end),
                            .x = x.tensor(),
                            .dw = slabs.tensor().row_range(c, end),
                            .segments = segments});
  }
  EXPECT_TRUE(slabs.same_bytes(all));
}

// More segments than one launch carries, in several groups; more than any carries, in one.
TEST(CudaLinearWgradOrder, ManySegments) {
  constexpr int32_t kGroups = 5, kEach = 900;
  constexpr int64_t kRows = 2 * kGroups * kEach, kN = 4, kK = 8;
  const DeviceTensor dy(DType::kBF16, random_bf16(kRows, kN, 28)),
      x(DType::kBF16, random_bf16(kRows, kK, 29));
  std::vector<RowSegment> list, tail;
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
  for (RowSegment& s : list) s.group = 1;
  EXPECT_THROW(run_wgrad(dy, x, list, 1, 2), Error);
}

TEST(CudaLinearErrors, SayWhatIsWrong) {
  const DeviceWeight w(8, 16, 30);
  const DeviceTensor x(DType::kBF16, 3, 16), y(DType::kBF16, 3, 8), f32(DType::kF32, 3, 16),
      dw(DType::kF32, 8, 16);
  const RowSegment unsorted[] = {{0, 1, 0, 1}, {1, 2, 0, 0}};
  EXPECT_THROW(cuda::linear({}, {.x = f32.tensor(), .w = w.view, .y = y.tensor()}), Error);
  EXPECT_THROW(cuda::linear({}, {.x = y.tensor(), .w = w.view, .y = y.tensor()}), Error);
  EXPECT_THROW(cuda::linear({}, {.x = x.tensor(), .w = {.n = 8, .k = 16}, .y = y.tensor()}), Error);
  for (const int32_t slices : {0, 3, 32})
    EXPECT_THROW(cuda::linear({}, {.x = x.tensor(), .w = w.view, .y = y.tensor(), .slices = slices}), Error);
  EXPECT_THROW(cuda::grouped_linear({}, {.x = x.tensor(), .w = w.view, .y = y.tensor()}), Error);
  EXPECT_THROW(cuda::linear_wgrad({}, {.dy = y.tensor(), .x = f32.tensor(), .dw = dw.tensor()}), Error);
  EXPECT_THROW(cuda::linear_wgrad(
                   {}, {.dy = y.tensor(), .x = x.tensor(), .dw = dw.tensor(), .segments = {unsorted, 2, 2}}),
               Error);
}

}  // namespace
}  // namespace contender
