#include "grpo/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/philox.h"

namespace contender {
namespace {

int64_t tokens_of(const std::vector<int32_t>& pack, const std::vector<int64_t>& lengths) {
  int64_t sum = 0;
  for (int32_t i : pack) sum += lengths[i];
  return sum;
}

// Best fit decreasing without a limit on the number of packs.
int64_t best_fit_packs(std::vector<int64_t> lengths, int64_t budget) {
  std::sort(lengths.rbegin(), lengths.rend());
  std::vector<int64_t> used;
  for (int64_t length : lengths) {
    auto best = used.end();
    for (auto it = used.begin(); it != used.end(); ++it)
      if (*it + length <= budget && (best == used.end() || *it > *best)) best = it;
    if (best == used.end()) {
      used.push_back(length);
    } else {
      *best += length;
    }
  }
  return std::ssize(used);
}

TEST(Packing, RandomLengthsKeepEveryPromise) {
  PhiloxSequence random(1, RandomStream::kTest, 11);
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t slots = int64_t{1} << random.below(4), budget = random.in_range(8, 200);
    // Up to the budget in a third of the trials, short in the others; any number of sequences from none.
    const int64_t longest = trial % 3 == 0 ? budget : std::max<int64_t>(1, budget / random.in_range(2, 6));
    std::vector<int64_t> lengths(random.below(60));
    for (int64_t& n : lengths) n = random.in_range(1, longest);
    SCOPED_TRACE(
        fmt::format("trial {}: {} sequences, {} slots, budget {}", trial, lengths.size(), slots, budget));

    const Packs packs = pack_sequences(lengths, slots, budget);
    EXPECT_EQ(packs, pack_sequences(lengths, slots, budget));
    std::vector<int32_t> seen;
    ASSERT_GE(packs.size(), 1u);
    for (const auto& round : packs) {
      ASSERT_EQ(std::ssize(round), slots);
      for (const auto& pack : round) {
        EXPECT_TRUE(std::is_sorted(pack.begin(), pack.end()));
        EXPECT_LE(tokens_of(pack, lengths), budget);
        seen.insert(seen.end(), pack.begin(), pack.end());
      }
    }
    std::sort(seen.begin(), seen.end());
    std::vector<int32_t> all(lengths.size());
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(seen, all);
    EXPECT_LE(std::ssize(packs), std::max<int64_t>(1, ceil_div(best_fit_packs(lengths, budget), slots)));
  }
}

TEST(Packing, BalancedWithinTheLongestSequence) {
  PhiloxSequence random(2, RandomStream::kTest, 11);
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<int64_t> lengths(random.in_range(32, 64));
    for (int64_t& n : lengths) n = random.in_range(1, 30);
    const Packs packs = pack_sequences(lengths, 4, 1000);
    ASSERT_EQ(packs.size(), 1u);
    std::vector<int64_t> tokens;
    for (const auto& pack : packs[0]) tokens.push_back(tokens_of(pack, lengths));
    const auto [least, most] = std::minmax_element(tokens.begin(), tokens.end());
    EXPECT_LE(*most - *least, *std::max_element(lengths.begin(), lengths.end()));
  }
}

TEST(Packing, FillsByBestFitWhereBalanceDoesNotFit) {
  // Emptiest first would be 5+3, 5+4 and a 3 that fits nowhere.
  EXPECT_EQ(pack_sequences({5, 5, 4, 3, 3}, 2, 10), (Packs{{{0, 1}, {2, 3, 4}}}));
}

TEST(Packing, TiesGoToTheFirst) {
  EXPECT_EQ(pack_sequences({3, 3, 3, 3}, 2, 6), (Packs{{{0, 2}, {1, 3}}}));
  EXPECT_EQ(pack_sequences({6, 6, 6}, 2, 6), (Packs{{{0}, {1}}, {{2}, {}}}));
}

TEST(Packing, NothingIsOneEmptyRound) { EXPECT_EQ(pack_sequences({}, 2, 8), (Packs{{{}, {}}})); }

TEST(Packing, TooLongNamesKeyLengthAndBudget) {
  try {
    pack_sequences({3, 17, 9}, 2, 16);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_STREQ(e.what(), "train.token_budget: a sequence of 17 tokens does not fit in 16");
  }
}

}  // namespace
}  // namespace contender
