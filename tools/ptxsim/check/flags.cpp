// Fences, and what a strong access hands over or takes: the releases and acquires of the memory model.
#include "check/cluster_checker.h"
#include "check/party.h"

namespace ptxsim::check {

void ClusterChecker::fence(Warp& w, const Instr&, uint32_t mask, Fence kind, Scope scope) {
  WarpState& ws = state(w);
  settle(ws);
  if (kind == Fence::kWgmma) return;  // see registers.cpp
  if (kind == Fence::kMbarrierInit || kind == Fence::kProxyAsync) {
    for (auto& [address, m] : mbarriers_)
      if (m.init && actor_of(m.init) == ws.actor) m.fenced = true;
    if (kind == Fence::kMbarrierInit) return;
  }
  const bool far = scope >= Scope::kGpu;
  each_view(ws, mask, [&](View& shared, uint32_t part) {
    View& v = exclusive(ws, shared, part);
    if (kind == Fence::kProxyAsync || kind == Fence::kProxyTensorMap) {
      v.now.proxied.join(v.now.order);
      add_own(ws, part, v.now.proxied);
      v.now.remote_proxied = v.now.remote;
      v.version = ++versions_;
      return;
    }
    if (v.seen_near) v.now.acquire(v.seen_near, index_, launch_->levels());
    v.seen_near = nullptr;
    if (far && v.seen_far) v.now.acquire(v.seen_far, index_, launch_->levels());
    if (far) v.seen_far = nullptr;
    v.now.fenced_near = publication(ws, v, part);
    if (far) v.now.fenced_far = v.now.fenced_near;
    changed(v);
  });
}

void ClusterChecker::settle_reads(WarpState& ws) {
  const PendingReads reads = ws.reads;
  ws.reads.count = 0;
  for (int k = 0; k < reads.count; ++k) {
    const uint64_t address = reads.addresses[static_cast<size_t>(k)];
    if ((address & kTagMask) == kSharedTag) {
      const auto found = released_shared_.find(static_cast<uint32_t>(address));
      if (found != released_shared_.end()) take(ws, reads, found->second, false);
      continue;
    }
    if (reads.count <= 2) note_observed(ws, address);
    if (!launch_->any_release()) continue;
    take(ws, reads, launch_->acquire(address, false, index_), false);
    if (reads.far) take(ws, reads, launch_->acquire(address, true, index_), true);
  }
}

// What was released where a strong read looked: known at once where it acquires, from the next fence on where
// not.
void ClusterChecker::take(WarpState& ws, const PendingReads& reads, const Remote& map, bool far) {
  if (!map) return;
  const int levels = launch_->levels();
  each_view(ws, reads.mask, [&](View& shared, uint32_t part) {
    const Remote& known = reads.acquire ? shared.now.remote : far ? shared.seen_far : shared.seen_near;
    Remote more = remote_join(known, map, levels);
    if (more == known) return;  // as most looks of a loop that spins
    View& v = exclusive(ws, shared, part);
    if (reads.acquire) {
      v.now.acquire(map, index_, levels);
      changed(v);
    } else {
      (far ? v.seen_far : v.seen_near) = std::move(more);
    }
  });
}

// The flag side of an access that was recorded: what a strong write hands over, what a strong read finds once
// it is done.
void ClusterChecker::synchronise(WarpState& ws, uint32_t mask, const uint64_t* addresses,
                                 const AccessInfo& info) {
  const bool far = info.scope >= Scope::kGpu || info.order == Order::kVolatile;
  if (info.access != Access::kRead) {
    const bool release =
        info.order == Order::kRelease || info.order == Order::kAcqRel || info.order == Order::kSeqCst;
    each_view(ws, mask, [&](View& v, uint32_t part) {
      if (release) {
        publish(part, addresses, publication(ws, v, part), far);
        return;
      }
      if (far && v.now.fenced_far) publish(part, addresses, v.now.fenced_far, true);
      if (v.now.fenced_near && (!far || v.now.fenced_near != v.now.fenced_far))
        publish(part, addresses, v.now.fenced_near, false);
    });
  }
  if (info.access == Access::kWrite) return;
  PendingReads& r = ws.reads;
  r.mask = mask;
  r.acquire = info.order == Order::kAcquire || info.order == Order::kAcqRel || info.order == Order::kSeqCst;
  r.far = far;
  for (uint32_t m = mask; m; m &= m - 1) {
    const uint64_t word = addresses[__builtin_ctz(m)] & ~uint64_t{3};
    if (!r.count || r.addresses[static_cast<size_t>(r.count - 1)] != word)
      r.addresses[static_cast<size_t>(r.count++)] = word;
  }
}

void ClusterChecker::publish(uint32_t mask, const uint64_t* addresses, const Remote& what, bool far) {
  uint64_t before = 0;
  for (uint32_t m = mask; m; m &= m - 1) {
    const uint64_t word = addresses[__builtin_ctz(m)] & ~uint64_t{3};
    if (word == before) continue;
    before = word;
    if ((word & kTagMask) == kSharedTag) {
      Remote& there = released_shared_[static_cast<uint32_t>(word)];
      there = remote_join(there, what, launch_->levels());
    } else {
      launch_->release(word, what, far, index_);
    }
  }
}

}  // namespace ptxsim::check
