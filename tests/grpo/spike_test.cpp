#include "grpo/spike.h"

#include <gtest/gtest.h>

namespace contender {
namespace {

TEST(Spike, FarAboveTheLastHundredAndTheFloor) {
  RecentValues r;
  for (int i = 0; i < 9; ++i) r.add(-0.5);
  EXPECT_FALSE(r.spike(1e9, 10, 0));  // too few to judge
  r.add(0.2);
  EXPECT_FALSE(r.spike(5.0, 10, 0));
  EXPECT_TRUE(r.spike(5.0001, 10, 0));
  EXPECT_TRUE(r.spike(-5.0001, 10, 0));
  EXPECT_FALSE(r.spike(5.0001, 10, 6));
  EXPECT_FALSE(r.spike(1e9, 0, 0));  // off
}

TEST(Spike, TheWindowMoves) {
  RecentValues r;
  r.add(100);
  for (int i = 0; i < 99; ++i) r.add(1);
  EXPECT_FALSE(r.spike(900, 10, 0));
  r.add(1);
  EXPECT_EQ(r.values.size(), 100u);
  EXPECT_TRUE(r.spike(900, 10, 0));
}

// Nothing has been learnt yet, so the gradient is 0; then the first reward comes.
TEST(Spike, TheFirstRewardIsNone) {
  RecentValues r;
  for (int i = 0; i < 50; ++i) r.add(0);
  EXPECT_FALSE(r.spike(0.7, 10, 1.0));
  EXPECT_TRUE(r.spike(1.1, 10, 1.0));
}

}  // namespace
}  // namespace contender
