// The state of a running launch: warps, blocks (CTAs), clusters; and what handlers use.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "exec/program.h"
#include "fault.h"

namespace ptxsim {

inline constexpr int kWarpSize = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

class Checker;
struct Cta;
struct Cluster;
struct Worker;
struct Launch;
struct AsyncGroups;

// --- addresses: the top byte names the space; everything else is a host pointer (global, const, param of the
// launch) ---
inline constexpr uint64_t kLocalTag = uint64_t{1} << 56;  // | offset in the thread's local memory
inline constexpr uint64_t kSharedTag = uint64_t{2}
                                       << 56;  // | rank << 24 | offset in the block's shared memory
inline constexpr uint64_t kParamTag = uint64_t{3} << 56;  // | offset in the kernel's parameters
inline constexpr uint64_t kTagMask = uint64_t{0xff} << 56;
inline constexpr uint32_t kSharedOffsetMask = 0xffffff;
inline uint32_t shared_rank(uint64_t a) { return static_cast<uint32_t>(a) >> 24; }
inline uint32_t shared_offset(uint64_t a) { return static_cast<uint32_t>(a) & kSharedOffsetMask; }

// Lanes of a warp that are at the same pc. A split that waits is not run until ready(w, split) says so.
struct Split {
  uint32_t pc = 0;
  uint32_t mask = 0;
  bool (*ready)(Warp& w, const Split& s) = nullptr;  // null: can run
  uint64_t wait[2] = {0, 0};                         // what `ready` looks at
  const char* why = nullptr;  // "bar.sync", "mbarrier.try_wait": for the report of a deadlock
  bool again = true;          // pc is the instruction that waits, not the one behind it
};

// Groups of wgmma that a warp has committed; in checked mode the engine's work of each until the warpgroup
// has waited for it.
struct WgmmaGroups {
  struct Work {
    uint64_t group = 0, id = 0;  // id: AsyncId of check/checker.h
    uint32_t waited = 0;         // warps of the warpgroup that have waited for it
  };
  uint64_t committed = 0;
  std::vector<Work> work;
};

struct alignas(64) Warp {
  // The running split.
  uint32_t pc = 0;
  uint32_t mask = 0;
  bool stop = false;  // set by a handler: leave the loop after it (the split was parked, or its time is up)
  int budget = 0;     // backward branches left before the next warp has its turn
  int turns_of_others = 0;  // choices of a split left in which the one furthest ahead is preferred
  std::byte* regs = nullptr;
  Checker* check = nullptr;  // null outside checked mode
  uint32_t carry = 0;        // CC.CF of each lane (add.cc, subc, ...)

