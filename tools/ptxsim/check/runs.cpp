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

// Who uses each word where 32 lanes have consecutive addresses of `bytes` (1, 2, 4, 8, 16) each.
const uint8_t* consecutive_lanes(uint32_t bytes) {
  return kTables[static_cast<size_t>(__builtin_ctz(bytes))].data();
}

Run single(uint64_t address, uint32_t bytes, uint32_t lane) {
  return {.address = address,
          .bytes = bytes,
          .lane = lane,
          .lanes = {.one = static_cast<uint8_t>(lane)},
          .whole_words = bytes >= 4};
}

Run broadcast(uint64_t address, uint32_t bytes, uint32_t lane) {
  Run r = single(address, bytes, lane);
  r.lanes.one = kEachLane;
  return r;
}

// The usual patterns of a whole warp: all lanes, or each half of them, use one piece of memory. 0: none of
// these.
int find_whole_warp(const uint64_t* a, uint32_t bytes, Run* out) {
  constexpr uint32_t kHalf = kWarpSize / 2;
  uint64_t low_in_row = 0, high_in_row = 0, halves = 0, low_same = 0, high_same = 0;
  for (uint32_t l = 0; l < kHalf; ++l) {
    low_in_row |= a[l] ^ (a[0] + l * bytes);
    high_in_row |= a[kHalf + l] ^ (a[0] + (kHalf + l) * bytes);
    halves |= a[l] ^ a[kHalf + l];
    low_same |= a[l] ^ a[0];
    high_same |= a[kHalf + l] ^ a[kHalf];
  }
  if (!low_in_row && bytes <= 16 && (bytes >= 4 || a[0] % 4 == 0)) {
    const Run row{.address = a[0],
                  .bytes = kHalf * bytes,
                  .lanes = {.table = consecutive_lanes(bytes)},
                  .whole_words = true};
    if (!high_in_row) {
      out[0] = row;
      out[0].bytes *= 2;
      return 1;
    }
    if (!halves) {
      out[0] = row;
      out[0].lanes = {.one = kEachLane};
      return 1;
    }
  }
  if (low_same | high_same) return 0;
  out[0] = broadcast(a[0], bytes, 0);
  if (a[0] == a[kHalf]) return 1;
  out[1] = broadcast(a[kHalf], bytes, kHalf);
  return 2;
}

}  // namespace

int find_runs(uint32_t mask, const uint64_t* addresses, uint32_t bytes, Run* out) {
  if (!(mask & (mask - 1))) {
    const auto lane = static_cast<uint32_t>(__builtin_ctz(mask));
    out[0] = single(addresses[lane], bytes, lane);
    return 1;
  }
  if (mask == kAllLanes)
    if (const int n = find_whole_warp(addresses, bytes, out)) return n;
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
      out[n++] = count > 1 ? broadcast(address, bytes, lane) : single(address, bytes, lane);
    }
    left &= count + lane == kWarpSize ? 0 : ~uint32_t{0} << (lane + count);
  }
  return n;
}

}  // namespace ptxsim::check
