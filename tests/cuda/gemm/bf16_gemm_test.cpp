#include "cuda/gemm/bf16_gemm.h"

#include <gtest/gtest.h>

#include "cuda/gemm/shapes.h"
#include "cuda/gemm/split.h"
#include "tests/cuda/products.h"

namespace contender {
namespace {

using cuda::bf16_gemm;
using cuda::bf16_gemm_tiles;
using cuda::Bf16Choice;
using cuda::Mode;
using cuda::RaggedShape;
using cuda::sm_count;
using test::Captured;
using test::DeviceArray;
using test::DeviceTensor;
using test::DeviceWeight;
using test::expect_product;
using test::Matrix;
using test::random_bf16;
using test::same_bits;

int tile_count() { return static_cast<int>(bf16_gemm_tiles().size()); }
bool can_sum(int tile, int slices) {
  return (1 << bf16_gemm_tiles()[static_cast<size_t>(tile)].levels) >= slices;
}

// 1 - 2<x, y> / (<x, x> + <y, y>) against the product in double.
template <class A, class B>
double calc_diff(const Matrix& got, const A& a, const B& b, int64_t length) {
  double xy = 0, xx = 0, yy = 0;
  for (int64_t i = 0; i < got.rows; ++i) {
    for (int64_t j = 0; j < got.cols; ++j) {
      const double x = got.at(i, j), y = ref::double_dot(a, b, i, j, length).value;
      xy += x * y, xx += x * x, yy += y * y;
    }
  }
  return 1 - 2 * xy / (xx + yy);
}

class Bf16Gemm : public testing::TestWithParam<RaggedShape> {};

// All rows of the table give the same bits, near the product in double; a BF16 result is the F32 one rounded
// once, with bias and old value added before.
TEST_P(Bf16Gemm, EveryTileGivesTheSameBits) {
  const auto [m, n, k, slices] = GetParam();
  const Matrix x = random_bf16(m, k, 1, 8), old = random_bf16(m, n, 2, 8), bias = Matrix::random(1, n, 3);
  const DeviceWeight w(n, k, 4);
  const DeviceTensor dx(DType::kBF16, x), d_bias(DType::kF32, bias), want(DType::kF32, m, n, 8);
  bf16_gemm({}, LinearArgs{.x = dx.tensor(), .w = w.view, .y = want.tensor(), .slices = slices});
  const Matrix f32 = want.download();
  const auto a = [&](int64_t i, int64_t l) { return x.at(i, l); };
  const auto b = [&](int64_t l, int64_t j) { return w.at(0, j, l); };
  expect_product(f32, a, b, k, slices);
  EXPECT_LT(calc_diff(f32, a, b, k), 1e-7);
  for (int tile = 0; tile < tile_count(); ++tile) {
    if (!can_sum(tile, slices)) continue;
    SCOPED_TRACE(tile);
    const DeviceTensor exact(DType::kF32, m, n, 8), y(DType::kBF16, m, n, 8), sum(DType::kBF16, old),
        sum_f32(DType::kF32, old);
    LinearArgs args = {.x = dx.tensor(), .w = w.view, .y = exact.tensor(), .slices = slices};
    bf16_gemm({}, args, tile);
    args.y = y.tensor();
    bf16_gemm({}, args, tile);
    args.bias = d_bias.f32();
    args.accumulate = true;
    args.y = sum.tensor();
    bf16_gemm({}, args, tile);
    args.y = sum_f32.tensor();
    bf16_gemm({}, args, tile);
    ASSERT_TRUE(exact.same_bytes(want));
    const Matrix rounded = y.download(), summed = sum.download(), summed_f32 = sum_f32.download();
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const float v = f32.at(i, j), with_old = old.at(i, j) + (v + bias.at(0, j));
        ASSERT_TRUE(same_bits(rounded.at(i, j), test::rounded(v, DType::kBF16))) << i << " " << j;
        ASSERT_TRUE(same_bits(summed.at(i, j), test::rounded(with_old, DType::kBF16))) << i << " " << j;
        ASSERT_TRUE(same_bits(summed_f32.at(i, j), with_old)) << i << " " << j;
      }
    }
    EXPECT_TRUE(rounded.padding_untouched() && summed.padding_untouched() && summed_f32.padding_untouched());
    EXPECT_LT(calc_diff(rounded, a, b, k), 0x1p-17);  // every rounding at its worst
  }
}
INSTANTIATE_TEST_SUITE_P(Ragged, Bf16Gemm, testing::ValuesIn(cuda::kRaggedShapes));

