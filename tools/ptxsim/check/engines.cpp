// Work of engines between issue and completion. An engine knows what the issuing lane knew, and acts for an
// actor of its own that nobody knows until the work completes: cp.async and wgmma complete in order and have
// one actor per warp; each bulk or TMA operation in flight has one to itself, which is used again once
// somebody has observed its completion. Global memory: what an engine reads there counts as read by the
// issuing lane; what it writes counts as written by it at the moment it waited for the writes, or at the end
// of the cluster.
#include <algorithm>

#include "check/cluster_checker.h"
#include "check/party.h"

namespace ptxsim::check {

namespace {

constexpr size_t kOps = 4096;
constexpr uint64_t kLaneMask = 0x3f, kNoLane = 32;
constexpr int kOpShift = 6;
constexpr uint64_t kOpMask = (uint64_t{1} << (kSlotShift - kOpShift)) - 1;

}  // namespace

ClusterChecker::Party ClusterChecker::party(AsyncOp& op, Access access) {
  WarpState& ws = warps_[op.warp];
  const bool generic = op.engine == Engine::kCpAsync;
  const Snapshot& s = *op.snapshot;
  return {.ws = ws,
          .instr = *op.instr,
          .now = s.now,
          .quick = generic ? s.quick : std::min(s.quick, s.quick_proxied),
          .access = access,
          .strong = access == Access::kAtomic,
          .far = true,
          .async_proxy = !generic,
          .is_engine = true,
          .engine = op.engine,
          .clock = ws.clock,
          .lane = op.lane >= 0 ? static_cast<uint32_t>(op.lane) : kSomeLanes};
}

uint32_t ClusterChecker::new_actor(uint32_t warp, Engine engine) {
  if (actors_.size() >= kMaxActors) {  // share: reports may be missed
    for (auto a = static_cast<uint32_t>(actors_.size()); a-- > warps_.size();)
      if (actors_[a].warp == warp) return a;
    return kMaxActors - 1;
  }
  actors_.push_back({.warp = warp,
                     .generic = engine == Engine::kCpAsync,
                     .engine = engine,
                     .last = base_,
                     .last_write = base_,
                     .clock = base_});
  return static_cast<uint32_t>(actors_.size() - 1);
}

AsyncId ClusterChecker::begin_async(Warp& w, const Instr& i, int lane, Engine engine) {
  WarpState& ws = state(w);
  settle(ws);
  const uint64_t lane_bits = lane >= 0 ? static_cast<uint64_t>(lane) : kNoLane;
  if (lane < 0) lane = __builtin_ctz(w.mask ? w.mask : w.live ? w.live : 1);
  const View& v = view_at(ws, lane);
  const uint32_t own = lane_bits == kNoLane ? v.lanes & (w.mask ? w.mask : ~0u) : 1u << lane;
  // The lanes of one cp.async are one operation, known lane by lane.
  if (engine == Engine::kCpAsync && ws.last_copy < ops_.size()) {
    AsyncOp& last = ops_[ws.last_copy];
    if (last.id && last.instr == &i && last.warp == ws.actor && !(last.lanes & own) &&
        last.version == v.version && !last.write_clock) {
      last.lanes |= own;
      auto more = std::const_pointer_cast<Snapshot>(last.snapshot);
      add_own(ws, own, more->now.order);
      return last.id | lane_bits;
    }
  }
  const uint64_t number = next_op_++;
  const size_t at = number % kOps;
  if (at >= ops_.size()) ops_.resize(at + 1);
  AsyncOp& op = ops_[at];
  if (op.id) end_op(op);
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->now = v.now;
  add_own(ws, own, snapshot->now.order);
  snapshot->quick = quick_of(snapshot->now.order);
  snapshot->quick_proxied = engine == Engine::kCpAsync ? kMaxClock : quick_proxied_of(snapshot->now.proxied);
  op = {};
  op.id = slot_ << kSlotShift | (number & kOpMask) << kOpShift;
  op.warp = ws.actor;
  op.lane = lane_bits == kNoLane ? -1 : lane;
  op.lanes = own;
  op.engine = engine;
  op.instr = &i;
  op.snapshot = std::move(snapshot);
  op.version = v.version;
  if (engine == Engine::kCpAsync) ws.last_copy = static_cast<uint32_t>(at);
  return op.id | lane_bits;
}

uint32_t ClusterChecker::mark_of(AsyncId id) { return static_cast<uint32_t>(id >> kOpShift & 0x7fffffff); }

const Instr* ClusterChecker::marking(uint32_t mark) const {
  const size_t at = (mark & 0x7fffffff) % kOps;
  return at < ops_.size() && ops_[at].id && mark_of(ops_[at].id) == (mark & 0x7fffffff) ? ops_[at].instr
                                                                                        : nullptr;
}

AsyncOp* ClusterChecker::op_of(AsyncId id) {
  const size_t at = (id >> kOpShift & kOpMask) % kOps;
  return at < ops_.size() && ops_[at].id == (id & ~kLaneMask) ? &ops_[at] : nullptr;
}

// The actor of an operation for its reads or its writes of shared memory.
uint32_t ClusterChecker::actor_for(AsyncOp& op, Access access) {
  const bool writes = access != Access::kRead;
  uint32_t& actor = writes ? op.writer : op.reader;
  Clock& clock = writes ? op.write_clock : op.read_clock;
  if (clock) return actor;
  WarpState& ws = warps_[op.warp];
  if (op.engine == Engine::kCpAsync) {
    if (!ws.copy_actor) ws.copy_actor = new_actor(op.warp, op.engine);
    actor = ws.copy_actor;
  } else if (op.engine == Engine::kWgmma) {
    if (!ws.wgmma_actor) ws.wgmma_actor = new_actor(op.warp, op.engine);
    actor = ws.wgmma_actor;
  } else if (!ws.free_actors.empty()) {
    actor = ws.free_actors.back();
    ws.free_actors.pop_back();
    actors_[actor].engine = op.engine;
  } else {
    actor = new_actor(op.warp, op.engine);
  }
  Actor& a = actors_[actor];
  clock = a.clock = next_clock(a.clock);
  a.last = clock;
  return actor;
}

void ClusterChecker::async_access(AsyncId id, uint64_t address, uint64_t bytes, Access access) {
  if (!same_values_.empty()) settle_same_values();
  AsyncOp* op = op_of(id);
  if (!op || !bytes) return;
  if ((address & kTagMask) == kSharedTag) {
    Party p = party(*op, access);
    p.actor = actor_for(*op, access);
    p.clock = access == Access::kRead ? op->read_clock : op->write_clock;
    if (op->engine == Engine::kCpAsync && (id & kLaneMask) < kNoLane) p.lane = id & kLaneMask;
    if (p.strong) launch_->set_strong(p.pc());
    p.good = op->good;
    enter_block(p, shared_rank(address));
    shared_engine(p, shared_offset(address), static_cast<uint32_t>(bytes));
    op->good = p.good;
  } else if ((address & kTagMask) == 0) {
    if (access == Access::kRead || op->engine == Engine::kCpAsync) {
      Party p = party(*op, access);
      global_engine(p, address, bytes);
    } else {
      std::vector<Range>& ranges = op->global_writes;
      if (!ranges.empty() && ranges.back().address + ranges.back().bytes == address)
        ranges.back().bytes += bytes;
      else
        ranges.push_back({address, bytes, access == Access::kAtomic});
    }
  }
}

// Any bytes of one block.
void ClusterChecker::shared_engine(Party& p, uint32_t offset, uint32_t bytes) {
  const uint32_t end = offset + bytes, head = std::min(end, (offset + 3) & ~3u),
                 tail = std::max(head, end & ~3u);
  const Lanes lanes{.one = static_cast<uint8_t>(p.lane)};
  if (head > offset) check_part(p, offset, head - offset, p.lane);
  if (tail > head) check_range(p, head / 4, (tail - head) / 4, lanes);
  if (end > tail) check_part(p, tail, end - tail, p.lane);
  if (head > offset) record_part(p, offset, head - offset, p.lane);
  if (tail > head) record_range(p, head / 4, (tail - head) / 4, lanes);
  if (end > tail) record_part(p, tail, end - tail, p.lane);
}

// The writes to global memory are visible to the issuing lane from now on.
void ClusterChecker::land_writes(AsyncOp& op) {
  WarpState& ws = warps_[op.warp];
  for (const Range& r : op.global_writes) {
    Party p = party(op, r.atomic ? Access::kAtomic : Access::kWrite);
    p.clock = stamp(ws);
    global_engine(p, r.address, r.bytes);
  }
  op.global_writes.clear();
}

// The operation is over, whether or not it completed.
void ClusterChecker::end_op(AsyncOp& op) {
  land_writes(op);
  op.id = 0;
  op.snapshot = nullptr;
}

void ClusterChecker::free_actors(std::vector<std::pair<uint32_t, uint32_t>>& engines) {
  for (const auto& [warp, actor] : engines) warps_[warp].free_actors.push_back(actor);
  engines.clear();
}

void ClusterChecker::complete_on_mbarrier(AsyncId id, Cluster&, uint64_t mbarrier) {
  if (!same_values_.empty()) settle_same_values();
  AsyncOp* op = op_of(id);
  if (!op) return;
  MbarrierState& m = mbarriers_[static_cast<uint32_t>(mbarrier)];
  if (m.current.order.base() != base_) {
    m.current.reset(base_);
    m.done.reset(base_);
  }
  const bool generic = op->engine == Engine::kCpAsync;
  if (m.init && !m.fenced && !generic && !exhausted_) {
    // The engine signals the mbarrier through the async proxy.
    Party p = party(*op, Access::kAtomic);
    if (const Verdict v = judge_write(p, m.init, 0, p.lane); v != Verdict::kOrdered)
      race_in_shared(p, shared_rank(mbarrier), shared_offset(mbarrier), 8, m.init, true, actor_of(m.init),
                     p.lane, v);
  }
  const uint64_t lane = id & kLaneMask;
  const uint32_t lanes = generic && lane < kNoLane ? 1u << lane : ~0u;
  if (op->read_clock) m.current.order.at(op->reader).add(op->read_clock, lanes);
  if (op->write_clock) m.current.order.at(op->writer).add(op->write_clock, lanes);
  m.joined = nullptr;
  if (op->on_mbarrier || generic) return;  // multicast: one actor, several mbarriers
  op->on_mbarrier = true;
  if (op->read_clock) m.engines.emplace_back(op->warp, op->reader);
  if (op->write_clock) m.engines.emplace_back(op->warp, op->writer);
}

void ClusterChecker::complete_on_wait(AsyncId id, Warp& w, uint32_t mask, bool reads_only) {
  WarpState& ws = state(w);
  if (!same_values_.empty()) settle_same_values();
  AsyncOp* op = op_of(id);
  if (!op || !mask) return;
  if (op->engine ==
      Engine::kCpAsync) {  // each lane knows of its own copies; others learn of them when they synchronise
    for (uint32_t m = mask; m; m &= m - 1) {
      Clock& copied = ws.copied[static_cast<size_t>(__builtin_ctz(m))];
      copied = std::max(copied, op->write_clock);
    }
    return;
  }
  settle(ws);
  each_view(ws, mask, [&](View& shared, uint32_t part) {
    View& v = exclusive(ws, shared, part);
    if (op->read_clock) v.now.order.at(op->reader).add(op->read_clock, ~0u);
    if (op->write_clock && !reads_only) v.now.order.at(op->writer).add(op->write_clock, ~0u);
    changed(v);
  });
  if (op->engine == Engine::kWgmma) return;
  if (op->read_clock && !op->reads_done) ws.free_actors.push_back(op->reader);
  op->reads_done = true;
  if (reads_only) return;
  if (op->write_clock) ws.free_actors.push_back(op->writer);
  end_op(*op);
}

}  // namespace ptxsim::check
