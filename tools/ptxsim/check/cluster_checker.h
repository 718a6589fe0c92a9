// The checks of one cluster while it runs: what each warp knows, the shadows of its blocks, its barriers and
// engines. One thread at a time uses it; it is kept for another cluster when this one ends.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "check/checker.h"
#include "check/launch_checker.h"
#include "check/remote.h"
#include "check/runs.h"
#include "check/shared_shadow.h"

namespace ptxsim::check {

// An AsyncId: slot of the cluster among those that run, plus 1 | number of the operation | lane.
inline constexpr int kSlotShift = 48;

// Lanes of a warp that know the same.
struct View {
  uint32_t lanes = 0;
  Knowledge now;
  Remote seen_near, seen_far;  // found by relaxed reads: taken by the next fence
  Clock quick = 0;             // every access of the cluster at or before this clock is known
  uint64_t version = 0;        // changes with `now`
};

// What an engine knows when it starts.
struct Snapshot {
  Knowledge now;
  Clock quick = 0;          // all accesses at or before are known,
  Clock quick_proxied = 0;  // and all writes of the generic proxy are proxied
};

// A strong read whose value the instruction has by the time of the next hook: what was released there is
// taken then.
struct PendingReads {
  uint32_t mask = 0;
  bool acquire = false, far = false;
  int count = 0;
  std::array<uint64_t, kWarpSize> addresses;  // of words
};

struct WarpState {
  Warp* warp = nullptr;
  uint32_t actor = 0;
  uint64_t number = 0;  // in the shadow of global memory
  Clock clock = 0;
  bool stale = true;  // the clock was handed over: it moves on before the next access
  std::array<uint8_t, kWarpSize> view_of{};
  std::vector<std::unique_ptr<View>> views;
  int view_count = 1;
  PendingReads reads;
  // cp.async of the warp, in order of issue: actor (0: none yet), and how far each lane has waited for its
  // own.
  uint32_t copy_actor = 0, last_copy = ~0u;
  std::array<Clock, kWarpSize> copied{};
  uint32_t wgmma_actor = 0;
  // Strong writes of others that this warp has read: it may use those words now.
  std::array<std::pair<uint64_t, uint64_t>, 8> observed{};
  uint32_t next_observed = 0;
  std::vector<uint32_t> free_actors;  // of its engines
  std::vector<uint32_t> row_marks;    // by offset / 64: which wgmma uses the row, 0 for none
  std::vector<uint32_t> marked;       // those that are not 0, and perhaps others
  std::vector<int> aliases;           // PTX registers that copies of rows in flight have used
};

enum class Verdict : uint8_t { kOrdered, kRace, kNotProxied };

struct Actor {
  uint32_t warp = 0;  // that it is or works for
  bool is_warp = false;
  bool generic = false;  // its writes are of the generic proxy
  Checker::Engine engine = Checker::Engine::kCpAsync;
  Clock last = 0, last_write = 0, clock = 0;
};

struct Range {
  uint64_t address = 0, bytes = 0;
  bool atomic = false;
};

// Work of an engine.
struct AsyncOp {
  AsyncId id = 0;  // without the lane; 0: none
  uint32_t warp = 0;
  int lane = -1;
  uint32_t lanes = 0;  // cp.async: all of one instruction
  Checker::Engine engine = Checker::Engine::kCpAsync;
  const Instr* instr = nullptr;
  std::shared_ptr<const Snapshot> snapshot;
  uint32_t reader = 0, writer = 0;  // actors; 0: none yet
  Clock read_clock = 0, write_clock = 0;
  uint64_t version = 0;
  Epoch good = 0;  // see Party
  bool reads_done = false, on_mbarrier = false;
  std::vector<Range> global_writes;  // take effect for others when they are waited for
};

struct MbarrierState {
  Knowledge current, done;
  const View* joined = nullptr;  // already in `current`
  uint64_t joined_version = 0;
  std::vector<std::pair<uint32_t, uint32_t>> engines,
      landed;  // (warp, actor): free once the phase was observed
  Epoch init = 0;
  uint32_t init_block = 0;
  bool fenced = false;
};

// A barrier whose arrivals of one phase may overlap the departures of earlier ones.
struct PhasedBarrier {
  struct Phase {
    uint64_t number = ~uint64_t{0};
    Knowledge gathered;
  };
  std::array<Phase, 4> phases;

  void forget() {
    for (Phase& p : phases) p.number = ~uint64_t{0};
  }
};

class ClusterChecker final : public Checker {
 public:
  void begin(LaunchChecker& launch, Cluster& c, uint64_t slot);

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