// The backward form, and several units per block with all roles in step: more units than SMs.
TEST(Bf16GemmDgrad, IsTheProductWithTheOtherForm) {
  constexpr int64_t kM = 66, kN = 72, kK = 40;
  const Matrix dy = random_bf16(kM, kN, 5, 8);
  const DeviceWeight w(kN, kK, 6);
  const DeviceTensor d_dy(DType::kBF16, dy), dx(DType::kF32, kM, kK, 4), again(DType::kF32, kM, kK, 4);
  bf16_gemm({}, LinearDgradArgs{.dy = d_dy.tensor(), .w = w.view, .dx = dx.tensor()});
  bf16_gemm({}, LinearDgradArgs{.dy = d_dy.tensor(), .w = w.view, .dx = again.tensor()});
  expect_product(
      dx.download(), [&](int64_t i, int64_t l) { return dy.at(i, l); },
      [&](int64_t l, int64_t j) { return w.at(0, l, j); }, kN, 1);
  EXPECT_TRUE(again.same_bytes(dx));
}

// A block makes several units; a row has the same bits alone and in any batch, wherever it lies.
TEST(Bf16GemmInvariance, RowKeepsItsBits) {
  constexpr int64_t kN = 24, kK = 88;
  const int64_t m = (sm_count() + 3) * 16;  // more units than SMs, of the smallest tile
  const Matrix x = random_bf16(m, kK, 7);
  const DeviceWeight w(kN, kK, 8);
  const DeviceTensor dx(DType::kBF16, x), all(DType::kF32, m, kN), again(DType::kF32, m, kN),
      slabs(DType::kF32, m, kN), small(DType::kF32, m, kN);
  bf16_gemm({}, LinearArgs{.x = dx.tensor(), .w = w.view, .y = all.tensor()});
  bf16_gemm({}, LinearArgs{.x = dx.tensor(), .w = w.view, .y = again.tensor()});
  bf16_gemm({}, LinearArgs{.x = dx.tensor(), .w = w.view, .y = small.tensor()}, tile_count() - 1);
  for (int64_t r = 0, step = 1; r < m; r += step, step = step * 3 + 1) {
    step = std::min(step, m - r);
    bf16_gemm({}, LinearArgs{.x = dx.tensor().row_range(r, r + step),
                             .w = w.view,
                             .y = slabs.tensor().row_range(r, r + step)});
  }
  EXPECT_TRUE(again.same_bytes(all));
  EXPECT_TRUE(small.same_bytes(all));
  EXPECT_TRUE(slabs.same_bytes(all));
}

// Slices are the products over their columns, summed as ((0+1)+(2+3)); two on each of two ranks, then the
// tree between the ranks, give the same bits.
TEST(Bf16GemmSlices, AreChainsSummedInTheTree) {
  constexpr int64_t kM = 9, kN = 40, kSlice = 24, kK = 4 * kSlice;
  const Matrix x = random_bf16(kM, kK, 15);
  const DeviceWeight w(kN, kK, 16);
  const DeviceTensor dx(DType::kBF16, x), whole(DType::kF32, kM, kN);
  bf16_gemm({}, LinearArgs{.x = dx.tensor(), .w = w.view, .y = whole.tensor(), .slices = 4});
  const auto part = [&](int64_t begin, int64_t end, int32_t slices) {
    Matrix columns = Matrix::poisoned(kN, end - begin);
    for (int64_t j = 0; j < kN; ++j)
      std::copy_n(&w.master.values[j * w.master.ld + begin], end - begin, &columns.at(j, 0));
    const DeviceWeight local(columns, 1);
    const DeviceTensor y(DType::kF32, kM, kN);
    bf16_gemm(
        {}, LinearArgs{
                .x = dx.tensor().col_range(begin, end), .w = local.view, .y = y.tensor(), .slices = slices});
    return y.download();
  };
  const Matrix got = whole.download();
  std::vector<Matrix> slice, rank;
  for (int64_t s = 0; s < 4; ++s) slice.push_back(part(s * kSlice, (s + 1) * kSlice, 1));
  for (int64_t r = 0; r < 2; ++r) rank.push_back(part(2 * r * kSlice, 2 * (r + 1) * kSlice, 2));
  for (size_t i = 0; i < got.values.size(); ++i) {
    ASSERT_TRUE(same_bits(got.values[i], (slice[0].values[i] + slice[1].values[i]) +
                                             (slice[2].values[i] + slice[3].values[i])));
    ASSERT_TRUE(same_bits(got.values[i], rank[0].values[i] + rank[1].values[i]));
  }
}

