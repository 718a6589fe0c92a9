#include "exec/split.h"

#include <fmt/format.h>

#include "exec/barrier.h"

namespace ptxsim {

namespace {

// A split parked by gather_lanes goes on when those it waits for are gone or have come (they absorb it: see
// gather_lanes).
bool gathered(Warp& w, const Split& s) { return (s.wait[0] & w.live & ~s.mask) == 0; }

void absorb(Warp& w, uint32_t pc) {
  for (size_t k = 0; k < w.splits.size();) {
    if (w.splits[k].pc == pc && (!w.splits[k].ready || w.splits[k].ready == gathered)) {
      w.mask |= w.splits[k].mask;
      w.splits[k] = w.splits.back();
      w.splits.pop_back();
    } else {
      ++k;
    }
  }
}

}  // namespace

void put_back(Warp& w) {
  if (w.mask) w.splits.push_back({w.pc, w.mask});
  w.mask = 0;
}

bool reschedule(Warp& w) {
  put_back(w);
  int best = -1;
  // The lowest pc has used up its time: it may be spinning on the others, which now have theirs.
  const bool unfair = w.turns_of_others > 0;
  if (unfair) --w.turns_of_others;
  for (size_t k = 0; k < w.splits.size(); ++k) {
    const Split& s = w.splits[k];
    if (s.ready && !s.ready(w, s)) continue;
    if (best < 0 || (unfair ? s.pc > w.splits[best].pc : s.pc < w.splits[best].pc))
      best = static_cast<int>(k);
  }
  if (best < 0) {
    w.stop = true;
    return false;
  }
  w.pc = w.splits[best].pc;
  w.mask = w.splits[best].mask;
  w.splits[best] = w.splits.back();
  w.splits.pop_back();
  absorb(w, w.pc);
  return true;
}

void run_join(Warp& w, const Instr& i) {
  if (w.splits.empty()) return;
  w.pc = static_cast<uint32_t>(&i - w.program->code.data());
  absorb(w, w.pc);
  for (const Split& s : w.splits)
    if (s.pc < w.pc && (!s.ready || s.ready(w, s))) {
      reschedule(w);
      // Coming back to this place is not an endless loop: whoever was behind has moved on.
      if (w.pc != static_cast<uint32_t>(&i - w.program->code.data())) return;
      break;
    }
  ++w.pc;
}

void run_exit(Warp& w, const Instr& i) {
  const uint32_t lanes = active(w, i);
  if (lanes) exit_lanes(w, lanes);
}

void exit_lanes(Warp& w, uint32_t mask) {
  w.live &= ~mask;
  w.mask &= ~mask;
  ++w.cta->cluster->events;
  for (uint32_t m = w.cta->barriers_in_use; m; m &= m - 1) try_complete(*w.cta, __builtin_ctz(m));
  if (!w.live) {
    --w.cta->running;
    --w.cta->cluster->running;
    w.stop = true;
  } else if (!w.mask) {
    reschedule(w);
  }
}

bool gather_lanes(Warp& w, const Instr& i, uint32_t needed, const char* why) {
  const auto pc = static_cast<uint32_t>(&i - w.program->code.data());
  if ((needed & w.live & ~w.mask) != 0) absorb(w, pc);
  if ((needed & w.live & ~w.mask) == 0) return true;
  park(w, i, true, gathered, needed, 0, why);
  return false;
}

uint32_t same_members(Warp& w, const Instr& i, uint32_t left, const uint32_t* members, const char* why) {
  const int lane = __builtin_ctz(left);
  const uint32_t needed = members[lane];
  if (!(needed >> lane & 1))
    fail(w, i, lane, ErrorCode::kIllegalInstruction,
         fmt::format("[warp sync] {} by a lane that is not in its mask {:#010x}", why, needed));
  uint32_t group = 0;
  for (uint32_t m = left & needed; m; m &= m - 1)
    if (members[__builtin_ctz(m)] == needed) group |= m & -m;
  return group;
}

uint32_t gather_groups(Warp& w, const Instr& i, const uint32_t* members, const char* why) {
  const auto pc = static_cast<uint32_t>(&i - w.program->code.data());
  if (!w.splits.empty()) absorb(w, pc);
  for (uint32_t left = active(w, i); left;) {
    const uint32_t needed = members[__builtin_ctz(left)], group = same_members(w, i, left, members, why);
    left &= ~group;
    if ((needed & w.live & ~w.mask) == 0) continue;
    w.splits.push_back({pc, group, gathered, {needed, 0}, why});
    w.mask &= ~group;
  }
  if (w.mask == 0) {
    reschedule(w);
    return 0;
  }
  return active(w, i);
}

void park(Warp& w, const Instr& i, bool again, bool (*ready)(Warp&, const Split&), uint64_t wait0,
          uint64_t wait1, const char* why) {
  const auto pc = static_cast<uint32_t>(&i - w.program->code.data());
  w.splits.push_back({again ? pc : pc + 1, w.mask, ready, {wait0, wait1}, why, again});
  w.mask = 0;
  reschedule(w);
}

}  // namespace ptxsim
