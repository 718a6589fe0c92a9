// Words of every length beside the definition of BPE, followed to the letter.
#include "data/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace contender {
namespace {

using Ids = std::vector<int32_t>;
constexpr int kBytes = 3, kMerges = 40;

// As long as a pair of the table is there: the leftmost of the lowest rank becomes one symbol.
Ids encoded_by_definition(const std::string& word, const std::vector<BpeMerge>& merges) {
  Ids ids;
  for (const char c : word) ids.push_back(c - 'a');
  for (;;) {
    size_t best = merges.size(), place = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto rank = static_cast<size_t>(
          std::find_if(merges.begin(), merges.end(),
                       [&](const BpeMerge& m) { return m.left == ids[i] && m.right == ids[i + 1]; }) -
          merges.begin());
      if (rank < best) best = rank, place = i;
    }
    if (best == merges.size()) return ids;
    ids[place] = merges[best].merged;
    ids.erase(ids.begin() + static_cast<int64_t>(place) + 1);
  }
}

TEST(Bpe, IsItsDefinition) {
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<uint32_t>(n)); };
  for (int table = 0; table < 20; ++table) {
    std::array<int32_t, 256> byte_ids;
    byte_ids.fill(-1);
    for (int32_t b = 0; b < kBytes; ++b) byte_ids['a' + b] = b;
    std::vector<BpeMerge> merges;
    while (merges.size() < kMerges) {
      const int32_t ids = kBytes + static_cast<int32_t>(merges.size());
      const BpeMerge m = {below(ids), below(ids), ids};
      if (std::none_of(merges.begin(), merges.end(),
                       [&](const BpeMerge& other) { return other.left == m.left && other.right == m.right; }))
        merges.push_back(m);
    }
    std::shuffle(merges.begin(), merges.end(), random);
    const BpeModel model(byte_ids, merges, {});
    BpeScratch scratch;
    for (int i = 0; i < 60; ++i) {
      std::string word;
      for (int n = 1 + below(i % 2 == 0 ? 60 : 300); n > 0; --n)
        word += static_cast<char>('a' + below(kBytes));
      Ids got;
      model.encode(word, scratch, got);
      ASSERT_EQ(got, encoded_by_definition(word, merges)) << word;
    }
  }
}

TEST(Bpe, WholeWordsOfAnyLengthAreOneToken) {
  std::array<int32_t, 256> byte_ids;
  byte_ids.fill(0);
  for (const size_t length : {1, 8, 30, 31, 48, 49, 200}) {
    const std::string word(length, 'a');
    const BpeModel model(byte_ids, {}, {{word, 7}});
    BpeScratch scratch;
    for (int again = 0; again < 2; ++again) {  // the second time it is remembered
      Ids got;
      model.encode(word, scratch, got);
      model.encode(word + "a", scratch, got);
      Ids want = {7};
      want.insert(want.end(), length + 1, 0);
      EXPECT_EQ(got, want) << length;
    }
  }
}

}  // namespace
}  // namespace contender