// Every block makes several units, consumers that take turns too, with rings that end anywhere: the rows of x
// repeat, and so do those of y.
TEST(Bf16GemmInvariance, ManyUnitsOfABlock) {
  constexpr int64_t kN = 8, kK = 72, kRows = 200;
  const Matrix x = random_bf16(kRows, kK, 9);
  const DeviceWeight w(kN, kK, 10);
  const DeviceTensor dx(DType::kBF16, x), want(DType::kBF16, kRows, kN);
  bf16_gemm({}, LinearArgs{.x = dx.tensor(), .w = w.view, .y = want.tensor()});
  const Matrix few = want.download();
  for (int tile = 0; tile < tile_count(); ++tile) {
    const cuda::TileShape& shape = bf16_gemm_tiles()[static_cast<size_t>(tile)];
    if (tile > 0 && shape.turns != cuda::Turns::kInTurns) continue;  // the loop is the same as that of tile 0
    SCOPED_TRACE(tile);
    const int64_t m = (2 * sm_count() / shape.cluster + 5) * shape.tile_m() - 3;
    const DeviceArray<uint16_t> many_x(m * kK), many_y(m * kN);
    for (int64_t r = 0; r < m; r += kRows)
      CUDA_CHECK(cudaMemcpy(many_x.data() + r * kK, dx.tensor().data, std::min(kRows, m - r) * kK * 2,
                            cudaMemcpyDeviceToDevice));
    bf16_gemm({},
              LinearArgs{.x = {many_x.data(), DType::kBF16, m, kK},
                         .w = w.view,
                         .y = {many_y.data(), DType::kBF16, m, kN}},
              tile);
    const std::vector<uint16_t> got = many_y.download();
    for (int64_t i = 0; i < m * kN; ++i)
      ASSERT_EQ(got[static_cast<size_t>(i)], test::to_bf16(few.at(i / kN % kRows, i % kN))) << i;
  }
}

// A deep product.
TEST(Bf16GemmDeep, KeepsItsDistance) {
  constexpr int64_t kM = 9, kN = 24, kK = 4136;
  const Matrix x = random_bf16(kM, kK, 11);
  const DeviceWeight w(kN, kK, 12);
  const DeviceTensor dx(DType::kBF16, x), y(DType::kF32, kM, kN), half(DType::kBF16, kM, kN);
  bf16_gemm({}, LinearArgs{.x = dx.tensor(), .w = w.view, .y = y.tensor()});
  bf16_gemm({}, LinearArgs{.x = dx.tensor(), .w = w.view, .y = half.tensor()});
  const auto a = [&](int64_t i, int64_t l) { return x.at(i, l); };
  const auto b = [&](int64_t l, int64_t j) { return w.at(0, j, l); };
  expect_product(y.download(), a, b, kK, 1);
  EXPECT_LT(calc_diff(y.download(), a, b, kK), 1e-7);
  EXPECT_LT(calc_diff(half.download(), a, b, kK), 2e-6);
}