  uint32_t live = 0;   // lanes that have not exited
  uint32_t lanes = 0;  // lanes that exist (the last warp of a block may be short)
  int index = 0;       // in its block
  Cta* cta = nullptr;
  const Program* program = nullptr;
  std::vector<Split> splits;   // all but the running one
  std::byte* local = nullptr;  // lane l's memory begins at local + l * program->local_bytes
  uint64_t steps = 0;          // instructions run, for clock
  int max_registers = 0;       // after setmaxnreg; 0: as launched
  int rows_in_flight = 0;      // register rows that a tensor core still uses; kept by the checker
  uint64_t uid = 0;            // unique in the launch: cta linear index * warps per block + index
  std::array<uint64_t, 16> barrier_phase{};  // of each named barrier, that this warp arrived at last
  WgmmaGroups wgmma;
  uint64_t cluster_arrivals = 0;              // at barrier.cluster
  std::shared_ptr<AsyncGroups> async_groups;  // exec/async.h: null until there is asynchronous work to track
};

// One of the 16 barriers of a block (bar / barrier). Arrivals are counted in warps: a warp has arrived when
// all its live lanes have.
struct NamedBarrier {
  std::array<uint32_t, 32> lanes{};  // of each warp, that have arrived in this phase
  int expected = 0;                  // warps that complete it; 0: nobody has arrived; -1: all warps that live
  uint64_t phase = 0;
  uint32_t all = ~0u, any = 0, count = 0;  // bar.red of the phase being gathered: and, or, popc
  uint32_t result_all = 0, result_any = 0, result_count = 0;  // of the last complete phase
};

struct Cta {
  Cluster* cluster = nullptr;
  uint32_t rank = 0;            // in its cluster
  Dim3 id;                      // %ctaid
  uint64_t linear = 0;          // of the grid
  std::byte* shared = nullptr;  // offset 0 of its shared memory (user data from kSharedBase)
  uint32_t shared_end = 0;      // kSharedBase + static + dynamic bytes
  std::vector<Warp> warps;
  std::array<NamedBarrier, 16> barriers;
  uint32_t barriers_in_use = 0;  // those somebody has arrived at since they last completed
  int running = 0;               // warps with live lanes
  int registers_at_launch = 0;   // per thread: what setmaxnreg of all warps shares
};

// Asynchronous work that has been issued and has not happened (late mode only; otherwise it happens at
// issue).
struct Pending {
  Warp* issuer = nullptr;
  uint32_t lanes = 0;            // issuing lanes
  uint64_t kind = 0;             // the family's: cp.async, bulk group, TMA, ...
  uint64_t group = 0;            // commit group, the family's
  std::function<void()> happen;  // does it, signals its mbarrier
};

struct Cluster {
  Launch* launch = nullptr;
  Worker* worker = nullptr;
  Dim3 id;  // %clusterid
  std::vector<std::unique_ptr<Cta>> ctas;
  std::vector<Pending> pending;
  uint64_t events = 0;  // anything that may let another warp go on: stores, arrivals, exits, completions
  uint64_t polls = 0;   // looks at what another may change: loads that are not weak, atomics without effect
  uint64_t released_at = 0;  // events when try_waits were last let go for want of anybody who can run
  int releases = 0;          // how often since
  uint32_t arrived = 0;      // warps at barrier.cluster of this phase
  uint64_t phase = 0;
  int running = 0;  // warps with live lanes
};

// Everything the threads of one launch share.
struct Launch {
  const Program* program = nullptr;
  Dim3 grid, block, cluster;
  uint32_t dynamic_shared = 0;
  const std::byte* parameter_base = nullptr;  // a copy, aligned to 128
  int device = 0;
  int registers_per_thread = 0;  // what ptxas would grant: see registers_of() in sim.h
  uint64_t serial = 0;           // of launches in this process
  bool cooperative = false;
  std::byte* grid_workspace = nullptr;  // of a cooperative launch: 16 zeros, then cooperative groups' own
  Checker* check = nullptr;
  std::string name;  // demangled, without its parameters: "gemm<128, 64>"
};

// --- what handlers use ---
template <class T>
T* row(Warp& w, uint32_t offset) {
  return reinterpret_cast<T*>(w.regs + offset);
}
inline uint32_t& predicate_row(Warp& w, uint32_t offset) { return *row<uint32_t>(w, offset); }
// Lanes that run this instruction.
inline uint32_t active(Warp& w, const Instr& i) {
  return w.mask & (predicate_row(w, i.guard) ^ i.guard_flip);
}

// d[l] = f(l) for the lanes of mask; the full mask is one vectorised loop. f must not depend on other lanes
// of d.
template <class T, class F>
inline void each_lane(uint32_t mask, T* d, F f) {
  if (mask == kAllLanes) [[likely]] {
#pragma GCC ivdep
    for (int l = 0; l < kWarpSize; ++l) d[l] = f(l);
  } else {
    for (uint32_t m = mask; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      d[l] = f(l);
    }
  }
}

// Base rows are 32 or 64 bit; writes the 32 addresses base + offset (only lanes of mask are meaningful).
void load_addresses(Warp& w, uint32_t row_offset, int bits, int64_t offset, uint64_t* out);

enum class Access : uint8_t { kRead, kWrite, kAtomic };
enum class Order : uint8_t { kWeak, kRelaxed, kAcquire, kRelease, kAcqRel, kSeqCst, kVolatile };
enum class Scope : uint8_t { kCta, kCluster, kGpu, kSystem };
enum class Proxy : uint8_t { kGeneric, kAsync, kTensorMap };

struct AccessInfo {
  Access access = Access::kRead;
  Order order = Order::kWeak;
  Scope scope = Scope::kGpu;
  uint32_t bytes = 4;  // per lane
};

// Host pointers of the tagged (generic) addresses of the lanes of mask: bounds and alignment checked against
// the space they name, and the access told to the checker. Fails by Fault with the lane, the address and what
// lies there.
void resolve(Warp& w, const Instr& i, uint32_t mask, const uint64_t* addresses, const AccessInfo& info,
             std::byte** out);
// One address, `bytes` long, as a bulk engine or a single lane uses it; `lane` only for the message. No
// checker call.
std::byte* resolve_range(Warp& w, const Instr& i, int lane, uint64_t address, uint64_t bytes,
                         uint64_t alignment);
// The tagged address of a 32-bit shared address.
inline uint64_t shared_address(uint32_t a) { return kSharedTag | a; }

// Lanes of `needed` must all be here, at this instruction (of the running split): true when they are.
// Otherwise parks the split at this instruction, sets w.stop and returns false: the handler returns at once
// and is called again later. Fails where a needed lane has exited or can never come.
bool gather_lanes(Warp& w, const Instr& i, uint32_t needed, const char* why);
// The same for instructions whose lanes each name the lanes they need, as bits of members[lane]: the active
// lanes whose groups are complete; the others are parked. 0: none.
uint32_t gather_groups(Warp& w, const Instr& i, const uint32_t* members, const char* why);
// Parks the running split: it comes back to this instruction (again = true) or goes on behind it once ready()
// holds.
void park(Warp& w, const Instr& i, bool again, bool (*ready)(Warp&, const Split&), uint64_t wait0,
          uint64_t wait1, const char* why);
// Ends the lanes of mask.
void exit_lanes(Warp& w, uint32_t mask);
// Something happened that another warp may wait for.
inline void note_event(Warp& w) { ++w.cta->cluster->events; }
// The warp looked at something that another may change (and did not change it): a loop of these gives up its
// turn soon.
inline void note_poll(Warp& w) {
  ++w.cta->cluster->polls;
  w.budget -= 16;
}
// Gives other warps a turn; the running split goes on behind this instruction.
inline void yield(Warp& w) {
  note_poll(w);
  w.budget = 0;
  w.stop = true;
}
// Late mode: keeps work for later; at once otherwise.
void defer(Warp& w, Pending work);
// Does the pending work of this cluster for which `due` holds, in order of issue.
void settle(Cluster& c, const std::function<bool(const Pending&)>& due);

// "kernel gemm<128>, block (3,0,0), warp 2, lane 5: <what>; gemm.cu:120 (PTX line 4711: ld.global.v4.f32)".
// lane -1: none.
[[noreturn]] void fail(Warp& w, const Instr& i, int lane, ErrorCode code, const std::string& what);
std::string position(const Warp& w, const Instr& i, int lane);

}  // namespace ptxsim
