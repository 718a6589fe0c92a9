#include "ops/gemm.h"
#include "tests/cuda/gemm/fp8_products.h"

namespace contender {
namespace {

using test::DeviceFp8Matrix;
using test::DeviceTensor;
using test::expect_same_matrix;
using test::Fp8Matrix;
using test::Fp8Output;
using test::Matrix;

struct Fp8Shape {
  int64_t m, n, k;
};
std::ostream& operator<<(std::ostream& o, const Fp8Shape& s) { return o << s.m << "x" << s.n << "x" << s.k; }

// Few, so that each makes several tiles.
constexpr int64_t kBlocks = 3;

class CudaFp8Gemm : public testing::TestWithParam<Fp8Shape> {};

// Every tile, bit for bit: F32, F32 added to, BF16.
TEST_P(CudaFp8Gemm, EqualsTheCpuBackend) {
  const auto [m, n, k] = GetParam();
  DeviceFp8Matrix a(Fp8Matrix(m, k, QLayout::k1x128, 1)), b(Fp8Matrix(n, k, QLayout::k128x128, 2));
  const Matrix start = Matrix::random(m, n, 3, 4);
  Matrix want = Matrix::poisoned(m, n, 4), sum = start;
  cpu::fp8_gemm({}, {.a = a.host.tensor(), .b = b.host.tensor(), .d = want.tensor()});
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) sum.at(i, j) += want.at(i, j);
  }
  const Matrix half = test::rounded(want, DType::kBF16);
  for (const cuda::Fp8Tile& tile : cuda::kFp8Tiles) {
    SCOPED_TRACE(testing::Message() << tile);
    const DeviceTensor f32(DType::kF32, m, n, 4), added(DType::kF32, start), bf16(DType::kBF16, m, n, 8);
    cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = f32.tensor()}, tile, kBlocks);
    cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = added.tensor(), .accumulate = true}, tile,
                   kBlocks);
    cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = bf16.tensor()}, tile, kBlocks);
    expect_same_matrix(f32.download(), want);
    expect_same_matrix(added.download(), sum);
    expect_same_matrix(bf16.download(), half);
  }
}
// 400: scales of a row are one aligned piece of four; 592: five of them, without alignment.
INSTANTIATE_TEST_SUITE_P(Shapes, CudaFp8Gemm,
                         testing::Values(Fp8Shape{0, 16, 16}, Fp8Shape{1, 16, 16}, Fp8Shape{70, 208, 400},
                                         Fp8Shape{140, 336, 592}));

// The rules of a block-scaled product, at the K where they hold; the same bits from every tile.
TEST(CudaFp8GemmRules, DequantisedAndUnquantised) {
  constexpr int64_t kM = 24, kN = 48, kK = 4096;
  DeviceFp8Matrix a(Fp8Matrix(kM, kK, QLayout::k1x128, 4)), b(Fp8Matrix(kN, kK, QLayout::k128x128, 5));
  std::vector<double> dequantised, exact;
  for (int64_t i = 0; i < kM; ++i) {
    for (int64_t j = 0; j < kN; ++j) {
      dequantised.push_back(ref::fp8_dot(a.host.operand(), b.host.operand(), i, j, 0, kK));
      double sum = 0;
      for (int64_t l = 0; l < kK; ++l) sum += a.host.value(i, l) * b.host.value(j, l);
      exact.push_back(sum);
    }
  }
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const DeviceTensor chosen(dtype, kM, kN);
    cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = chosen.tensor()});
    for (const cuda::Fp8Tile& tile : cuda::kFp8Tiles) {
      const DeviceTensor d(dtype, kM, kN);
      cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor()}, tile, kBlocks);
      EXPECT_TRUE(d.same_bytes(chosen)) << tile;
    }
    const Matrix result = chosen.download();
    const std::vector<double> got(result.values.begin(), result.values.end());
    EXPECT_LT(ref::calc_diff(got, dequantised), dtype == DType::kF32 ? 1e-7 : 2e-6);
    EXPECT_LT(ref::calc_diff(got, exact), 1e-3);
  }
}