// Groups begin anywhere, are empty, or longer than a tile; rows of no group stay as they are.
TEST(Bf16GemmGrouped, IsTheProductOfEachGroup) {
  constexpr int64_t kGroups = 37, kN = 72, kK = 40;  // more than a warp looks at in one go
  std::vector<int32_t> offsets = {0, 0, 5, 5, 150, 151, 151};
  while (offsets.size() < kGroups) offsets.push_back(offsets.back() + (offsets.size() % 16 == 0 ? 130 : 1));
  offsets.push_back(offsets.back());
  const int64_t used = offsets.back(), m = used + 21;
  const DeviceWeight w(kN, kK, 12, kGroups);
  const DeviceTensor x(DType::kBF16, random_bf16(m, kK, 13, 8)), want(DType::kBF16, m, kN, 8),
      want_f32(DType::kF32, m, kN, 8), dy(DType::kBF16, random_bf16(m, kN, 14, 8)),
      want_dx(DType::kBF16, m, kK, 8);
  const DeviceArray<int32_t> d_offsets(offsets);
  for (int64_t g = 0; g < kGroups; ++g) {
    const int64_t begin = offsets[g], end = offsets[g + 1];
    const WeightView of_group = w.view.group(g);
    const Tensor rows = x.tensor().row_range(begin, end);
    bf16_gemm({}, LinearArgs{.x = rows, .w = of_group, .y = want.tensor().row_range(begin, end)});
    bf16_gemm({}, LinearArgs{.x = rows, .w = of_group, .y = want_f32.tensor().row_range(begin, end)});
    bf16_gemm({}, LinearDgradArgs{.dy = dy.tensor().row_range(begin, end),
                                  .w = of_group,
                                  .dx = want_dx.tensor().row_range(begin, end)});
  }
  for (int tile = 0; tile < tile_count(); ++tile) {
    SCOPED_TRACE(tile);
    const DeviceTensor y(DType::kBF16, m, kN, 8), f32(DType::kF32, m, kN, 8), dx(DType::kBF16, m, kK, 8);
    GroupedLinearArgs args = {.x = x.tensor(), .w = w.view, .y = y.tensor(), .offsets = d_offsets.data()};
    bf16_gemm({}, args, tile);
    args.y = f32.tensor();
    bf16_gemm({}, args, tile);
    bf16_gemm({},
              GroupedLinearDgradArgs{
                  .dy = dy.tensor(), .w = w.view, .dx = dx.tensor(), .offsets = d_offsets.data()},
              tile);
    EXPECT_TRUE(y.same_bytes(want));
    EXPECT_TRUE(f32.same_bytes(want_f32));
    EXPECT_TRUE(dx.same_bytes(want_dx));
  }
}

TEST(Bf16GemmGrouped, NoRows) {
  const DeviceWeight w(24, 40, 33, 3);
  const DeviceArray<int32_t> offsets(std::vector<int32_t>{0, 0, 0, 0});
  for (const int64_t m : {0, 5}) {
    const DeviceTensor x(DType::kBF16, m, 40), y(DType::kBF16, m, 24), untouched(DType::kBF16, m, 24);
    bf16_gemm({},
              GroupedLinearArgs{.x = x.tensor(), .w = w.view, .y = y.tensor(), .offsets = offsets.data()});
    EXPECT_TRUE(y.same_bytes(untouched));
  }
}

TEST(Bf16GemmHeads, StridedColumnsBothWays) {
  constexpr int64_t kM = 70, kHeads = 3, kN = 16, kK = 40, kNStride = 24, kKStride = 48;
  const DeviceWeight w(kN, kK, 17, kHeads);
  const DeviceTensor in_k(DType::kBF16, random_bf16(kM, kHeads * kKStride, 18)),
      in_n(DType::kBF16, random_bf16(kM, kHeads * kNStride, 19)), want(DType::kBF16, kM, kHeads * kNStride),
      want_t(DType::kBF16, kM, kHeads * kKStride);
  for (int64_t h = 0; h < kHeads; ++h) {
    const auto n_cols = [&](const DeviceTensor& t) {
      return t.tensor().col_range(h * kNStride, h * kNStride + kN);
    };
    const auto k_cols = [&](const DeviceTensor& t) {
      return t.tensor().col_range(h * kKStride, h * kKStride + kK);
    };
    bf16_gemm({}, LinearArgs{.x = k_cols(in_k), .w = w.view.group(h), .y = n_cols(want)});
    bf16_gemm({}, LinearDgradArgs{.dy = n_cols(in_n), .w = w.view.group(h), .dx = k_cols(want_t)});
  }
  for (int tile = 0; tile < tile_count(); ++tile) {
    SCOPED_TRACE(tile);
    const DeviceTensor y(DType::kBF16, kM, kHeads * kNStride), yt(DType::kBF16, kM, kHeads * kKStride);
    bf16_gemm(
        {},
        HeadsLinearArgs{
            .x = in_k.tensor(), .x_stride = kKStride, .w = w.view, .y = y.tensor(), .y_stride = kNStride},
        tile);
    bf16_gemm({},
              HeadsLinearArgs{.x = in_n.tensor(),
                              .x_stride = kNStride,
                              .w = w.view,
                              .y = yt.tensor(),
                              .y_stride = kKStride,
                              .transposed = true},
              tile);
    EXPECT_TRUE(y.same_bytes(want));  // the gaps between heads stay poisoned in both
    EXPECT_TRUE(yt.same_bytes(want_t));
  }
}

