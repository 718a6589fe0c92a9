// What a finding says: both parties with their places in the source, and what would have made it right.
#include <cxxabi.h>
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>

#include "check/cluster_checker.h"
#include "check/global_shadow.h"
#include "check/party.h"
#include "exec/worker.h"

namespace ptxsim::check {

namespace {

const char* engine_name(Checker::Engine e) {
  switch (e) {
    case Checker::Engine::kCpAsync:
      return "the asynchronous copy";
    case Checker::Engine::kBulk:
      return "the bulk copy";
    case Checker::Engine::kTma:
      return "TMA";
    case Checker::Engine::kWgmma:
      return "the tensor core";
  }
  return "";
}

std::string lane_text(uint32_t lane) {
  if (lane < kWarpSize) return fmt::format(" lane {}", lane);
  return lane == kEachLane ? " (several lanes)" : "";
}

// Of a variable inside a function: its own name.
std::string short_name(const std::string& mangled) {
  int status = 0;
  char* text =
      mangled.starts_with("_Z") ? abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status) : nullptr;
  std::string name = text ? text : mangled;
  std::free(text);
  if (const size_t colons = name.rfind("::"); colons != std::string::npos) name = name.substr(colons + 2);
  return name;
}

const char* verb(Access a) {
  return a == Access::kRead ? "read" : a == Access::kWrite ? "written" : "changed atomically";
}

std::string instruction_or_unknown(const Program& p, size_t pc) {
  return pc < p.code.size() ? instruction_place(p, pc) : "an earlier place";
}

}  // namespace

void ClusterChecker::report(Warp& w, const Instr& i, uint32_t lane, const std::string& what) {
  unwritten_.clear();  // this says more
  fail(w, i, lane < kWarpSize ? static_cast<int>(lane) : -1, ErrorCode::kLaunchFailure, what);
}

std::string ClusterChecker::who(const Party& p, uint32_t lane) const {
  const std::string warp = fmt::format("warp {}{}", p.ws.warp->index, lane_text(p.is_engine ? p.lane : lane));
  return p.is_engine ? fmt::format("{} for {}", engine_name(p.engine), warp) : warp;
}

std::string ClusterChecker::place_in_shared(uint32_t rank, uint32_t offset) const {
  std::string at = fmt::format("offset {}", offset);
  const Placed* best = nullptr;
  for (const Placed& v : warps_[0].warp->program->shared_variables)
    if (v.offset <= offset && (!best || v.offset >= best->offset)) best = &v;
  if (best) {
    const std::string name = short_name(best->name);
    at += best->offset == offset ? fmt::format(" ({})", name)
                                 : fmt::format(" ({} + {})", name, offset - best->offset);
  }
  if (cluster_->ctas.size() > 1) at += fmt::format(" of the cluster's block {}", rank);
  return at;
}

void ClusterChecker::race_in_shared(const Party& p, uint32_t rank, uint32_t offset, uint32_t bytes, Epoch e,
                                    bool e_writes, uint32_t actor, uint32_t lane, Verdict v) {
  const Actor& first = actors_[actor];
  const Warp& w = *warps_[first.warp].warp;
  std::string other = fmt::format("warp {}{}", w.index, lane_text(lane_of_byte(lanes_of(e), offset % 4)));
  if (!first.is_warp) other = fmt::format("{} for {}", engine_name(first.engine), other);
  if (cluster_->ctas.size() > 1) other = fmt::format("block {} {}", w.cta->rank, other);
  const char* missing = "without a barrier between";
  if (v == Verdict::kNotProxied) {
    missing = "without fence.proxy.async between";
  } else if (!first.is_warp) {
    missing = e_writes ? "before its completion was waited for" : "before it was waited for to have read";
  } else if (first.warp == p.ws.actor && !p.is_engine) {
    missing = "without __syncwarp between";
  }
  report(*p.ws.warp, p.instr, lane,
         fmt::format("[{}] {} bytes at {}: {} by {} at {}, {} by {} at {}, {}",
                     v == Verdict::kNotProxied ? "proxy" : "race.shared", bytes,
                     place_in_shared(rank, offset), e_writes ? "written" : "read", other,
                     instruction_or_unknown(*p.ws.warp->program, pc_of(e)), verb(p.access), who(p, lane),
                     instruction_or_unknown(*p.ws.warp->program, p.pc()), missing));
}