// A row alone, or in another place, with whatever tile is chosen there; and the same again.
TEST(CudaFp8GemmExact, RowsDoNotDependOnTheBatch) {
  constexpr int64_t kM = 150, kN = 176, kK = 272;
  DeviceFp8Matrix a(Fp8Matrix(kM, kK, QLayout::k1x128, 6)), b(Fp8Matrix(kN, kK, QLayout::k128x128, 7));
  const DeviceTensor all(DType::kF32, kM, kN), again(DType::kF32, kM, kN);
  cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = all.tensor()});
  cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = again.tensor()});
  const Matrix want = all.download();
  EXPECT_TRUE(all.same_bytes(again));
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {149, 150}, {3, 80}, {64, 150}}) {
    const QTensor q = a.tensor();
    const QTensor rows = {q.data.row_range(begin, end), q.scale.row_range(begin, end), q.layout};
    const DeviceTensor d(DType::kF32, end - begin, kN);
    cuda::fp8_gemm({}, {.a = rows, .b = b.tensor(), .d = d.tensor()});
    const Matrix got = d.download();
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < kN; ++j) ASSERT_TRUE(test::same_bits(got.at(i - begin, j), want.at(i, j)));
    }
  }
}

// q from F32 and from BF16 results, with d and without, a last block of 80 columns, rows of zeros.
TEST(CudaFp8GemmQuantised, EqualsTheCpuBackend) {
  constexpr int64_t kM = 150, kN = 208, kK = 272;
  Fp8Matrix zeros(kM, kK, QLayout::k1x128, 8);
  std::fill_n(zeros.codes.begin() + 5 * zeros.ld, kK, uint8_t{0});
  DeviceFp8Matrix a(std::move(zeros)), b(Fp8Matrix(kN, kK, QLayout::k128x128, 9));
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    std::vector<uint8_t> d_bytes(kM * kN * 4), codes(kM * (kN + 16), 0xFF);
    Matrix scale = Matrix::poisoned(kM, 2, 1);
    cpu::fp8_gemm({},
                  {.a = a.host.tensor(),
                   .b = b.host.tensor(),
                   .d = {d_bytes.data(), dtype, kM, kN},
                   .q = {{codes.data(), DType::kE4M3, kM, kN, kN + 16}, scale.tensor(), QLayout::k1x128}});
    for (const cuda::Fp8Tile tile : {cuda::Fp8Tile{2, 128}, {1, 128}, {2, 128, 2}}) {
      const test::Fp8Output alone(kM, kN), beside(kM, kN);
      const DeviceTensor d(dtype, kM, kN), plain(dtype, kM, kN);
      Tensor none = d.tensor();
      none.data = nullptr;
      cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = none, .q = alone.tensor()}, tile, kBlocks);
      cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor(), .q = beside.tensor()}, tile,
                     kBlocks);
      cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = plain.tensor()}, tile, kBlocks);
      EXPECT_EQ(alone.codes.download(), codes);
      EXPECT_EQ(beside.codes.download(), codes);
      EXPECT_TRUE(test::same_or_nan(alone.scale.download().values, scale.values));
      EXPECT_TRUE(test::same_or_nan(beside.scale.download().values, scale.values));
      EXPECT_TRUE(d.same_bytes(plain));
    }
    const test::Fp8Output chosen(kM, kN);
    const DeviceTensor d(dtype, kM, kN);
    cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor(), .q = chosen.tensor()});
    EXPECT_EQ(chosen.codes.download(), codes);
  }
}

