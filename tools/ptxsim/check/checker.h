// The checks that need memory of the past: races in shared and global memory (happens-before), missing proxy
// fences, uninitialised reads, wgmma registers touched in flight. Present in checked mode only (Warp::check,
// Launch::check). Addresses are tagged (exec/warp.h). Every function may end the launch with fail(): the
// message names both parties and begins with one of [race.shared] [race.global] [proxy]
// [uninitialised.shared] [uninitialised.global] [registers] [async]. What is legal and what is not:
// check/README.md. Sources: FastTrack (Flanagan, Freund 2009) for epochs; PTX ISA, memory consistency model
// and async proxy.
#pragma once

#include <cstdint>
#include <memory>

#include "exec/warp.h"

namespace ptxsim {

// Work of an engine (TMA, cp.async, wgmma) between issue and completion: an actor of its own.
using AsyncId = uint64_t;

class Checker {
 public:
  virtual ~Checker() = default;

  // --- life of a launch and of its clusters ---
  // Once the warps are there. Points each Warp::check at the checker of its cluster; Launch::check stays good
  // for all hooks. A cluster is used by one thread at a time; a cluster that never ended is forgotten with
  // the launch.
  virtual void begin_cluster(Cluster& c) = 0;
  virtual void end_cluster(Cluster& c) = 0;

  // --- generic proxy: every load, store and atomic, lane by lane; before it happens ---
  virtual void access(Warp& w, const Instr& i, uint32_t mask, const uint64_t* addresses,
                      const AccessInfo& info) = 0;

  // After a store: memory does not hold what `lane` put there, another lane of the same instruction has
  // overwritten it with something else.
  virtual void store_lost(Warp& w, const Instr& i, int lane, uint64_t address) = 0;

  // Something else is about to end the launch: fails first with what may have led to it.
  virtual void before_fault(Warp& w) = 0;

  // --- order ---
  // Lanes of mask synchronised with each other (bar.warp.sync, shfl.sync, vote.sync, aligned ops of a whole
  // warp).
  virtual void sync_lanes(Warp& w, uint32_t mask) = 0;
  // bar / barrier of a block: arrival releases, leaving acquires what all arrivals of that phase released.
  virtual void barrier_arrive(Warp& w, const Instr& i, uint32_t mask, int barrier, uint64_t phase) = 0;
  virtual void barrier_leave(Warp& w, const Instr& i, uint32_t mask, int barrier, uint64_t phase) = 0;
  virtual void cluster_arrive(Warp& w, const Instr& i, uint32_t mask, bool release, uint64_t phase) = 0;
  virtual void cluster_leave(Warp& w, const Instr& i, uint32_t mask, bool acquire, uint64_t phase) = 0;
  // mbarrier at a tagged shared address. `arrive` releases (a thread); `observe` is a successful
  // test/try_wait (acquires).
  virtual void mbarrier_init(Warp& w, const Instr& i, int lane, uint64_t address) = 0;
  virtual void mbarrier_arrive(Warp& w, const Instr& i, int lane, uint64_t address, bool release) = 0;
  virtual void mbarrier_phase(Cluster& c, uint64_t address) = 0;  // a phase of it completed
  virtual void mbarrier_observe(Warp& w, const Instr& i, uint32_t mask, uint64_t address, bool acquire) = 0;
  // fence.acq_rel / .sc (membar), fence.proxy.async, fence.proxy.tensormap, fence.mbarrier_init, wgmma.fence
  enum class Fence : uint8_t { kAcqRel, kSeqCst, kProxyAsync, kProxyTensorMap, kMbarrierInit, kWgmma };
  virtual void fence(Warp& w, const Instr& i, uint32_t mask, Fence kind, Scope scope) = 0;

  // --- engines ---
  // An engine starts on behalf of one lane (cp.async, bulk, TMA) or of the warp (wgmma, lane -1): what the
  // lane knows now is what the engine knows. wgmma and cp.async of a warp complete in the order of issue.
  // wgmma reads shared memory for the whole warp group: one begin_async of one of its warps is enough.
  enum class Engine : uint8_t { kCpAsync, kBulk, kTma, kWgmma };
  virtual AsyncId begin_async(Warp& w, const Instr& i, int lane, Engine engine) = 0;
  // It reads or writes [address, address + bytes); shared addresses of any block of the cluster, or global
  // ones. Only bytes that matter: not what a tensor store leaves out because it lies outside of the tensor.
  virtual void async_access(AsyncId id, uint64_t address, uint64_t bytes, Access access) = 0;
  // What it did is visible to whoever observes the mbarrier phase: told before the completion that may end
  // the phase.
  virtual void complete_on_mbarrier(AsyncId id, Cluster& c, uint64_t mbarrier) = 0;
  // The waiting lanes see its effects (reads_only: only that its source may be overwritten: wait_group.read).
  virtual void complete_on_wait(AsyncId id, Warp& w, uint32_t mask, bool reads_only) = 0;

  // --- wgmma registers: rows of the warp's register file that the tensor core reads or writes until the wait
  // ---
  virtual void wgmma_rows(Warp& w, const Instr& i, AsyncId id, const uint32_t* rows, int count,
                          bool written) = 0;
  virtual void wgmma_done(Warp& w, AsyncId id) = 0;
  // Before an instruction runs, while rows are in flight (w.rows_in_flight).
  virtual void registers(Warp& w, const Instr& i) = 0;
};

// For one launch. Shadow memory of global memory lives for the process.
std::unique_ptr<Checker> make_checker(Launch& launch);

// Host side: what memcpy, memset and the allocator tell (checked mode only; any thread). Memory that was
// never told to check_host_allocate counts as initialised; memory given to another process must be told to
// check_host_write, because that one's writes are not seen here.
void check_host_write(uint64_t address, uint64_t bytes);
void check_host_allocate(uint64_t address, uint64_t bytes);
void check_host_free(uint64_t address, uint64_t bytes);

}  // namespace ptxsim
