#include "grpo/packing.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace contender {
namespace {

// One attempt with a given number of packs; false when something does not fit.
bool place(const std::vector<int64_t>& lengths, const std::vector<int32_t>& order, int64_t budget,
           std::vector<std::vector<int32_t>>& packs) {
  std::vector<int64_t> used(packs.size(), 0);
  for (int32_t s : order) {
    const auto pack = std::min_element(used.begin(), used.end()) - used.begin();
    if (used[pack] + lengths[s] > budget) return false;  // the emptiest has no room: none has
    used[pack] += lengths[s];
    packs[pack].push_back(s);
  }
  return true;
}

}  // namespace

Packs pack_sequences(const std::vector<int64_t>& lengths, int64_t slots, int64_t budget) {
  std::vector<int32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return lengths[a] > lengths[b]; });
  if (!order.empty() && lengths[order[0]] > budget)
    fail(ExitCode::kConfig, "train.token_budget: a sequence of {} tokens does not fit in {}", lengths[order[0]], budget);
  const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  for (int64_t rounds = std::max<int64_t>(1, ceil_div(total, slots * budget));; ++rounds) {
    std::vector<std::vector<int32_t>> flat(rounds * slots);
    if (!place(lengths, order, budget, flat)) continue;
    Packs packs(rounds, std::vector<std::vector<int32_t>>(slots));
    for (int64_t i = 0; i < rounds * slots; ++i) {
      std::sort(flat[i].begin(), flat[i].end());
      packs[i / slots][i % slots] = std::move(flat[i]);
    }
    return packs;
  }
}

}  // namespace contender