void ClusterChecker::race_in_global(const Party& p, uint64_t address, uint32_t bytes, uint64_t e,
                                    bool e_writes, uint32_t lane, Verdict v) {
  const Site& site = launch_->site(e >> kSiteShift & (kSites - 1));
  const Launch& l = launch_->launch();
  const uint64_t number = owner_of(e) & (kGlobalWarps - 1), cluster = number / launch_->warps_per_cluster();
  const uint64_t in_cluster = number % launch_->warps_per_cluster();
  std::string other = fmt::format("warp {} lane {}", in_cluster % warps_per_cta_, e & 31);
  if (launch_->clusters() * launch_->warps_per_cluster() <= launch_->warp_numbers()) {
    const Dim3& size = l.cluster;
    const uint64_t rank = in_cluster / warps_per_cta_, across = l.grid.x / size.x, down = l.grid.y / size.y;
    other = fmt::format("block ({},{},{}) {}", cluster % across * size.x + rank % size.x,
                        cluster / across % down * size.y + rank / size.x % size.y,
                        cluster / across / down * size.z + rank / size.x / size.y, other);
  }
  const char* missing = "without synchronisation between";
  if (v == Verdict::kNotProxied)
    missing = "without fence.proxy.async between";
  else if (p.strong && site.strong)
    missing = "atomically, but the scope of one of them does not reach the other's block";
  report(*p.ws.warp, p.instr, lane,
         fmt::format("[{}] {} bytes of global memory at {:#x}: {} by {} at {}, {} by {} at {}, {}",
                     v == Verdict::kNotProxied ? "proxy" : "race.global", bytes, address,
                     e_writes ? "written" : "read", other, instruction_or_unknown(*l.program, site.pc),
                     verb(p.access), who(p, lane), instruction_or_unknown(*l.program, p.pc()), missing));
}

void ClusterChecker::uninitialised_global(const Party& p, uint64_t address, uint32_t lane) {
  report(*p.ws.warp, p.instr, lane,
         fmt::format("[uninitialised.global] {} at {} {} global memory at {:#x}, which nobody has written "
                     "since it was allocated",
                     who(p, lane), instruction_or_unknown(*p.ws.warp->program, p.pc()),
                     p.access == Access::kRead ? "reads" : "changes", address));
}

void ClusterChecker::still_reading(const AsyncOp& op) {
  report(*warps_[op.warp].warp, *op.instr, static_cast<uint32_t>(op.lane),
         fmt::format("[async] the block ends while {} may still read its shared memory: nobody waited "
                     "(cp.async.bulk.wait_group.read)",
                     engine_name(op.engine)));
}

void ClusterChecker::unwritten(Party& p, uint32_t at, uint32_t lane) {
  if (unwritten_.size() < 64)
    unwritten_.push_back(
        {.ws = &p.ws, .instr = &p.instr, .rank = p.rank, .offset = at, .lane = lane, .who = who(p, lane)});
}

// Of one warp, or of all.
void ClusterChecker::settle_unwritten(const WarpState* ws) {
  std::vector<Unwritten> rest;
  std::swap(rest, unwritten_);
  for (const Unwritten& u : rest) {
    if (ws && u.ws != ws) {
      unwritten_.push_back(u);
      continue;
    }
    if (shadows_[u.rank]->first_uninitialised(u.offset, 1) == ~0u) continue;
    Warp& w = *u.ws->warp;
    report(
        w, *u.instr, u.lane,
        fmt::format("[uninitialised.shared] {} at {} reads {}, which nobody has written", u.who,
                    instruction_or_unknown(*w.program, static_cast<size_t>(u.instr - w.program->code.data())),
                    place_in_shared(u.rank, u.offset)));
  }
}

void ClusterChecker::before_fault(Warp&) {
  if (!unwritten_.empty()) settle_unwritten(nullptr);
}

void ClusterChecker::conflict(Party& p, uint32_t offset, uint32_t bytes, Epoch e, uint32_t lane, Verdict v) {
  if (v == Verdict::kRace && p.access == Access::kWrite && !p.is_engine && actors_[actor_of(e)].is_warp) {
    SameValue s{.ws = &p.ws,
                .instr = &p.instr,
                .at = cluster_->ctas[p.rank]->shared + offset,
                .bytes = bytes,
                .lane = lane,
                .place = uint64_t{p.rank} << 24 | offset,
                .epoch = e};
    std::memcpy(s.before.data(), s.at, bytes);
    same_values_.push_back(s);
    return;
  }
  race_in_shared(p, p.rank, offset, bytes, e, true, actor_of(e), lane, v);
}

void ClusterChecker::settle_same_values() {
  const std::vector<SameValue> all = std::move(same_values_);
  same_values_.clear();
  for (const SameValue& s : all) {
    if (std::memcmp(s.before.data(), s.at, s.bytes) == 0) continue;
    Party p =
        party(*s.ws, *s.instr, view_at(*s.ws, static_cast<int>(s.lane % kWarpSize)), Access::kWrite, false);
    if (s.global) race_in_global(p, s.place, s.bytes, s.epoch, true, s.lane, Verdict::kRace);
    race_in_shared(p, static_cast<uint32_t>(s.place >> 24), s.place & kSharedOffsetMask, s.bytes, s.epoch,
                   true, actor_of(s.epoch), s.lane, Verdict::kRace);
  }
}

void ClusterChecker::store_lost(Warp& w, const Instr& i, int lane, uint64_t address) {
  const bool shared = (address & kTagMask) == kSharedTag;
  report(
      w, i, static_cast<uint32_t>(lane),
      fmt::format(
          "[{}] several lanes of one store write different values at {}: which of them stays is not defined",
          shared ? "race.shared" : "race.global",
          shared ? place_in_shared(shared_rank(address), shared_offset(address))
                 : fmt::format("{:#x}", address)));
}

}  // namespace ptxsim::check
