// Accesses of warps to shared memory. Whole-warp patterns (consecutive addresses, one address) are one range;
// everything else goes lane by lane. First all lanes are checked, then all are recorded: the lanes of one
// instruction do not race.
#include <cstring>

#include "check/cluster_checker.h"
#include "check/party.h"

namespace ptxsim::check {

namespace {

// lane_tables()[log2 of the bytes per lane][word]: who uses each word when the lanes' addresses are
// consecutive.
const std::array<std::array<uint8_t, 128>, 5>& lane_tables() {
  static const auto tables = [] {
    std::array<std::array<uint8_t, 128>, 5> t{};
    for (uint32_t k = 0; k < 128; ++k) {
      t[0][k] = static_cast<uint8_t>(kQuads + k % 8);
      t[1][k] = static_cast<uint8_t>(kPairs + k % 16);
      t[2][k] = static_cast<uint8_t>(k % 32);
      t[3][k] = static_cast<uint8_t>(k / 2 % 32);
      t[4][k] = static_cast<uint8_t>(k / 4);
    }
    return t;
  }();
  return tables;
}

bool any_from(const Epoch* e, uint32_t count, Epoch limit) {
  uint64_t late = 0;
  for (uint32_t k = 0; k < count; ++k) late |= e[k] >= limit;
  return late;
}

uint32_t mask_of_part(uint32_t offset, uint32_t bytes) { return ((1u << bytes) - 1) << offset % 4; }

}  // namespace

const uint8_t* consecutive_lanes(uint32_t bytes) {
  return bytes <= 16 ? lane_tables()[static_cast<size_t>(__builtin_ctz(bytes))].data() : nullptr;
}

bool are_consecutive(uint32_t mask, const uint64_t* addresses, uint32_t bytes) {
  if (mask != kAllLanes || bytes > 16 || addresses[0] % 4) return false;
  uint64_t off = 0;
  for (uint32_t l = 0; l < kWarpSize; ++l) off |= addresses[l] ^ (addresses[0] + l * bytes);
  return !off;
}

bool are_equal(uint32_t mask, const uint64_t* addresses) {
  const uint64_t first = addresses[__builtin_ctz(mask)];
  uint64_t off = 0;
  for (uint32_t m = mask; m; m &= m - 1) off |= addresses[__builtin_ctz(m)] ^ first;
  return !off;
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
// Bytes from b on that have the epoch of byte b.
uint32_t same_from(const Epoch* bytes, Epoch whole, uint32_t b) {
  uint32_t n = 1;
  while (b + n < 4 && (bytes ? bytes[b + n] == bytes[b]
                             : lane_of_byte(lanes_of(whole), b + n) == lane_of_byte(lanes_of(whole), b)))
    ++n;
  return n;
}

void ClusterChecker::check_word(Party& p, uint32_t rank, uint32_t word, uint32_t lanes) {
  SharedShadow& shadow = *shadows_[rank];
  const Epoch whole = shadow.writes()[word];
  const Epoch* bytes = whole & kSplit ? shadow.bytes_of_word(word) : nullptr;
  const bool one = !bytes && lanes_of(whole) < kPairs && lanes < kPairs;
  for (uint32_t b = 0; b < 4; b += one ? 4 : 1) {
    const Epoch e = bytes ? bytes[b] : whole;
    const uint32_t lane = lane_of_byte(lanes, b);
    if (const Verdict v = judge_write(p, e, b, lane); v != Verdict::kOrdered)
      conflict(p, rank, word * 4 + b, one ? 4 : same_from(bytes, whole, b), e, lane, v);
  }
}

void ClusterChecker::check_written(Party& p, uint32_t rank, uint32_t word, uint32_t count, Lanes lanes) {
  const Epoch* e = shadows_[rank]->writes() + word;
  const Epoch limit = Epoch{p.quick + 1} << kClockShift;
  if (!any_from(e, count, limit)) return;
  // Neighbours were mostly written by one actor at one time.
  Epoch good = 0;
  for (uint32_t k = 0; k < count; ++k) {
    if (e[k] < limit || (e[k] | kLaneBits) == good) continue;
    check_word(p, rank, word + k, lanes[k]);
    const uint32_t actor = actor_of(e[k]);
    const bool for_all =
        clock_of(e[k]) <= p.now.order.all(actor) && !(e[k] & kSplit) &&
        (!p.async_proxy || !actors_[actor].generic || clock_of(e[k]) <= p.now.proxied.all(actor));
    good = for_all ? e[k] | kLaneBits : 0;
  }
}

void ClusterChecker::check_readers(Party& p, uint32_t rank, uint32_t word, uint32_t count, Lanes lanes) {
  SharedShadow& shadow = *shadows_[rank];
  for (const uint32_t reader : shadow.readers()) {
    Plane& plane = shadow.plane(reader);
    const Clock all = p.now.order.all(reader);
    if (plane.last <= all || word >= plane.high || word + count <= plane.low) continue;
    const Epoch* e = plane.words.data() + word;
    if (!any_from(e, count, Epoch{all + 1} << kClockShift)) continue;
    for (uint32_t k = 0; k < count; ++k) {
      if (passes_read(p, reader, e[k], 15, lanes[k])) continue;
      if (p.strong && launch_->is_strong(pc_of(e[k]))) continue;
      race_in_shared(p, rank, (word + k) * 4, 4, e[k], false, reader, lane_of_byte(lanes[k], 0),
                     Verdict::kRace);
    }
  }
}

void ClusterChecker::check_range(Party& p, uint32_t rank, uint32_t word, uint32_t count, Lanes lanes) {
  if (!exhausted_) {
    check_written(p, rank, word, count, lanes);
    // Strong reads are not recorded; a strong write races with weak reads.
    if (p.access != Access::kRead) check_readers(p, rank, word, count, lanes);
  }
  if (p.access != Access::kWrite) require_initialised(p, rank, word * 4, count * 4, lanes);
}

void ClusterChecker::record_range(Party& p, uint32_t rank, uint32_t word, uint32_t count, Lanes lanes) {
  SharedShadow& shadow = *shadows_[rank];
  if (p.access == Access::kRead) {
    if (p.strong) return;
    Plane& plane = shadow.plane(p.actor);
    plane.last = p.clock;
    plane.low = std::min(plane.low, word);
    plane.high = std::max(plane.high, word + count);
    Epoch* e = plane.words.data() + word;
    const Epoch base = make_epoch(p.clock, 15, p.pc(), 0);
    if (lanes.table) {
      for (uint32_t k = 0; k < count; ++k) e[k] = base | lanes.table[k];
    } else {
      for (uint32_t k = 0; k < count; ++k) e[k] = base | lanes.one;
    }
    return;
  }
  actors_[p.actor].last_write = p.clock;
  Epoch* e = shadow.writes() + word;
  const Epoch base = make_epoch(p.clock, p.actor, p.pc(), 0);
  if (lanes.table) {
    for (uint32_t k = 0; k < count; ++k) e[k] = base | lanes.table[k];
  } else {
    for (uint32_t k = 0; k < count; ++k) e[k] = base | lanes.one;
  }
  shadow.set_initialised(word * 4, count * 4);
}

// --- parts of a word ---
void ClusterChecker::check_part(Party& p, uint32_t rank, uint32_t offset, uint32_t bytes, uint32_t lane) {
  SharedShadow& shadow = *shadows_[rank];
  const uint32_t word = offset / 4;
  if (!exhausted_) {
    const Epoch whole = shadow.writes()[word];
    if (clock_of(whole) > p.quick) {
      const Epoch* each = whole & kSplit ? shadow.bytes_of_word(word) : nullptr;
      for (uint32_t b = offset % 4; b < offset % 4 + bytes; ++b) {
        const Epoch e = each ? each[b] : whole;
        if (const Verdict v = judge_write(p, e, b, lane); v != Verdict::kOrdered)
          conflict(p, rank, word * 4 + b, 1, e, lane, v);
      }
    }
    if (p.access != Access::kRead)
      for (const uint32_t reader : shadow.readers()) {
        Plane& plane = shadow.plane(reader);
        const Epoch e = plane.words.data()[word];
        if (plane.last <= p.now.order.all(reader) ||
            passes_read(p, reader, e, mask_of_part(offset, bytes), lane))
          continue;
        race_in_shared(p, rank, offset, bytes, e, false, reader, lane, Verdict::kRace);
      }
  }
  if (p.access != Access::kWrite)
    require_initialised(p, rank, offset, bytes, {.one = static_cast<uint8_t>(lane)});
}

void ClusterChecker::record_part(Party& p, uint32_t rank, uint32_t offset, uint32_t bytes, uint32_t lane) {
  SharedShadow& shadow = *shadows_[rank];
  const uint32_t word = offset / 4, part = mask_of_part(offset, bytes);
  if (p.access == Access::kRead) {
    if (p.strong) return;
    Plane& plane = shadow.plane(p.actor);
    plane.last = p.clock;
    plane.low = std::min(plane.low, word);
    plane.high = std::max(plane.high, word + 1);
    Epoch& e = plane.words.data()[word];
    uint32_t who = lane, read = part;
    if (clock_of(e) == p.clock && lanes_of(e) != lane) {
      who = bytes_of(e) == part && lanes_of(e) != kSomeLanes ? kEachLane : kSomeLanes;
      read |= bytes_of(e);
    } else if (clock_of(e) == p.clock) {
      read |= bytes_of(e);
    }
    e = make_epoch(p.clock, read, p.pc(), who);
    return;
  }
  actors_[p.actor].last_write = p.clock;
  const Epoch mine = make_epoch(p.clock, p.actor, p.pc(), lane);
  Epoch* each = shadow.split(word);
  for (uint32_t b = offset % 4; b < offset % 4 + bytes; ++b) each[b] = mine;
  Epoch& whole = shadow.writes()[word];
  whole = std::max(whole & ~kSplit, mine) | kSplit;  // its clock is the latest of its bytes
  shadow.set_initialised(offset, bytes);
}

// --- a warp ---
void ClusterChecker::shared_lanes(Party& p, uint32_t mask, const uint64_t* addresses, uint32_t bytes) {
  struct Use {
    uint32_t rank, offset, lane;
  };
  Use uses[kWarpSize];
  int n = 0;
  for (uint32_t m = mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const Use u{shared_rank(addresses[l]), shared_offset(addresses[l]), static_cast<uint32_t>(l)};
    if (n && uses[n - 1].offset == u.offset && uses[n - 1].rank == u.rank)
      uses[n - 1].lane = kEachLane;
    else
      uses[n++] = u;
  }
  if (bytes < 4) {
    for (int k = 0; k < n; ++k) check_part(p, uses[k].rank, uses[k].offset, bytes, uses[k].lane);
    for (int k = 0; k < n; ++k) record_part(p, uses[k].rank, uses[k].offset, bytes, uses[k].lane);
    return;
  }
  for (int k = 0; k < n; ++k)
    check_range(p, uses[k].rank, uses[k].offset / 4, bytes / 4, {.one = static_cast<uint8_t>(uses[k].lane)});
  for (int k = 0; k < n; ++k) {
    Lanes lanes{.one = static_cast<uint8_t>(uses[k].lane)};
    if (p.access == Access::kRead && !p.strong) {
      // Lanes far apart that read the same word.
      const Epoch e = shadows_[uses[k].rank]->plane(p.actor).words.data()[uses[k].offset / 4];
      if (clock_of(e) == p.clock && lanes_of(e) != uses[k].lane) lanes.one = kEachLane;
    }
    record_range(p, uses[k].rank, uses[k].offset / 4, bytes / 4, lanes);
  }
}

void ClusterChecker::shared_access(WarpState& ws, const Instr& i, uint32_t mask, const uint64_t* addresses,
                                   const AccessInfo& info) {
  const bool strong = info.order != Order::kWeak || info.access == Access::kAtomic;
  const bool consecutive = are_consecutive(mask, addresses, info.bytes);
  const bool equal = !consecutive && info.bytes >= 4 && are_equal(mask, addresses);
  each_view(ws, mask, [&](View& v, uint32_t part) {
    Party p = party(ws, i, v, info.access, strong);
    if (strong) launch_->set_strong(p.pc());
    const uint32_t rank = shared_rank(addresses[__builtin_ctz(part)]),
                   word = shared_offset(addresses[__builtin_ctz(part)]) / 4;
    if (consecutive && part == kAllLanes) {
      const Lanes lanes{.table = consecutive_lanes(info.bytes)};
      check_range(p, rank, word, 8 * info.bytes, lanes);
      record_range(p, rank, word, 8 * info.bytes, lanes);
    } else if (equal) {
      const Lanes lanes{.one = static_cast<uint8_t>(part & (part - 1) ? kEachLane : __builtin_ctz(part))};
      check_range(p, rank, word, info.bytes / 4, lanes);
      record_range(p, rank, word, info.bytes / 4, lanes);
    } else {
      shared_lanes(p, part, addresses, info.bytes);
    }
  });
}

void ClusterChecker::access(Warp& w, const Instr& i, uint32_t mask, const uint64_t* addresses,
                            const AccessInfo& info) {
  WarpState& ws = state(w);
  settle(ws);
  if (!mask) return;
  // Generic addresses of the lanes may lie in different spaces; those of local and parameter space are the
  // lane's own.
  uint32_t shared = 0, global = 0;
  for (uint32_t m = mask; m; m &= m - 1) {
    const uint64_t tag = addresses[__builtin_ctz(m)] & kTagMask;
    if (tag == kSharedTag)
      shared |= m & -m;
    else if (tag == 0)
      global |= m & -m;
  }
  if (shared) shared_access(ws, i, shared, addresses, info);
  if (global) global_access(ws, i, global, addresses, info);
  if (info.order != Order::kWeak || info.access == Access::kAtomic) {
    if (const uint32_t flags = shared | global) synchronise(ws, flags, addresses, info);
  }
}

}  // namespace ptxsim::check
