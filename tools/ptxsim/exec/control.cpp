// Branches, exits, barriers of a block and of a warp. Source: PTX ISA, sections 9.7.12 and 9.7.13.
#include <fmt/format.h>

#include "check/checker.h"
#include "exec/barrier.h"
#include "exec/decoder.h"
#include "exec/split.h"
#include "exec/warp.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Operand;
using ptx::OperandKind;
using ptx::Type;

namespace {

void run_bra(Warp& w, const Instr& i) {
  const uint32_t taken = active(w, i);
  if (!taken) return;
  const auto target = static_cast<uint32_t>(i.imm);
  if (target < w.pc && --w.budget <= 0) w.stop = true;
  if (taken != w.mask) {
    w.splits.push_back({target, taken});
    w.mask &= ~taken;
    reschedule(w);
    return;
  }
  w.pc = target;
  if (!w.splits.empty()) reschedule(w);
}

struct BranchTable {
  std::vector<uint32_t> pcs;
};

void run_brx(Warp& w, const Instr& i) {
  const auto& table = *static_cast<const BranchTable*>(i.ext);
  const uint32_t taken = active(w, i);
  if (!taken) return;
  const uint32_t* index = row<uint32_t>(w, i.a);
  for (uint32_t left = taken; left;) {
    const int lane = __builtin_ctz(left);
    if (index[lane] >= table.pcs.size())
      fail(w, i, lane, ErrorCode::kInvalidPc,
           fmt::format("branch index {} of a table of {}", index[lane], table.pcs.size()));
    uint32_t together = 0;
    for (uint32_t m = left; m; m &= m - 1)
      if (index[__builtin_ctz(m)] == index[lane]) together |= 1u << __builtin_ctz(m);
    w.splits.push_back({table.pcs[index[lane]], together});
    left &= ~together;
  }
  w.mask &= ~taken;
  if (--w.budget <= 0) w.stop = true;
  reschedule(w);
}

void run_trap(Warp& w, const Instr& i) {
  const uint32_t mask = active(w, i);
  if (mask) fail(w, i, __builtin_ctz(mask), ErrorCode::kLaunchFailure, "[trap] trap");
}

void run_nothing(Warp&, const Instr&) {}

// --- bar.warp.sync ---
// Lanes may meet from different instructions, and several groups may be at one.
void run_warp_sync(Warp& w, const Instr& i) {
  const uint32_t* members = row<uint32_t>(w, i.a);
  for (uint32_t left = active(w, i); left;) {
    const uint32_t needed = members[__builtin_ctz(left)];
    const uint32_t group = same_members(w, i, left, members, "bar.warp.sync");
    left &= ~group;
    uint32_t here = group;
    for (const Split& s : w.splits)
      if (s.ready == warp_sync_ready && s.wait[0] == needed) here |= s.mask;
    if ((needed & w.live & ~here) != 0) {
      w.splits.push_back({w.pc, group, warp_sync_ready, {needed, 0}, "bar.warp.sync", false});
      w.mask &= ~group;
      continue;
    }
    for (Split& s : w.splits)
      if (s.ready == warp_sync_ready && s.wait[0] == needed) s.ready = nullptr;
    if (w.check) w.check->sync_lanes(w, here & needed);
  }
  if (!w.splits.empty()) reschedule(w);
}

// --- bar / barrier ---
struct BarrierOp {
  enum class Kind : uint8_t { kSync, kArrive, kRed } kind = Kind::kSync;
  enum class Reduce : uint8_t { kAnd, kOr, kPopc } reduce = Reduce::kAnd;
  bool aligned = true;
  bool has_count = false;
  uint32_t id_row = 0, count_row = 0, d = 0, p = 0, p_flip = 0;
};

bool barrier_ready(Warp& w, const Split& s) { return w.cta->barriers[s.wait[0]].phase != s.wait[1]; }

void read_reduction(Warp& w, const BarrierOp& op, const NamedBarrier& b, uint32_t mask) {
  if (op.reduce == BarrierOp::Reduce::kPopc) {
    each_lane(mask, row<uint32_t>(w, op.d), [&](int) { return b.result_count; });
    return;
  }
  const bool result = op.reduce == BarrierOp::Reduce::kAnd ? b.result_all != 0 : b.result_any != 0;
  uint32_t& d = predicate_row(w, op.d);
  d = result ? d | mask : d & ~mask;
}

int expected_warps(Warp& w, const Instr& i, const BarrierOp& op, int lane) {
  if (!op.has_count) return -1;
  const uint32_t threads = row<uint32_t>(w, op.count_row)[lane];
  if (threads == 0 || threads % kWarpSize)
    fail(w, i, lane, ErrorCode::kIllegalInstruction,
         fmt::format("[barrier] a barrier of {} threads: not a multiple of 32", threads));
  if (threads / kWarpSize > w.cta->warps.size())
    fail(w, i, lane, ErrorCode::kIllegalInstruction,
         fmt::format("[barrier] a barrier of {} threads in a block of {}", threads,
                     w.cta->cluster->launch->block.count()));
  return static_cast<int>(threads / kWarpSize);
}

void run_barrier(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const BarrierOp*>(i.ext);
  uint32_t mask = active(w, i);
  if (!mask) return;
  if (op.aligned && !gather_lanes(w, i, w.live, "aligned barrier")) return;
  mask = active(w, i);
  const int lane = __builtin_ctz(mask);
  if (op.aligned && mask != (w.live & w.lanes))
    fail(w, i, lane, ErrorCode::kIllegalInstruction,
         fmt::format("[divergence] aligned barrier under a guard that only lanes {:#010x} of {:#010x} pass",
                     mask, w.live));
  const uint32_t id = row<uint32_t>(w, op.id_row)[lane];
  if (id >= 16)
    fail(w, i, lane, ErrorCode::kIllegalInstruction, fmt::format("[barrier] barrier {}: a block has 16", id));
  Cta& cta = *w.cta;
  NamedBarrier& b = cta.barriers[id];
  const int expected = expected_warps(w, i, op, lane);
  if (b.expected != 0 && b.expected != expected)
    fail(w, i, lane, ErrorCode::kIllegalInstruction,
         fmt::format("[barrier] barrier {} is waited for by {} threads here and by {} elsewhere", id,
                     expected < 0 ? "all" : std::to_string(expected * kWarpSize),
                     b.expected < 0 ? "all" : std::to_string(b.expected * kWarpSize)));
  if (b.lanes[w.index] & mask)
    fail(w, i, lane, ErrorCode::kIllegalInstruction,
         fmt::format("[barrier] barrier {}: arrived twice in one phase", id));
  b.expected = expected;
  cta.barriers_in_use |= 1u << id;
  b.lanes[w.index] |= mask;
  if (op.kind == BarrierOp::Kind::kRed) {
    const uint32_t p = predicate_row(w, op.p) ^ op.p_flip;
    b.all = (p & mask) == mask ? b.all : 0;
    b.any |= p & mask;
    b.count += static_cast<uint32_t>(__builtin_popcount(p & mask));
  }
  const uint64_t phase = b.phase;
  w.barrier_phase[id] = phase;
  if (w.check) w.check->barrier_arrive(w, i, mask, static_cast<int>(id), phase);
  const bool complete = try_complete(cta, static_cast<int>(id));
  if (op.kind == BarrierOp::Kind::kArrive) return;
  // Lanes that the guard left out go on without.
  if (const uint32_t others = w.mask & ~mask) {
    w.splits.push_back({w.pc, others});
    w.mask = mask;
  }
  if (!complete) {
    // Comes back to the leaving half, which is the next instruction.
    park(w, i, false, barrier_ready, id, phase, "bar.sync");
    return;
  }
  if (!w.splits.empty()) reschedule(w);
}

// Behind every bar.sync and bar.red: what the phase that just completed has given.
void run_barrier_leave(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const BarrierOp*>(i.ext);
  const uint32_t mask = active(w, i);
  if (!mask) return;
  const uint32_t id = row<uint32_t>(w, op.id_row)[__builtin_ctz(mask)];
  const NamedBarrier& b = w.cta->barriers[id];
  if (w.check) w.check->barrier_leave(w, i, mask, static_cast<int>(id), w.barrier_phase[id]);
  if (op.kind == BarrierOp::Kind::kRed) read_reduction(w, op, b, mask);
}

bool decode_barrier(Decoder& d, const Instruction& in) {
  BarrierOp op;
  op.aligned = in.mnemonic() == "bar" || in.has("aligned");
  if (in.has("arrive")) op.kind = BarrierOp::Kind::kArrive;
  size_t k = 0;
  if (in.has("red")) {
    op.kind = BarrierOp::Kind::kRed;
    op.reduce = in.has("popc") ? BarrierOp::Reduce::kPopc
                : in.has("or") ? BarrierOp::Reduce::kOr
                               : BarrierOp::Reduce::kAnd;
    op.d = op.reduce == BarrierOp::Reduce::kPopc ? d.row(in.operands.at(0), Type::kU32)
                                                 : d.predicate(in.operands.at(0), nullptr);
    k = 1;
  }
  op.id_row = d.row(in.operands.at(k++), Type::kU32);
  const size_t last = in.operands.size() - (op.kind == BarrierOp::Kind::kRed ? 1 : 0);
  if (k < last) {
    op.has_count = true;
    op.count_row = d.row(in.operands.at(k), Type::kU32);
  }
  if (op.kind == BarrierOp::Kind::kRed) op.p = d.predicate(in.operands.back(), &op.p_flip);
  const BarrierOp* kept = d.program().keep(op);
  d.emit({.run = run_barrier, .ext = kept});
  if (op.kind != BarrierOp::Kind::kArrive) d.emit({.run = run_barrier_leave, .ext = kept});
  return true;
}

}  // namespace

