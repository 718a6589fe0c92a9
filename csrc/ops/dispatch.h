// The way of tokens to their experts and back, laid out on the device from the router's choice, so that no
// host needs to know a count.
//
// A rank's T tokens travel in `chunks` chunks, tokens [T c / chunks, T (c+1) / chunks). Buffers that travel
// are blocked: [peer][capacity] rows for each chunk, the used rows of a block first. Inside a block, rows are
// sorted by (expert, token). What arrives is sorted by (expert, peer, slot, token), which is (expert, leaf),
// because peers own ascending slots. With ep = 1 the order in which rows are sent is the order in which they
// arrive.
#pragma once

#include "ops/exec.h"

namespace contender {

struct DispatchShape {
  int64_t ep = 1;       // ranks that share the experts
  int64_t experts = 1;  // of one rank
  int64_t top_k = 1;
  int64_t slots = 1;  // data slots of one rank
  int64_t chunks = 1;
  int64_t capacity = 0;  // rows per (chunk, peer)
};

struct SendPlanArgs {
  DispatchShape shape;
  Tensor expert;                        // [T, top_k] I32, distinct experts of [0, ep * experts) in each row
  const int32_t* slot_begin = nullptr;  // [slots + 1] token rows of each slot
  Tensor pos;                   // [T, top_k] I32 out: (chunk * ep + peer) * capacity + place in the block
  int32_t* source = nullptr;    // [chunks, ep, capacity] out: token of each row, -1 where unused
  int32_t* counts = nullptr;    // [chunks, ep] out: used rows
  int32_t* header = nullptr;    // [ep, chunks, experts, slots] out: rows of each, for each peer
  int32_t* load = nullptr;      // [ep * experts] += rows, or null
  int32_t* overflow = nullptr;  // [1]: max(itself, rows wanted in a block) where they exceed the capacity
};

// From the headers of all peers. Rows of chunk c lie at [c * room, c * room + rows[c]) of the sorted buffers.
struct ArrivalPlanArgs {
  DispatchShape shape;
  const int32_t* header = nullptr;  // [ep, chunks, experts, slots] rows from each peer
  int64_t room = 0;                 // rows that a chunk has in the sorted buffers
  int32_t* arrival = nullptr;  // [chunks, room] out: row of the chunk's receive buffer [ep * capacity], -1
                               // where unused; or null (ep = 1: the identity)
  int32_t* counts = nullptr;   // [chunks, ep] out: rows from each peer
  int32_t* rows = nullptr;     // [chunks] out: their sum
  int32_t* offsets = nullptr;  // [chunks, experts + 1] out: first row of each expert, from the chunk's first
  RowSegment* segments = nullptr;  // [experts][ep * slots][chunks] out, rows of the sorted buffers
  int32_t* overflow = nullptr;     // [1]: max(itself, rows wanted of a block or a room) where they exceed it
};

// A plan that overflows leaves out the rows that have no place; whoever reads `overflow` ends the run.

int64_t send_plan_workspace_bytes(int64_t tokens, const DispatchShape& shape);
int64_t arrival_plan_workspace_bytes(const DispatchShape& shape);

}  // namespace contender
