// Races and uninitialised reads in shared memory.
#include "rig.h"

namespace ptxsim {
namespace {

using testing::fault_of;
using testing::Rig;
using testing::shared;

TEST(CheckShared, ReadBehindTheBarrierIsClean) {
  Rig r;
  EXPECT_CLEAN({
    for (int round = 0; round < 3; ++round) {
      for (int k = 0; k < 4; ++k) r.store(r.warp(k), 1, shared(128 * k));
      r.syncthreads(2);
      for (int k = 0; k < 4; ++k) r.load(r.warp(k), 3, shared(128 * (3 - k)));
      r.syncthreads(4);
    }
    r.end();
  });
}

TEST(CheckShared, ReadWithoutBarrierNamesBothParties) {
  Rig r;
  r.store(r.warp(3), 7, shared(0));
  EXPECT_EQ(fault_of([&] {
              r.load(r.warp(1), 9, [](int l) { return kSharedTag | (kSharedBase + 20 + 4 * (l / 32)); });
            }),
            "kernel k, block (0,0,0), warp 1; t.cu:10 (PTX line 109: op): [race.shared] 4 bytes at offset "
            "1044 (tile + 20): "
            "written by warp 3 lane 5 at t.cu:8 (PTX line 107: op), read by warp 1 (several lanes) at "
            "t.cu:10 (PTX line 109: op), "
            "without a barrier between");
}

TEST(CheckShared, EveryPairOfConflictsOfWarpsIsFound) {
  const auto op = [](Rig& r, Warp& w, int pc, bool write) {
    write ? r.store(w, pc, shared(0)) : r.load(w, pc, shared(0));
  };
  for (const bool first : {false, true})
    for (const bool second : {false, true}) {
      Rig r;
      r.store(r.warp(2), 1, shared(0));
      r.syncthreads(2);
      op(r, r.warp(0), 3, first);
      const std::string said = fault_of([&] {
        op(r, r.warp(1), 4, second);
        r.end();
      });
      EXPECT_EQ(said.find("[race.shared]") != std::string::npos, first || second) << said;
    }
}

TEST(CheckShared, StoresOfTheSameValueAreNoRace) {
  Rig r;
  EXPECT_CLEAN({
    r.store_value(r.warp(0), 1, shared(0), 5);
    r.store_value(r.warp(1), 1, shared(0), 5);
    r.end();
  });
}

TEST(CheckShared, LanesOfAWarp) {
  const auto other = [](int l) { return shared(0)(l ^ 1); };
  {
    Rig r;
    r.store(r.warp(0), 1, shared(0));
    EXPECT_CLEAN(r.load(r.warp(0), 2, shared(0)));  // its own
    EXPECT_FAULT("without __syncwarp", r.load(r.warp(0), 2, other));
  }
  {
    Rig r;
    r.store(r.warp(0), 1, shared(0));
    r.warp(0).check->sync_lanes(r.warp(0), kAllLanes);
    EXPECT_CLEAN(r.load(r.warp(0), 2, other));
    EXPECT_FAULT("[race.shared]", r.store(r.warp(0), 3, shared(0)); r.end());  // lane l ^ 1 has just read it
  }
}

TEST(CheckShared, PartOfAWarpThatSynchronised) {
  Rig r;
  Warp& w = r.warp(0);
  r.store(w, 1, shared(0));
  w.check->sync_lanes(w, 0xffff);
  EXPECT_CLEAN(r.load(
      w, 2, [](int l) { return shared(0)(15 - l); }, 4, 0xffff));
  EXPECT_FAULT("[race.shared]", r.load(
                                    w, 2, [](int l) { return shared(0)(31 - l + 16); }, 4, 0xffff0000));
}

TEST(CheckShared, OneLaneArrivesForItsWarpWithoutSyncwarp) {
  for (const bool syncwarp : {false, true}) {
    Rig r;
    const uint64_t bar = kSharedTag | (kSharedBase + 4096);
    r.warp(0).check->mbarrier_init(r.warp(0), r.at(1), 0, bar);
    r.syncthreads(2);
    r.store(r.warp(0), 3, shared(0));
    if (syncwarp) r.warp(0).check->sync_lanes(r.warp(0), kAllLanes);
    r.warp(0).check->mbarrier_arrive(r.warp(0), r.at(4), 0, bar, true);
    r.warp(0).check->mbarrier_phase(r.cluster(), bar);
    r.warp(1).check->mbarrier_observe(r.warp(1), r.at(5), kAllLanes, bar, true);
    const std::string said = fault_of([&] { r.load(r.warp(1), 6, shared(0)); });
    EXPECT_EQ(said.empty(), syncwarp) << said;
  }
}

TEST(CheckShared, SmallTypesShareWords) {
  Rig r;
  EXPECT_CLEAN({
    r.store(r.warp(0), 1, shared(0, 2), 2);  // whole warp, halves of words
    r.store(
        r.warp(1), 1, [](int l) { return shared(64, 4)(l); }, 2);  // lower halves
    r.store(
        r.warp(2), 1, [](int l) { return shared(66, 4)(l); }, 2);  // upper halves
    r.store(r.warp(3), 1, shared(256, 1), 1);
    r.load(r.warp(0), 2, shared(0, 2), 2);
    r.load(r.warp(1), 2, shared(64, 4), 2);
    r.load(r.warp(3), 2, shared(256, 1), 1);
  });
  EXPECT_FAULT("[race.shared]", r.load(
                                    r.warp(0), 3, [](int l) { return shared(0, 2)(l ^ 1); }, 2));
  EXPECT_FAULT("[race.shared]", r.load(r.warp(1), 3, shared(64, 4), 4));
  EXPECT_FAULT("[race.shared]", r.load(
                                    r.warp(3), 3, [](int l) { return shared(256, 1)(l ^ 1); }, 1));
  r.syncthreads(4);
  EXPECT_CLEAN(r.load(r.warp(2), 5, shared(64, 4), 4));
}

TEST(CheckShared, WideAndScatteredAccesses) {
  Rig r;
  EXPECT_CLEAN({
    r.store(r.warp(0), 1, shared(0, 16), 16);
    r.syncthreads(2);
    for (int k = 0; k < 4; ++k)
      r.load(
          r.warp(k), 3, [](int l) { return shared(0, 16)(l * 5 % 32); }, 16);
    for (int k = 0; k < 4; ++k) r.load(r.warp(k), 3, [](int l) { return shared(0)(l / 8); });
  });
  EXPECT_FAULT("read by warp", r.store(
                                   r.warp(1), 4, [](int l) { return shared(0, 16)(31 - l); }, 8));
}

TEST(CheckShared, AtomicsDoNotRaceWithEachOther) {
  Rig r;
  r.store(r.warp(0), 1, shared(0));
  r.syncthreads(2);
  const auto counter = [](int) { return shared(0)(0); };
  EXPECT_CLEAN({
    for (int k = 0; k < 4; ++k)
      r.access(r.warp(k), 3, kAllLanes, counter,
               {.access = Access::kAtomic, .order = Order::kRelaxed, .bytes = 4});
  });
  EXPECT_FAULT("[race.shared]", r.load(r.warp(1), 4, counter));
}

TEST(CheckShared, FlagsHandOverWhatAFenceCovers) {
  const auto flag = [](int) { return shared(1024)(0); };
  for (const bool fenced : {false, true}) {
    Rig r;
    r.store(
        r.warp(0), 1, [&](int) { return flag(0); }, 4, 1);
    r.syncthreads(2);
    r.store(r.warp(0), 3, shared(0), 4, 1);
    if (fenced) r.fence(r.warp(0), Checker::Fence::kAcqRel, Scope::kCta, 1);
    r.strong(r.warp(0), 4, Access::kWrite, Order::kVolatile, flag);
    r.strong(r.warp(1), 5, Access::kRead, Order::kVolatile, flag);
    if (fenced) r.fence(r.warp(1), Checker::Fence::kAcqRel, Scope::kCta, 1);
    const std::string said = fault_of([&] { r.load(r.warp(1), 6, shared(0), 4, 1); });
    EXPECT_EQ(said.empty(), fenced) << said;
  }
}

TEST(CheckShared, NamedBarriersOrderOnlyWhoTookPart) {
  Rig r;
  r.store(r.warp(0), 1, shared(0));
  for (const int k : {0, 1}) r.warp(k).check->barrier_arrive(r.warp(k), r.at(2), kAllLanes, 3, 0);
  r.warp(1).check->barrier_leave(r.warp(1), r.at(2), kAllLanes, 3, 0);
  EXPECT_CLEAN(r.load(r.warp(1), 3, shared(0)));
  EXPECT_FAULT("[race.shared]", r.load(r.warp(2), 3, shared(0)));
}

TEST(CheckShared, AnEarlierPhaseDoesNotOrderLaterWrites) {
  Rig r;
  for (const int k : {0, 1}) r.warp(k).check->barrier_arrive(r.warp(k), r.at(2), kAllLanes, 0, 0);
  r.warp(0).check->barrier_leave(r.warp(0), r.at(2), kAllLanes, 0, 0);
  r.store(r.warp(0), 1, shared(0));
  r.warp(0).check->barrier_arrive(r.warp(0), r.at(2), kAllLanes, 0, 1);
  r.warp(1).check->barrier_leave(r.warp(1), r.at(2), kAllLanes, 0, 0);  // late out of phase 0
  EXPECT_FAULT("[race.shared]", r.load(r.warp(1), 3, shared(0)));
}

TEST(CheckShared, ClustersShareMemoryThroughTheirBarrier) {
  for (const bool synchronised : {false, true}) {
    Rig r({.ctas = 2, .warps = 2});
    r.store(r.warp(0, 0), 1, shared(0, 4, 1));  // into block 1
    if (synchronised) {
      for (const int cta : {0, 1})
        for (const int k : {0, 1})
          r.warp(k, cta).check->cluster_arrive(r.warp(k, cta), r.at(2), kAllLanes, true, 0);
      for (const int cta : {0, 1})
        for (const int k : {0, 1})
          r.warp(k, cta).check->cluster_leave(r.warp(k, cta), r.at(2), kAllLanes, true, 0);
    }
    const std::string said = fault_of([&] { r.load(r.warp(1, 1), 3, shared(0, 4, 1)); });
    EXPECT_EQ(said.empty(), synchronised) << said;
    if (!synchronised) {
      EXPECT_NE(said.find("offset 1024 (tile) of the cluster's block 1: written by block 0 warp 0 lane 0"),
                std::string::npos)
          << said;
    }
  }
}

TEST(CheckShared, MbarrierUsedBeforeItsInitialisationIsKnown) {
  Rig r;
  const uint64_t bar = kSharedTag | (kSharedBase + 4096);
  r.warp(0).check->mbarrier_init(r.warp(0), r.at(1), 0, bar);
  EXPECT_FAULT("[race.shared] 8 bytes", r.warp(1).check->mbarrier_arrive(r.warp(1), r.at(2), 0, bar, true));
}

TEST(CheckShared, UninitialisedBytesAreFoundOneByOne) {
  Rig r;
  r.store(r.warp(0), 1, shared(0), 4, 0x7fffffff);
  r.store(r.warp(0), 1, shared(0), 2, 0x80000000);  // half of the last word
  r.syncthreads(2);
  EXPECT_CLEAN(r.load(r.warp(0), 3, shared(0), 4, 0x7fffffff));
  EXPECT_FAULT(
      "[uninitialised.shared] warp 0 lane 31 at t.cu:4 (PTX line 103: op) reads offset 1150 (tile + 126)",
      r.load(r.warp(0), 3, shared(0));
      r.syncthreads(4));
}

TEST(CheckShared, ReadingTooEarlyIsARaceAndNotAnUninitialisedRead) {
  Rig r;
  r.load(r.warp(0), 1, shared(0));
  EXPECT_FAULT("[race.shared]", r.store(r.warp(1), 2, shared(0)));
}

TEST(CheckShared, NothingIsLeftOfTheClusterBefore) {
  Rig r;
  r.store(r.warp(0), 1, shared(0));
  r.syncthreads(2);
  r.load(r.warp(1), 3, shared(0));
  r.end();
  r.next_launch();
  EXPECT_FAULT("[uninitialised.shared]", r.load(r.warp(1), 3, shared(0)); r.syncthreads(4));
  r.next_launch();
  EXPECT_CLEAN({
    r.store(r.warp(2), 1, shared(0));
    r.end();
  });
}

TEST(CheckShared, DivergedLanesKeepApartWhatTheyKnow) {
  Rig r;
  const uint64_t bar = kSharedTag | (kSharedBase + 4096);
  r.warp(0).check->mbarrier_init(r.warp(0), r.at(1), 0, bar);
  r.syncthreads(2);
  r.store(r.warp(0), 3, shared(0));
  for (int l = 0; l < 32; ++l) r.warp(0).check->mbarrier_arrive(r.warp(0), r.at(4), l, bar, true);
  r.warp(0).check->mbarrier_phase(r.cluster(), bar);
  Warp& w = r.warp(1);
  w.check->mbarrier_observe(w, r.at(5), 1, bar, true);  // lane 0 only
  EXPECT_CLEAN(r.load(w, 6, shared(0), 4, 1));
  EXPECT_FAULT("[race.shared]", r.load(w, 6, shared(0), 4, 2));
  w.check->sync_lanes(w, kAllLanes);
  EXPECT_CLEAN(r.load(w, 7, shared(0)));
}

}  // namespace
}  // namespace ptxsim
