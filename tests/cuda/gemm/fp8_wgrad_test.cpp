#include "tests/cuda/gemm/fp8_products.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceFp8Columns;
using test::DeviceTensor;
using test::expect_same_matrix;
using test::Fp8Columns;
using test::Matrix;

constexpr int64_t kBlocks = 3;  // few, so that each makes several tiles

struct WgradCase {
  int64_t n, k, m;
  std::vector<int32_t> offsets;  // of groups, or with leaves of chains; empty: dense
  int32_t leaves = 0;            // of a group; 0: groups by offsets
};
std::ostream& operator<<(std::ostream& o, const WgradCase& c) {
  o << c.n << "x" << c.k << " over " << c.m << " in";
  for (const int32_t v : c.offsets) o << " " << v;
  return o << ", " << c.leaves << " leaves";
}

class CudaFp8Wgrad : public testing::TestWithParam<WgradCase> {};

std::vector<RowPlace> places_of(const std::vector<int32_t>& offsets) {
  std::vector<RowPlace> places;
  int32_t block = 0;
  for (size_t c = 0; c < offsets.size(); ++c) {
    places.push_back({offsets[c], block});
    if (c + 1 < offsets.size()) block += (offsets[c + 1] - offsets[c] + 127) / 128;
  }
  return places;
}
std::vector<int32_t> many_chains(int64_t chains) {
  std::vector<int32_t> offsets = {0};
  for (int64_t c = 0; c < chains; ++c)
    offsets.push_back(offsets.back() + (c == 5 ? 140 : static_cast<int32_t>(c * 7 % 11)));
  return offsets;
}

// Bit for bit, overwritten and added to. Groups begin at any token; what lies behind the last one is NaN.
TEST_P(CudaFp8Wgrad, EqualsTheCpuBackend) {
  const auto& [n, k, m, offsets, leaves] = GetParam();
  const std::vector<int32_t> all = {0, static_cast<int32_t>(m)};
  const int64_t chains = offsets.empty() ? 1 : static_cast<int64_t>(offsets.size()) - 1;
  const int64_t groups = chains / std::max(leaves, 1);
  const std::vector<RowPlace> places = places_of(offsets);
  const DeviceArray<RowPlace> device_places(places);
  const std::vector<RowSegment> table(static_cast<size_t>(chains));  // only its size matters here
  DeviceFp8Columns dy(Fp8Columns(n, m, offsets.empty() ? all : offsets, 31)),
      x(Fp8Columns(k, m, offsets.empty() ? all : offsets, 32));
  const DeviceArray<int32_t> device_offsets(offsets);
  const Matrix start = Matrix::random(groups * n, k, 33, 4);
  for (const bool accumulate : {false, true}) {
    Matrix want = accumulate ? start : Matrix::poisoned(groups * n, k, 4);
    const DeviceTensor dw(DType::kF32, want), again(DType::kF32, want);
    Fp8WgradArgs args{.dy = dy.host.tensor(),
                      .x = x.host.tensor(),
                      .dw = want.tensor(),
                      .accumulate = accumulate,
                      .num_groups = groups,
                      .offsets = offsets.empty() || leaves > 0 ? nullptr : offsets.data()};
    if (leaves > 0) args.segments = {table.data(), narrow<int32_t>(chains), leaves, places.data()};
    cpu::fp8_wgrad({}, args);
    args.dy = dy.tensor();
    args.x = x.tensor();
    args.dw = dw.tensor();
    if (args.offsets) args.offsets = device_offsets.data();
    args.segments.places = device_places.data();
    cuda::fp8_wgrad({}, args, kBlocks);
    expect_same_matrix(dw.download(), want);
    args.dw = again.tensor();
    cuda::fp8_wgrad({}, args);
    EXPECT_TRUE(again.same_bytes(dw));
  }
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaFp8Wgrad,
    testing::Values(
        WgradCase{16, 32, 0, {}}, WgradCase{16, 16, 1, {}}, WgradCase{144, 272, 300, {}},
        WgradCase{2064, 160, 16, {}},  // more rows of tiles than a band has
        WgradCase{48, 400, 128, {}}, WgradCase{16, 1040, 140, {0, 7, 140}},
        WgradCase{144, 48, 420, {0, 130, 130, 131, 400}},
        WgradCase{16, 144, 700, {0, 0, 0, 255, 511, 640, 640}}, WgradCase{32, 16, 50, {0, 0, 0}},
        WgradCase{144, 272, 300, {0, 290}, 1}, WgradCase{144, 80, 420, {0, 130, 131}, 2},
        WgradCase{208, 144, 700, {0, 0, 0, 255, 511, 640, 640, 640, 650}, 4},
        WgradCase{144, 208, 300, many_chains(16), 8}, WgradCase{80, 144, 400, many_chains(32), 16},
        WgradCase{16, 240, 400, many_chains(32), 16}, WgradCase{16, 32, 900, many_chains(128), 64},
        WgradCase{80, 96, 900, many_chains(128), 64}, WgradCase{16, 32, 2900, many_chains(512), 512},
        WgradCase{16, 112, 1600, many_chains(256), 256}, WgradCase{32, 16, 50, {0, 0, 0, 0, 0}, 2},
        WgradCase{16, 560, 140, {0, 7, 140}, 2}));

