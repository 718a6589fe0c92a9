#include "data/mixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/error.h"

namespace contender {
namespace {

using Counts = std::vector<int64_t>;

// Which file each index belongs to.
size_t file_of(const Counts& sizes, int64_t index) {
  size_t f = 0;
  while (index >= sizes[f]) index -= sizes[f++];
  return f;
}

TEST(Mixture, SharesHoldExactlyInEveryBlock) {
  const Counts sizes = {70, 3, 1000};
  const Mixture mixture(sizes, {0.2, 0.5, 0.3});
  EXPECT_EQ(mixture.block(), 10);
  EXPECT_EQ(mixture.shares(), (Counts{2, 5, 3}));
  for (int64_t block = 0; block < 100; ++block) {
    Counts counts(3);
    for (int64_t i = 0; i < 10; ++i) {
      const int64_t index = mixture.index_at(7, block * 10 + i);
      ASSERT_TRUE(0 <= index && index < 1073);
      ++counts[file_of(sizes, index)];
    }
    EXPECT_EQ(counts, mixture.shares()) << block;
  }
}

TEST(Mixture, EveryFileGoesThroughItsOwnEpochs) {
  const Counts sizes = {7, 40, 1};
  const Mixture mixture(sizes, {2, 1, 1});
  std::vector<Counts> given(3);
  for (int64_t position = 0; position < 4 * 280; ++position) {
    const int64_t index = mixture.index_at(3, position);
    given[file_of(sizes, index)].push_back(index);
  }
  ASSERT_EQ(given[0].size(), 560u);
  ASSERT_EQ(given[1].size(), 280u);
  for (size_t f = 0; f < 3; ++f) {
    std::sort(given[f].begin(), given[f].end());
    const int64_t times = std::ssize(given[f]) / sizes[f];
    for (int64_t k = 0; k < std::ssize(given[f]); ++k) EXPECT_EQ(given[f][k] - given[f][0], k / times);
  }
}

TEST(Mixture, APositionIsAllThatIsRemembered) {
  const Counts sizes = {50, 20};
  const Mixture a(sizes, {3, 4}), b(sizes, {3, 4});
  Counts forward, backward, other_seed;
  for (int64_t i = 0; i < 700; ++i) forward.push_back(a.index_at(5, i));
  for (int64_t i = 699; i >= 0; --i) backward.push_back(b.index_at(5, i));
  for (int64_t i = 0; i < 700; ++i) other_seed.push_back(a.index_at(6, i));
  std::reverse(backward.begin(), backward.end());
  EXPECT_EQ(forward, backward);
  EXPECT_NE(forward, other_seed);
  // Epochs differ, and so do files of one size.
  EXPECT_NE(Counts(forward.begin(), forward.begin() + 350), Counts(forward.begin() + 350, forward.end()));
  const Mixture twins({30, 30}, {1, 1});
  Counts first, second;
  for (int64_t i = 0; i < 60; ++i) {
    const int64_t index = twins.index_at(5, i);
    (index < 30 ? first : second).push_back(index % 30);
  }
  EXPECT_NE(first, second);
}

TEST(Mixture, WeightsAreSharesToAThousandth) {
  EXPECT_EQ(Mixture({5, 5}, {1, 2}).shares(), (Counts{1, 2}));
  EXPECT_EQ(Mixture({5}, {0.37}).shares(), (Counts{1}));
  EXPECT_EQ(Mixture({5, 5, 5}, {1, 1, 1}).shares(), (Counts{1, 1, 1}));
  EXPECT_EQ(Mixture({5, 5}, {0.001, 0.999}).shares(), (Counts{1, 999}));
  const Mixture irrational({5, 5, 5}, {1, 1.4142135623730951, 3.141592653589793});
  EXPECT_EQ(irrational.block(), 1000);
  EXPECT_EQ(irrational.shares(), (Counts{180, 255, 565}));  // 179.98, 254.54, 565.44
  EXPECT_THROW(Mixture({5, 5}, {1, 1000}), Error);
}

TEST(Mixture, HeldOutFilesAreInterleaved) {
  EXPECT_EQ(interleaved({3}), (Counts{0, 1, 2}));
  EXPECT_EQ(interleaved({1, 4}), (Counts{1, 2, 0, 3, 4}));
  const Counts order = interleaved({100, 10});
  EXPECT_EQ(std::count_if(order.begin(), order.begin() + 55, [](int64_t i) { return i >= 100; }), 5);
  EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), 110u);
}

}  // namespace
}  // namespace contender
