// Lanes of a warp talk to each other: shfl, vote, match, redux, activemask, elect. Source: PTX ISA,
// section 9.7.13.
#include <fmt/format.h>

#include <algorithm>

#include "check/checker.h"
#include "exec/decoder.h"
#include "exec/split.h"
#include "exec/warp.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::OperandKind;
using ptx::Type;

namespace {

struct LanesOp {
  uint32_t d = 0, p = 0;  // destination row, predicate row
  bool has_p = false;
  uint32_t a = 0, a_flip = 0, b = 0, c = 0, members = 0;
  uint32_t mode = 0;
};

// Calls f(lanes) for each group of lanes that name the same members, once all of them are here; a warp may
// run several groups at once. Groups that are not complete wait.
template <class F>
void each_group(Warp& w, const Instr& i, uint32_t members_row, const char* why, F f) {
  const uint32_t* members = row<uint32_t>(w, members_row);
  uint32_t lanes = active(w, i);
  if (!lanes) return;
  lanes = gather_groups(w, i, members, why);
  while (lanes) {
    const int lane = __builtin_ctz(lanes);
    const uint32_t group = members[lane] & lanes;
    if ((members[lane] & w.live) != group)
      fail(w, i, lane, ErrorCode::kIllegalInstruction,
           fmt::format("[divergence] {} with mask {:#010x}, but only lanes {:#010x} execute it", why,
                       members[lane], group));
    if (w.check) w.check->sync_lanes(w, group);
    f(group);
    lanes &= ~group;
  }
}

void set_predicate(Warp& w, uint32_t offset, uint32_t mask, uint32_t value) {
  uint32_t& p = predicate_row(w, offset);
  p = (p & ~mask) | (value & mask);
}

enum Shuffle : uint32_t { kUp, kDown, kBfly, kIdx };

void run_shfl(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const LanesOp*>(i.ext);
  each_group(w, i, op.members, "shfl.sync", [&](uint32_t here) {
    const uint32_t* a = row<uint32_t>(w, op.a);
    const uint32_t* b = row<uint32_t>(w, op.b);
    const uint32_t* c = row<uint32_t>(w, op.c);
    uint32_t out[kWarpSize] = {}, in_range = 0;
    for (uint32_t m = here; m; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      const int bval = static_cast<int>(b[lane] & 31), cval = static_cast<int>(c[lane] & 31),
                segment = static_cast<int>(c[lane] >> 8 & 31);
      const int max_lane = (lane & segment) | (cval & ~segment), min_lane = lane & segment;
      int j = 0;
      bool p = false;
      switch (op.mode) {
        case kUp:
          j = lane - bval;
          p = j >= max_lane;
          break;
        case kDown:
          j = lane + bval;
          p = j <= max_lane;
          break;
        case kBfly:
          j = lane ^ bval;
          p = j <= max_lane;
          break;
        case kIdx:
          j = min_lane | (bval & ~segment);
          p = j <= max_lane;
          break;
      }
      if (!p) j = lane;
      if (w.check && !(here >> j & 1))
        fail(w, i, lane, ErrorCode::kIllegalInstruction,
             fmt::format(
                 "[lanes] shfl.sync takes the value of lane {}, which does not take part (mask {:#010x})", j,
                 here));
      in_range |= static_cast<uint32_t>(p) << lane;
      out[lane] = a[j];  // of a lane that does not take part: what its register holds
    }
    each_lane(here, row<uint32_t>(w, op.d), [&](int l) { return out[l]; });
    if (op.has_p) set_predicate(w, op.p, here, in_range);
  });
}

enum Vote : uint32_t { kAll, kAny, kUni, kBallot };

void run_vote(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const LanesOp*>(i.ext);
  each_group(w, i, op.members, "vote.sync", [&](uint32_t here) {
    const uint32_t votes = (predicate_row(w, op.a) ^ op.a_flip) & here;
    if (op.mode == kBallot) {
      each_lane(here, row<uint32_t>(w, op.d), [&](int) { return votes; });
      return;
    }
    const bool result = op.mode == kAll   ? votes == here
                        : op.mode == kAny ? votes != 0
                                          : votes == 0 || votes == here;
    set_predicate(w, op.d, here, result ? kAllLanes : 0);
  });
}

template <class T>
void run_match(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const LanesOp*>(i.ext);
  each_group(w, i, op.members, "match.sync", [&](uint32_t here) {
    const T* a = row<T>(w, op.a);
    uint32_t out[kWarpSize] = {};
    uint32_t everywhere = 0;
    for (uint32_t m = here; m; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      uint32_t same = 0;
      for (uint32_t k = here; k; k &= k - 1)
        if (a[__builtin_ctz(k)] == a[lane]) same |= 1u << __builtin_ctz(k);
      if (op.mode == kAll) {
        out[lane] = same == here ? here : 0;
        everywhere |= same == here ? 1u << lane : 0;
      } else {
        out[lane] = same;
      }
    }
    each_lane(here, row<uint32_t>(w, op.d), [&](int l) { return out[l]; });
    if (op.has_p) set_predicate(w, op.p, here, everywhere);
  });
}

enum Redux : uint32_t { kAdd, kMin, kMax, kAnd, kOr, kXor };

template <class T>
void run_redux(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const LanesOp*>(i.ext);
  each_group(w, i, op.members, "redux.sync", [&](uint32_t here) {
    const T* a = row<T>(w, op.a);
    T sum = a[__builtin_ctz(here)];
    for (uint32_t m = here & (here - 1); m; m &= m - 1) {
      const T v = a[__builtin_ctz(m)];
      switch (op.mode) {
        case kAdd:
          sum = static_cast<T>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(v));
          break;
        case kMin:
          sum = std::min(sum, v);
          break;
        case kMax:
          sum = std::max(sum, v);
          break;
        case kAnd:
          sum = static_cast<T>(sum & v);
          break;
        case kOr:
          sum = static_cast<T>(sum | v);
          break;
        case kXor:
          sum = static_cast<T>(sum ^ v);
          break;
      }
    }
    each_lane(here, row<T>(w, op.d), [&](int) { return sum; });
  });
}

