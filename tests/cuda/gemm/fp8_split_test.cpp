// FP8 products in mode fast: K in parts that blocks of threads share.
#include "cuda/common/dispatch.h"
#include "cuda/gemm/split.h"
#include "ops/gemm.h"
#include "tests/cuda/gemm/fp8_products.h"

namespace contender {
namespace {

using cuda::Fp8Tile;
using cuda::Mode;
using test::DeviceFp8Matrix;
using test::DeviceTensor;
using test::DeviceWorkspace;
using test::expect_same_matrix;
using test::Fp8Matrix;
using test::Fp8Output;
using test::Matrix;

constexpr int64_t kBlocks = 5;

QTensor blocks_of(const QTensor& q, int64_t begin, int64_t end) {
  const int64_t k = q.data.cols;
  return {q.data.col_range(begin * 128, std::min(end * 128, k)), q.scale.col_range(begin, end), q.layout};
}

// The CPU's product of each part, summed as ((0+1)+(2+3))+...
Matrix sum_of_parts(Fp8Matrix& a, Fp8Matrix& b, int splits) {
  const int64_t blocks = ceil_div(a.cols, int64_t{128});
  std::vector<Matrix> parts;
  for (int64_t s = 0; s < splits; ++s) {
    const int64_t begin = s * blocks / splits, end = (s + 1) * blocks / splits;
    parts.push_back(Matrix::poisoned(a.rows, b.rows, 4));
    cpu::fp8_gemm({}, {.a = blocks_of(a.tensor(), begin, end),
                       .b = blocks_of(b.tensor(), begin, end),
                       .d = parts.back().tensor()});
  }
  for (int step = 1; step < splits; step *= 2) {
    for (size_t s = 0; s < parts.size(); s += static_cast<size_t>(2 * step)) {
      const Matrix& right = parts[s + static_cast<size_t>(step)];
      for (size_t i = 0; i < right.values.size(); ++i) parts[s].values[i] += right.values[i];
    }
  }
  return parts[0];
}

// Every tile: F32, F32 added to, BF16. 12 blocks, the last of 16: eight parts are not equal, the second of
// two begins where no piece of four scales does.
TEST(CudaFp8GemmSplit, IsTheSumOfItsParts) {
  constexpr int64_t kM = 70, kN = 176, kK = 11 * 128 + 16;
  DeviceFp8Matrix a(Fp8Matrix(kM, kK, QLayout::k1x128, 31)), b(Fp8Matrix(kN, kK, QLayout::k128x128, 32));
  const Matrix start = Matrix::random(kM, kN, 33, 4);
  for (const int splits : {2, 4, 8}) {
    const Matrix want = sum_of_parts(a.host, b.host, splits), half = test::rounded(want, DType::kBF16);
    Matrix sum = start;
    for (int64_t i = 0; i < kM; ++i) {
      for (int64_t j = 0; j < kN; ++j) sum.at(i, j) += want.at(i, j);
    }
    const DeviceWorkspace space(cuda::split_bytes(splits, kM, kN));
    const auto run = [&](const DeviceTensor& d, const Fp8Tile& tile, bool accumulate) {
      cuda::fp8_gemm(space.exec(),
                     {.a = a.tensor(), .b = b.tensor(), .d = d.tensor(), .accumulate = accumulate}, tile,
                     kBlocks, splits);
    };
    for (const Fp8Tile& tile : cuda::kFp8Tiles) {
      SCOPED_TRACE(testing::Message() << tile << " in " << splits);
      const DeviceTensor f32(DType::kF32, kM, kN, 4);
      run(f32, tile, false);
      expect_same_matrix(f32.download(), want);
      if (tile.block_n % 64 != 0) continue;  // the sum knows no tile
      const DeviceTensor added(DType::kF32, start), bf16(DType::kBF16, kM, kN, 8);
      run(added, tile, true);
      run(bf16, tile, false);
      expect_same_matrix(added.download(), sum);
      expect_same_matrix(bf16.download(), half);
    }
  }
}

// The rules of a block-scaled product for every split, down to parts of one block; the same bits run for run.
TEST(CudaFp8GemmSplit, DequantisedAndUnquantised) {
  constexpr int64_t kM = 5, kN = 48, kK = 4096;
  DeviceFp8Matrix a(Fp8Matrix(kM, kK, QLayout::k1x128, 34)), b(Fp8Matrix(kN, kK, QLayout::k128x128, 35));
  std::vector<double> dequantised, exact;
  for (int64_t i = 0; i < kM; ++i) {
    for (int64_t j = 0; j < kN; ++j) {
      dequantised.push_back(ref::fp8_dot(a.host.operand(), b.host.operand(), i, j, 0, kK));
      double sum = 0;
      for (int64_t l = 0; l < kK; ++l) sum += a.host.value(i, l) * b.host.value(j, l);
      exact.push_back(sum);
    }
  }
  for (int splits = 2; splits <= cuda::kMaxSplits; splits *= 2) {
    SCOPED_TRACE(splits);
    const DeviceWorkspace space(cuda::split_bytes(splits, kM, kN));
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const DeviceTensor d(dtype, kM, kN), again(dtype, kM, kN);
      for (const DeviceTensor* to : {&d, &again})
        cuda::fp8_gemm(space.exec(), {.a = a.tensor(), .b = b.tensor(), .d = to->tensor()}, {1, 32},
                       cuda::sm_count(), splits);
      EXPECT_TRUE(d.same_bytes(again));
      const Matrix result = d.download();
      const std::vector<double> got(result.values.begin(), result.values.end());
      EXPECT_LT(ref::calc_diff(got, dequantised), dtype == DType::kF32 ? 1e-7 : 2e-6);
      EXPECT_LT(ref::calc_diff(got, exact), 1e-3);
    }
  }
}

// What mode fast chooses where it may, and what it does without room for partial products.
TEST(CudaFp8GemmSplit, ModeFastTakesWhatTheWorkspaceHolds) {
  constexpr int64_t kM = 16, kN = 16, kK = 8192;
  DeviceFp8Matrix a(Fp8Matrix(kM, kK, QLayout::k1x128, 36)), b(Fp8Matrix(kN, kK, QLayout::k128x128, 37));
  const auto run = [&](const Exec& exec, Mode mode) {
    const DeviceTensor d(DType::kF32, kM, kN);
    cuda::fp8_gemm(exec, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor()}, mode);
    return d.download();
  };
  cuda::Fp8Problem problem = {.m = kM,
                              .n = kN,
                              .k = kK,
                              .num_sms = cuda::sm_count(),
                              .mode = Mode::kFast,
                              .out_bytes = 4,
                              .workspace_bytes = cuda::split_bytes(cuda::kMaxSplits, kM, kN)};
  const int splits = cuda::best_fp8_tile(problem).splits;
  ASSERT_GT(splits, 2);
  const DeviceWorkspace enough(problem.workspace_bytes), little(cuda::split_bytes(2, kM, kN));
  const Matrix whole = run({}, Mode::kExact);
  expect_same_matrix(run(enough.exec(), Mode::kFast), sum_of_parts(a.host, b.host, splits));
  expect_same_matrix(run(enough.exec(), Mode::kExact), whole);
  expect_same_matrix(run({}, Mode::kFast), whole);
  problem.workspace_bytes = little.exec().workspace_bytes;
  const int fewer = cuda::best_fp8_tile(problem).splits;
  ASSERT_EQ(fewer, 2);
  expect_same_matrix(run(little.exec(), Mode::kFast), sum_of_parts(a.host, b.host, fewer));
}

