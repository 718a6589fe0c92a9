// What each warp knows, and what hands knowledge on: warp synchronisation, barriers, mbarriers. Fences:
// flags.cpp.
#include <algorithm>

#include "check/cluster_checker.h"
#include "check/party.h"

namespace ptxsim::check {

void ClusterChecker::begin(LaunchChecker& launch, Cluster& c, uint64_t slot) {
  launch_ = &launch;
  cluster_ = &c;
  slot_ = slot;
  const Launch& l = launch.launch();
  const uint64_t across = l.grid.x / l.cluster.x, down = l.grid.y / l.cluster.y;
  index_ = c.id.x + across * (c.id.y + down * c.id.z);
  const size_t ctas = c.ctas.size();
  warps_per_cta_ = static_cast<uint32_t>(c.ctas[0]->warps.size());
  while (shadows_.size() < ctas) shadows_.push_back(std::make_unique<SharedShadow>());
  if (max_clock_ > kMaxClock / 2) {
    for (auto& s : shadows_) s->clear();
    max_clock_ = 0;
  }
  exhausted_ = false;
  base_ = horizon_ = max_clock_;
  actors_.clear();
  ops_.clear();
  mbarriers_.clear();
  released_shared_.clear();
  same_values_.clear();
  unwritten_.clear();
  barriers_.resize(ctas);
  for (auto& block : barriers_)
    for (PhasedBarrier& b : block) b.forget();
  cluster_barrier_.forget();
  warps_.resize(ctas * warps_per_cta_);
  for (size_t r = 0; r < ctas; ++r) {
    shadows_[r]->reset(c.ctas[r]->shared_end);
    for (Warp& w : c.ctas[r]->warps) {
      WarpState& ws = state(w);
      auto views = std::move(ws.views);
      auto marks = std::move(ws.row_marks);
      ws = {};
      ws.views = std::move(views);
      ws.row_marks = std::move(marks);
      std::fill(ws.row_marks.begin(), ws.row_marks.end(), 0);
      ws.warp = &w;
      ws.actor = static_cast<uint32_t>(actors_.size());
      ws.number = (index_ * launch.warps_per_cluster() + ws.actor) % launch.warp_numbers();
      ws.clock = base_;
      actors_.push_back({.warp = ws.actor,
                         .is_warp = true,
                         .generic = true,
                         .last = base_,
                         .last_write = base_,
                         .clock = base_});
      if (ws.views.empty()) ws.views.push_back(std::make_unique<View>());
      View& v = *ws.views[0];
      v.lanes = ~0u;
      v.now.reset(base_);
      v.seen_near = v.seen_far = nullptr;
      v.quick = base_;
      v.version = ++versions_;
      w.check = this;
    }
  }
}

void ClusterChecker::begin_cluster(Cluster&) {}

void ClusterChecker::end_cluster(Cluster&) {
  for (WarpState& ws : warps_) settle(ws);
  settle_unwritten(nullptr);
  for (AsyncOp& op : ops_) {
    if (op.id && op.read_clock && !op.reads_done && !op.on_mbarrier &&
        (op.engine == Engine::kBulk || op.engine == Engine::kTma))
      still_reading(op);
    if (op.id) end_op(op);
  }
}

// --- time ---
Clock ClusterChecker::stamp(WarpState& ws) {
  if (ws.stale) {
    ws.clock = next_clock(ws.clock);
    ws.stale = false;
  }
  actors_[ws.actor].last = ws.clock;
  return ws.clock;
}

Clock ClusterChecker::next_clock(Clock after) {
  const Clock clock = std::max(after, horizon_) + 1;
  max_clock_ = std::max(max_clock_, clock);
  if (clock >= kMaxClock) exhausted_ = true;
  return std::min(clock, kMaxClock);
}

// Up to which clock all accesses are known to who knows `order`. Whatever happens later has a later clock:
// that is what horizon_ is for.
Clock ClusterChecker::quick_of(const VectorClock& order) {
  Clock quick = max_clock_;
  for (uint32_t a = 0; a < actors_.size(); ++a)
    if (const Clock all = order.all(a); actors_[a].last > all) quick = std::min(quick, all);
  horizon_ = std::max(horizon_, quick);
  return quick;
}

Clock ClusterChecker::quick_proxied_of(const VectorClock& proxied) const {
  Clock quick = kMaxClock;
  for (uint32_t a = 0; a < actors_.size(); ++a)
    if (const Clock all = proxied.all(a); actors_[a].generic && actors_[a].last_write > all)
      quick = std::min(quick, all);
  return quick;
}

// --- views ---
// The view of the lanes of mask that share v, and of no other live lane.
View& ClusterChecker::exclusive(WarpState& ws, View& v, uint32_t mask) {
  if (!(v.lanes & ~mask & ws.warp->live)) return v;
  if (static_cast<size_t>(ws.view_count) == ws.views.size()) ws.views.push_back(std::make_unique<View>());
  const auto index = static_cast<uint8_t>(ws.view_count++);
  View& part = *ws.views[index];
  part = v;
  part.lanes = v.lanes & mask;
  part.version = ++versions_;
  v.lanes &= ~mask;
  for (uint32_t m = part.lanes; m; m &= m - 1) ws.view_of[static_cast<size_t>(__builtin_ctz(m))] = index;
  return part;
}

// One view for the lanes of mask, that knows what any of them knows.
View& ClusterChecker::merged(WarpState& ws, uint32_t mask) {
  View& v = exclusive(ws, *ws.views[ws.view_of[static_cast<size_t>(__builtin_ctz(mask))]], mask);
  if (!(mask & ~v.lanes)) return v;
  const uint8_t index = ws.view_of[static_cast<size_t>(__builtin_ctz(mask))];
  for (int k = 0; k < ws.view_count; ++k) {
    View& other = *ws.views[static_cast<size_t>(k)];
    const uint32_t part = other.lanes & mask;
    if (&other == &v || !part) continue;
    v.now.join(other.now, launch_->levels());
    v.seen_near = remote_join(v.seen_near, other.seen_near, launch_->levels());
    v.seen_far = remote_join(v.seen_far, other.seen_far, launch_->levels());
    other.lanes &= ~part;
    v.lanes |= part;
    for (uint32_t m = part; m; m &= m - 1) ws.view_of[static_cast<size_t>(__builtin_ctz(m))] = index;
  }
  View* const kept = &v;
  for (int k = ws.view_count - 1; k >= 0; --k) {
    if (ws.views[static_cast<size_t>(k)]->lanes & ws.warp->live) continue;
    const auto last = static_cast<size_t>(--ws.view_count);
    std::swap(ws.views[static_cast<size_t>(k)], ws.views[last]);
    const View& moved = *ws.views[static_cast<size_t>(k)];
    for (uint32_t m = moved.lanes; m; m &= m - 1)
      ws.view_of[static_cast<size_t>(__builtin_ctz(m))] = static_cast<uint8_t>(k);
  }
  return *kept;
}

void ClusterChecker::changed(View& v) {
  v.quick = quick_of(v.now.order);
  v.version = ++versions_;
}

// What the lanes did themselves.
void ClusterChecker::add_own(WarpState& ws, uint32_t mask, VectorClock& order) {
  order.at(ws.actor).add(ws.clock, mask | ~ws.warp->live);
  ws.stale = true;
  if (!ws.copy_actor) return;
  Clock copied = base_;
  for (uint32_t m = mask; m; m &= m - 1)
    copied = std::max(copied, ws.copied[static_cast<size_t>(__builtin_ctz(m))]);
  order.at(ws.copy_actor).add(copied, mask | ~ws.warp->live);
}

void ClusterChecker::hand_over(WarpState& ws, const View& v, uint32_t mask, Knowledge& to) {
  to.join(v.now, launch_->levels());
  add_own(ws, mask, to.order);
}

Remote ClusterChecker::publication(WarpState& ws, const View& v, uint32_t mask) {
  auto leaf = std::make_shared<Leaf>(Leaf{v.now.order, v.now.proxied});
  add_own(ws, mask, leaf->order);
  return remote_with(v.now.remote, index_, std::move(leaf), launch_->levels());
}

// What had to wait until the last instruction was done.
void ClusterChecker::settle(WarpState& ws) {
  if (ws.reads.count) settle_reads(ws);
  if (!same_values_.empty()) settle_same_values();
}

// --- warps and barriers ---
void ClusterChecker::sync_lanes(Warp& w, uint32_t mask) {
  WarpState& ws = state(w);
  settle(ws);
  if (!mask) return;
  if (is_whole(ws, mask) && ws.view_count == 1 && ws.stale && !ws.copy_actor &&
      ws.views[0]->now.order.all(ws.actor) == ws.clock)
    return;
  View& v = merged(ws, mask);
  add_own(ws, mask, v.now.order);
  changed(v);
}

void ClusterChecker::arrive(PhasedBarrier& b, WarpState& ws, uint32_t mask, uint64_t phase) {
  PhasedBarrier::Phase& p = b.phases[phase % b.phases.size()];
  if (p.number != phase) {
    p.number = phase;
    p.gathered.reset(base_);
  }
  each_view(ws, mask, [&](View& v, uint32_t part) { hand_over(ws, v, part, p.gathered); });
}

void ClusterChecker::leave(PhasedBarrier& b, WarpState& ws, uint32_t mask, uint64_t phase) {
  View& v = merged(ws, mask);
  PhasedBarrier::Phase& own = b.phases[phase % b.phases.size()];
  for (PhasedBarrier::Phase& p : b.phases)
    if (&p == &own || (own.number != phase && p.number != ~uint64_t{0}))
      v.now.join(p.gathered, launch_->levels());
  changed(v);
  if (!unwritten_.empty()) settle_unwritten(&ws);
}

void ClusterChecker::barrier_arrive(Warp& w, const Instr&, uint32_t mask, int barrier, uint64_t phase) {
  WarpState& ws = state(w);
  settle(ws);
  arrive(barriers_[w.cta->rank][static_cast<size_t>(barrier)], ws, mask, phase);
}

void ClusterChecker::barrier_leave(Warp& w, const Instr&, uint32_t mask, int barrier, uint64_t phase) {
  WarpState& ws = state(w);
  settle(ws);
  leave(barriers_[w.cta->rank][static_cast<size_t>(barrier)], ws, mask, phase);
}

void ClusterChecker::cluster_arrive(Warp& w, const Instr&, uint32_t mask, bool release, uint64_t phase) {
  WarpState& ws = state(w);
  settle(ws);
  if (release) arrive(cluster_barrier_, ws, mask, phase);
}

void ClusterChecker::cluster_leave(Warp& w, const Instr&, uint32_t mask, bool acquire, uint64_t phase) {
  WarpState& ws = state(w);
  settle(ws);
  if (acquire) leave(cluster_barrier_, ws, mask, phase);
}

// --- mbarriers ---
MbarrierState* ClusterChecker::use_mbarrier(WarpState& ws, const Instr& i, int lane, uint64_t address) {
  MbarrierState& m = mbarriers_[static_cast<uint32_t>(address)];
  if (m.current.order.base() != base_) {  // not initialised by mbarrier.init of this cluster
    m.current.reset(base_);
    m.done.reset(base_);
  }
  if (m.init && !exhausted_) {
    Party p = party(ws, i, view_at(ws, lane), Access::kAtomic, true);
    if (const Verdict v = judge_write(p, m.init, 0, static_cast<uint32_t>(lane)); v != Verdict::kOrdered)
      race_in_shared(p, shared_rank(address), shared_offset(address), 8, m.init, true, actor_of(m.init),
                     static_cast<uint32_t>(lane), v);
  }
  return &m;
}

void ClusterChecker::mbarrier_init(Warp& w, const Instr& i, int lane, uint64_t address) {
  WarpState& ws = state(w);
  settle(ws);
  uint64_t addresses[kWarpSize];
  addresses[lane] = address;
  shared_access(ws, i, 1u << lane, addresses,
                {.access = Access::kWrite, .order = Order::kWeak, .scope = Scope::kCta, .bytes = 8});
  MbarrierState& m = mbarriers_[static_cast<uint32_t>(address)];
  free_actors(m.engines);
  free_actors(m.landed);
  m = {};
  m.current.reset(base_);
  m.done.reset(base_);
  m.init = make_epoch(ws.clock, ws.actor, static_cast<size_t>(&i - w.program->code.data()),
                      static_cast<uint32_t>(lane));
}

void ClusterChecker::mbarrier_arrive(Warp& w, const Instr& i, int lane, uint64_t address, bool release) {
  WarpState& ws = state(w);
  settle(ws);
  MbarrierState& m = *use_mbarrier(ws, i, lane, address);
  if (!release) return;
  const View& v = view_at(ws, lane);
  if (m.joined != &v || m.joined_version != v.version) {
    m.current.join(v.now, launch_->levels());
    m.joined = &v;
    m.joined_version = v.version;
  }
  add_own(ws, 1u << lane, m.current.order);
}

void ClusterChecker::mbarrier_phase(Cluster&, uint64_t address) {
  const auto found = mbarriers_.find(static_cast<uint32_t>(address));
  if (found == mbarriers_.end()) return;
  MbarrierState& m = found->second;
  m.done.join(m.current, launch_->levels());
  m.current.reset(base_);
  m.joined = nullptr;
  m.landed.insert(m.landed.end(), m.engines.begin(), m.engines.end());
  m.engines.clear();
}

void ClusterChecker::mbarrier_observe(Warp& w, const Instr& i, uint32_t mask, uint64_t address,
                                      bool acquire) {
  WarpState& ws = state(w);
  settle(ws);
  MbarrierState& m = *use_mbarrier(ws, i, __builtin_ctz(mask), address);
  if (!acquire) return;
  each_view(ws, mask, [&](View& shared, uint32_t part) {
    if (contains(shared.now, m.done)) return;
    View& v = exclusive(ws, shared, part);
    v.now.join(m.done, launch_->levels());
    changed(v);
  });
  free_actors(m.landed);
}

bool ClusterChecker::contains(const Knowledge& a, const Knowledge& b) const {
  const int levels = launch_->levels();
  return a.order.contains(b.order) && a.proxied.contains(b.proxied) &&
         remote_join(a.remote, b.remote, levels) == a.remote &&
         remote_join(a.remote_proxied, b.remote_proxied, levels) == a.remote_proxied &&
         remote_join(a.fenced_near, b.fenced_near, levels) == a.fenced_near &&
         remote_join(a.fenced_far, b.fenced_far, levels) == a.fenced_far;
}

}  // namespace ptxsim::check
