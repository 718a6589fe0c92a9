#include <gtest/gtest.h>

#include <vector>

#include "data/prompts.h"

namespace contender {
namespace {

TEST(ShuffledIndex, EveryEpochIsAPermutation) {
  for (const int64_t size : {1, 2, 3, 5, 16, 17, 100, 1000, 4097}) {
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int> seen(size, 0);
      for (int64_t i = 0; i < size; ++i) {
        const int64_t index = shuffled_index(7, size, epoch * size + i);
        ASSERT_GE(index, 0);
        ASSERT_LT(index, size);
        ++seen[index];
      }
      for (int64_t i = 0; i < size; ++i)
        ASSERT_EQ(seen[i], 1) << "size " << size << " epoch " << epoch << " index " << i;
    }
  }
}

TEST(ShuffledIndex, EpochsAndSeedsDiffer) {
  int64_t same_epoch = 0, same_seed = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    same_epoch += shuffled_index(1, 1000, i) == shuffled_index(1, 1000, 1000 + i);
    same_seed += shuffled_index(1, 1000, i) == shuffled_index(2, 1000, i);
    EXPECT_EQ(shuffled_index(1, 1000, i), shuffled_index(1, 1000, i));
  }
  EXPECT_LT(same_epoch, 10);  // 1 expected
  EXPECT_LT(same_seed, 10);
}

TEST(ShuffledIndex, EveryPlaceIsEquallyLikely) {
  constexpr int64_t kSize = 10, kEpochs = 5000;
  int counts[kSize] = {};
  for (int64_t epoch = 0; epoch < kEpochs; ++epoch) ++counts[shuffled_index(3, kSize, epoch * kSize + 4)];
  double chi2 = 0;
  for (const int count : counts) chi2 += (count - 500.0) * (count - 500.0) / 500.0;
  EXPECT_LT(chi2, 30);  // 9 degrees of freedom: 27.9 is one in a thousand
}

TEST(ShuffledIndex, LargeSizes) {
  constexpr int64_t kSize = (int64_t{1} << 31) + 12345;
  for (int64_t i = 0; i < 1000; ++i) {
    const int64_t index = shuffled_index(5, kSize, 3 * kSize + i);
    EXPECT_GE(index, 0);
    EXPECT_LT(index, kSize);
  }
  EXPECT_ANY_THROW(shuffled_index(5, 0, 0));
  EXPECT_ANY_THROW(shuffled_index(5, 10, -1));
}

}  // namespace
}  // namespace contender
