#include "data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "data/prompts.h"

namespace contender {
namespace {

constexpr int64_t kMaxBlock = 1000;

// Positions of each file in a block of `block`, rounded down; what is left over goes to the largest
// remainders.
std::vector<int64_t> rounded_shares(const std::vector<double>& weights, double sum, int64_t block) {
  std::vector<int64_t> shares;
  std::vector<double> remainders;
  for (const double w : weights) {
    const double exact = w / sum * static_cast<double>(block);
    shares.push_back(static_cast<int64_t>(std::floor(exact + 1e-9)));
    remainders.push_back(exact - static_cast<double>(shares.back()));
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  const int64_t left = block - std::accumulate(shares.begin(), shares.end(), int64_t{0});
  for (int64_t i = 0; i < left; ++i) ++shares[order[i]];
  return shares;
}

bool exact_shares(const std::vector<double>& weights, double sum, int64_t block) {
  return std::all_of(weights.begin(), weights.end(), [&](double w) {
    const double share = w / sum * static_cast<double>(block);
    return share > 0.5 && std::abs(share - std::round(share)) < 1e-9 * share;
  });
}

}  // namespace

Mixture::Mixture(std::vector<int64_t> sizes, const std::vector<double>& weights) : sizes_(std::move(sizes)) {
  CHECK(!sizes_.empty() && sizes_.size() == weights.size(), "{} files, {} weights", sizes_.size(),
        weights.size());
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (const double w : weights) {
    if (w / sum * kMaxBlock < 1 - 1e-9)
      fail(ExitCode::kConfig, "task.train_weights: {} is less than a thousandth of their sum, {}", w, sum);
  }
  block_ = 1;
  while (block_ < kMaxBlock && !exact_shares(weights, sum, block_)) ++block_;
  shares_ = rounded_shares(weights, sum, block_);
}

int64_t Mixture::index_at(uint64_t seed, int64_t position) const {
  int64_t slot = shuffled_index(seed, block_, position);
  int64_t begin = 0;  // of the file's prompts
  for (size_t f = 0;; ++f) {
    if (slot < shares_[f]) {
      const int64_t given = position / block_ * shares_[f] + slot;  // how many of the file come before it
      // Files of one size are not shuffled alike.
      return begin + shuffled_index(seed + 0x9E3779B97F4A7C15u * (f + 1), sizes_[f], given);
    }
    slot -= shares_[f];
    begin += sizes_[f];
  }
}

std::vector<int64_t> interleaved(const std::vector<int64_t>& sizes) {
  std::vector<std::pair<double, int64_t>> places;  // fraction of the file, index
  for (const int64_t size : sizes) {
    const int64_t begin = std::ssize(places);
    for (int64_t k = 0; k < size; ++k)
      places.emplace_back((static_cast<double>(k) + 0.5) / static_cast<double>(size), begin + k);
  }
  std::sort(places.begin(), places.end());
  std::vector<int64_t> order;
  for (const auto& [fraction, index] : places) order.push_back(index);
  return order;
}

}  // namespace contender
