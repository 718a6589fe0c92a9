#include "check/runs.h"

#include <array>

namespace ptxsim::check {

namespace {

constexpr uint32_t kWidths = 5;  // 1, 2, 4, 8, 16 bytes

constexpr std::array<std::array<uint8_t, 128>, kWidths> kTables = [] {
  std::array<std::array<uint8_t, 128>, kWidths> t{};
  for (uint32_t k = 0; k < 128; ++k) {
    t[0][k] = static_cast<uint8_t>(kQuads + k % 8);
    t[1][k] = static_cast<uint8_t>(kPairs + k % 16);
    t[2][k] = static_cast<uint8_t>(k % 32);
    t[3][k] = static_cast<uint8_t>(k / 2 % 32);
    t[4][k] = static_cast<uint8_t>(k / 4);
  }
  return t;
}();

Run single(uint64_t address, uint32_t bytes, uint32_t lane) {
  return {.address = address,
          .bytes = bytes,
          .lane = lane,
          .lanes = {.one = static_cast<uint8_t>(lane)},
          .whole_words = bytes >= 4};
}

}  // namespace

const uint8_t* consecutive_lanes(uint32_t bytes) {
  return kTables[static_cast<size_t>(__builtin_ctz(bytes))].data();
}

int find_runs(uint32_t mask, const uint64_t* addresses, uint32_t bytes, Run* out) {
  if (!(mask & (mask - 1))) {
    const auto lane = static_cast<uint32_t>(__builtin_ctz(mask));
    out[0] = single(addresses[lane], bytes, lane);
    return 1;
  }
  // Bit l: lane l + 1's address follows lane l's, or equals it.
  uint32_t next = 0, equal = 0;
  for (uint32_t l = 0; l + 1 < kWarpSize; ++l) {
    next |= uint32_t{addresses[l + 1] - addresses[l] == bytes} << l;
    equal |= uint32_t{addresses[l + 1] == addresses[l]} << l;
  }
  next &= mask & mask >> 1;
  equal &= mask & mask >> 1;
  if (bytes > 16) next = 0;
  int n = 0;
  for (uint32_t left = mask; left;) {
    const auto lane = static_cast<uint32_t>(__builtin_ctz(left));
    const uint64_t address = addresses[lane];
    uint32_t count = 1;
    if (next >> lane & 1) {
      count += static_cast<uint32_t>(__builtin_ctz(~(next >> lane)));
      const uint32_t all = count * bytes;
      if (bytes >= 4 || (address % 4 == 0 && all % 4 == 0 && lane * bytes % 4 == 0)) {
        // Half a warp that uses what the other half uses.
        if (n && out[n - 1].address == address && out[n - 1].bytes == all && out[n - 1].whole_words)
          out[n - 1].lanes = {.one = kEachLane};
        else
          out[n++] = {.address = address,
                      .bytes = all,
                      .lane = lane,
                      .lanes = {.table = consecutive_lanes(bytes) + lane * bytes / 4},
                      .whole_words = true};
      } else {
        for (uint32_t k = 0; k < count; ++k) out[n++] = single(address + k * bytes, bytes, lane + k);
      }
    } else {
      if (equal >> lane & 1) count += static_cast<uint32_t>(__builtin_ctz(~(equal >> lane)));
      out[n] = single(address, bytes, lane);
      if (count > 1) out[n].lanes.one = kEachLane;
      ++n;
    }
    left &= count + lane == kWarpSize ? 0 : ~uint32_t{0} << (lane + count);
  }
  return n;
}

}  // namespace ptxsim::check
