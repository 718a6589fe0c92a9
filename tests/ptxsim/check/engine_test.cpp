// cp.async, bulk copies, TMA and wgmma as parties of their own; proxy fences.
#include <vector>

#include "rig.h"

namespace ptxsim {
namespace {

using testing::fault_of;
using testing::Rig;
using testing::shared;
using Engine = Checker::Engine;

constexpr uint64_t at_offset(uint32_t offset, uint32_t rank = 0) {
  return kSharedTag | rank << 24 | (kSharedBase + offset);
}
constexpr uint64_t kBar = at_offset(4096);
constexpr auto kProxy = Checker::Fence::kProxyAsync;

class CheckEngines : public ::testing::Test {
 protected:
  // mbarrier by lane 0 of warp 0, as every kernel begins.
  void set_up_mbarrier(bool fenced = true, uint64_t bar = kBar) {
    Warp& w = r.warp(0);
    w.check->mbarrier_init(w, r.at(1), 0, bar);
    if (fenced) r.fence(w, Checker::Fence::kMbarrierInit, Scope::kCluster, 1);
    r.syncthreads(2);
  }
  // Lane 0 loads `bytes` to the offset; it has landed when this returns.
  void tma_load(Warp& w, int pc, uint32_t offset, uint32_t bytes, uint64_t bar = kBar) {
    w.check->mbarrier_arrive(w, r.at(pc), 0, bar, true);
    const AsyncId id = w.check->begin_async(w, r.at(pc), 0, Engine::kTma);
    w.check->async_access(id, at_offset(offset), bytes, Access::kWrite);
    w.check->complete_on_mbarrier(id, r.cluster(), bar);
    w.check->mbarrier_phase(r.cluster(), bar);
  }
  AsyncId tma_store(Warp& w, int pc, uint32_t offset, uint32_t bytes) {
    const AsyncId id = w.check->begin_async(w, r.at(pc), 0, Engine::kTma);
    w.check->async_access(id, at_offset(offset), bytes, Access::kRead);
    return id;
  }
  void observe(Warp& w, int pc, uint64_t bar = kBar) {
    w.check->mbarrier_observe(w, r.at(pc), w.live, bar, true);
  }