  const Cluster* cluster() const { return cluster_; }

 private:
  // One side of an access being checked: a warp's lanes, or an engine.
  struct Party;

  // --- what warps know: order.cpp ---
  WarpState& state(const Warp& w) {
    return warps_[w.cta->rank * warps_per_cta_ + static_cast<uint32_t>(w.index)];
  }
  static View& view_at(WarpState& ws, int lane) { return *ws.views[ws.view_of[static_cast<size_t>(lane)]]; }
  // f(view, lanes of mask in it)
  template <class F>
  void each_view(WarpState& ws, uint32_t mask, F f) {
    while (mask) {
      View& v = view_at(ws, __builtin_ctz(mask));
      const uint32_t part = mask & v.lanes;
      mask &= ~part;
      f(v, part);
    }
  }
  View& exclusive(WarpState& ws, View& v, uint32_t mask);
  View& merged(WarpState& ws, uint32_t mask);
  bool is_whole(const WarpState& ws, uint32_t mask) const { return (mask | ~ws.warp->live) == ~0u; }
  void changed(View& v);
  void hand_over(WarpState& ws, const View& v, uint32_t mask, Knowledge& to);
  void add_own(WarpState& ws, uint32_t mask, VectorClock& order);
  Remote publication(WarpState& ws, const View& v, uint32_t mask);
  Clock quick_of(const VectorClock& order);
  Clock quick_proxied_of(const VectorClock& proxied) const;
  Clock stamp(WarpState& ws);
  Clock next_clock(Clock after);
  void settle(WarpState& ws);
  void settle_reads(WarpState& ws);
  void take(WarpState& ws, const PendingReads& reads, const Remote& map, bool far);
  void arrive(PhasedBarrier& b, WarpState& ws, uint32_t mask, uint64_t phase);
  void leave(PhasedBarrier& b, WarpState& ws, uint32_t mask, uint64_t phase);
  MbarrierState* use_mbarrier(WarpState& ws, const Instr& i, int lane, uint64_t address);
  bool contains(const Knowledge& a, const Knowledge& b) const;
  void synchronise(WarpState& ws, uint32_t mask, const uint64_t* addresses, const AccessInfo& info);
  void publish(uint32_t mask, const uint64_t* addresses, const Remote& what, bool far);

  // --- parties: party.h ---
  Party party(WarpState& ws, const Instr& i, const View& v, Access access, bool strong);

  // --- shared memory: shared_access.cpp ---
  void shared_access(WarpState& ws, const Instr& i, uint32_t mask, const uint64_t* addresses,
                     const AccessInfo& info);
  void shared_runs(Party& p, const Run* runs, int count);
  void check_run(Party& p, const Run& r);
  void record_run(Party& p, const Run& r);
  void enter_block(Party& p, uint32_t rank);
  void enter_other_block(Party& p, uint32_t rank);
  // Words [word, word + count) of the block that the party entered; and fewer than 4 bytes within a word.
  void check_range(Party& p, uint32_t word, uint32_t count, Lanes lanes);
  void record_range(Party& p, uint32_t word, uint32_t count, Lanes lanes);
  void check_part(Party& p, uint32_t offset, uint32_t bytes, uint32_t lane);
  void record_part(Party& p, uint32_t offset, uint32_t bytes, uint32_t lane);
  void record_reads(Party& p, uint32_t word, uint32_t count, Lanes lanes);
  void record_writes(Party& p, uint32_t word, uint32_t count, Lanes lanes);
  void check_written(Party& p, uint32_t word, uint32_t count, Lanes lanes);
  void check_readers(Party& p, uint32_t word, uint32_t count, Lanes lanes);
  void check_word(Party& p, uint32_t word, uint32_t lanes);
  Verdict judge_write(const Party& p, Epoch e, uint32_t byte, uint32_t lane) const;
  bool passes_read(const Party& p, uint32_t reader, Epoch e, uint32_t bytes, uint32_t lane) const;
  void conflict(Party& p, uint32_t offset, uint32_t bytes, Epoch e, uint32_t lane, Verdict v);
  // A read of bytes that nobody has written is kept until its warp has passed a barrier: if another thread
  // writes them before, it is that race that is reported.
  void require_initialised(Party& p, uint32_t offset, uint32_t bytes, Lanes lanes);
  void unwritten(Party& p, uint32_t at, uint32_t lanes);
  void settle_unwritten(const WarpState* ws);

