#include "grpo/packing.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace contender {
namespace {

enum class Choice : uint8_t { kEmptiest, kFullest };

// One attempt with a given number of packs; false when something does not fit.
bool place(const std::vector<int64_t>& lengths, const std::vector<int32_t>& order, int64_t budget,
           Choice choice, std::vector<std::vector<int32_t>>& packs) {
  packs.assign(packs.size(), {});
  std::vector<int64_t> used(packs.size(), 0);
  for (int32_t s : order) {
    int64_t best = -1;
    for (int64_t pack = 0; pack < std::ssize(used); ++pack) {
      if (used[pack] + lengths[s] > budget) continue;
      if (best < 0 || (choice == Choice::kEmptiest ? used[pack] < used[best] : used[pack] > used[best]))
        best = pack;
    }
    if (best < 0) return false;
    used[best] += lengths[s];
    packs[best].push_back(s);
  }
  return true;
}

}  // namespace

Packs pack_sequences(const std::vector<int64_t>& lengths, int64_t slots, int64_t budget) {
  std::vector<int32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return lengths[a] > lengths[b]; });
  if (!order.empty() && lengths[order[0]] > budget)
    fail(ExitCode::kConfig, "train.token_budget: a sequence of {} tokens does not fit in {}",
         lengths[order[0]], budget);
  const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  for (int64_t rounds = std::max<int64_t>(1, ceil_div(total, slots * budget));; ++rounds) {
    std::vector<std::vector<int32_t>> flat(rounds * slots);
    if (!place(lengths, order, budget, Choice::kEmptiest, flat) &&
        !place(lengths, order, budget, Choice::kFullest, flat))
      continue;
    Packs packs(rounds, std::vector<std::vector<int32_t>>(slots));
    for (int64_t i = 0; i < rounds * slots; ++i) {
      std::sort(flat[i].begin(), flat[i].end());
      packs[i / slots][i % slots] = std::move(flat[i]);
    }
    return packs;
  }
}

}  // namespace contender
