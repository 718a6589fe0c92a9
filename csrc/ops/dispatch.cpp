#include "ops/dispatch.h"

#include <limits>

namespace contender {
namespace {

void check_shape(const DispatchShape& s) {
  CHECK(s.ep >= 1 && s.experts >= 1 && s.top_k >= 1 && s.top_k <= s.ep * s.experts && s.slots >= 1 &&
            s.chunks >= 1 && s.capacity >= 0,
        "{} ranks of {} experts, top {}, {} slots, {} chunks, capacity {}", s.ep, s.experts, s.top_k, s.slots,
        s.chunks, s.capacity);
  CHECK(s.chunks * s.ep * s.capacity <= std::numeric_limits<int32_t>::max(),
        "{} chunks x {} peers x {} rows exceed 32 bits", s.chunks, s.ep, s.capacity);
}

}  // namespace

// For each chunk the counts of its parts by expert, and where the rows of each slot begin; the CPU's next
// place of each expert.
int64_t send_plan_workspace_bytes(int64_t, const DispatchShape& s) {
  return s.chunks * (kSendPlanParts + s.slots) * s.ep * s.experts * int64_t{sizeof(int32_t)};
}

// The CPU's next place of each peer.
int64_t arrival_plan_workspace_bytes(const DispatchShape& shape) {
  return shape.ep * int64_t{sizeof(int32_t)};
}

void check_send_plan(const SendPlanArgs& a) {
  check_shape(a.shape);
  CHECK(a.expert.dtype == DType::kI32 && a.pos.dtype == DType::kI32 && a.expert.cols == a.shape.top_k &&
            a.pos.cols == a.shape.top_k && a.pos.rows == a.expert.rows && a.expert.contiguous() &&
            a.pos.contiguous(),
        "dense expert [{}, {}] {}, pos [{}, {}] {}, top {}", a.expert.rows, a.expert.cols,
        dtype_name(a.expert.dtype), a.pos.rows, a.pos.cols, dtype_name(a.pos.dtype), a.shape.top_k);
  CHECK(a.expert.rows == 0 || a.shape.capacity > 0, "{} tokens and blocks without rows", a.expert.rows);
  CHECK(a.slot_begin && a.source && a.counts && a.header && a.overflow, "a pointer is null");
}

void check_arrival_plan(const ArrivalPlanArgs& a) {
  check_shape(a.shape);
  CHECK(a.room >= 0 && a.shape.chunks * a.room <= std::numeric_limits<int32_t>::max(),
        "{} chunks x room for {} rows", a.shape.chunks, a.room);
  CHECK(a.arrival || a.shape.ep == 1, "the order of what arrives from {} peers has no room", a.shape.ep);
  CHECK(a.header && a.counts && a.rows && a.offsets && a.segments && a.overflow, "a pointer is null");
}

}  // namespace contender
