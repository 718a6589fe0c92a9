// The way of tokens to their experts and back, laid out on the device from the router's choice, so that no
// host needs to know a count.
//
// A rank's T tokens travel in `chunks` chunks, tokens [T c / chunks, T (c+1) / chunks). Buffers that travel
// are blocked: [peer][capacity] rows for each chunk, the used rows of a block first. Inside a block, rows are
// sorted by (expert, token). What arrives is sorted by (expert, peer, slot, token), which is (expert, leaf),
// because peers own ascending slots: leaf = peer * slots + slot. With ep = 1 the order in which rows are sent
// is the order in which they arrive.
//
// Rows for which there is no place are left out: those last in the order of their block (on the way out) or
// of their chunk (sorted). Everything that the plans write then speaks of the rows that are left, and every
// index stays inside its buffer; `overflow` holds the largest number of rows that were wanted where too few
// had a place, and whoever reads it ends the run.
#pragma once

#include "ops/exec.h"

namespace contender {

struct DispatchShape {
  int64_t ep = 1;       // ranks that share the experts
  int64_t experts = 1;  // of one rank; peer p has experts [p * experts, (p + 1) * experts)
  int64_t top_k = 1;
  int64_t slots = 1;  // data slots of one rank
  int64_t chunks = 1;
  int64_t capacity = 0;  // rows per (chunk, peer)
};

struct SendPlanArgs {
  DispatchShape shape;
  Tensor expert;  // [T, top_k] I32, dense, distinct experts of [0, ep * experts) in each row
  const int32_t* slot_begin = nullptr;  // [slots + 1] token rows of each slot, ascending, from 0 to T
  Tensor pos;  // [T, top_k] I32, dense, out: (chunk * ep + peer) * capacity + place in the block; rows
               // without a place all name the last one
  int32_t* source = nullptr;    // [chunks, ep, capacity] out: token of each row, -1 where unused
  int32_t* counts = nullptr;    // [chunks, ep] out: used rows
  int32_t* header = nullptr;    // [ep, chunks, experts, slots] out: used rows of each; the part of peer p
                                // is about p's experts
  int32_t* load = nullptr;      // [ep * experts] += tokens that chose it, with a place or not; or null
  int32_t* overflow = nullptr;  // [1]: max(itself, rows wanted in a block) where they exceed the capacity
};

// From the headers of all peers. Rows of chunk c lie at [c * room, c * room + rows[c]) of the sorted buffers.
struct ArrivalPlanArgs {
  DispatchShape shape;
  const int32_t* header = nullptr;  // [ep, chunks, experts, slots] rows from each peer for the experts of
                                    // this rank, by the peer's slots
  int64_t room = 0;                 // rows that a chunk has in the sorted buffers
  int32_t* arrival = nullptr;  // [chunks, room] out: row of the chunk's receive buffer [ep * capacity], -1
                               // where unused; or null (ep = 1: the identity)
  int32_t* counts = nullptr;   // [chunks, ep] out: rows in the block of each peer
  int32_t* rows = nullptr;     // [chunks] out: sorted rows, the sum of counts unless the room is too small
  int32_t* offsets = nullptr;  // [chunks, experts + 1] out: first row of each expert, from the chunk's first
  RowSegment* segments = nullptr;  // [experts][ep * slots][chunks] out, rows of the sorted buffers; empty
                                   // ones begin and end where their rows would be
  int32_t* overflow = nullptr;     // [1]: max(itself, rows wanted of a block or a room) where they exceed it
};

// Parts in which a backend counts a chunk's tokens at once, at most.
inline constexpr int64_t kSendPlanParts = 8;
int64_t send_plan_workspace_bytes(int64_t tokens, const DispatchShape& shape);
int64_t arrival_plan_workspace_bytes(const DispatchShape& shape);

// Exit 1 with the numbers where shapes do not fit each other.
void check_send_plan(const SendPlanArgs& args);
void check_arrival_plan(const ArrivalPlanArgs& args);

}  // namespace contender
