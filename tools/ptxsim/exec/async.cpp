// cp.async and its groups, the groups of bulk copies, griddepcontrol. Source: PTX
// ISA 9.0, 9.7.9.25, 9.7.13.13, 9.7.13.15.15.
#include "exec/async.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "exec/mbarrier.h"
#include "exec/memory.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Operand;
using ptx::Space;
using ptx::Type;

namespace {

// --- cp.async ---
struct CpAsync {
  AddressOperand to, from;
  uint32_t size = 4;
  uint32_t source_size_row = 0, ignore_row = kTrueRow, ignore_flip = 0;
  bool has_source_size = false, has_ignore = false;
};

// The copies of one instruction.
struct Copies {
  uint32_t lanes = 0, size = 0;
  std::array<uint64_t, kWarpSize> to_address{}, from_address{};
  std::array<std::byte*, kWarpSize> to{}, from{};
  std::array<uint32_t, kWarpSize> bytes{};  // of the source; the rest is zeros
};

void run_copies(const Copies& c) {
  for (uint32_t m = c.lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    if (c.bytes[l]) std::memcpy(c.to[l], c.from[l], c.bytes[l]);
    if (c.bytes[l] < c.size) std::memset(c.to[l] + c.bytes[l], 0, c.size - c.bytes[l]);
  }
}

// ids: of the lanes of c, in order.
void tell_copies(Checker& check, const Copies& c, const std::vector<AsyncId>& ids) {
  size_t k = 0;
  for (uint32_t m = c.lanes; m; m &= m - 1, ++k) {
    const int l = __builtin_ctz(m);
    if (c.bytes[l]) check.async_access(ids[k], c.from_address[l], c.bytes[l], Access::kRead);
    check.async_access(ids[k], c.to_address[l], c.size, Access::kWrite);
  }
}

Copies gather_copies(Warp& w, const Instr& i, const CpAsync& op, uint32_t mask) {
  Copies c{.lanes = mask, .size = op.size};
  tagged_addresses(w, op.to, c.to_address.data());
  tagged_addresses(w, op.from, c.from_address.data());
  const uint32_t ignored = op.has_ignore ? predicate_row(w, op.ignore_row) ^ op.ignore_flip : 0;
  for (uint32_t m = mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    uint32_t bytes = op.has_source_size ? row<uint32_t>(w, op.source_size_row)[l] : op.size;
    if (bytes > op.size)
      fail(w, i, l, ErrorCode::kIllegalInstruction,
           fmt::format("[cp.async] source size {} of a copy of {} bytes", bytes, op.size));
    if (ignored >> l & 1) bytes = 0;
    c.bytes[l] = bytes;
    require_own_block(w, i, l, c.to_address[l], "destination");
    c.to[l] = resolve_range(w, i, l, c.to_address[l], op.size, op.size);
    if (bytes) c.from[l] = resolve_range(w, i, l, c.from_address[l], bytes, op.size);
  }
  if (w.cta->cluster->worker->profile) {
    profile_access(w, i, mask, c.from_address.data(), {.access = Access::kRead, .bytes = op.size});
    profile_access(w, i, mask, c.to_address.data(), {.access = Access::kWrite, .bytes = op.size});
  }
  return c;
}

// Lanes of `left` whose open group is that of the first of them.
uint32_t same_group(const AsyncGroups::Family& groups, uint32_t left) {
  const uint64_t group = groups.open[__builtin_ctz(left)];
  uint32_t same = 0;
  for (uint32_t m = left; m; m &= m - 1)
    if (groups.open[__builtin_ctz(m)] == group) same |= m & -m;
  return same;
}

void run_cp_async(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const CpAsync*>(i.ext);
  const uint32_t mask = active(w, i);
  if (!mask) return;
  Copies all = gather_copies(w, i, op, mask);
  if (!config().late) {
    run_copies(all);
    note_event(w);
  }
  if (!tracks_groups(w)) return;
  AsyncGroups::Family& groups = groups_of(w, GroupFamily::kCpAsync);
  for (uint32_t left = mask; left;) {
    all.lanes = same_group(groups, left);
    left &= ~all.lanes;
    auto work = std::make_shared<GroupedWork>();
    work->lanes = all.lanes;
    work->group = groups.open[__builtin_ctz(all.lanes)];
    if (w.check)
      for (uint32_t m = all.lanes; m; m &= m - 1)
        work->ids.push_back(w.check->begin_async(w, i, __builtin_ctz(m), Checker::Engine::kCpAsync));
    if (config().late) {
      work->finish = [&w, all](const std::byte*) {
        run_copies(all);
        note_event(w);
      };
    }
    if (w.check) tell_copies(*w.check, all, work->ids);  // now: a copy that nobody waits for never lands
    groups.work.push_back(std::move(work));
  }
}

bool decode_cp_async(Decoder& d, const Instruction& in) {
  CpAsync op;
  op.to = address_operand(d, in.operands.at(0), Space::kShared);
  op.from = address_operand(d, in.operands.at(1), Space::kGlobal);
  op.size = static_cast<uint32_t>(d.integer(in.operands.at(2)));
  const bool policy = in.has("L2::cache_hint");
  if (in.operands.size() > 3u + policy) {
    const Operand& limit = in.operands[3];
    if (d.register_type(limit) == Type::kPred) {
      op.has_ignore = true;
      op.ignore_row = d.predicate(limit, &op.ignore_flip);
    } else {
      op.has_source_size = true;
      op.source_size_row = d.row(limit, Type::kU32);
    }
  }
  d.emit({.run = run_cp_async, .ext = d.program().keep(op)});
  return true;
}

// --- groups ---
GroupFamily family_of(const Instr& i) { return static_cast<GroupFamily>(i.d); }

void run_commit(Warp& w, const Instr& i) {
  if (!tracks_groups(w)) return;
  AsyncGroups::Family& groups = groups_of(w, family_of(i));
  for (uint32_t m = active(w, i); m; m &= m - 1) ++groups.open[__builtin_ctz(m)];
}

// Lanes of mask for which the work is in a group that may not be pending any more.
uint32_t due_lanes(const AsyncGroups::Family& groups, uint32_t work_lanes, uint64_t group, uint32_t mask,
                   uint64_t allowed) {
  uint32_t due = 0;
  for (uint32_t m = work_lanes & mask; m; m &= m - 1)
    if (group + allowed < groups.open[__builtin_ctz(m)]) due |= m & -m;
  return due;
}

void tell_waited(Warp& w, const GroupedWork& work, uint32_t lanes, bool reads_only) {
  if (!w.check) return;
  size_t k = 0;
  for (uint32_t m = work.lanes; m; m &= m - 1, ++k)
    if (lanes & m & -m) w.check->complete_on_wait(work.ids[k], w, m & -m, reads_only);
}

void run_due(Warp& w, GroupFamily family, uint32_t mask, uint64_t allowed) {
  AsyncGroups::Family& groups = groups_of(w, family);
  if (family == GroupFamily::kBulk) {
    settle(*w.cta->cluster, [&](const Pending& p) {
      return p.issuer == &w && p.kind == kPendingBulkGroup &&
             due_lanes(groups, p.lanes, p.group, mask, allowed);
    });
    return;
  }
  std::vector<GroupedWork*> due;
  for (const auto& work : groups.work)
    if (due_lanes(groups, work->lanes, work->group, mask, allowed)) due.push_back(work.get());
  // Copies of a wait land in any order.
  for (size_t k = due.size(); k > 1; --k)
    std::swap(due[k - 1], due[next_random(*w.cta->cluster->worker) % k]);
  for (GroupedWork* work : due) work->run();
}

// imm: how many groups may stay pending; d: the family; a: only the reads are waited for; b: all work is
// committed first.
void run_wait(Warp& w, const Instr& i) {
  if (!tracks_groups(w)) return;
  const uint32_t mask = active(w, i);
  if (!mask) return;
  if (i.b) run_commit(w, i);
  AsyncGroups::Family& groups = groups_of(w, family_of(i));
  const auto allowed = static_cast<uint64_t>(i.imm);
  const bool reads_only = i.a;
  if (config().late && !reads_only) run_due(w, family_of(i), mask, allowed);
  for (const auto& work : groups.work) {
    uint32_t& waited = reads_only ? work->waited_read : work->waited;
    const uint32_t due = due_lanes(groups, work->lanes, work->group, mask, allowed) & ~waited;
    if (!due) continue;
    if (config().late && reads_only) work->read_source();
    tell_waited(w, *work, due, reads_only);
    waited |= due;
  }
  std::erase_if(groups.work, [](const auto& work) { return work->waited == work->lanes; });
}

void decode_wait(Decoder& d, const Instruction& in, GroupFamily family) {
  const bool all = in.has("wait_all");
  const int64_t allowed = all ? 0 : d.integer(in.operands.at(0));
  d.emit(
      {.run = run_wait, .d = static_cast<uint32_t>(family), .a = in.has("read"), .b = all, .imm = allowed});
}

// --- cp.async.mbarrier.arrive ---
struct TrackingArrive {
  AddressOperand address;
  bool counts_itself = true;  // not .noinc: adds the pending arrival that it will take away
};

// More copies than a lane can have in flight in any sensible kernel: what is older is known to be complete.
constexpr size_t kMostTracked = 256;

void run_tracking_arrive(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const TrackingArrive*>(i.ext);
  const uint32_t mask = active(w, i);
  if (!mask) return;
  std::array<uint64_t, kWarpSize> addresses;
  tagged_addresses(w, op.address, addresses.data());
  for (uint32_t m = mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    require_own_block(w, i, l, addresses[l], "mbarrier");
    if (op.counts_itself) change_mbarrier(w, i, l, addresses[l], {.add_pending = true});
  }
  std::vector<std::shared_ptr<GroupedWork>> before;
  if (tracks_groups(w)) {
    auto& work = groups_of(w, GroupFamily::kCpAsync).work;
    for (const auto& one : work)
      if (one->lanes & mask) before.push_back(one);
    if (!config().late && work.size() > kMostTracked) work.erase(work.begin(), work.end() - kMostTracked);
  }
  const auto arrive = [&w, &i, mask, addresses, before] {
    for (const auto& work : before) {
      work->run();
      size_t k = 0;
      for (uint32_t m = work->lanes; m && w.check; m &= m - 1, ++k)
        if (mask & m & -m)
          w.check->complete_on_mbarrier(work->ids[k], *w.cta->cluster, addresses[__builtin_ctz(m)]);
    }
    for (uint32_t m = mask; m; m &= m - 1)
      change_mbarrier(w, i, __builtin_ctz(m), addresses[__builtin_ctz(m)], {.arrivals = 1});
  };
  if (config().late) {
    defer(w, {.issuer = &w, .lanes = mask, .kind = kPendingArrive, .happen = arrive});
    auto& work = groups_of(w, GroupFamily::kCpAsync).work;
    if (work.size() > kMostTracked) std::erase_if(work, [](const auto& one) { return !one->finish; });
  } else {
    arrive();
  }
}

void run_nothing(Warp&, const Instr&) {}

}  // namespace

