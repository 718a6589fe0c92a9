#include "ops/embedding.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"
#include "tests/cuda/segment_table.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::Matrix;
using test::same_bits;
using test::SegmentTable;

std::vector<int32_t> some_tokens(int64_t n, int32_t vocab, uint64_t seed) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) tokens[i] = test::random_below(vocab, seed, static_cast<uint64_t>(i));
  return tokens;
}

// Table and result of one type, or a master table read as BF16.
class CudaEmbedding : public testing::TestWithParam<std::tuple<DType, DType, int, int>> {};

// Of two shards one gives the row, the other exact zeros; tokens of neither give zeros in both.
TEST_P(CudaEmbedding, ShardsSumToTheWhole) {
  const auto [table_dtype, dtype, h, padding] = GetParam();
  if (table_dtype == DType::kBF16 && dtype == DType::kF32) return;  // refused
  constexpr int64_t kVocab = 10;
  const Matrix table = test::rounded(Matrix::random(kVocab, h, 1, padding), table_dtype);
  const DeviceTensor device(table_dtype, table);
  for (const int64_t n : {0, 1, 130}) {
    std::vector<int32_t> tokens = some_tokens(n, kVocab, 2);
    if (n > 2) tokens[1] = -1, tokens[2] = 1 << 30;
    const DeviceArray<int32_t> device_tokens(tokens);
    for (int64_t shard = 0; shard < 2; ++shard) {
      const DeviceTensor y(dtype, n, h, padding);
      cuda::embedding({}, {.tokens = device_tokens.data(),
                           .table = device.tensor().row_range(shard * 5, shard * 5 + 5),
                           .vocab_begin = shard * 5,
                           .y = y.tensor()});
      const Matrix got = y.download();
      for (int64_t t = 0; t < n; ++t) {
        const bool here = tokens[t] >= shard * 5 && tokens[t] < shard * 5 + 5;
        for (int64_t c = 0; c < h; ++c)
          ASSERT_TRUE(same_bits(got.at(t, c), here ? test::rounded(table.at(tokens[t], c), dtype) : 0.0f))
              << t << " " << c;
      }
      EXPECT_TRUE(got.padding_untouched());
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaEmbedding,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(DType::kF32, DType::kBF16), testing::Values(64, 21),
                                          testing::Values(0, 8)));

struct BackwardShape {
  int64_t tokens, cols, padding, vocab, local, begin;
  int leaves;
};
std::ostream& operator<<(std::ostream& o, const BackwardShape& s) {
  return o << s.tokens << " tokens x " << s.cols << "+" << s.padding << ", " << s.local << " rows, "
           << s.leaves << " leaves";
}

class CudaEmbeddingBwd : public testing::TestWithParam<std::tuple<DType, BackwardShape>> {};

// The CPU backend's bits, twice, the padding untouched.
TEST_P(CudaEmbeddingBwd, EqualsTheCpuBackend) {
  const auto [dtype, s] = GetParam();
  const std::vector<int32_t> tokens = some_tokens(s.tokens, static_cast<int32_t>(s.vocab), 3);
  Matrix dy = test::rounded(Matrix::random(s.tokens, s.cols, 4, s.padding), dtype);
  const SegmentTable segments(s.tokens, s.leaves);
  Matrix want = Matrix::poisoned(s.local, s.cols);
  test::Workspace host(embedding_bwd_workspace_bytes(s.local, s.cols, s.leaves));
  cpu::embedding_bwd(host.exec(), {.tokens = tokens.data(),
                                   .dy = dy.tensor(),
                                   .vocab_begin = s.begin,
                                   .dtable = want.tensor(),
                                   .segments = segments.host()});
  const DeviceTensor device_dy(dtype, dy), dtable(DType::kF32, s.local, s.cols, s.padding),
      again(DType::kF32, s.local, s.cols, s.padding);
  const DeviceArray<int32_t> device_tokens(tokens);
  for (const DeviceTensor* out : {&dtable, &again})
    cuda::embedding_bwd({}, {.tokens = device_tokens.data(),
                             .dy = device_dy.tensor(),
                             .vocab_begin = s.begin,
                             .dtable = out->tensor(),
                             .segments = segments.device()});
  const Matrix got = dtable.download();
  for (int64_t v = 0; v < s.local; ++v) {
    for (int64_t c = 0; c < s.cols; ++c) ASSERT_TRUE(same_bits(got.at(v, c), want.at(v, c))) << v << " " << c;
  }
  EXPECT_TRUE(got.padding_untouched() && again.same_bytes(dtable));
}
// Several tiles; tiles whose tokens fill a list more than once, so that its rows are halved; one row that
// takes several lists; columns beyond one block's.
INSTANTIATE_TEST_SUITE_P(Shapes, CudaEmbeddingBwd,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(BackwardShape{0, 4, 0, 12, 6, 4, 1},
                                                          BackwardShape{1, 1, 0, 1, 1, 0, 1},
                                                          BackwardShape{50, 17, 1, 12, 6, 4, 1},
                                                          BackwardShape{900, 16, 0, 700, 600, 50, 8},
                                                          BackwardShape{3000, 8, 8, 300, 290, 5, 64},
                                                          BackwardShape{1500, 8, 0, 30, 29, 1, 512},
                                                          BackwardShape{40, 1060, 4, 12, 6, 4, 2},
                                                          BackwardShape{9000, 4, 0, 6, 6, 0, 4},
                                                          BackwardShape{9000, 4, 0, 1, 2, 0, 16})));