TEST(CudaFp8GemmSplitErrors, NameTheNumbers) {
  constexpr int64_t kM = 4, kN = 128, kK = 400;
  DeviceFp8Matrix a(Fp8Matrix(kM, kK, QLayout::k1x128, 38)), b(Fp8Matrix(kN, kK, QLayout::k128x128, 39));
  const DeviceTensor d(DType::kF32, kM, kN, 4);
  const Fp8Output q(kM, kN);
  const DeviceWorkspace space(cuda::split_bytes(2, kM, kN));
  const auto expect_error = [&](const char* words, const Fp8GemmArgs& args, int splits) {
    try {
      cuda::fp8_gemm(space.exec(), args, {1, 128}, kBlocks, splits);
      ADD_FAILURE() << "no error: " << words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  const Fp8GemmArgs good = {.a = a.tensor(), .b = b.tensor(), .d = d.tensor()};
  for (const int splits : {-2, 0, 3, 8, 64}) expect_error("K 400 of 1 groups", good, splits);
  expect_error("partial products need 8192 bytes of workspace, 4096 are there", good, 4);
  Fp8GemmArgs args = good;
  args.q = q.tensor();
  expect_error("with q", args, 2);
  args = good;
  args.d.data = static_cast<char*>(args.d.data) + 4;
  expect_error("d at", args, 2);
}

// Splits pay where tiles are few and K is long; not in mode exact, not by expert, not with q.
TEST(CudaFp8GemmSplitChoice, FollowsTheShape) {
  const cuda::Fp8Problem narrow = {
      .m = 16, .n = 256, .k = 7168, .num_sms = 132, .mode = Mode::kFast, .workspace_bytes = int64_t{1} << 30};
  const auto splits = [](const cuda::Fp8Problem& p) {
    const cuda::Fp8TileScore best = cuda::best_fp8_tile(p), first = cuda::score_fp8_tiles(p).front();
    EXPECT_TRUE(best.tile == first.tile && best.splits == first.splits && best.cycles == first.cycles);
    return best.splits;
  };
  EXPECT_GT(splits(narrow), 1);
  cuda::Fp8Problem p = narrow;
  p.mode = Mode::kExact;
  EXPECT_EQ(splits(p), 1);
  p = narrow;
  p.num_groups = 2;
  EXPECT_EQ(splits(p), 1);
  p = narrow;
  p.quantised = true;
  EXPECT_EQ(splits(p), 1);
  p = narrow;
  p.m = 4096, p.n = 7168;
  EXPECT_EQ(splits(p), 1);
  p = narrow;
  p.workspace_bytes = 0;
  EXPECT_EQ(splits(p), 1);
  const std::string text = cuda::explain_fp8_gemm(narrow);
  EXPECT_NE(text.find("split in 32"), std::string::npos) << text;
  EXPECT_NE(cuda::explain_fp8_gemm(p).find("bytes of workspace, 0 are there"), std::string::npos);
}

}  // namespace
}  // namespace contender