// The rules, at the M where they hold.
TEST(CudaFp8WgradRules, DequantisedAndUnquantised) {
  constexpr int64_t kN = 32, kK = 48, kM = 4100;
  DeviceFp8Columns dy(Fp8Columns(kN, kM, {0, kM}, 34)), x(Fp8Columns(kK, kM, {0, kM}, 35));
  const DeviceTensor dw(DType::kF32, kN, kK);
  cuda::fp8_wgrad({}, {.dy = dy.tensor(), .x = x.tensor(), .dw = dw.tensor(), .accumulate = false});
  const Matrix result = dw.download();
  std::vector<double> got, dequantised, exact;
  for (int64_t i = 0; i < kN; ++i) {
    for (int64_t j = 0; j < kK; ++j) {
      got.push_back(result.at(i, j));
      dequantised.push_back(ref::fp8_dot(dy.host.operand(0), x.host.operand(0), i, j, 0, kM));
      double sum = 0;
      for (int64_t t = 0; t < kM; ++t)
        sum += double{dy.host.values[static_cast<size_t>(i * kM + t)]} *
               double{x.host.values[static_cast<size_t>(j * kM + t)]};
      exact.push_back(sum);
    }
  }
  EXPECT_LT(ref::calc_diff(got, dequantised), 1e-7);
  EXPECT_LT(ref::calc_diff(got, exact), 1e-3);
}

// A scale that is not finite, and a NaN code, reach their row of their group and nothing else.
TEST(CudaFp8WgradNonFinite, EqualsTheCpuBackend) {
  const std::vector<int32_t> offsets = {0, 130, 150, 150, 200};  // 2 groups of 2 leaves
  const std::vector<RowPlace> places = places_of(offsets);
  const DeviceArray<RowPlace> device_places(places);
  const RowSegment table[4] = {};
  Fp8Columns dy(32, 200, offsets, 40), x(48, 200, offsets, 41);
  dy.scale.at(1, 3) = INFINITY;  // the second block of the first leaf
  x.codes[static_cast<size_t>(7 * x.ld + 160)] = test::kNanCode;
  DeviceFp8Columns device_dy(dy), device_x(x);
  Matrix want = Matrix::poisoned(64, 48);
  const DeviceTensor dw(DType::kF32, 64, 48);
  Fp8WgradArgs args{
      .dy = dy.tensor(), .x = x.tensor(), .dw = want.tensor(), .accumulate = false, .num_groups = 2};
  args.segments = {table, 4, 2, places.data()};
  cpu::fp8_wgrad({}, args);
  args.dy = device_dy.tensor(), args.x = device_x.tensor(), args.dw = dw.tensor();
  args.segments.places = device_places.data();
  cuda::fp8_wgrad({}, args);
  const Matrix got = dw.download();
  expect_same_matrix(got, want);
  for (int64_t i = 0; i < 64; ++i) {
    for (int64_t j = 0; j < 48; ++j)
      ASSERT_EQ(std::isfinite(got.at(i, j)), !(i == 3 || (i >= 32 && j == 7))) << i << " " << j;
  }
}

