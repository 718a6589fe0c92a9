#include "base/philox.h"

#include <gtest/gtest.h>

#include <bit>
#include <set>

namespace contender {
namespace {

// Known answers of Random123 (Salmon et al.), philox4x32 with 10 rounds.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0, 0), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, ones, ones),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Every part of the key matters: neighbours in seed, stream or any counter share no word.
TEST(Philox, KeysAreIndependent) {
  std::set<PhiloxBlock> blocks;
  int made = 0;
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
    for (RandomStream stream : {RandomStream::kInit, RandomStream::kSample, RandomStream::kTest}) {
      for (uint64_t c0 : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
        for (uint32_t c1 : {0u, 1u}) {
          for (uint32_t c2 : {0u, 1u}) {
            blocks.insert(philox(seed, stream, c0, c1, c2));
            ++made;
          }
        }
      }
    }
  }
  EXPECT_EQ(static_cast<int>(blocks.size()), made);
}

// Bits of two streams agree half of the time: 64,000 fair coins, so 5 standard deviations are 0.01.
TEST(Philox, StreamsAreUncorrelated) {
  int64_t equal_bits = 0, total = 0;
  for (uint64_t i = 0; i < 500; ++i) {
    const PhiloxBlock a = philox(7, RandomStream::kInit, i), b = philox(7, RandomStream::kSample, i);
    for (int j = 0; j < 4; ++j) equal_bits += 32 - std::popcount(a[j] ^ b[j]);
    total += 128;
  }
  EXPECT_NEAR(static_cast<double>(equal_bits) / static_cast<double>(total), 0.5, 0.01);
}

TEST(Philox, UniformStaysInside) {
  EXPECT_GT(uniform01(0), 0.0f);
  EXPECT_LT(uniform01(0xffffffff), 1.0f);
  double sum = 0;
  for (uint64_t i = 0; i < 10000; ++i) sum += uniform01(philox(8, RandomStream::kTest, i)[0]);
  EXPECT_NEAR(sum / 10000, 0.5, 0.015);  // 5 standard deviations
}

TEST(Philox, NormalHasUnitVariance) {
  double sum = 0, squares = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const PhiloxBlock b = philox(9, RandomStream::kTest, i);
    const float x = normal01(b[0], b[1]);
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += static_cast<double>(x) * x;
  }
  EXPECT_NEAR(sum / 10000, 0, 0.05);
  EXPECT_NEAR(squares / 10000, 1, 0.08);
  EXPECT_TRUE(std::isfinite(normal01(0, 0)) && std::isfinite(normal01(0xffffffff, 0xffffffff)));
}

TEST(Philox, SequenceWalksTheBlocks) {
  PhiloxSequence s(11, RandomStream::kTask, 5, 6);
  for (uint32_t block = 0; block < 3; ++block) {
    for (uint32_t word : philox(11, RandomStream::kTask, 5, 6, block)) EXPECT_EQ(s.next(), word);
  }
  std::set<int64_t> seen;
  for (int i = 0; i < 200; ++i) {
    const int64_t v = s.in_range(-2, 3);
    ASSERT_TRUE(-2 <= v && v <= 3);
    seen.insert(v);
  }
  EXPECT_EQ(seen.size(), 6u);
  EXPECT_EQ(s.below(1), 0u);
}

}  // namespace
}  // namespace contender
