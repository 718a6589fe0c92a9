// Accesses of warps to shared memory. Whole-warp patterns (consecutive addresses, one address) are one range;
// everything else goes lane by lane. First all lanes are checked, then all are recorded: the lanes of one
// instruction do not race.
#include <cstring>

#include "check/cluster_checker.h"
#include "check/party.h"

namespace ptxsim::check {

namespace {

bool any_from(const Epoch* e, uint32_t count, Epoch limit) {
  uint64_t late = 0;
  for (uint32_t k = 0; k < count; ++k) late |= e[k] >= limit;
  return late;
}

// f(k, lane) for k < count, in loops that suit the usual counts: 1, 4, many.
template <class F>
inline void each_word(uint32_t count, Lanes lanes, F f) {
  if (count == 1) {
    f(0, lanes[0]);
  } else if (count == 4 && !lanes.table) {
    for (uint32_t k = 0; k < 4; ++k) f(k, lanes.one);
  } else if (lanes.table) {
    for (uint32_t k = 0; k < count; ++k) f(k, lanes.table[k]);
  } else {
    for (uint32_t k = 0; k < count; ++k) f(k, lanes.one);
  }
}

uint32_t mask_of_part(uint32_t offset, uint32_t bytes) { return ((1u << bytes) - 1) << offset % 4; }

// Bytes from b on that have the epoch of byte b.
uint32_t same_from(const Epoch* bytes, Epoch whole, uint32_t b) {
  uint32_t n = 1;
  while (b + n < 4 && (bytes ? bytes[b + n] == bytes[b]
                             : lane_of_byte(lanes_of(whole), b + n) == lane_of_byte(lanes_of(whole), b)))
    ++n;
  return n;
}

}  // namespace

// What all of the party's accesses to one block's memory have in common: most need not look at writers or
// readers at all.
void ClusterChecker::enter_other_block(Party& p, uint32_t rank) {
  p.rank = rank;
  p.shadow = shadows_[rank].get();
  p.writers_known = exhausted_ || p.shadow->last_write() <= p.quick;
  readers_.clear();
  if (p.access == Access::kRead) {
    p.plane = p.strong ? nullptr : &p.shadow->plane(p.actor);
    p.read_base = make_epoch(p.clock, 15, p.pc(), 0);
    return;
  }
  p.write_base = make_epoch(p.clock, p.actor, p.pc(), 0);
  actors_[p.actor].last_write = p.clock;
  p.shadow->note_write(p.clock);
  if (!exhausted_) {
    for (const uint32_t reader : p.shadow->readers())
      if (p.shadow->plane(reader).last > p.now.order.all(reader)) readers_.push_back(reader);
  }
}

// --- judging one earlier access ---
// Is the write `e` of that byte ordered before what `lane` of the party does?
Verdict ClusterChecker::judge_write(const Party& p, Epoch e, uint32_t byte, uint32_t lane) const {
  const Clock clock = clock_of(e);
  if (clock <= p.quick) return Verdict::kOrdered;
  const uint32_t actor = actor_of(e), owner = lane_of_byte(lanes_of(e), byte);
  bool ordered = p.now.order.covers(actor, clock, owner);
  if (!ordered && !p.is_engine) {
    if (actor == p.ws.actor)
      ordered = owner == lane || owner == kSomeLanes || lane == kSomeLanes;
    else if (actor == p.ws.copy_actor && actor)
      ordered = owner == lane && clock <= p.ws.copied[lane];
  }
  if (!ordered && p.strong) ordered = launch_->is_strong(pc_of(e));
  if (!ordered) return Verdict::kRace;
  if (p.async_proxy && actors_[actor].generic && !p.now.proxied.covers(actor, clock, owner))
    return Verdict::kNotProxied;
  return Verdict::kOrdered;
}

// Is the read `e` by `reader` ordered before what `lane` of the party writes to `bytes` (a mask) of the word?
bool ClusterChecker::passes_read(const Party& p, uint32_t reader, Epoch e, uint32_t bytes,
                                 uint32_t lane) const {
  const Clock clock = clock_of(e);
  if (clock <= p.now.order.all(reader)) return true;
  const uint32_t common = bytes_of(e) & bytes;
  for (uint32_t m = common; m; m &= m - 1) {
    const auto byte = static_cast<uint32_t>(__builtin_ctz(m));
    const uint32_t owner = lane_of_byte(lanes_of(e), byte), mine = lane_of_byte(lane, byte);
    if (p.now.order.covers(reader, clock, owner)) continue;
    if (reader == p.ws.actor && !p.is_engine && (owner == mine || owner == kSomeLanes || mine == kSomeLanes))
      continue;
    return false;
  }
  return true;
}

// --- ranges of words ---
void ClusterChecker::check_word(Party& p, uint32_t word, uint32_t lanes) {
  const Epoch whole = p.shadow->writes()[word];
  const Epoch* bytes = whole & kSplit ? p.shadow->bytes_of_word(word) : nullptr;
  const bool one = !bytes && lanes_of(whole) < kPairs && lanes < kPairs;
  for (uint32_t b = 0; b < 4; b += one ? 4 : 1) {
    const Epoch e = bytes ? bytes[b] : whole;
    const uint32_t lane = lane_of_byte(lanes, b);
    if (const Verdict v = judge_write(p, e, b, lane); v != Verdict::kOrdered)
      conflict(p, word * 4 + b, one ? 4 : same_from(bytes, whole, b), e, lane, v);
  }
}

void ClusterChecker::check_written(Party& p, uint32_t word, uint32_t count, Lanes lanes) {
  const Epoch* e = p.shadow->writes() + word;
  const Epoch limit = Epoch{p.quick + 1} << kClockShift;
  uint64_t doubtful = 0;
  for (uint32_t k = 0; k < count; ++k) doubtful |= (e[k] >= limit) & ((e[k] | kLaneBits) != p.good);
  if (!doubtful) return;
  for (uint32_t k = 0; k < count; ++k) {
    if (e[k] < limit || (e[k] | kLaneBits) == p.good) continue;
    check_word(p, word + k, lanes[k]);
    const uint32_t actor = actor_of(e[k]);
    const bool for_all =
        clock_of(e[k]) <= p.now.order.all(actor) && !(e[k] & kSplit) &&
        (!p.async_proxy || !actors_[actor].generic || clock_of(e[k]) <= p.now.proxied.all(actor));
    if (for_all) p.good = e[k] | kLaneBits;
  }
}

void ClusterChecker::check_readers(Party& p, uint32_t word, uint32_t count, Lanes lanes) {
  for (const uint32_t reader : readers_) {
    Plane& plane = p.shadow->plane(reader);
    if (word >= plane.high || word + count <= plane.low) continue;
    const Epoch* e = plane.words.data() + word;
    if (!any_from(e, count, Epoch{p.now.order.all(reader) + 1} << kClockShift)) continue;
    for (uint32_t k = 0; k < count; ++k)
      if (!passes_read(p, reader, e[k], 15, lanes[k]))
        race_in_shared(p, p.rank, (word + k) * 4, 4, e[k], false, reader, lane_of_byte(lanes[k], 0),
                       Verdict::kRace);
  }
}

void ClusterChecker::check_range(Party& p, uint32_t word, uint32_t count, Lanes lanes) {
  if (!p.writers_known) check_written(p, word, count, lanes);
  if (!readers_.empty()) check_readers(p, word, count, lanes);
  if (p.access != Access::kWrite) require_initialised(p, word * 4, count * 4, lanes);
}

// A word that another lane read at the same time has been read by several. Strong reads leave nothing: they
// race with nothing that is not found at the write.
void ClusterChecker::record_reads(Party& p, uint32_t word, uint32_t count, Lanes lanes) {
  Plane& plane = *p.plane;
  plane.last = p.clock;
  plane.low = std::min(plane.low, word);
  plane.high = std::max(plane.high, word + count);
  Epoch* e = plane.words.data() + word;
  const Epoch base = p.read_base, now = Epoch{p.clock} << kClockShift;
  if (p.is_engine) {
    for (uint32_t k = 0; k < count; ++k) e[k] = base | lanes.one;
    return;
  }
  const auto merged = [=](Epoch old, Epoch lane) {
    const Epoch several = (old >> kActorShift & 15) == 15 ? kEachLane : kSomeLanes;
    return base | (old >= now && (old & kLaneBits) != lane ? several : lane);
  };
  each_word(count, lanes, [=](uint32_t k, uint32_t lane) { e[k] = merged(e[k], lane); });
}

void ClusterChecker::record_writes(Party& p, uint32_t word, uint32_t count, Lanes lanes) {
  Epoch* e = p.shadow->writes() + word;
  const Epoch base = p.write_base;
  each_word(count, lanes, [=](uint32_t k, uint32_t lane) { e[k] = base | lane; });
  p.shadow->set_initialised(word * 4, count * 4);
}

void ClusterChecker::record_range(Party& p, uint32_t word, uint32_t count, Lanes lanes) {
  if (p.access != Access::kRead)
    record_writes(p, word, count, lanes);
  else if (p.plane)
    record_reads(p, word, count, lanes);
}

// --- parts of a word ---
void ClusterChecker::check_part(Party& p, uint32_t offset, uint32_t bytes, uint32_t lane) {
  const uint32_t word = offset / 4;
  const Epoch whole = p.shadow->writes()[word];
  if (!p.writers_known && clock_of(whole) > p.quick) {
    const Epoch* each = whole & kSplit ? p.shadow->bytes_of_word(word) : nullptr;
    for (uint32_t b = offset % 4; b < offset % 4 + bytes; ++b) {
      const Epoch e = each ? each[b] : whole;
      if (const Verdict v = judge_write(p, e, b, lane); v != Verdict::kOrdered)
        conflict(p, word * 4 + b, 1, e, lane, v);
    }
  }
  for (const uint32_t reader : readers_) {
    const Epoch e = p.shadow->plane(reader).words.data()[word];
    if (!passes_read(p, reader, e, mask_of_part(offset, bytes), lane))
      race_in_shared(p, p.rank, offset, bytes, e, false, reader, lane, Verdict::kRace);
  }
  if (p.access != Access::kWrite) require_initialised(p, offset, bytes, {.one = static_cast<uint8_t>(lane)});
}

void ClusterChecker::record_part(Party& p, uint32_t offset, uint32_t bytes, uint32_t lane) {
  const uint32_t word = offset / 4, part = mask_of_part(offset, bytes);
  if (p.access == Access::kRead) {
    if (!p.plane) return;
    Plane& plane = *p.plane;
    plane.last = p.clock;
    plane.low = std::min(plane.low, word);
    plane.high = std::max(plane.high, word + 1);
    Epoch& e = plane.words.data()[word];
    uint32_t who = lane, read = part;
    if (clock_of(e) == p.clock) {
      if (lanes_of(e) != lane)
        who = bytes_of(e) == part && lanes_of(e) != kSomeLanes ? kEachLane : kSomeLanes;
      read |= bytes_of(e);
    }
    e = make_epoch(p.clock, read, p.pc(), who);
    return;
  }
  const Epoch mine = p.write_base | lane;
  Epoch* each = p.shadow->split(word);
  for (uint32_t b = offset % 4; b < offset % 4 + bytes; ++b) each[b] = mine;
  Epoch& whole = p.shadow->writes()[word];
  whole = std::max(whole & ~kSplit, mine) | kSplit;  // its clock is the latest of its bytes
  p.shadow->set_initialised(offset, bytes);
}

// --- a warp ---
void ClusterChecker::check_run(Party& p, const Run& r) {
  enter_block(p, shared_rank(r.address));
  const uint32_t offset = shared_offset(r.address);
  if (!r.whole_words) {
    check_part(p, offset, r.bytes, r.lanes.one);
    return;
  }
  if (r.bytes > 4) {
    check_range(p, offset / 4, r.bytes / 4, r.lanes);
    return;
  }
  const Epoch e = p.shadow->writes()[offset / 4];
  if (!p.writers_known && clock_of(e) > p.quick && (e | kLaneBits) != p.good)
    check_written(p, offset / 4, 1, r.lanes);
  if (!readers_.empty()) check_readers(p, offset / 4, 1, r.lanes);
  if (p.access != Access::kWrite) require_initialised(p, offset, 4, r.lanes);
}

void ClusterChecker::record_run(Party& p, const Run& r) {
  enter_block(p, shared_rank(r.address));
  const uint32_t offset = shared_offset(r.address);
  if (r.whole_words)
    record_range(p, offset / 4, r.bytes / 4, r.lanes);
  else
    record_part(p, offset, r.bytes, r.lanes.one);
}

void ClusterChecker::shared_runs(Party& p, const Run* runs, int count) {
  const Run* const end = runs + count;
  if (p.access == Access::kRead || count == 1) {
    for (const Run* r = runs; r < end; ++r) {
      check_run(p, *r);
      record_run(p, *r);
    }
    return;
  }
  // The lanes of one store do not race with each other here: store_lost is for those.
  for (const Run* r = runs; r < end; ++r) check_run(p, *r);
  for (const Run* r = runs; r < end; ++r) record_run(p, *r);
}

void ClusterChecker::shared_access(WarpState& ws, const Instr& i, uint32_t mask, const uint64_t* addresses,
                                   const AccessInfo& info) {
  const bool strong = info.order != Order::kWeak || info.access == Access::kAtomic;
  Run runs[kWarpSize];
  each_view(ws, mask, [&](View& v, uint32_t part) {
    Party p = party(ws, i, v, info.access, strong);
    if (strong) launch_->set_strong(p.pc());
    shared_runs(p, runs, find_runs(part, addresses, info.bytes, runs));
  });
}

void ClusterChecker::access(Warp& w, const Instr& i, uint32_t mask, const uint64_t* addresses,
                            const AccessInfo& info) {
  WarpState& ws = state(w);
  settle(ws);
  if (!mask) return;
  uint64_t any = 0, all = ~uint64_t{0};
  for (uint32_t l = 0; l < kWarpSize; ++l) any |= addresses[l], all &= addresses[l];
  uint32_t shared = 0, global = 0;
  if (mask == kAllLanes && ((any ^ all) & kTagMask) == 0) {
    shared = (any & kTagMask) == kSharedTag ? mask : 0;
    global = (any & kTagMask) == 0 ? mask : 0;
  } else {
    // Generic addresses of the lanes may lie in different spaces; those of local and parameter space are the
    // lane's own.
    for (uint32_t m = mask; m; m &= m - 1) {
      const uint64_t tag = addresses[__builtin_ctz(m)] & kTagMask;
      if (tag == kSharedTag)
        shared |= m & -m;
      else if (tag == 0)
        global |= m & -m;
    }
  }
  if (shared) shared_access(ws, i, shared, addresses, info);
  if (global) global_access(ws, i, global, addresses, info);
  if ((info.order != Order::kWeak || info.access == Access::kAtomic) && (shared | global))
    synchronise(ws, shared | global, addresses, info);
}

}  // namespace ptxsim::check