void GroupedWork::read_source() {
  if (is_read || !finish) return;
  is_read = true;
  if (tell_read) tell_read();
  copy.assign(source.at, source.at + source.bytes);
}

void GroupedWork::run() {
  if (!finish) return;
  if (!is_read && tell_read) tell_read();
  const auto work = std::move(finish);
  finish = nullptr;
  work(is_read ? copy.data() : source.at);
  copy = {};
}

AsyncGroups::Family& groups_of(Warp& w, GroupFamily family) {
  const uint64_t launch = w.cta->cluster->launch->serial;
  if (!w.async_groups || w.async_groups->launch != launch || w.async_groups->uid != w.uid)
    w.async_groups =
        std::make_shared<AsyncGroups>(AsyncGroups{.launch = launch, .uid = w.uid, .families = {}});
  return w.async_groups->families[static_cast<int>(family)];
}

void track_bulk(Warp& w, const Instr& i, int lane, AsyncId id, const EngineRange& source,
                std::function<void()> tell_read, std::function<void(const std::byte*)> late_write) {
  AsyncGroups::Family& groups = groups_of(w, GroupFamily::kBulk);
  auto work = std::make_shared<GroupedWork>();
  work->lanes = 1u << lane;
  work->group = groups.open[lane];
  if (w.check) work->ids = {id};
  work->source = source;
  work->tell_read = std::move(tell_read);
  work->finish = std::move(late_write);
  groups.work.push_back(work);
  if (!config().late) return;
  const auto happen = [&w, &i, lane, work] {
    if (!work->is_read && w.cta->running == 0)
      fail(w, i, lane, ErrorCode::kLaunchFailure,
           "[async] the block has exited and this copy may still read its shared memory: wait_group.read is "
           "missing");
    work->run();
  };
  defer(w, {.issuer = &w,
            .lanes = work->lanes,
            .kind = kPendingBulkGroup,
            .group = work->group,
            .happen = happen});
}

