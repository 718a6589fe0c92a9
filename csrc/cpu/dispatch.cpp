// What: the plans of ops/dispatch.h: where rows go, and where those that come are.
// Math: a counting sort of (token, choice) by expert for each chunk; a walk over the counts in the order of
//       arrival.
#include "ops/dispatch.h"

#include <algorithm>
#include <utility>

#include "cpu/cpu_ops.h"

namespace contender::cpu {
namespace {

// Turns counts by expert into the first place of each in its peer's block; the block's use into counts[peer].
void begin_blocks(const SendPlanArgs& a, int32_t* next, int32_t* counts) {
  const DispatchShape& s = a.shape;
  for (int64_t peer = 0; peer < s.ep; ++peer) {
    int32_t rows = 0;
    for (int64_t e = 0; e < s.experts; ++e) rows += std::exchange(next[peer * s.experts + e], rows);
    counts[peer] = std::min(rows, static_cast<int32_t>(s.capacity));
    if (rows > s.capacity) *a.overflow = std::max(*a.overflow, rows);
  }
}

}  // namespace

void send_plan(const Exec& exec, const SendPlanArgs& a) {
  check_send_plan(a);
  const DispatchShape& s = a.shape;
  const int64_t tokens = a.expert.rows, all_experts = s.ep * s.experts;
  CHECK(exec.workspace_bytes >= send_plan_workspace_bytes(tokens, s), "workspace of {} bytes",
        exec.workspace_bytes);
  int32_t* next = static_cast<int32_t*>(exec.workspace);
  std::fill_n(a.source, s.chunks * s.ep * s.capacity, -1);
  std::fill_n(a.header, s.chunks * all_experts * s.slots, 0);
  for (int64_t c = 0; c < s.chunks; ++c) {
    const int64_t begin = tokens * c / s.chunks, end = tokens * (c + 1) / s.chunks;
    std::fill_n(next, all_experts, 0);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t j = 0; j < s.top_k; ++j) {
        const int32_t e = a.expert.i32()[t * s.top_k + j];
        CHECK(0 <= e && e < all_experts, "expert {} of {} for token {}", e, all_experts, t);
        ++next[e];
        if (a.load) ++a.load[e];
      }
    }
    begin_blocks(a, next, a.counts + c * s.ep);
    int64_t slot = 0;
    for (int64_t t = begin; t < end; ++t) {
      while (slot + 1 < s.slots && t >= a.slot_begin[slot + 1]) ++slot;
      for (int64_t j = 0; j < s.top_k; ++j) {
        const int64_t e = a.expert.i32()[t * s.top_k + j], peer = e / s.experts, place = next[e]++,
                      block = (c * s.ep + peer) * s.capacity;
        a.pos.i32()[t * s.top_k + j] = static_cast<int32_t>(block + std::min(place, s.capacity - 1));
        if (place >= s.capacity) continue;
        a.source[block + place] = static_cast<int32_t>(t);
        ++a.header[((peer * s.chunks + c) * s.experts + e % s.experts) * s.slots + slot];
      }
    }
  }
}

void arrival_plan(const Exec& exec, const ArrivalPlanArgs& a) {
  check_arrival_plan(a);
  const DispatchShape& s = a.shape;
  CHECK(exec.workspace_bytes >= arrival_plan_workspace_bytes(s), "workspace of {} bytes",
        exec.workspace_bytes);
  int32_t* at = static_cast<int32_t*>(exec.workspace);  // [ep] next row of each peer's block
  const int32_t capacity = static_cast<int32_t>(s.capacity), room = static_cast<int32_t>(a.room);
  if (a.arrival) std::fill_n(a.arrival, s.chunks * a.room, -1);
  for (int64_t c = 0; c < s.chunks; ++c) {
    std::fill_n(at, s.ep, 0);
    int32_t row = 0;  // wanted so far
    for (int64_t e = 0; e < s.experts; ++e) {
      a.offsets[c * (s.experts + 1) + e] = std::min(row, room);
      for (int64_t leaf = 0; leaf < s.ep * s.slots; ++leaf) {
        const int64_t peer = leaf / s.slots;
        const int32_t n = a.header[((peer * s.chunks + c) * s.experts + e) * s.slots + leaf % s.slots],
                      place = std::exchange(at[peer], at[peer] + n);
        CHECK(n >= 0, "{} rows of expert {} from peer {}", n, e, peer);
        const int32_t begin = std::min(row, room);
        row += std::clamp(capacity - place, 0, n);
        const int32_t end = std::min(row, room), first = static_cast<int32_t>(c * a.room);
        a.segments[(e * s.ep * s.slots + leaf) * s.chunks + c] = {
            first + begin, first + end, static_cast<int32_t>(e), static_cast<int32_t>(leaf)};
        for (int32_t i = begin; a.arrival && i < end; ++i)
          a.arrival[first + i] = static_cast<int32_t>(peer) * capacity + place + i - begin;
      }
    }
    a.offsets[c * (s.experts + 1) + s.experts] = a.rows[c] = std::min(row, room);
    if (row > room) *a.overflow = std::max(*a.overflow, row);
    for (int64_t peer = 0; peer < s.ep; ++peer) {
      a.counts[c * s.ep + peer] = std::min(at[peer], capacity);
      if (at[peer] > capacity) *a.overflow = std::max(*a.overflow, at[peer]);
    }
  }
}

}  // namespace contender::cpu