TEST(CudaFp8WgradErrors, SeenByTheHost) {
  DeviceFp8Columns dy(Fp8Columns(16, 40, {0, 40}, 36)), x(Fp8Columns(32, 40, {0, 40}, 37));
  const DeviceTensor dw(DType::kF32, 16, 32);
  const auto expect_error = [&](const char* words, const auto& change) {
    Fp8WgradArgs args{.dy = dy.tensor(), .x = x.tensor(), .dw = dw.tensor()};
    change(args);
    try {
      cuda::fp8_wgrad({}, args);
      ADD_FAILURE() << "no error: " << words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  using A = Fp8WgradArgs;
  expect_error("dy at", [](A& a) { a.dy.data.ld = 40; });
  expect_error("scales of x at", [](A& a) { a.x.scale.data = static_cast<float*>(a.x.scale.data) + 1; });
  expect_error("scales of dy: F32 [1, 12]", [](A& a) { a.dy.scale.cols = 12; });
  expect_error("x has 39 tokens, dy 40", [](A& a) { a.x.data.cols = 39; });
  expect_error("dw F32 [16, 31]", [](A& a) { a.dw.cols = 31; });
  expect_error("2 groups without offsets", [](A& a) { a.num_groups = 2; });
}

TEST(CudaFp8WgradErrors, SeenByTheKernel) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [](const std::vector<int32_t>& host) {
    DeviceFp8Columns dy(Fp8Columns(16, 40, {0, 20, 40}, 38)), x(Fp8Columns(32, 40, {0, 20, 40}, 39));
    const DeviceTensor dw(DType::kF32, 32, 32);
    const DeviceArray<int32_t> offsets(host);
    try {
      cuda::fp8_wgrad({}, {.dy = dy.tensor(),
                           .x = x.tensor(),
                           .dw = dw.tensor(),
                           .num_groups = 2,
                           .offsets = offsets.data()});
      CUDA_CHECK(cudaDeviceSynchronize());
    } catch (const Error& e) {
      std::fprintf(stderr, "%s\n", e.what());
      std::_Exit(3);
    }
    std::_Exit(0);
  };
  EXPECT_EXIT(run({0, 7, 40}), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(run({0, 7, 41}), testing::ExitedWithCode(3), "fp8wgrad refuses group 1: rows .7, 41.");
  EXPECT_EXIT(run({0, 7, 6}), testing::ExitedWithCode(3), "fp8wgrad refuses group 1: rows .7, 6.");
  const auto run_places = [](const std::vector<RowPlace>& host) {
    DeviceFp8Columns dy(Fp8Columns(16, 40, {0, 20, 40}, 38)), x(Fp8Columns(32, 40, {0, 20, 40}, 39));
    const DeviceTensor dw(DType::kF32, 16, 32);
    const DeviceArray<RowPlace> places(host);
    const RowSegment table[2] = {};
    try {
      cuda::fp8_wgrad(
          {},
          {.dy = dy.tensor(), .x = x.tensor(), .dw = dw.tensor(), .segments = {table, 2, 2, places.data()}});
      CUDA_CHECK(cudaDeviceSynchronize());
    } catch (const Error& e) {
      std::fprintf(stderr, "%s\n", e.what());
      std::_Exit(3);
    }
    std::_Exit(0);
  };
  EXPECT_EXIT(run_places({{0, 0}, {7, 1}, {40, 2}}), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(run_places({{0, 0}, {7, 1}, {41, 2}}), testing::ExitedWithCode(3), "fp8wgrad refuses group 0");
  EXPECT_EXIT(run_places({{0, 1}, {7, 2}, {40, 3}}), testing::ExitedWithCode(3), "fp8wgrad refuses group 0");
  EXPECT_EXIT(run_places({{0, 0}, {7, 1}, {40, 3}}), testing::ExitedWithCode(3), "rows .7, 40.");
}

}  // namespace
}  // namespace contender
