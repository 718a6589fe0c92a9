#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <random>

#include "exec/mbarrier.h"

namespace ptxsim {
namespace {

TEST(MbarrierWord, KeepsItsFields) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 1000; ++round) {
    Mbarrier b;
    b.pending = random() % (kMbarrierMaxCount + 1);
    b.expected = random() % (kMbarrierMaxCount + 1);
    b.tx = static_cast<int32_t>(random() % (2 * kMbarrierMaxCount + 1)) -
           static_cast<int32_t>(kMbarrierMaxCount);
    b.parity = random() & 1;
    const uint64_t word = b.encode();
    const std::optional<Mbarrier> back = Mbarrier::decode(word);
    ASSERT_TRUE(back);
    ASSERT_EQ(back->pending, b.pending);
    ASSERT_EQ(back->expected, b.expected);
    ASSERT_EQ(back->tx, b.tx);
    ASSERT_EQ(back->parity, b.parity);
    ASSERT_EQ(mbarrier_parity(word), b.parity);
  }
}

TEST(MbarrierWord, CommonContentsOfMemoryAreNone) {
  for (int byte : {0x00, 0xff, 0xcd, 0xaa, 0x55, 0xa5, 0x7f, 0x01, 0xde}) {
    uint64_t word;
    std::memset(&word, byte, sizeof word);
    EXPECT_FALSE(Mbarrier::decode(word)) << byte;
  }
  // Random words and pairs of floats: three of four are told from mbarriers.
  std::mt19937_64 random(2);
  int words = 0, floats = 0;
  for (int round = 0; round < 4000; ++round) {
    words += Mbarrier::decode(random()).has_value();
    const auto a = std::bit_cast<uint32_t>(static_cast<float>(random() % 1000) / 64),
               b = std::bit_cast<uint32_t>(static_cast<float>(random() % 1000) / 64);
    floats += Mbarrier::decode(uint64_t{a} << 32 | b).has_value();
  }
  EXPECT_LT(words, 1200);
  EXPECT_LT(floats, 1200);
}

TEST(MbarrierWord, CompletesWhenNothingIsMissing) {
  Mbarrier b{.pending = 1, .expected = 5};
  EXPECT_FALSE(b.try_complete());
  b.pending = 0;
  b.tx = -16;
  EXPECT_FALSE(b.try_complete()) << "bytes have come that nobody has expected yet";
  b.tx = 0;
  EXPECT_TRUE(b.try_complete());
  EXPECT_EQ(b.pending, 5u);
  EXPECT_TRUE(b.parity);
}

}  // namespace
}  // namespace ptxsim
