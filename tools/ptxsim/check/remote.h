// What a thread knows of other clusters: an immutable map from cluster to the vector clocks that it released,
// shared between all who know the same. A radix tree of 16 ways; joins and insertions copy only the path that
// changes, so the chains of decoupled look-back, counters that every block increments and grid barriers stay
// cheap.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "check/clock.h"

namespace ptxsim::check {

// Of one cluster at one moment: the order of its actors, and how far a proxy fence has covered them.
struct Leaf {
  VectorClock order, proxied;
};

struct RemoteNode {
  std::array<std::shared_ptr<const void>, 16> child;  // RemoteNode, or Leaf at level 0
};
using Remote = std::shared_ptr<const RemoteNode>;

// `levels` is the same for all maps of a launch: 16^levels clusters.
int remote_levels(uint64_t clusters);
Remote remote_join(const Remote& a, const Remote& b, int levels);
Remote remote_with(const Remote& map, uint64_t cluster, std::shared_ptr<const Leaf> leaf, int levels);
// Null where nothing is known of it.
const Leaf* remote_find(const Remote& map, uint64_t cluster, int levels);

// What a thread knows, and what a release hands over and an acquire takes. The clocks are of one cluster.
struct Knowledge {
  VectorClock order;      // accesses that happened before
  VectorClock proxied;    // of them, those that a proxy fence has covered since: visible to the async proxy
  Remote remote;          // of other clusters
  Remote remote_proxied;  // of them, what a proxy fence here has covered
  // What a fence of cta or cluster scope, or of gpu or system scope, has covered: a later relaxed store or
  // atomic releases it. It is handed on by barriers, as a membar (fence.sc) before a barrier orders what
  // comes behind it.
  Remote fenced_near, fenced_far;

  void reset(Clock base) {
    order.reset(base);
    proxied.reset(base);
    remote = remote_proxied = fenced_near = fenced_far = nullptr;
  }
  void join(const Knowledge& o, int levels) {
    order.join(o.order);
    proxied.join(o.proxied);
    remote = remote_join(remote, o.remote, levels);
    remote_proxied = remote_join(remote_proxied, o.remote_proxied, levels);
    fenced_near = remote_join(fenced_near, o.fenced_near, levels);
    fenced_far = remote_join(fenced_far, o.fenced_far, levels);
  }
  // Acquires what was released into `map` by cluster `own` (this one) and by others.
  void acquire(const Remote& map, uint64_t own, int levels) {
    remote = remote_join(remote, map, levels);
    if (const Leaf* leaf = remote_find(map, own, levels)) {
      order.join(leaf->order);
      proxied.join(leaf->proxied);
    }
  }
};

}  // namespace ptxsim::check