// Rows of y that are whole vectors, and heads in them that are not: 20 columns apart.
TEST(Bf16GemmHeads, HeadsThatBeginInsideAVector) {
  constexpr int64_t kM = 70, kHeads = 2, kN = 16, kK = 40, kNStride = 20;
  const DeviceWeight w(kN, kK, 17, kHeads);
  const DeviceTensor x(DType::kBF16, random_bf16(kM, kHeads * kK, 18)),
      want(DType::kBF16, kM, kHeads * kNStride);
  for (int64_t h = 0; h < kHeads; ++h)
    bf16_gemm({}, LinearArgs{.x = x.tensor().col_range(h * kK, (h + 1) * kK),
                             .w = w.view.group(h),
                             .y = want.tensor().col_range(h * kNStride, h * kNStride + kN)});
  for (int tile = 0; tile < tile_count(); ++tile) {
    const DeviceTensor y(DType::kBF16, kM, kHeads * kNStride);
    bf16_gemm(
        {},
        HeadsLinearArgs{.x = x.tensor(), .x_stride = kK, .w = w.view, .y = y.tensor(), .y_stride = kNStride},
        tile);
    EXPECT_TRUE(y.same_bytes(want)) << tile;
  }
}

// Blocks that share the contracted dimension. Exact: the slices apart, the bits of one launch. Fast: any
// parts, near the sum in double, the same bits run for run, those of a product in so many slices.
TEST(Bf16GemmSplit, IsTheSumOfItsParts) {
  constexpr int64_t kM = 33, kN = 43, kK = 8 * 72;
  const Matrix x = random_bf16(kM, kK, 40), old = random_bf16(kM, kN, 41), bias = Matrix::random(1, kN, 42);
  const DeviceWeight w(kN, kK, 43);
  const DeviceTensor dx(DType::kBF16, x), d_bias(DType::kF32, bias);
  const test::DeviceWorkspace space(cuda::split_bytes(8, kM, kN));
  const auto run = [&](Bf16Choice choice, int32_t slices) {
    const DeviceTensor y(DType::kF32, kM, kN);
    bf16_gemm(space.exec(), LinearArgs{.x = dx.tensor(), .w = w.view, .y = y.tensor(), .slices = slices},
              choice);
    return y.download();
  };
  for (int tile = 0; tile < tile_count(); ++tile) {
    SCOPED_TRACE(tile);
    for (const int splits : {2, 4}) {
      const Matrix want = run({}, splits);
      test::expect_same(run({tile, Mode::kExact, splits}, splits), want);
      test::expect_same(run({tile, Mode::kFast, splits}, 1), want);
      test::expect_same(run({tile, Mode::kFast, splits}, 4), want);
    }
  }
  const Matrix eight = run({0, Mode::kFast, 8}, 1);
  expect_product(
      eight, [&](int64_t i, int64_t l) { return x.at(i, l); },
      [&](int64_t l, int64_t j) { return w.at(0, j, l); }, kK, 8);
  test::expect_same(run({-1, Mode::kFast}, 4), run({}, 1));  // too little to split
  const DeviceTensor sum(DType::kBF16, old);
  bf16_gemm(
      space.exec(),
      LinearArgs{.x = dx.tensor(), .w = w.view, .y = sum.tensor(), .bias = d_bias.f32(), .accumulate = true},
      {0, Mode::kFast, 8});
  const Matrix got = sum.download();
  for (int64_t i = 0; i < kM; ++i) {
    for (int64_t j = 0; j < kN; ++j)
      ASSERT_TRUE(same_bits(got.at(i, j),
                            test::rounded(old.at(i, j) + (eight.at(i, j) + bias.at(0, j)), DType::kBF16)))
          << i << " " << j;
  }
  EXPECT_THROW(run({0, Mode::kExact, 2}, 1), Error);
  EXPECT_THROW(run({0, Mode::kFast, 16}, 1), Error);  // parts of 36
}

