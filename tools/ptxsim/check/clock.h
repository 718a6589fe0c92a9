// Vector clocks and the packed epochs of shadow memory.
//
// Actors are the warps of a cluster and its engines (one per stream of asynchronous work that completes in
// order). An actor's accesses carry its clock; it moves on after each release, so an access is known to
// whoever acquired a later release. Lanes of a warp that did not synchronise are told apart: a warp is known
// as a whole up to `all`, and its lanes `lanes` up to `some`. Joins may only add knowledge, so where this
// form cannot hold two sets of lanes exactly, it holds more: a race may be missed, an ordered access is never
// reported.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ptxsim::check {

using Clock = uint32_t;

// --- an access in shadow memory: clock 26 | actor 10 | instruction 19 | split 1 | lanes 8 ---
// In the shadow of readers, where the actor is known, the actor's bits are the bytes of the word that were
// read.
using Epoch = uint64_t;
inline constexpr int kClockShift = 38, kActorShift = 28, kPcShift = 9;
inline constexpr Clock kMaxClock = (1u << 26) - 1;
inline constexpr uint32_t kMaxActors = 1024, kUnknownPc = (1u << 19) - 1;
inline constexpr Epoch kSplit = 1 << 8;  // the bytes of the word have epochs of their own
inline constexpr Epoch kLaneBits = 0xff;

// Who of the warp it was: a lane, or
inline constexpr uint32_t kSomeLanes = 32;  // several, not known which bytes each
inline constexpr uint32_t kEachLane = 33;   // more than one lane used each of the bytes
inline constexpr uint32_t kPairs = 64;  // kPairs + k: lane 2k the lower half of the word, 2k + 1 the upper
inline constexpr uint32_t kQuads = 96;  // kQuads + k: lanes 4k .. 4k + 3 a byte each

inline Clock clock_of(Epoch e) { return static_cast<Clock>(e >> kClockShift); }
inline uint32_t actor_of(Epoch e) { return e >> kActorShift & (kMaxActors - 1); }
inline uint32_t bytes_of(Epoch e) { return e >> kActorShift & 15; }
inline uint32_t pc_of(Epoch e) { return e >> kPcShift & kUnknownPc; }
inline uint32_t lanes_of(Epoch e) { return e & kLaneBits; }
inline Epoch make_epoch(Clock clock, uint32_t actor, size_t pc, uint32_t lanes) {
  return Epoch{clock} << kClockShift | Epoch{actor} << kActorShift |
         std::min<Epoch>(pc, kUnknownPc) << kPcShift | lanes;
}
// The lane that used byte b of the word, or kSomeLanes or kEachLane.
inline uint32_t lane_of_byte(uint32_t lanes, uint32_t b) {
  if (lanes >= kQuads) return 4 * (lanes - kQuads) + b;
  if (lanes >= kPairs) return 2 * (lanes - kPairs) + b / 2;
  return lanes;
}

struct Known {
  Clock all = 0, some = 0;
  uint32_t lanes = 0;

  bool covers(Clock clock, uint32_t lane) const {
    if (clock <= all) return true;
    if (clock > some) return false;
    return lane < 32 ? lanes >> lane & 1 : lane == kSomeLanes && lanes;
  }
  void join(const Known& o) {
    all = std::max(all, o.all);
    const bool mine = some > all, theirs = o.some > all;
    some = mine && theirs ? std::max(some, o.some) : theirs ? o.some : mine ? some : 0;
    lanes = (mine ? lanes : 0) | (theirs ? o.lanes : 0);
    if (lanes == ~0u) all = some, some = 0, lanes = 0;
  }
  void add(Clock clock, uint32_t more) { join({0, clock, more}); }
};

// By actor; an actor without an entry is known up to `base`, the time at which the cluster began.
class VectorClock {
 public:
  void reset(Clock base) {
    known_.clear();
    base_ = base;
  }
  Clock base() const { return base_; }
  bool empty() const { return known_.empty(); }
  Clock all(uint32_t actor) const { return actor < known_.size() ? known_[actor].all : base_; }
  bool covers(uint32_t actor, Clock clock, uint32_t lane) const {
    return actor < known_.size() ? known_[actor].covers(clock, lane) : clock <= base_;
  }
  Known& at(uint32_t actor) {
    if (actor >= known_.size()) known_.resize(actor + 1, Known{base_, 0, 0});
    return known_[actor];
  }
  // The other one must be of the same cluster.
  void join(const VectorClock& o) {
    if (o.known_.size() > known_.size()) known_.resize(o.known_.size(), Known{base_, 0, 0});
    for (size_t k = 0; k < o.known_.size(); ++k) known_[k].join(o.known_[k]);
  }
  // True when nothing in `o` is news.
  bool contains(const VectorClock& o) const {
    if (o.known_.size() > known_.size()) return false;
    for (size_t k = 0; k < o.known_.size(); ++k) {
      const Known &mine = known_[k], &theirs = o.known_[k];
      if (theirs.all > mine.all) return false;
      if (theirs.some > mine.all && (theirs.some > mine.some || (theirs.lanes & ~mine.lanes))) return false;
    }
    return true;
  }

 private:
  std::vector<Known> known_;
  Clock base_ = 0;
};

}  // namespace ptxsim::check