  // --- global memory: global_access.cpp ---
  void global_access(WarpState& ws, const Instr& i, uint32_t mask, const uint64_t* addresses,
                     const AccessInfo& info);
  void enter_chunk(Party& p, uint64_t address);
  void enter_other_chunk(Party& p, uint64_t address);
  void global_run(Party& p, const Run& r, uint32_t lane_bytes);
  void global_engine(Party& p, uint64_t address, uint64_t bytes);
  void global_range(Party& p, uint64_t address, uint64_t bytes, Lanes lanes);
  void global_word(Party& p, uint64_t address, uint32_t lane);
  void global_words(Party& p, uint64_t address, uint32_t count, Lanes lanes);
  void global_part(Party& p, uint64_t address, uint32_t bytes, uint32_t lane);
  uint64_t global_epoch(const Party& p) const;
  bool knows_global(const Party& p, uint64_t e, bool proxied) const;
  void judge_global(Party& p, uint64_t address, uint32_t bytes, uint64_t e, bool e_writes, uint32_t lane);
  void note_observed(WarpState& ws, uint64_t address);

  // --- engines: engines.cpp ---
  Party party(AsyncOp& op, Access access);
  uint32_t new_actor(uint32_t warp, Engine engine);
  AsyncOp* op_of(AsyncId id);
  uint32_t actor_for(AsyncOp& op, Access access);
  void shared_engine(Party& p, uint32_t offset, uint32_t bytes);
  void land_writes(AsyncOp& op);
  void end_op(AsyncOp& op);
  void free_actors(std::vector<std::pair<uint32_t, uint32_t>>& engines);

  // --- registers in flight: registers.cpp ---
  static uint32_t mark_of(AsyncId id);
  const Instr* marking(uint32_t mark) const;  // the wgmma
  static void set_mark(WarpState& ws, uint32_t row, uint32_t mark);
  static void copy_marks(WarpState& ws, const Program& p, uint32_t pc);

  // --- reports: report.cpp ---
  [[noreturn]] void report(Warp& w, const Instr& i, uint32_t lane, const std::string& what);
  [[noreturn]] void race_in_shared(const Party& p, uint32_t rank, uint32_t offset, uint32_t bytes, Epoch e,
                                   bool e_writes, uint32_t actor, uint32_t lane, Verdict v);
  [[noreturn]] void race_in_global(const Party& p, uint64_t address, uint32_t bytes, uint64_t e,
                                   bool e_writes, uint32_t lane, Verdict v);
  [[noreturn]] void uninitialised_global(const Party& p, uint64_t address, uint32_t lane);
  [[noreturn]] void still_reading(const AsyncOp& op);
  std::string who(const Party& p, uint32_t lane) const;
  std::string place_in_shared(uint32_t rank, uint32_t offset) const;

  // A store over a value that another party wrote without order: legal if it leaves the bytes as they are,
  // which is known when it is done.
  struct SameValue {
    WarpState* ws = nullptr;
    const Instr* instr = nullptr;
    const std::byte* at = nullptr;
    std::array<std::byte, 4> before{};
    uint32_t bytes = 0, lane = 0;
    bool global = false;
    uint64_t place = 0;  // rank << 24 | offset, or the address
    uint64_t epoch = 0;
  };
  void settle_same_values();

  struct Unwritten {
    WarpState* ws = nullptr;
    const Instr* instr = nullptr;
    uint32_t rank = 0, offset = 0, lane = 0;
    std::string who;
  };

  LaunchChecker* launch_ = nullptr;
  Cluster* cluster_ = nullptr;
  uint64_t slot_ = 0, index_ = 0;  // index_: of the cluster in the grid
  uint32_t warps_per_cta_ = 1;
  Clock base_ = 0, max_clock_ = 0, horizon_ = 0;
  bool exhausted_ = false;  // the clock has run out: no more races in this cluster
  uint64_t versions_ = 0;
  std::vector<WarpState> warps_;
  std::vector<Actor> actors_;
  std::vector<std::unique_ptr<SharedShadow>> shadows_;  // by rank
  std::vector<std::array<PhasedBarrier, 16>> barriers_;
  PhasedBarrier cluster_barrier_;
  std::unordered_map<uint32_t, MbarrierState> mbarriers_;  // by rank << 24 | offset
  std::unordered_map<uint32_t, Remote> released_shared_;   // by word address
  std::vector<AsyncOp> ops_;                               // a ring: older work is taken to be complete
  uint64_t next_op_ = 1;
  std::vector<SameValue> same_values_;
  std::vector<Unwritten> unwritten_;
  std::vector<uint32_t> readers_;  // of the block entered last: those that may not be known to have read
};

}  // namespace ptxsim::check