bool warp_sync_ready(Warp& w, const Split& s) {
  // Left over when the lanes it waits for have exited.
  uint32_t here = s.mask;
  for (const Split& other : w.splits)
    if (other.ready == warp_sync_ready && other.wait[0] == s.wait[0]) here |= other.mask;
  return (s.wait[0] & w.live & ~here) == 0;
}

bool try_complete(Cta& cta, int barrier) {
  NamedBarrier& b = cta.barriers[barrier];
  if (b.expected == 0) return false;
  int arrived = 0, missing = 0;
  for (const Warp& w : cta.warps) {
    const uint32_t lanes = b.lanes[w.index];
    if (w.live == 0 && lanes == 0) continue;  // threads that have exited are not waited for
    if ((w.live & ~lanes) == 0)
      ++arrived;
    else
      ++missing;
  }
  if (b.expected > 0 ? arrived < b.expected : missing > 0) return false;
  ++b.phase;
  cta.barriers_in_use &= ~(1u << barrier);
  ++cta.cluster->events;
  b.lanes.fill(0);
  b.expected = 0;
  b.result_all = b.all;
  b.result_any = b.any;
  b.result_count = b.count;
  b.all = ~0u;
  b.any = 0;
  b.count = 0;
  return true;
}

bool decode_control(Decoder& d, const Instruction& in) {
  const std::string_view m = in.mnemonic();
  if (m == "bra") {
    const int at = d.emit({.run = run_bra});
    d.branch_target(at, in.operands.at(0));
    return true;
  }
  if (m == "brx") {
    auto* table = d.program().keep_mutable(BranchTable{});
    d.emit({.run = run_brx, .a = d.row(in.operands.at(0), Type::kU32), .ext = table});
    d.branch_table(in.operands.at(1), &table->pcs);
    return true;
  }
  if (m == "exit" || m == "ret") {
    d.emit({.run = run_exit});
    return true;
  }
  if (m == "trap") {
    d.emit({.run = run_trap});
    return true;
  }
  if (m == "pmevent" || m == "brkpt" || m == "nop") {
    d.emit({.run = run_nothing});
    return true;
  }
  if ((m == "bar" || m == "barrier") && !in.has("cluster")) {
    if (in.has("warp")) {
      d.emit({.run = run_warp_sync, .a = d.row(in.operands.at(0), Type::kU32)});
      return true;
    }
    return decode_barrier(d, in);
  }
  return false;
}

}  // namespace ptxsim
