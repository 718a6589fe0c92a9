// One side of an access that is being checked: lanes of a warp that know the same, or an engine.
#pragma once

#include "check/cluster_checker.h"
#include "check/global_shadow.h"

namespace ptxsim::check {

struct ClusterChecker::Party {
  WarpState& ws;  // the engine's: of the warp that issued it
  const Instr& instr;
  const Knowledge& now;
  Clock quick = 0;  // writes at or before are ordered and, where that is asked for, proxied
  Access access = Access::kRead;
  bool strong = false;       // not weak: does not race with other strong accesses
  bool far = false;          // gpu or system scope
  bool async_proxy = false;  // writes of the generic proxy need a proxy fence
  bool is_engine = false;
  Engine engine = Engine::kCpAsync;
  uint32_t actor = 0;
  Clock clock = 0;
  uint32_t lane = kSomeLanes;  // the engine's

  // The block whose shared memory is looked at: see enter_block.
  uint32_t rank = 0;
  SharedShadow* shadow = nullptr;
  Plane* plane = nullptr;      // for what it reads; null: not recorded
  bool writers_known = false;  // every write there is ordered before
  Epoch good = 0;  // a write that is, whichever lane it was: its neighbours mostly have the same epoch
  Epoch read_base = 0, write_base = 0;
  uint64_t global = 0;  // epoch in the shadow of global memory, but for bytes and lane

  // The chunk of global memory that is looked at: see enter_chunk.
  uint64_t chunk = ~uint64_t{0};
  RaceChunk* races = nullptr;  // null: not checked for races
  InitChunk* bits = nullptr;   // null: initialised

  size_t pc() const { return static_cast<size_t>(&instr - ws.warp->program->code.data()); }
};

inline ClusterChecker::Party ClusterChecker::party(WarpState& ws, const Instr& i, const View& v,
                                                   Access access, bool strong) {
  return {.ws = ws,
          .instr = i,
          .now = v.now,
          .quick = v.quick,
          .access = access,
          .strong = strong,
          .actor = ws.actor,
          .clock = stamp(ws)};
}

inline void ClusterChecker::enter_block(Party& p, uint32_t rank) {
  if (!p.shadow || p.rank != rank) enter_other_block(p, rank);
}

inline void ClusterChecker::enter_chunk(Party& p, uint64_t address) {
  if (p.chunk != address >> kChunkShift) enter_other_chunk(p, address);
}

inline void ClusterChecker::require_initialised(Party& p, uint32_t offset, uint32_t bytes, Lanes lanes) {
  const uint32_t at = p.shadow->first_uninitialised(offset, bytes);
  if (at != ~0u) unwritten(p, at, lane_of_byte(lanes[at / 4 - offset / 4], at % 4));
}

}  // namespace ptxsim::check
