// Races and uninitialised reads in global memory, within and across blocks.
#include <memory>
#include <vector>

#include "rig.h"

namespace ptxsim {
namespace {

using testing::fault_of;
using testing::Rig;

constexpr Order kRelaxed = Order::kRelaxed;
constexpr auto kFence = Checker::Fence::kSeqCst;

// Memory of its own, so that no test sees the epochs of another.
class Memory {
 public:
  explicit Memory(size_t words = 4096) : words_(words, 0) {}
  Rig::Address at(uint32_t offset, uint32_t stride = 4) {
    const auto base = reinterpret_cast<uint64_t>(words_.data()) + offset;
    return [=](int l) { return base + static_cast<uint64_t>(l) * stride; };
  }
  Rig::Address one(uint32_t offset) { return at(offset, 0); }

 private:
  std::vector<uint32_t> words_;
};

TEST(CheckGlobal, WarpsOfABlockAreOrderedByItsBarrier) {
  for (const bool synchronised : {false, true}) {
    Rig r;
    Memory m;
    r.store(r.warp(0), 1, m.at(0));
    if (synchronised) r.syncthreads(2);
    const std::string said = fault_of([&] { r.load(r.warp(1), 3, m.at(0)); });
    EXPECT_EQ(said.empty(), synchronised) << said;
  }
}

TEST(CheckGlobal, BlocksNameEachOther) {
  Rig r({.clusters = 3});
  Memory m;
  r.store(r.block_warp(0, 2), 1, m.at(0));
  const std::string said = fault_of([&] { r.load(r.block_warp(2, 1), 3, m.at(0)); });
  EXPECT_NE(said.find("kernel k, block (2,0,0), warp 1, lane 0; t.cu:4 (PTX line 103: op): [race.global] 4 "
                      "bytes of global memory at 0x"),
            std::string::npos)
      << said;
  EXPECT_NE(said.find("written by block (0,0,0) warp 2 lane 0 at t.cu:2 (PTX line 101: op), read by warp 1 "
                      "lane 0 at t.cu:4 (PTX line "
                      "103: op), without synchronisation between"),
            std::string::npos)
      << said;
}

TEST(CheckGlobal, EveryPairOfConflictsOfBlocksIsFound) {
  for (const bool first : {false, true})
    for (const bool second : {false, true}) {
      Rig r({.clusters = 2});
      Memory m;
      first ? r.store(r.block_warp(0), 1, m.at(0)) : r.load(r.block_warp(0), 1, m.at(0));
      const std::string said = fault_of([&] {
        second ? r.store(r.block_warp(1), 2, m.at(0)) : r.load(r.block_warp(1), 2, m.at(0));
        r.end();
      });
      EXPECT_EQ(said.find("[race.global]") != std::string::npos, first || second) << said;
    }
}

TEST(CheckGlobal, LaunchesAreOrdered) {
  Rig r({.clusters = 2});
  Memory m;
  r.store(r.block_warp(0), 1, m.at(0));
  r.end();
  r.next_launch();
  EXPECT_CLEAN({
    r.load(r.block_warp(1), 2, m.at(0));
    r.end();
  });
}

TEST(CheckGlobal, TagsOfManyLaunchesComeAgainWithoutEffect) {
  Memory m;
  EXPECT_CLEAN({
    for (int k = 0; k < 600; ++k) {
      Rig r({.clusters = 2, .warps = 1});
      r.store(r.block_warp(k % 2), 1, m.at(0));
      r.end();
    }
  });
  Rig r({.clusters = 2, .warps = 1});
  r.store(r.block_warp(0), 1, m.at(0));
  EXPECT_FAULT("[race.global]", r.load(r.block_warp(1), 2, m.at(0)));
}

TEST(CheckGlobal, OverlappingLaunchesAreNotCompared) {
  Memory m;
  Rig a({.clusters = 1}), b({.clusters = 1});
  a.begin();
  b.begin();
  EXPECT_CLEAN({
    a.store(a.warp(0), 1, m.at(0));
    b.load(b.warp(0), 1, m.at(0));
    b.store(b.warp(0), 1, m.at(0));
    a.load(a.warp(0), 2, m.at(0));
    a.end();
    b.end();
  });
}

// One block writes data and raises a flag, another one looks at the flag and reads the data.
struct Pattern {
  const char* name;
  Order raise, look;
  Access look_by;
  Scope scope;
  bool fence_before, fence_after;
  Scope fence_scope;
  bool clean;
};

TEST(CheckGlobal, MessagePassing) {
  const Pattern patterns[] = {
      {"release / acquire", Order::kRelease, Order::kAcquire, Access::kRead, Scope::kGpu, false, false,
       Scope::kGpu, true},
      {"release / acquire by RMW", Order::kRelease, Order::kAcqRel, Access::kAtomic, Scope::kGpu, false,
       false, Scope::kGpu, true},
      {"fence, volatile / volatile, fence", Order::kVolatile, Order::kVolatile, Access::kRead, Scope::kGpu,
       true, true, Scope::kGpu, true},
      {"fence, relaxed / relaxed, fence", kRelaxed, kRelaxed, Access::kRead, Scope::kGpu, true, true,
       Scope::kGpu, true},
      {"fence, relaxed / acquire", kRelaxed, Order::kAcquire, Access::kRead, Scope::kGpu, true, false,
       Scope::kGpu, true},
      {"system scope", kRelaxed, kRelaxed, Access::kAtomic, Scope::kSystem, true, true, Scope::kSystem, true},
      {"no fence before", kRelaxed, kRelaxed, Access::kRead, Scope::kGpu, false, true, Scope::kGpu, false},
      {"no fence after", kRelaxed, kRelaxed, Access::kRead, Scope::kGpu, true, false, Scope::kGpu, false},
      {"release / relaxed", Order::kRelease, kRelaxed, Access::kRead, Scope::kGpu, false, false, Scope::kGpu,
       false},
      {"fences of the block", Order::kVolatile, Order::kVolatile, Access::kRead, Scope::kGpu, true, true,
       Scope::kCta, false},
  };
  for (const Pattern& p : patterns) {
    Rig r({.clusters = 2});
    Memory m;
    Warp &a = r.block_warp(0), &b = r.block_warp(1);
    const auto flag = m.one(4096);
    r.store(a, 1, m.at(0));
    a.check->sync_lanes(a, kAllLanes);
    if (p.fence_before) r.fence(a, kFence, p.fence_scope, 1);
    r.strong(a, 2, Access::kWrite, p.raise, flag, 0, p.scope);
    r.strong(b, 3, p.look_by, p.look, flag, 0, p.scope);
    if (p.fence_after) r.fence(b, kFence, p.fence_scope, 1);
    const std::string said = fault_of([&] {
      b.check->sync_lanes(b, kAllLanes);
      r.load(b, 4, m.at(0));
    });
    EXPECT_EQ(said.empty(), p.clean) << p.name << ": " << said;
  }
}

TEST(CheckGlobal, AReleaseOfTheBlockDoesNotReachOthers) {
  Rig r({.clusters = 2});
  Memory m;
  const auto flag = m.one(4096);
  r.store(r.block_warp(0), 1, m.at(0), 4, 1);
  r.strong(r.block_warp(0), 2, Access::kWrite, Order::kRelease, flag, 0, Scope::kCta);
  r.strong(r.block_warp(0, 1), 3, Access::kRead, Order::kAcquire, flag, 0, Scope::kCta);
  EXPECT_CLEAN(r.load(r.block_warp(0, 1), 4, m.at(0), 4, 1));
  EXPECT_FAULT("does not reach the other's block",
               r.strong(r.block_warp(1), 5, Access::kRead, Order::kAcquire, flag, 0, Scope::kGpu));
}

TEST(CheckGlobal, MissingSyncthreadsBeforeTheFlag) {
  for (const bool synchronised : {false, true}) {
    Rig r({.clusters = 2});
    Memory m;
    const auto flag = m.one(8192);
    for (int k = 0; k < 4; ++k) r.store(r.block_warp(0, k), 1, m.at(128 * k));
    if (synchronised) r.syncthreads(2);
    r.fence(r.block_warp(0), kFence, Scope::kGpu, 1);
    r.strong(r.block_warp(0), 3, Access::kAtomic, kRelaxed, flag);
    r.strong(r.block_warp(1), 3, Access::kAtomic, kRelaxed, flag);
    r.fence(r.block_warp(1), kFence, Scope::kGpu, 1);
    r.syncthreads(4, 0, 1);
    const std::string said = fault_of([&] {
      for (int k = 0; k < 4; ++k) r.load(r.block_warp(1, k), 5, m.at(128 * k));
    });
    EXPECT_EQ(said.empty(), synchronised) << said;
  }
}

// The last block to count sums what all blocks wrote; the fence may be every thread's, before the barrier.
TEST(CheckGlobal, LastBlockOfACounter) {
  for (const bool fence_of_all : {false, true}) {
    constexpr int kBlocks = 40;
    Rig r({.clusters = kBlocks, .warps = 2});
    Memory m(65536);
    const auto counter = m.one(200000);
    EXPECT_CLEAN({
      for (int b = 0; b < kBlocks; ++b) {
        for (int k = 0; k < 2; ++k) {
          r.store(r.block_warp(b, k), 1, m.at(256 * b + 128 * k));
          if (fence_of_all) r.fence(r.block_warp(b, k), kFence);
        }
        r.syncthreads(2, 0, b);
        if (!fence_of_all) r.fence(r.block_warp(b), kFence, Scope::kGpu, 1);
        r.strong(r.block_warp(b), 3, Access::kAtomic, kRelaxed, counter);
      }
      Warp& last = r.block_warp(kBlocks - 1);
      r.fence(last, kFence, Scope::kGpu, 1);
      r.syncthreads(4, 0, kBlocks - 1);
      for (int b = 0; b < kBlocks; ++b)
        for (int k = 0; k < 2; ++k) r.load(r.block_warp(kBlocks - 1, k), 5, m.at(256 * b + 128 * k));
      r.store(last, 6, counter, 4, 1);  // reset for the next launch
      r.end();
    });
    EXPECT_FAULT("[race.global]", r.load(r.block_warp(kBlocks - 2), 5, m.at(0)));  // nobody told this one
  }
}

// Each block reads what its predecessor published and publishes its own: block k knows all before it.
TEST(CheckGlobal, ChainOfLookBack) {
  constexpr int kBlocks = 64;
  Rig r({.clusters = kBlocks, .warps = 1});
  Memory m(65536);
  const auto flag = [&](int b) { return m.one(static_cast<uint32_t>(100000 + 4 * b)); };
  EXPECT_CLEAN({
    for (int b = 0; b < kBlocks; ++b) {
      Warp& w = r.block_warp(b);
      r.store(w, 1, m.at(static_cast<uint32_t>(128 * b)));
      if (b) {
        r.strong(w, 2, Access::kRead, kRelaxed, flag(b - 1), 5);
        r.fence(w, kFence);
        w.check->sync_lanes(w, kAllLanes);
        for (int before = 0; before < b; ++before) r.load(w, 3, m.at(static_cast<uint32_t>(128 * before)));
      }
      w.check->sync_lanes(w, kAllLanes);
      r.fence(w, kFence);
      r.strong(w, 4, Access::kWrite, kRelaxed, flag(b), 31);
    }
    r.end();
  });
}

TEST(CheckGlobal, SpinLockWithCompareAndSwap) {
  for (const bool fenced : {false, true}) {
    Rig r({.clusters = 8, .warps = 1});
    Memory m;
    const auto lock = m.one(4096), data = m.one(0);
    const std::string said = fault_of([&] {
      for (int round = 0; round < 5; ++round)
        for (int b = 0; b < 8; ++b) {
          Warp& w = r.block_warp(b);
          r.strong(w, 1, Access::kAtomic, kRelaxed, lock);
          if (fenced) r.fence(w, kFence, Scope::kGpu, 1);
          r.load(w, 2, data, 4, 1);
          r.store(w, 3, data, 4, 1);
          if (fenced) r.fence(w, kFence, Scope::kGpu, 1);
          r.strong(w, 4, Access::kAtomic, kRelaxed, lock);
        }
      r.end();
    });
    EXPECT_EQ(said.empty(), fenced) << said;
  }
}

TEST(CheckGlobal, GridBarrier) {
  constexpr int kBlocks = 20;
  Rig r({.clusters = kBlocks, .warps = 2});
  Memory m(65536);
  const auto counter = m.one(200000);
  EXPECT_CLEAN({
    for (int round = 0; round < 6; ++round) {
      for (int b = 0; b < kBlocks; ++b)
        r.store(r.block_warp(b, round % 2), 1, m.at(static_cast<uint32_t>(128 * b)));
      for (int b = 0; b < kBlocks; ++b) {
        r.syncthreads(2, 0, b);
        r.strong(r.block_warp(b), 3, Access::kAtomic, Order::kRelease, counter);
      }
      for (int b = 0; b < kBlocks; ++b) {
        r.strong(r.block_warp(b), 4, Access::kRead, Order::kAcquire, counter);
        r.syncthreads(5, 0, b);
        for (int k = 0; k < 2; ++k)
          r.load(r.block_warp(b, k), 6, m.at(static_cast<uint32_t>(128 * ((b + 1) % kBlocks))));
      }
      for (int b = 0; b < kBlocks; ++b) {
        r.syncthreads(7, 0, b);
        r.strong(r.block_warp(b), 3, Access::kAtomic, Order::kRelease, counter);
      }
      for (int b = 0; b < kBlocks; ++b) {
        r.strong(r.block_warp(b), 4, Access::kRead, Order::kAcquire, counter);
        r.syncthreads(5, 0, b);
      }
    }
    r.end();
  });
  r.store(r.block_warp(1), 1, m.at(0));
  EXPECT_FAULT("[race.global]", r.load(r.block_warp(2), 6, m.at(0)));
}

TEST(CheckGlobal, AtomicsOfAllBlocksAreClean) {
  Rig r({.clusters = 4});
  Memory m;
  EXPECT_CLEAN({
    for (int b = 0; b < 4; ++b) {
      r.access(r.block_warp(b), 1, kAllLanes, m.one(0), {.access = Access::kAtomic, .order = kRelaxed});
      r.access(r.block_warp(b), 2, kAllLanes, m.at(64), {.access = Access::kRead, .order = Order::kVolatile});
    }
  });
  EXPECT_FAULT("[race.global]", r.load(r.block_warp(0), 3, m.one(0)));
  EXPECT_FAULT("does not reach",
               r.access(r.block_warp(1), 4, 1, m.one(0),
                        {.access = Access::kAtomic, .order = kRelaxed, .scope = Scope::kCta}));
}

TEST(CheckGlobal, BlocksMayShareWords) {
  Rig r({.clusters = 2});
  Memory m;
  EXPECT_CLEAN({
    r.store(r.block_warp(0), 1, m.at(2, 2), 2);   // 31 halves from the middle of a word
    r.store(r.block_warp(1), 1, m.at(66, 2), 2);  // goes on within the last word of the other
    r.store(r.block_warp(0), 2, m.at(1024, 8), 1);
    r.store(r.block_warp(1), 2, m.at(1025, 8), 1);
  });
  EXPECT_FAULT("[race.global]", r.store(r.block_warp(1), 3, m.at(1025, 8), 2);
               r.store(r.block_warp(0), 3, m.at(1026, 8), 1); r.end());
}

TEST(CheckGlobal, SameValueIsNoRace) {
  Rig r({.clusters = 2});
  Memory m;
  EXPECT_CLEAN({
    r.store_value(r.block_warp(0), 1, m.one(0), 1);
    r.store_value(r.block_warp(1), 1, m.one(0), 1);
    r.end();
  });
}

TEST(CheckGlobal, UninitialisedSinceTheAllocation) {
  Rig r;
  Memory m(65536);  // some of it covers whole chunks of the shadow
  const uint64_t base = m.at(0)(0);
  check_host_allocate(base, 4 * 65536);
  check_host_write(base, 128);
  EXPECT_CLEAN(r.load(r.warp(0), 1, m.at(0)));
  EXPECT_FAULT("[uninitialised.global] warp 0 lane 0 at t.cu:2 (PTX line 101: op) reads global memory at",
               r.load(r.warp(0), 1, m.at(128)));
  r.store(r.warp(0), 2, m.at(140000), 4, 0x7fffffff);
  EXPECT_FAULT("warp 0 lane 31", r.load(r.warp(0), 3, m.at(140000)));
  EXPECT_CLEAN(r.load(r.warp(0), 3, m.at(140000), 4, 0x7fffffff));
  check_host_write(base, 4 * 65536);
  EXPECT_CLEAN(r.load(r.warp(0), 3, m.at(200000)));
  check_host_allocate(base, 4 * 65536);
  EXPECT_FAULT("[uninitialised.global]", r.load(r.warp(0), 3, m.at(200000)));
  check_host_free(base, 4 * 65536);
  EXPECT_CLEAN(r.load(r.warp(0), 3, m.at(200000)));
}

TEST(CheckGlobal, LocalAndParameterSpaceAreNobodysBusiness) {
  Rig r;
  EXPECT_CLEAN({
    r.load(
        r.warp(0), 1, [](int l) { return kLocalTag | static_cast<uint64_t>(l); }, 1);
    r.load(
        r.warp(1), 1, [](int l) { return kParamTag | static_cast<uint64_t>(l); }, 1);
  });
}

}  // namespace
}  // namespace ptxsim
