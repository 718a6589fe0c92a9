#include <gtest/gtest.h>

#include <algorithm>

#include "cuda/gemm/bf16_gemm.h"
#include "cuda/gemm/shapes.h"

namespace contender {
namespace {

using cuda::bf16_gemm_tiles;
using cuda::GemmShape;
using cuda::kModelRows;
using cuda::kModelShapes;
using cuda::Mode;
using cuda::ProductShape;
using cuda::Side;
using cuda::TileScore;
using cuda::TileShape;

constexpr int64_t kSms = 132;

TileShape chosen(const ProductShape& shape) {
  return bf16_gemm_tiles()[static_cast<size_t>(choose_tile(bf16_gemm_tiles(), shape, kSms).index)];
}

// Few rows are wgmma's N and no more of it than they need; many fill the largest tiles.
TEST(Bf16Schedule, TilesFollowTheRows) {
  for (const int64_t m : {1, 16, 32, 64}) {
    const TileShape t = chosen({.m = m, .n = 7168, .k = 2048});
    EXPECT_EQ(t.side, Side::kColumns) << m;
    EXPECT_EQ(t.tile_m(), std::max<int64_t>(m, 16)) << m;
  }
  const TileShape large = chosen({.m = 8192, .n = 8192, .k = 8192});
  EXPECT_EQ(large.side, Side::kRows);
  EXPECT_EQ(large.wgmma_n, 256);
}

// Every shape of the models has a tile, with any number of slices; the other scores are no better, and the
// text has a line for each.
TEST(Bf16Schedule, EveryModelShapeHasATile) {
  for (const GemmShape& s : kModelShapes) {
    for (const int64_t m : kModelRows) {
      for (const int slices : {1, 2, 4}) {
        const ProductShape shape = {.m = m,
                                    .n = s.n,
                                    .k = s.k,
                                    .layers = s.groups,
                                    .grouped = s.groups > 1,
                                    .slices = s.groups > 1 ? 1 : slices};
        const std::vector<TileScore> scores = score_tiles(bf16_gemm_tiles(), shape, kSms);
        ASSERT_EQ(scores.size(), bf16_gemm_tiles().size() * (shape.slices > 1 ? 2 : 1));
        EXPECT_EQ(choose_tile(bf16_gemm_tiles(), shape, kSms).index, scores[0].index);
        for (const TileScore& t : scores) {
          const TileShape& tile = bf16_gemm_tiles()[static_cast<size_t>(t.index)];
          EXPECT_EQ(t.reason.empty(), t.splits == 1 && (1 << tile.levels) >= shape.slices);  // no workspace
          EXPECT_TRUE(!t.reason.empty() || t.total >= scores[0].total);
        }
        const std::string text = explain_tiles(bf16_gemm_tiles(), shape, kSms);
        EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), static_cast<int64_t>(scores.size()) + 1);
      }
    }
  }
}

// Exact: one chain, or its slices apart, which is the same sum. Fast: any equal parts. Parts of K pay where
// tiles are few and K is long.
TEST(Bf16Schedule, SplitsFollowTheMode) {
  constexpr int64_t kSpace = int64_t{1} << 30;
  const ProductShape few = {.m = 16, .n = 2112, .k = 7168, .workspace_bytes = kSpace};
  ProductShape fast = few, sliced = few;
  fast.mode = Mode::kFast;
  sliced.slices = 4;
  EXPECT_EQ(choose_tile(bf16_gemm_tiles(), few, kSms).splits, 1);
  EXPECT_GT(choose_tile(bf16_gemm_tiles(), fast, kSms).splits, 1);
  EXPECT_EQ(choose_tile(bf16_gemm_tiles(), sliced, kSms).splits, 4);
  fast.workspace_bytes = 1000;
  EXPECT_EQ(choose_tile(bf16_gemm_tiles(), fast, kSms).splits, 1);
  EXPECT_NE(explain_tiles(bf16_gemm_tiles(), fast, kSms).find("1000 are there"), std::string::npos);
  EXPECT_EQ(
      choose_tile(bf16_gemm_tiles(),
                  {.m = 8192, .n = 8192, .k = 8192, .mode = Mode::kFast, .workspace_bytes = kSpace}, kSms)
          .splits,
      1);
  EXPECT_FALSE(cuda::may_split({.m = 1, .n = 8, .k = 24, .mode = Mode::kFast}, 2));  // parts of 12
  EXPECT_FALSE(cuda::may_split({.m = 1, .n = 8, .k = 64, .layers = 2, .mode = Mode::kFast}, 2));
  EXPECT_FALSE(cuda::may_split({.m = 1, .n = 8, .k = 64, .slices = 4}, 2));
}

TEST(Bf16Schedule, NothingFitsEightSlices) {
  EXPECT_THROW(choose_tile(bf16_gemm_tiles(), {.m = 1, .n = 64, .k = 64, .slices = 8}, kSms), Error);
}

}  // namespace
}  // namespace contender