// A scale that is not finite, and a NaN code, reach what they belong to and nothing else.
TEST(CudaFp8GemmNonFinite, EqualsTheCpuBackend) {
  constexpr int64_t kM = 70, kN = 176, kK = 272;
  Fp8Matrix a(kM, kK, QLayout::k1x128, 10), b(kN, kK, QLayout::k128x128, 11);
  a.scale.at(3, 1) = INFINITY;
  a.scale.at(66, 2) = NAN;
  b.codes[static_cast<size_t>(17 * b.ld + 200)] = test::kNanCode;
  Matrix want = Matrix::poisoned(kM, kN);
  cpu::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = want.tensor()});
  DeviceFp8Matrix da(std::move(a)), db(std::move(b));
  const DeviceTensor d(DType::kF32, kM, kN);
  cuda::fp8_gemm({}, {.a = da.tensor(), .b = db.tensor(), .d = d.tensor()});
  const Matrix got = d.download();
  for (int64_t i = 0; i < kM; ++i) {
    for (int64_t j = 0; j < kN; ++j) {
      const bool touched = i == 3 || i == 66 || j == 17;
      EXPECT_EQ(std::isfinite(got.at(i, j)), !touched) << i << " " << j;
      if (!touched) {
        ASSERT_TRUE(test::same_bits(got.at(i, j), want.at(i, j)));
      }
    }
  }
}

TEST(CudaFp8GemmErrors, NameTheNumbers) {
  DeviceFp8Matrix a(Fp8Matrix(4, 32, QLayout::k1x128, 12)), b(Fp8Matrix(32, 32, QLayout::k128x128, 13));
  const DeviceTensor d(DType::kF32, 4, 32, 4);
  const auto expect_error = [&](const char* words, const auto& change) {
    Fp8GemmArgs args{.a = a.tensor(), .b = b.tensor(), .d = d.tensor()};
    change(args);
    try {
      cuda::fp8_gemm({}, args);
      ADD_FAILURE() << "no error: " << words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  using A = Fp8GemmArgs;
  const auto moved = [](Tensor& t, int64_t bytes) { t.data = static_cast<char*>(t.data) + bytes; };
  expect_error("a at", [&](A& x) { moved(x.a.data, 8); });
  expect_error("b at", [&](A& x) { x.b.data.ld = 40; });
  expect_error("d at", [&](A& x) { moved(x.d, 4); });
  expect_error("K = 24", [](A& x) { x.a.data.cols = x.b.data.cols = 24; });
  expect_error("N = 20", [](A& x) { x.b.data.rows = 20; });
  expect_error("scales of a: F32 [4, 2], expected F32 [4, 1]", [](A& x) { x.a.scale.cols = 2; });
  EXPECT_THROW(cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor()}, {3, 128}, 1), Error);
}

// The choice: its words, the tiles of decoding and of training, what q rules out.
TEST(CudaFp8GemmChoice, FollowsTheShape) {
  const auto best = [](cuda::Fp8Problem p) {
    p.num_sms = 132;
    const cuda::Fp8Tile tile = cuda::best_fp8_tile(p).tile;
    EXPECT_EQ(tile, cuda::score_fp8_tiles(p).front().tile);
    return tile;
  };
  EXPECT_EQ(best({.m = 1, .n = 4096, .k = 7168}), (cuda::Fp8Tile{1, 32}));
  EXPECT_EQ(best({.m = 64, .n = 2112, .k = 7168}), (cuda::Fp8Tile{1, 16, 2}));
  EXPECT_EQ(best({.m = 4096, .n = 7168, .k = 16384}), (cuda::Fp8Tile{2, 128, 2}));
  EXPECT_EQ(best({.m = 4096, .n = 4096, .k = 7168, .quantised = true}), (cuda::Fp8Tile{2, 128, 2}));
  const std::string text =
      cuda::explain_fp8_gemm({.m = 64, .n = 4096, .k = 7168, .quantised = true, .num_sms = 132});
  EXPECT_NE(text.find("q needs its block of 128 columns in one tile"), std::string::npos) << text;
  EXPECT_NE(text.find("waves"), std::string::npos);
}

}  // namespace
}  // namespace contender