// A leaf's place in the tree is its number, not its rank among those present.
TEST(CudaEmbeddingTree, EverySetOfLeaves) {
  constexpr int32_t kLeaves = 8;
  const std::vector<int32_t> tokens(kLeaves, 0);
  Matrix dy = Matrix::random(kLeaves, 4, 5, 0, 0.3);
  const DeviceTensor device(DType::kF32, dy), dtable(DType::kF32, 1, 4);
  const DeviceArray<int32_t> device_tokens(tokens);
  for (int set = 0; set < 1 << kLeaves; ++set) {
    std::vector<RowSegment> list;
    for (int32_t i = 0; i < kLeaves; ++i) {
      list.push_back({i, i + (set >> i & 1), 0, i});
    }
    const SegmentTable segments(list, kLeaves);
    cuda::embedding_bwd({}, {.tokens = device_tokens.data(),
                             .dy = device.tensor(),
                             .dtable = dtable.tensor(),
                             .segments = segments.device()});
    const Matrix got = dtable.download();
    for (int64_t c = 0; c < 4; ++c)
      ASSERT_TRUE(same_bits(
          got.at(0, c),
          ref::canonical_sum(segments.host(), [&](float acc, int64_t t) { return acc + dy.at(t, c); })))
          << set;
  }
}

void sum_past_the_end() {
  const DeviceTensor dy(DType::kF32, 1, 8), dtable(DType::kF32, 2, 8);
  const DeviceArray<int32_t> tokens(1);
  const SegmentTable past({{0, 2, 0, 0}}, 1);
  cuda::embedding_bwd(
      {}, {.tokens = tokens.data(), .dy = dy.tensor(), .dtable = dtable.tensor(), .segments = past.device()});
  std::_Exit(cudaDeviceSynchronize() == cudaSuccess ? 0 : 3);
}
TEST(CudaEmbeddingDeathTest, SegmentsAreChecked) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(sum_past_the_end(), testing::ExitedWithCode(3), "");
}

TEST(CudaEmbeddingErrors, AreClear) {
  const DeviceTensor table(DType::kF32, 2, 8), y(DType::kF32, 1, 4), bf16(DType::kBF16, 2, 8),
      y8(DType::kF32, 1, 8);
  const DeviceArray<int32_t> tokens(1);
  EXPECT_THROW(cuda::embedding({}, {.tokens = tokens.data(), .table = table.tensor(), .y = y.tensor()}),
               Error);
  EXPECT_THROW(cuda::embedding({}, {.tokens = tokens.data(), .table = bf16.tensor(), .y = y8.tensor()}),
               Error);
  EXPECT_THROW(cuda::embedding_bwd({}, {.tokens = tokens.data(),
                                        .dy = y8.tensor(),
                                        .dtable = table.tensor(),
                                        .segments = {nullptr, 0, 1024}}),
               Error);
}

}  // namespace
}  // namespace contender