  Rig r;
};

TEST_F(CheckEngines, LoadsAreSeenThroughTheirMbarrierOnly) {
  set_up_mbarrier();
  tma_load(r.warp(0), 3, 0, 512);
  observe(r.warp(1), 4);
  EXPECT_CLEAN(r.load(r.warp(1), 5, shared(0)));
  const std::string said = fault_of([&] { r.load(r.warp(2), 5, shared(0)); });
  EXPECT_NE(said.find("[race.shared] 4 bytes at offset 1024 (tile): written by TMA for warp 0 lane 0 at "
                      "t.cu:4 (PTX line 103: op), read by "
                      "warp 2 lane 0 at t.cu:6 (PTX line 105: op), before its completion was waited for"),
            std::string::npos)
      << said;
}

TEST_F(CheckEngines, TheWrongMbarrierDoesNotHelp) {
  const uint64_t other = at_offset(4104);
  Warp& w = r.warp(0);
  w.check->mbarrier_init(w, r.at(1), 0, kBar);
  set_up_mbarrier(true, other);
  tma_load(w, 3, 0, 128, kBar);
  tma_load(w, 4, 128, 128, other);
  observe(r.warp(1), 5, other);
  EXPECT_CLEAN(r.load(r.warp(1), 6, shared(128)));
  EXPECT_FAULT("[race.shared]", r.load(r.warp(1), 6, shared(0)));
}

// full and empty mbarriers, two stages, one producer warp, two consumer warps.
TEST_F(CheckEngines, Pipeline) {
  for (const bool waits_for_empty : {true, false}) {
    Rig rig;
    const auto full = [](int s) { return at_offset(4096 + 8 * s); };
    const auto empty = [](int s) { return at_offset(4160 + 8 * s); };
    Warp& producer = rig.warp(0);
    for (int s = 0; s < 2; ++s)
      for (const uint64_t bar : {full(s), empty(s)})
        producer.check->mbarrier_init(producer, rig.at(1), 0, bar);
    rig.fence(producer, kProxy, Scope::kCta, 1);
    rig.syncthreads(2);
    const std::string said = fault_of([&] {
      for (int k = 0; k < 10; ++k) {
        const int s = k % 2;
        if (k >= 2 && waits_for_empty)
          producer.check->mbarrier_observe(producer, rig.at(3), 1, empty(s), true);
        producer.check->mbarrier_arrive(producer, rig.at(4), 0, full(s), true);
        const AsyncId id = producer.check->begin_async(producer, rig.at(5), 0, Engine::kTma);
        producer.check->async_access(id, at_offset(1024 * s), 1024, Access::kWrite);
        producer.check->complete_on_mbarrier(id, rig.cluster(), full(s));
        producer.check->mbarrier_phase(rig.cluster(), full(s));
        for (const int c : {1, 2}) {
          Warp& w = rig.warp(c);
          w.check->mbarrier_observe(w, rig.at(6), kAllLanes, full(s), true);
          rig.load(w, 7, shared(1024 * s, 16), 16);
          w.check->sync_lanes(w, kAllLanes);
          w.check->mbarrier_arrive(w, rig.at(8), 0, empty(s), true);
        }
        producer.check->mbarrier_phase(rig.cluster(), empty(s));
      }
      rig.end();
    });
    EXPECT_EQ(said.empty(), waits_for_empty) << said;
  }
}

TEST_F(CheckEngines, StoreOfWhatThreadsWroteNeedsAProxyFence) {
  // Who fences: nobody; the writers before the barrier; the issuing thread behind it.
  for (int who = 0; who < 3; ++who) {
    Rig rig;
    for (int k = 0; k < 4; ++k) {
      rig.store(rig.warp(k), 1, shared(128 * k));
      if (who == 1) rig.fence(rig.warp(k), kProxy);
    }
    rig.syncthreads(2);
    if (who == 2) rig.fence(rig.warp(0), kProxy, Scope::kCta, 1);
    const std::string said = fault_of([&] {
      Warp& w = rig.warp(0);
      const AsyncId id = w.check->begin_async(w, rig.at(3), 0, Engine::kTma);
      w.check->async_access(id, at_offset(0), 512, Access::kRead);
      w.check->complete_on_wait(id, w, 1, false);
      rig.end();
    });
    EXPECT_EQ(
        said.find("[proxy] 4 bytes at offset 1024 (tile): written by warp 0 lane 0") != std::string::npos,
        who == 0)
        << said;
    EXPECT_EQ(said.empty(), who != 0) << said;
  }
}

TEST_F(CheckEngines, AFenceBeforeTheWriteIsNoFence) {
  r.fence(r.warp(0), kProxy);
  r.store(r.warp(0), 1, shared(0));
  r.syncthreads(2);
  EXPECT_FAULT("[proxy]", tma_store(r.warp(0), 3, 0, 128));
}

TEST_F(CheckEngines, AFenceDoesNotReplaceTheBarrier) {
  for (int k = 0; k < 2; ++k) {
    r.store(r.warp(k), 1, shared(128 * k));
    r.fence(r.warp(k), kProxy);
  }
  EXPECT_FAULT("[race.shared]", tma_store(r.warp(0), 3, 128, 128));
}

TEST_F(CheckEngines, SourceOfAStoreMayBeOverwrittenWhenItWasRead) {
  for (const bool reads_only : {true, false})
    for (const bool waits : {true, false}) {
      Rig rig;
      rig.store(rig.warp(0), 1, shared(0));
      rig.fence(rig.warp(0), kProxy);
      rig.syncthreads(2);
      Warp& w = rig.warp(0);
      const AsyncId id = w.check->begin_async(w, rig.at(3), 0, Engine::kBulk);
      w.check->async_access(id, at_offset(0), 128, Access::kRead);
      if (waits) w.check->complete_on_wait(id, w, 1, reads_only);
      rig.syncthreads(4);
      const std::string said = fault_of([&] { rig.store(rig.warp(1), 5, shared(0)); });
      EXPECT_EQ(said.empty(), waits) << said;
      if (!waits) {
        EXPECT_NE(said.find("before it was waited for to have read"), std::string::npos) << said;
      }
    }
}

TEST_F(CheckEngines, BlockThatEndsWhileItsMemoryIsRead) {
  r.store(r.warp(0), 1, shared(0));
  r.fence(r.warp(0), kProxy);
  r.warp(0).check->sync_lanes(r.warp(0), kAllLanes);
  tma_store(r.warp(0), 3, 0, 128);
  EXPECT_FAULT("[async]", r.end());
}

TEST_F(CheckEngines, ThreadsMayReadWhatTheyReadBeforeAnEngineOverwritesIt) {
  set_up_mbarrier();
  tma_load(r.warp(0), 3, 0, 128);
  observe(r.warp(0), 4);
  observe(r.warp(1), 4);
  r.load(r.warp(1), 5, shared(0));
  EXPECT_FAULT("read by warp 1 lane 0", tma_load(r.warp(0), 6, 0, 128));
}

TEST_F(CheckEngines, ZeroedByThreadsThenLoadedNeedsAProxyFence) {
  for (const bool fenced : {true, false}) {
    Rig rig;
    Warp& w = rig.warp(0);
    w.check->mbarrier_init(w, rig.at(1), 0, kBar);
    rig.fence(w, kProxy, Scope::kCta, 1);
    rig.store(rig.warp(1), 2, shared(0));
    if (fenced) rig.fence(rig.warp(1), kProxy);
    rig.syncthreads(3);
    const AsyncId id = w.check->begin_async(w, rig.at(4), 0, Engine::kTma);
    const std::string said = fault_of([&] { w.check->async_access(id, at_offset(0), 128, Access::kWrite); });
    EXPECT_EQ(said.empty(), fenced) << said;
  }
}

TEST_F(CheckEngines, MbarrierThatTheEngineCannotSee) {
  set_up_mbarrier(false);
  EXPECT_FAULT("[proxy] 8 bytes", tma_load(r.warp(0), 3, 0, 128));
}

TEST_F(CheckEngines, UninitialisedSource) {
  EXPECT_FAULT("[uninitialised.shared] TMA for warp 0 lane 0 at t.cu:4 (PTX line 103: op) reads offset 1024",
               tma_store(r.warp(0), 3, 0, 128);
               r.warp(0).check->before_fault(r.warp(0)));
}

TEST_F(CheckEngines, Multicast) {
  Rig rig({.ctas = 2, .warps = 2});
  for (int c = 0; c < 2; ++c) {
    Warp& w = rig.warp(0, c);
    w.check->mbarrier_init(w, rig.at(1), 0, at_offset(4096, static_cast<uint32_t>(c)));
    rig.fence(w, Checker::Fence::kMbarrierInit, Scope::kCluster, 1);
  }
  for (int c = 0; c < 2; ++c)
    for (int k = 0; k < 2; ++k)
      rig.warp(k, c).check->cluster_arrive(rig.warp(k, c), rig.at(2), kAllLanes, true, 0);
  for (int c = 0; c < 2; ++c)
    for (int k = 0; k < 2; ++k)
      rig.warp(k, c).check->cluster_leave(rig.warp(k, c), rig.at(2), kAllLanes, true, 0);
  Warp& w = rig.warp(0, 0);
  const AsyncId id = w.check->begin_async(w, rig.at(3), 0, Engine::kTma);
  for (uint32_t c = 0; c < 2; ++c) {
    w.check->async_access(id, at_offset(0, c), 256, Access::kWrite);
    w.check->complete_on_mbarrier(id, rig.cluster(), at_offset(4096, c));
    w.check->mbarrier_phase(rig.cluster(), at_offset(4096, c));
  }
  Warp& other = rig.warp(1, 1);
  EXPECT_FAULT("written by block 0 TMA for warp 0", rig.load(other, 4, shared(0, 4, 1)));
  other.check->mbarrier_observe(other, rig.at(5), kAllLanes, at_offset(4096, 1), true);
  EXPECT_CLEAN(rig.load(other, 6, shared(0, 4, 1)));
}

// --- cp.async ---
TEST_F(CheckEngines, CopiesAreTheLanesOwnUntilTheySynchronise) {
  Warp& w = r.warp(0);
  std::vector<uint64_t> data(128, 1);
  std::vector<AsyncId> ids;
  for (int l = 0; l < 32; ++l) ids.push_back(w.check->begin_async(w, r.at(1), l, Engine::kCpAsync));
  for (int l = 0; l < 32; ++l) {
    w.check->async_access(ids[static_cast<size_t>(l)],
                          reinterpret_cast<uint64_t>(&data[static_cast<size_t>(2 * l)]), 16, Access::kRead);
    w.check->async_access(ids[static_cast<size_t>(l)], at_offset(static_cast<uint32_t>(16 * l)), 16,
                          Access::kWrite);
  }
  EXPECT_FAULT("written by the asynchronous copy for warp 0 lane 3", r.load(w, 2, shared(0, 16), 16, 8));
  for (int l = 0; l < 32; ++l) w.check->complete_on_wait(ids[static_cast<size_t>(l)], w, 1u << l, false);
  EXPECT_CLEAN(r.load(w, 3, shared(0, 16), 16));
  EXPECT_FAULT("[race.shared]",
               r.load(
                   w, 3, [](int l) { return at_offset(static_cast<uint32_t>(16 * (l ^ 1))); }, 16));
  EXPECT_FAULT("[race.shared]", r.load(r.warp(1), 3, shared(0, 16), 16));
  r.syncthreads(4);
  EXPECT_CLEAN({
    r.load(
        w, 5, [](int l) { return at_offset(static_cast<uint32_t>(16 * (l ^ 1))); }, 16);
    r.load(r.warp(1), 5, shared(0, 16), 16);
  });
}

TEST_F(CheckEngines, CopiesTrackedByAnMbarrier) {
  set_up_mbarrier(false);  // cp.async is of the generic proxy
  Warp& w = r.warp(0);
  std::vector<AsyncId> ids;
  for (int l = 0; l < 32; ++l) ids.push_back(w.check->begin_async(w, r.at(3), l, Engine::kCpAsync));
  for (int l = 0; l < 32; ++l) {
    w.check->async_access(ids[static_cast<size_t>(l)], at_offset(static_cast<uint32_t>(16 * l)), 16,
                          Access::kWrite);
    w.check->complete_on_mbarrier(ids[static_cast<size_t>(l)], r.cluster(), kBar);
  }
  w.check->mbarrier_phase(r.cluster(), kBar);
  EXPECT_FAULT("[race.shared]", r.load(r.warp(1), 4, shared(0, 16), 16));
  observe(r.warp(1), 5);
  EXPECT_CLEAN(r.load(r.warp(1), 6, shared(0, 16), 16));
}

// --- wgmma ---
TEST_F(CheckEngines, TensorCoreReads) {
  for (const bool fenced : {true, false})
    for (const bool waits : {true, false}) {
      Rig rig;
      for (int k = 0; k < 4; ++k) {
        rig.store(rig.warp(k), 1, shared(128 * k));
        if (fenced) rig.fence(rig.warp(k), kProxy);
      }
      rig.syncthreads(2);
      const std::string said = fault_of([&] {
        std::vector<AsyncId> ids;
        for (int k = 0; k < 4; ++k) {
          Warp& w = rig.warp(k);
          ids.push_back(w.check->begin_async(w, rig.at(3), -1, Engine::kWgmma));
          for (uint32_t row = 0; row < 16; ++row)
            w.check->async_access(ids.back(), at_offset(32 * row), 32, Access::kRead);
        }
        for (int k = 0; k < 4 && waits; ++k)
          for (const AsyncId id : ids) rig.warp(k).check->complete_on_wait(id, rig.warp(k), kAllLanes, false);
        rig.store(rig.warp(2), 5, shared(0), 4, 1);
      });
      EXPECT_EQ(said.find("[proxy]") != std::string::npos, !fenced) << said;
      if (fenced) {
        EXPECT_EQ(said.find("read by the tensor core for warp 0") != std::string::npos, !waits) << said;
        EXPECT_EQ(said.empty(), waits) << said;
      }
    }
}

// --- global memory ---
TEST_F(CheckEngines, GlobalWritesLandWhenTheyAreWaitedFor) {
  for (const bool reads_only : {false, true}) {
    Rig rig({.clusters = 2});
    std::vector<uint32_t> data(1024, 0);
    const auto base = reinterpret_cast<uint64_t>(data.data());
    const auto flag = [&](int) { return base + 2048; };
    rig.store(rig.warp(0), 1, shared(0));
    rig.fence(rig.warp(0), kProxy);
    rig.warp(0).check->sync_lanes(rig.warp(0), kAllLanes);
    Warp &a = rig.block_warp(0), &b = rig.block_warp(1);
    const AsyncId id = a.check->begin_async(a, rig.at(2), 0, Engine::kBulk);
    a.check->async_access(id, at_offset(0), 128, Access::kRead);
    a.check->async_access(id, base, 128, Access::kWrite);
    a.check->complete_on_wait(id, a, 1, reads_only);
    rig.strong(a, 3, Access::kWrite, Order::kRelease, flag);
    rig.strong(b, 4, Access::kRead, Order::kAcquire, flag);
    const std::string said = fault_of([&] {
      rig.load(
          b, 5, [&](int l) { return base + 4 * static_cast<uint64_t>(l); }, 4, 1);
      rig.end();
    });
    EXPECT_EQ(said.empty(), !reads_only) << said;
    if (reads_only) {
      EXPECT_NE(said.find("[race.global]"), std::string::npos) << said;
    }
  }
}

TEST_F(CheckEngines, LoadsOfWhatThisLaunchWroteNeedAProxyFence) {
  for (const bool fenced : {false, true}) {
    Rig rig({.clusters = 2});
    std::vector<uint32_t> data(1024, 0);
    const auto base = reinterpret_cast<uint64_t>(data.data());
    const auto flag = [&](int) { return base + 2048; };
    Warp &a = rig.block_warp(0), &b = rig.block_warp(1);
    rig.store(
        a, 1, [&](int l) { return base + 4 * static_cast<uint64_t>(l); }, 4, 1);
    if (fenced) rig.fence(a, kProxy);
    rig.strong(a, 2, Access::kWrite, Order::kRelease, flag);
    rig.strong(b, 3, Access::kRead, Order::kAcquire, flag);
    const std::string said = fault_of([&] {
      const AsyncId id = b.check->begin_async(b, rig.at(4), 0, Engine::kTma);
      b.check->async_access(id, base, 64, Access::kRead);
    });
    EXPECT_EQ(said.find("[proxy] 4 bytes of global memory") != std::string::npos, !fenced) << said;
    EXPECT_EQ(said.empty(), fenced) << said;
  }
}

TEST_F(CheckEngines, ManyOperationsReuseTheirActors) {
  set_up_mbarrier();
  EXPECT_CLEAN({
    for (int k = 0; k < 20000; ++k) {
      tma_load(r.warp(0), 3, 0, 64);
      observe(r.warp(0), 4);
    }
    r.end();
  });
}

}  // namespace
}  // namespace ptxsim