void run_activemask(Warp& w, const Instr& i) {
  const uint32_t mask = active(w, i);
  each_lane(mask, row<uint32_t>(w, i.d), [&](int) { return mask; });
}

// The lowest member is elected.
void run_elect(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const LanesOp*>(i.ext);
  each_group(w, i, op.members, "elect.sync", [&](uint32_t here) {
    const auto leader = static_cast<uint32_t>(__builtin_ctz(here));
    each_lane(here, row<uint32_t>(w, op.d), [&](int) { return leader; });
    set_predicate(w, op.p, here, 1u << leader);
  });
}

// d or d|p
void destination(Decoder& d, const ptx::Operand& to, LanesOp* op) {
  const bool pair = to.kind == OperandKind::kPair;
  op->d = d.row(pair ? to.elements.at(0) : to, Type::kB32);
  op->has_p = pair;
  if (pair) op->p = d.predicate(to.elements.at(1), nullptr);
}

template <class E>
bool choose(const Instruction& in, std::initializer_list<std::pair<std::string_view, E>> names,
            uint32_t* mode) {
  for (const auto& [name, value] : names)
    if (in.has(name)) {
      *mode = value;
      return true;
    }
  return false;
}

}  // namespace

bool decode_lanes(Decoder& d, const Instruction& in) {
  const std::string_view m = in.mnemonic();
  if (m == "activemask") {
    d.emit({.run = run_activemask, .d = d.row(in.operands.at(0), Type::kB32)});
    return true;
  }
  if (m != "shfl" && m != "vote" && m != "match" && m != "redux" && m != "elect") return false;
  LanesOp op;
  Handler run = nullptr;
  if (m != "elect" && !in.has("sync")) {
    d.unknown(in);
    return true;
  }
  op.members = d.row(in.operands.back(), Type::kB32);
  if (m == "shfl" &&
      choose<Shuffle>(in, {{"up", kUp}, {"down", kDown}, {"bfly", kBfly}, {"idx", kIdx}}, &op.mode)) {
    destination(d, in.operands.at(0), &op);
    op.a = d.row(in.operands.at(1), Type::kB32);
    op.b = d.row(in.operands.at(2), Type::kB32);
    op.c = d.row(in.operands.at(3), Type::kB32);
    run = run_shfl;
  } else if (m == "vote" &&
             choose<Vote>(in, {{"all", kAll}, {"any", kAny}, {"uni", kUni}, {"ballot", kBallot}}, &op.mode)) {
    op.d =
        op.mode == kBallot ? d.row(in.operands.at(0), Type::kB32) : d.predicate(in.operands.at(0), nullptr);
    op.a = d.predicate(in.operands.at(1), &op.a_flip);
    run = run_vote;
  } else if (m == "match" && choose<Vote>(in, {{"all", kAll}, {"any", kAny}}, &op.mode)) {
    destination(d, in.operands.at(0), &op);
    const bool wide = in.has("b64");
    op.a = d.row(in.operands.at(1), wide ? Type::kB64 : Type::kB32);
    run = wide ? run_match<uint64_t> : run_match<uint32_t>;
  } else if (m == "redux" &&
             choose<Redux>(
                 in, {{"add", kAdd}, {"min", kMin}, {"max", kMax}, {"and", kAnd}, {"or", kOr}, {"xor", kXor}},
                 &op.mode)) {
    op.d = d.row(in.operands.at(0), Type::kB32);
    op.a = d.row(in.operands.at(1), Type::kB32);
    run = in.has("s32") ? run_redux<int32_t> : in.has("u32") || in.has("b32") ? run_redux<uint32_t> : nullptr;
  } else if (m == "elect") {
    destination(d, in.operands.at(0), &op);
    run = run_elect;
  }
  if (!run) {
    d.unknown(in);
    return true;
  }
  d.emit({.run = run, .ext = d.program().keep(op)});
  return true;
}

}  // namespace ptxsim