// One launch, which reads the offsets that the device holds when it runs.
TEST(Bf16GemmGraph, OneLaunchThatSeesNewOffsets) {
  constexpr int64_t kM = 70, kN = 32, kK = 64;
  const DeviceWeight w(kN, kK, 34, 2);
  const DeviceTensor x(DType::kBF16, random_bf16(kM, kK, 35)), y(DType::kBF16, kM, kN),
      want(DType::kBF16, kM, kN);
  DeviceArray<int32_t> offsets(std::vector<int32_t>{0, 0, 0});
  const Captured grouped([&](const Exec& exec) {
    bf16_gemm(exec,
              GroupedLinearArgs{.x = x.tensor(), .w = w.view, .y = y.tensor(), .offsets = offsets.data()});
  });
  EXPECT_EQ(grouped.launches(), 1u);
  grouped.replay();
  EXPECT_TRUE(y.same_bytes(want));  // nothing
  offsets.upload({0, 66, 69});
  grouped.replay();
  for (const auto& [g, begin, end] : {std::tuple{0, 0, 66}, std::tuple{1, 66, 69}})
    bf16_gemm({}, LinearArgs{.x = x.tensor().row_range(begin, end),
                             .w = w.view.group(g),
                             .y = want.tensor().row_range(begin, end)});
  EXPECT_TRUE(y.same_bytes(want));
}

TEST(Bf16GemmErrors, SayWhatIsWrong) {
  const DeviceWeight w(8, 16, 30), odd(8, 8, 31);
  const DeviceTensor x(DType::kBF16, 3, 16), y(DType::kBF16, 3, 8), f32(DType::kF32, 3, 16);
  const LinearArgs good = {.x = x.tensor(), .w = w.view, .y = y.tensor()};
  EXPECT_EQ(cuda::bf16_gemm_refuses(good), "");
  LinearArgs args = good;
  args.x = f32.tensor();
  EXPECT_THROW(bf16_gemm({}, args), Error);
  args = {.x = x.tensor().col_range(1, 9), .w = odd.view, .y = y.tensor()};
  EXPECT_NE(cuda::bf16_gemm_refuses(args), "");  // rows of x begin anywhere
  EXPECT_THROW(bf16_gemm({}, args), Error);
  for (const int32_t slices : {0, 3, 4, 8}) {
    args = good;
    args.slices = slices;
    EXPECT_THROW(bf16_gemm({}, args), Error);
  }
  args = good;
  args.w = odd.view;
  EXPECT_THROW(bf16_gemm({}, args), Error);  // [3, 16] x [8, 8] -> [3, 8]
  EXPECT_THROW(bf16_gemm({}, GroupedLinearArgs{.x = x.tensor(), .w = w.view, .y = y.tensor()}), Error);
}

// Offsets that leave x end the launch with a line that names the group.
TEST(Bf16GemmDeathTest, NamesTheGroup) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [](const std::vector<int32_t>& values) {
    const DeviceWeight w(8, 16, 36, 2);
    const DeviceTensor x(DType::kBF16, 5, 16), y(DType::kBF16, 5, 8);
    const DeviceArray<int32_t> offsets(values);
    bf16_gemm({},
              GroupedLinearArgs{.x = x.tensor(), .w = w.view, .y = y.tensor(), .offsets = offsets.data()});
    test::exit_with_words(1);
  };
  EXPECT_EXIT(run({0, 6, 5}), testing::ExitedWithCode(1), "bf16gemm refuses group");
}

}  // namespace
}  // namespace contender