EngineRange engine_range(Warp& w, const Instr& i, int lane, uint64_t address, uint64_t bytes,
                         uint64_t alignment) {
  return {address, bytes, resolve_range(w, i, lane, address, bytes, alignment)};
}

void require_own_block(Warp& w, const Instr& i, int lane, uint64_t address, const char* what) {
  if ((address & kTagMask) != kSharedTag)
    fail(w, i, lane, ErrorCode::kInvalidAddressSpace,
         fmt::format("[async] the {} {:#x} is not in shared memory", what, address));
  if (shared_rank(address) != w.cta->rank)
    fail(w, i, lane, ErrorCode::kInvalidAddressSpace,
         fmt::format("[async] the {} lies in block {} of the cluster, and this is block {}", what,
                     shared_rank(address), w.cta->rank));
}

void require_same_block(Warp& w, const Instr& i, int lane, uint64_t destination, uint64_t mbarrier) {
  if ((destination & kTagMask) == kSharedTag && (mbarrier & kTagMask) == kSharedTag &&
      shared_rank(destination) == shared_rank(mbarrier))
    return;
  fail(w, i, lane, ErrorCode::kInvalidAddressSpace,
       fmt::format("[async] destination {:#x} and mbarrier {:#x} are not in the shared memory of one block",
                   destination, mbarrier));
}

