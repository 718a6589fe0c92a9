// What counts as a spike of a watched number (gradient norm, loss, KL): far above everything recent, and not
// small in itself. Losses and KL are about 0 on policy, and norms are while no group has seen a reward: ten
// times that is still nothing.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace contender {

struct RecentValues {
  static constexpr size_t kWindow = 100, kWarmup = 10;
  std::vector<double> values;  // magnitudes of the last kWindow accepted updates, oldest first

  // factor 0: never; neither before kWarmup values are known.
  bool spike(double value, double factor, double floor) const {
    if (factor <= 0 || values.size() < kWarmup) return false;
    return std::abs(value) > std::max(floor, factor * *std::max_element(values.begin(), values.end()));
  }
  void add(double value) {
    values.push_back(std::abs(value));
    if (values.size() > kWindow) values.erase(values.begin());
  }
};

}  // namespace contender
