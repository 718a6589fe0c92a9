// The data structures of the checks, each against something simple.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "check/clock.h"
#include "check/remote.h"
#include "check/runs.h"
#include "check/shared_shadow.h"

namespace ptxsim::check {
namespace {

// Lane of each byte that the runs name, or -1.
std::map<uint64_t, uint32_t> bytes_of_runs(const Run* runs, int n) {
  std::map<uint64_t, uint32_t> out;
  for (int k = 0; k < n; ++k)
    for (uint32_t b = 0; b < runs[k].bytes; ++b) {
      const uint64_t at = runs[k].address + b;
      const uint32_t lanes = runs[k].lanes[runs[k].whole_words ? b / 4 : 0];
      out[at] = out.count(at) ? kEachLane : lane_of_byte(lanes, at % 4);
    }
  return out;
}

TEST(CheckRuns, NameTheBytesAndLanesOfAnyPattern) {
  std::mt19937 random(1);
  for (int round = 0; round < 4000; ++round) {
    const uint32_t bytes = 1u << random() % 5;
    const uint32_t mask =
        round % 3 == 0 ? kAllLanes : static_cast<uint32_t>(random() & random()) | 1u << random() % 32;
    const uint64_t base = 4096 + random() % 8 * bytes;
    uint64_t addresses[kWarpSize];
    uint64_t at = base;
    const uint32_t kind = random() % 4;
    for (uint64_t& a : addresses) {
      a = at;
      if (kind == 0 || random() % 4)
        at += bytes;  // mostly consecutive
      else if (kind == 1)
        at = base + random() % 64 * bytes;
    }
    if (kind == 2)
      for (int l = 16; l < 32; ++l) addresses[l] = addresses[l - 16];
    std::map<uint64_t, uint32_t> expected;
    for (uint32_t l = 0; l < 32; ++l)
      if (mask >> l & 1)
        for (uint32_t b = 0; b < bytes; ++b) {
          const uint64_t byte = addresses[l] + b;
          expected[byte] = expected.count(byte) ? kEachLane : l;
        }
    check::Run runs[kWarpSize];
    const int n = find_runs(mask, addresses, bytes, runs);
    ASSERT_LE(n, 32);
    EXPECT_EQ(bytes_of_runs(runs, n), expected) << "bytes " << bytes << " mask " << mask << " kind " << kind;
  }
}

TEST(CheckRuns, UsualPatternsAreOneRun) {
  check::Run runs[kWarpSize];
  uint64_t a[kWarpSize];
  for (const uint32_t bytes : {1u, 2u, 4u, 8u, 16u}) {
    for (uint32_t l = 0; l < 32; ++l) a[l] = 1024 + l * bytes;
    EXPECT_EQ(find_runs(kAllLanes, a, bytes, runs), 1);
    for (uint32_t l = 0; l < 32; ++l) a[l] = 1024;
    EXPECT_EQ(find_runs(kAllLanes, a, bytes, runs), 1);
    for (uint32_t l = 0; l < 32; ++l) a[l] = 1024 + l % 16 * bytes;
    EXPECT_EQ(find_runs(kAllLanes, a, bytes, runs), 1);
  }
}

TEST(CheckClock, JoinsNeverForget) {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    Known a, b;
    std::set<std::pair<Clock, uint32_t>> known;
    for (Known* k : {&a, &b})
      for (int n = 0; n < 3; ++n) {
        const Clock clock = random() % 20;
        const uint32_t lanes = random() % 3 ? 1u << random() % 32 : ~0u;
        k->add(clock, lanes);
        for (uint32_t l = 0; l < 32; ++l)
          if (lanes >> l & 1) known.insert({clock, l});
      }
    a.join(b);
    for (const auto& [clock, lane] : known) EXPECT_TRUE(a.covers(clock, lane));
    EXPECT_FALSE(a.covers(20, 0));
  }
}

TEST(CheckRemote, MapsJoinAsMapsDo) {
  std::mt19937 random(3);
  for (const uint64_t clusters : {1ull, 16ull, 17ull, 5000ull}) {
    const int levels = remote_levels(clusters);
    std::vector<Remote> maps(6);
    std::vector<std::map<uint64_t, Clock>> plain(6);
    for (int round = 0; round < 400; ++round) {
      const size_t a = random() % 6, b = random() % 6;
      if (random() % 2) {
        const uint64_t cluster = random() % clusters;
        auto leaf = std::make_shared<Leaf>();
        if (const Leaf* old = remote_find(maps[a], cluster, levels)) *leaf = *old;
        leaf->order.at(3).add(plain[a][cluster] = plain[a][cluster] + 1 + random() % 3, ~0u);
        maps[a] = remote_with(maps[a], cluster, leaf, levels);
      } else {
        maps[a] = remote_join(maps[a], maps[b], levels);
        for (const auto& [cluster, clock] : plain[b]) plain[a][cluster] = std::max(plain[a][cluster], clock);
      }
      EXPECT_EQ(remote_join(maps[a], maps[a], levels), maps[a]);
    }
    for (size_t k = 0; k < 6; ++k)
      for (uint64_t c = 0; c < std::min<uint64_t>(clusters, 300); ++c) {
        const Leaf* leaf = remote_find(maps[k], c, levels);
        EXPECT_EQ(leaf ? leaf->order.all(3) : 0, plain[k].count(c) ? plain[k][c] : 0);
      }
  }
}

TEST(CheckRemote, JoinWithSomethingOlderChangesNothing) {
  Remote map, older;
  for (uint64_t c = 0; c < 1000; ++c) {
    auto leaf = std::make_shared<Leaf>();
    leaf->order.at(0).add(1, ~0u);
    map = remote_with(map, c, leaf, 3);
    if (c == 500) older = map;
  }
  EXPECT_EQ(remote_join(map, older, 3), map);
  EXPECT_EQ(remote_join(older, map, 3), map);
}

TEST(CheckShadow, BitsOfBytes) {
  std::mt19937 random(4);
  SharedShadow shadow;
  shadow.reset(2048);
  std::vector<bool> written(2048);
  for (int round = 0; round < 500; ++round) {
    const uint32_t offset = random() % 2000, bytes = 1 + random() % std::min(200u, 2048 - offset);
    if (round % 3 == 0) {
      shadow.set_initialised(offset, bytes);
      std::fill(written.begin() + offset, written.begin() + offset + bytes, true);
    }
    uint32_t expected = ~0u;
    for (uint32_t b = bytes; b-- > 0;)
      if (!written[offset + b]) expected = offset + b;
    EXPECT_EQ(shadow.first_uninitialised(offset, bytes), expected);
  }
}

}  // namespace
}  // namespace ptxsim::check