Destinations destinations_of(Warp& w, const Instr& i, int lane, uint64_t data, uint64_t mbarrier,
                             bool multicast, uint32_t ranks) {
  require_same_block(w, i, lane, data, mbarrier);
  Destinations to{data, mbarrier, 0};
  if (!multicast) return to;
  const size_t blocks = w.cta->cluster->ctas.size();
  if (ranks == 0 || ranks >> blocks)
    fail(w, i, lane, ErrorCode::kIllegalInstruction,
         fmt::format("[async] multicast to blocks {:#x} of a cluster of {}", ranks, blocks));
  to.ranks = ranks;
  return to;
}

void signal(Warp& w, const Instr& i, int lane, AsyncId id, const Destinations& to, uint32_t bytes) {
  to.each([&](uint64_t, uint64_t mbarrier) {
    if (w.check) w.check->complete_on_mbarrier(id, *w.cta->cluster, mbarrier);
    complete_tx(w, i, lane, mbarrier, bytes);
  });
  note_event(w);
}

bool decode_async(Decoder& d, const Instruction& in) {
  const std::string_view m = in.mnemonic();
  if (m == "griddepcontrol") {
    // Grids of a stream run one after the other: what comes before is complete, and nothing waits for a
    // signal.
    d.emit({.run = run_nothing});
    return true;
  }
  if ((m == "st" || m == "red") && in.has("async")) return decode_bulk(d, in);
  if (m != "cp" || in.has("tensor")) return false;
  if (in.has("bulk")) {
    if (in.has("commit_group")) {
      d.emit({.run = run_commit, .d = static_cast<uint32_t>(GroupFamily::kBulk)});
    } else if (in.has("wait_group")) {
      decode_wait(d, in, GroupFamily::kBulk);
    } else {
      return decode_bulk(d, in);
    }
    return true;
  }
  if (in.has("commit_group")) {
    d.emit({.run = run_commit, .d = static_cast<uint32_t>(GroupFamily::kCpAsync)});
  } else if (in.has("wait_group") || in.has("wait_all")) {
    decode_wait(d, in, GroupFamily::kCpAsync);
  } else if (in.has("mbarrier")) {
    TrackingArrive op;
    op.counts_itself = !in.has("noinc");
    op.address = address_operand(d, in.operands.at(0), space_of(in));
    d.emit({.run = run_tracking_arrive, .ext = d.program().keep(op)});
  } else {
    return decode_cp_async(d, in);
  }
  return true;
}

}  // namespace ptxsim
