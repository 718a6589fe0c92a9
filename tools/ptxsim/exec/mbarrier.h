// mbarrier: the 64-bit word in shared memory, what changes it, and how engines signal it.
//
// Word: [0:19] pending arrivals, [20:39] expected arrivals, [40:60] tx-count (two's complement), [61:62] a
// check of the other bits, so that most words that no mbarrier.init wrote are told from mbarriers, [63]
// parity of the phase. The opaque `state` of an arrive is the word before it. Source: PTX ISA 9.0, 9.7.13.15.
#pragma once

#include <cstdint>
#include <optional>

#include "exec/warp.h"

namespace ptxsim {

inline constexpr uint32_t kMbarrierMaxCount = (1u << 20) - 1;

struct Mbarrier {
  uint32_t pending = 0;   // arrivals that this phase still needs
  uint32_t expected = 0;  // arrivals of the next phases
  int32_t tx = 0;  // bytes that this phase still expects; below 0: bytes that came before they were expected
  bool parity = false;

  uint64_t encode() const;
  // Nothing where the word is no mbarrier.
  static std::optional<Mbarrier> decode(uint64_t word);
  // Goes to the next phase if nothing is missing.
  bool try_complete();
};

inline bool mbarrier_parity(uint64_t word) { return word >> 63; }

// What one operation changes. Counts are checked; fails with the lane and the mbarrier's place.
struct MbarrierChange {
  uint64_t arrivals = 0;     // subtracted from the pending count
  int64_t tx = 0;            // added to the tx-count, before the arrivals
  bool drop = false;         // the arrivals leave the expected count too
  bool add_pending = false;  // one more pending arrival (cp.async.mbarrier.arrive)
  bool must_not_complete = false;
};
// Changes the mbarrier at a tagged shared address of any block of the cluster; returns the word before. Ends
// the phase where nothing is missing any more (and tells the checker).
uint64_t change_mbarrier(Warp& w, const Instr& i, int lane, uint64_t address, const MbarrierChange& change);
// An engine has moved `bytes` and says so.
inline void complete_tx(Warp& w, const Instr& i, int lane, uint64_t address, uint32_t bytes) {
  change_mbarrier(w, i, lane, address, {.tx = -static_cast<int64_t>(bytes)});
}

// Of splits parked at a try_wait that came too early: they may also go on without it (the predicate they were
// given is false), which is what the time limit of try_wait does. The scheduler lets them when nobody else
// can run.
bool try_wait_ready(Warp& w, const Split& s);

}  // namespace ptxsim
