// What all clusters of a launch share: its tag in the shadow of global memory, the instructions that touched
// it, and what was released at addresses of global memory. Also the Checker that a launch holds: it hands
// each hook to its cluster.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "check/checker.h"
#include "check/remote.h"

namespace ptxsim::check {

class ClusterChecker;
struct RegisterFacts;

// An instruction that touched global memory.
struct Site {
  uint32_t pc = 0;
  bool strong = false, far = false, engine = false;  // far: gpu or system scope
};

// What has been released at an address, by scope.
struct Released {
  Remote far;
  std::vector<std::pair<uint64_t, Remote>> near;  // cluster, and what it released at cta or cluster scope
};

class LaunchChecker final : public Checker {
 public:
  explicit LaunchChecker(Launch& launch);
  ~LaunchChecker() override;

  const Launch& launch() const { return launch_; }
  uint32_t tag() const { return tag_; }
  int levels() const { return levels_; }
  uint64_t warps_per_cluster() const { return warps_per_cluster_; }
  // Warps are numbered from cluster to cluster; numbers of shadow memory are modulo this.
  uint64_t warp_numbers() const { return warp_numbers_; }
  uint64_t clusters() const { return clusters_; }
  const RegisterFacts& registers_of_program() const { return *register_facts_; }

  // 0 where there are too many.
  uint32_t site_of(size_t pc, bool strong, bool far, bool engine);
  const Site& site(uint32_t number) const { return sites_[number]; }
  // Whether the instruction's accesses to shared memory are strong (not weak): true after it was said once.
  void set_strong(size_t pc) { strong_[pc].store(true, std::memory_order_relaxed); }
  bool is_strong(size_t pc) const {
    return pc < program_size_ && strong_[pc].load(std::memory_order_relaxed);
  }

  bool any_release() const { return any_release_.load(std::memory_order_acquire); }
  void release(uint64_t address, const Remote& what, bool far, uint64_t cluster);
  // What was released there for a reader of that scope in `cluster`; null where nothing.
  Remote acquire(uint64_t address, bool far, uint64_t cluster);

  void begin_cluster(Cluster& c) override;
  void end_cluster(Cluster& c) override;
  void access(Warp& w, const Instr& i, uint32_t mask, const uint64_t* addresses,
              const AccessInfo& info) override;
  void store_lost(Warp& w, const Instr& i, int lane, uint64_t address) override;
  void before_fault(Warp& w) override;
  void sync_lanes(Warp& w, uint32_t mask) override;
  void barrier_arrive(Warp& w, const Instr& i, uint32_t mask, int barrier, uint64_t phase) override;
  void barrier_leave(Warp& w, const Instr& i, uint32_t mask, int barrier, uint64_t phase) override;
  void cluster_arrive(Warp& w, const Instr& i, uint32_t mask, bool release, uint64_t phase) override;
  void cluster_leave(Warp& w, const Instr& i, uint32_t mask, bool acquire, uint64_t phase) override;
  void mbarrier_init(Warp& w, const Instr& i, int lane, uint64_t address) override;
  void mbarrier_arrive(Warp& w, const Instr& i, int lane, uint64_t address, bool release) override;
  void mbarrier_phase(Cluster& c, uint64_t address) override;
  void mbarrier_observe(Warp& w, const Instr& i, uint32_t mask, uint64_t address, bool acquire) override;
  void fence(Warp& w, const Instr& i, uint32_t mask, Fence kind, Scope scope) override;
  AsyncId begin_async(Warp& w, const Instr& i, int lane, Engine engine) override;
  void async_access(AsyncId id, uint64_t address, uint64_t bytes, Access access) override;
  void complete_on_mbarrier(AsyncId id, Cluster& c, uint64_t mbarrier) override;
  void complete_on_wait(AsyncId id, Warp& w, uint32_t mask, bool reads_only) override;
  void wgmma_rows(Warp& w, const Instr& i, AsyncId id, const uint32_t* rows, int count,
                  bool written) override;
  void wgmma_done(Warp& w, AsyncId id) override;
  void registers(Warp& w, const Instr& i) override;

 private:
  ClusterChecker& of(const Cluster& c);
  ClusterChecker& of(const Warp& w) { return of(*w.cta->cluster); }

  Launch& launch_;
  uint32_t tag_ = 0;
  int levels_ = 1;
  uint64_t clusters_ = 1, warps_per_cluster_ = 1, warp_numbers_ = 1;
  std::shared_ptr<const RegisterFacts> register_facts_;

  size_t program_size_ = 0;
  std::unique_ptr<std::atomic<uint16_t>[]> site_of_pc_;
  std::unique_ptr<std::atomic<bool>[]> strong_;
  std::vector<Site> sites_;
  std::atomic<uint32_t> site_count_{1};
  std::mutex site_mutex_;

  // Striped by address; `hints` says of most addresses without a lock that nothing was released there.
  struct Stripe {
    std::mutex mutex;
    std::unordered_map<uint64_t, Released> at;
  };
  std::array<Stripe, 64> stripes_;
  std::array<std::atomic<uint64_t>, 1024> hints_{};
  std::atomic<bool> any_release_{false};

  std::mutex clusters_mutex_;
  std::vector<std::unique_ptr<ClusterChecker>> running_;  // by slot: bits 48.. of an AsyncId, plus 1
  std::unordered_map<const Cluster*, ClusterChecker*> by_cluster_;
};

}  // namespace ptxsim::check
