#include "ops/embedding.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/row_sum_ref.h"

namespace contender {
namespace {

using test::Matrix;
using test::same_bits;

std::vector<int32_t> random_tokens(int64_t n, int32_t vocab, uint64_t seed) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) tokens[i] = test::random_below(vocab, seed, static_cast<uint64_t>(i));
  return tokens;
}

// Two shards of the table sum to the whole: one gives the row, the other exact zeros.
TEST(CpuEmbedding, ShardsSumToTheWhole) {
  constexpr int64_t kVocab = 10, kHidden = 21, kTokens = 13;
  Matrix table = Matrix::random(kVocab, kHidden, 1, 3);
  const std::vector<int32_t> tokens = random_tokens(kTokens, kVocab, 2);
  for (int64_t shard = 0; shard < 2; ++shard) {
    Matrix y = Matrix::poisoned(kTokens, kHidden, 1);
    cpu::embedding({}, {.tokens = tokens.data(),
                        .table = table.tensor().row_range(shard * 5, shard * 5 + 5),
                        .vocab_begin = shard * 5,
                        .y = y.tensor()});
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t c = 0; c < kHidden; ++c) {
        EXPECT_TRUE(same_bits(y.at(t, c), tokens[t] / 5 == shard ? table.at(tokens[t], c) : 0.0f));
      }
    }
    EXPECT_TRUE(y.padding_untouched());
  }
}

class CpuEmbeddingBwd : public testing::TestWithParam<std::tuple<int, int, int>> {};

TEST_P(CpuEmbeddingBwd, CanonicalOrder) {
  const auto [tokens_count, h, leaves] = GetParam();
  constexpr int64_t kVocab = 12, kBegin = 4, kLocal = 6;
  const std::vector<int32_t> tokens = random_tokens(tokens_count, kVocab, 3);
  Matrix dy = Matrix::random(tokens_count, h, 4, 2), dtable = Matrix::poisoned(kLocal, h);
  const std::vector<RowSegment> list = ref::test_segments(tokens_count, leaves);
  const RowSegments segments{list.data(), static_cast<int32_t>(list.size()), leaves};
  test::Workspace workspace(embedding_bwd_workspace_bytes(kLocal, h, leaves));
  cpu::embedding_bwd(workspace.exec(), {.tokens = tokens.data(),
                                        .dy = dy.tensor(),
                                        .vocab_begin = kBegin,
                                        .dtable = dtable.tensor(),
                                        .segments = segments});
  for (int64_t v = 0; v < kLocal; ++v) {
    for (int64_t c = 0; c < h; ++c) {
      const float want = ref::canonical_sum(
          segments, [&](float acc, int64_t t) { return tokens[t] == kBegin + v ? acc + dy.at(t, c) : acc; });
      ASSERT_TRUE(same_bits(dtable.at(v, c), want)) << v << " " << c;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuEmbeddingBwd,
                         testing::Values(std::tuple(0, 4, 1), std::tuple(1, 1, 1), std::tuple(50, 17, 1),
                                         std::tuple(50, 16, 2), std::tuple(90, 33, 8)));

}  // namespace
}  // namespace contender
