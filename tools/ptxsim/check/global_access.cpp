// Accesses of warps to global memory, and of engines on their behalf. Lanes of one warp are not told apart
// here.
#include <algorithm>
#include <cstring>

#include "check/cluster_checker.h"
#include "check/global_shadow.h"
#include "check/party.h"

namespace ptxsim::check {

namespace {

uint32_t site_number(uint64_t e) { return e >> kSiteShift & (kSites - 1); }
uint32_t warp_number(uint64_t e) { return owner_of(e) & (kGlobalWarps - 1); }
uint32_t bytes_used(uint64_t e) { return e >> kBytesShift & 15; }
Clock global_clock(uint64_t e) { return e >> kGlobalClockShift & kMaxGlobalClock; }

// Of several unordered readers one word keeps the first, the next one the last: whoever writes the lot meets
// another.
constexpr uint64_t kKeepsFirst = 4;

}  // namespace

// What the party leaves in the shadow, but for bytes and lane.
uint64_t ClusterChecker::global_epoch(const Party& p) const {
  const Clock clock = std::min(p.clock - base_, kMaxGlobalClock);
  return uint64_t{launch_->tag()} << kTagShift | p.ws.number << kWarpShift |
         uint64_t{clock} << kGlobalClockShift |
         uint64_t{launch_->site_of(p.pc(), p.strong, p.far, p.is_engine)} << kSiteShift;
}

// Is the access `e` of this launch known to the party, or (proxied) covered by a proxy fence on the way to
// it?
bool ClusterChecker::knows_global(const Party& p, uint64_t e, bool proxied) const {
  const uint64_t per_cluster = launch_->warps_per_cluster(), step = launch_->warp_numbers() / per_cluster;
  const auto actor = static_cast<uint32_t>(warp_number(e) % per_cluster),
             lane = static_cast<uint32_t>(e & 31);
  const Clock clock = global_clock(e);
  // Numbers repeat in large grids: one that is known is enough.
  for (uint64_t cluster = warp_number(e) / per_cluster; cluster < launch_->clusters(); cluster += step) {
    if (cluster == index_) {
      if ((proxied ? p.now.proxied : p.now.order).covers(actor, base_ + clock, lane)) return true;
      continue;
    }
    const Leaf* leaf = remote_find(p.now.remote, cluster, launch_->levels());
    if (leaf && (proxied ? leaf->proxied : leaf->order).covers(actor, leaf->order.base() + clock, lane))
      return true;
    if (!proxied) continue;
    leaf = remote_find(p.now.remote_proxied, cluster, launch_->levels());
    if (leaf && leaf->order.covers(actor, leaf->order.base() + clock, lane)) return true;
  }
  return false;
}

void ClusterChecker::judge_global(Party& p, uint64_t address, uint32_t bytes, uint64_t e, bool e_writes,
                                  uint32_t lane) {
  const uint32_t mine = ((1u << bytes) - 1) << address % 4;
  if (!(bytes_used(e) & mine) || !site_number(e)) return;
  const Site& site = launch_->site(site_number(e));
  const uint64_t own = p.ws.number;
  if (warp_number(e) != own) {
    const bool near = warp_number(e) / launch_->warps_per_cluster() == own / launch_->warps_per_cluster();
    if (p.strong && site.strong && (near || (p.far && site.far))) return;
    if (!knows_global(p, e, false)) {
      const std::pair<uint64_t, uint64_t> seen{address & ~uint64_t{3}, e};
      if (e_writes && site.strong &&
          std::find(p.ws.observed.begin(), p.ws.observed.end(), seen) != p.ws.observed.end())
        return;
      if (e_writes && p.access == Access::kWrite && !p.is_engine && !site.engine) {
        SameValue s{.ws = &p.ws,
                    .instr = &p.instr,
                    .at = reinterpret_cast<const std::byte*>(address),
                    .bytes = bytes,
                    .lane = lane,
                    .global = true,
                    .place = address,
                    .epoch = e};
        std::memcpy(s.before.data(), s.at, bytes);
        same_values_.push_back(s);
        return;
      }
      race_in_global(p, address, bytes, e, e_writes, lane, Verdict::kRace);
    }
  }
  if (e_writes && p.async_proxy && !site.engine && !knows_global(p, e, true))
    race_in_global(p, address, bytes, e, e_writes, lane, Verdict::kNotProxied);
}

// `count` words within the chunk that was entered.
void ClusterChecker::global_words(Party& p, uint64_t address, uint32_t count, Lanes lanes) {
  RaceChunk& chunk = *p.races;
  const size_t first = address % kChunkBytes / 4;
  uint64_t* writes = chunk.writes + first;
  uint64_t* reads = chunk.reads + first;
  const uint64_t mine = p.global | uint64_t{15} << kBytesShift;
  const bool writing = p.access != Access::kRead;
  uint64_t others = 0;
  const bool any_write = chunk.written_by == launch_->tag();
  if (any_write && p.async_proxy) {  // what its own warp wrote matters, too
    for (uint32_t k = 0; k < count; ++k) others |= (writes[k] ^ mine) >> kTagShift == 0;
  } else if (any_write) {
    for (uint32_t k = 0; k < count; ++k) others |= other_warp(writes[k], mine);
  }
  if (others) {
    for (uint32_t k = 0; k < count; ++k)
      if (p.async_proxy ? (writes[k] ^ mine) >> kTagShift == 0 : other_warp(writes[k], mine))
        judge_global(p, address + 4 * k, 4, writes[k], true, lane_of_byte(lanes[k], 0));
  }
  if (!writing) {
    if (p.strong) return;
    const auto after = [=](uint64_t before, uint64_t at, uint64_t lane) {
      return other_warp(before, mine) && (at & kKeepsFirst) ? before : mine | lane;
    };
    if (lanes.table) {
      for (uint32_t k = 0; k < count; ++k) reads[k] = after(reads[k], address + 4 * k, lanes.table[k]);
    } else {
      for (uint32_t k = 0; k < count; ++k) reads[k] = after(reads[k], address + 4 * k, lanes.one);
    }
    return;
  }
  if (chunk.written_by != launch_->tag()) chunk.written_by = launch_->tag();
  uint64_t readers = 0;
  for (uint32_t k = 0; k < count; ++k) readers |= other_warp(reads[k], mine);
  if (readers) {
    for (uint32_t k = 0; k < count; ++k)
      if (other_warp(reads[k], mine))
        judge_global(p, address + 4 * k, 4, reads[k], false, lane_of_byte(lanes[k], 0));
  }
  if (lanes.table) {
    for (uint32_t k = 0; k < count; ++k) writes[k] = mine | lanes.table[k];
  } else {
    for (uint32_t k = 0; k < count; ++k) writes[k] = mine | lanes.one;
  }
}

// Less than a word.
void ClusterChecker::global_part(Party& p, uint64_t address, uint32_t bytes, uint32_t lane) {
  enter_chunk(p, address);
  RaceChunk& chunk = *p.races;
  uint64_t& written = chunk.writes[address % kChunkBytes / 4];
  uint64_t& read = chunk.reads[address % kChunkBytes / 4];
  const uint64_t part = ((uint64_t{1} << bytes) - 1) << address % 4, base = p.global;
  const auto with = [&](uint64_t before) {  // bytes that the warp used at the same clock and place stay in
    const uint64_t other_bits = uint64_t{15} << kBytesShift | 31;
    const uint64_t kept = ((before ^ base) & ~other_bits) == 0 ? before >> kBytesShift & 15 : 0;
    return base | (part | kept) << kBytesShift | lane;
  };
  if (p.async_proxy ? (written ^ base) >> kTagShift == 0 : other_warp(written, base))
    judge_global(p, address, bytes, written, true, lane);
  if (p.access == Access::kRead) {
    if (!p.strong && !(other_warp(read, base) && (address & kKeepsFirst))) read = with(read);
    return;
  }
  if (other_warp(read, base)) judge_global(p, address, bytes, read, false, lane);
  if (chunk.written_by != launch_->tag()) chunk.written_by = launch_->tag();
  written = with(written);
}

// One word of the chunk that was entered: what scattered lanes do.
void ClusterChecker::global_word(Party& p, uint64_t address, uint32_t lane) {
  RaceChunk& chunk = *p.races;
  const size_t at = address % kChunkBytes / 4;
  const uint64_t mine = p.global | uint64_t{15} << kBytesShift | lane;
  if (chunk.written_by == launch_->tag()) {
    const uint64_t e = chunk.writes[at];
    if (p.async_proxy ? (e ^ mine) >> kTagShift == 0 : other_warp(e, mine))
      judge_global(p, address, 4, e, true, lane);
  } else if (p.access != Access::kRead) {
    chunk.written_by = launch_->tag();
  }
  uint64_t& read = chunk.reads[at];
  const bool other = other_warp(read, mine);
  if (p.access != Access::kRead) {
    if (other) judge_global(p, address, 4, read, false, lane);
    chunk.writes[at] = mine;
  } else if (!p.strong && !(other && (address & kKeepsFirst))) {
    read = mine;
  }
}

void ClusterChecker::enter_other_chunk(Party& p, uint64_t address) {
  p.chunk = address >> kChunkShift;
  const Chunk chunk = global_shadow::find(address);
  p.bits = chunk.bits;
  p.races = !launch_->tag() || exhausted_ ? nullptr
            : chunk.races                 ? chunk.races
                                          : &global_shadow::races(address);
}

void ClusterChecker::global_range(Party& p, uint64_t address, uint64_t bytes, Lanes lanes) {
  uint64_t at = address;
  const uint64_t end = address + bytes;
  if (at % 4) {
    const uint64_t stop = std::min(end, (at | 3) + 1);
    global_part(p, at, static_cast<uint32_t>(stop - at), lanes[0]);
    at = stop;
  }
  while (at + 4 <= end) {
    const uint64_t stop = std::min(end, (at | (kChunkBytes - 1)) + 1) & ~uint64_t{3};
    const Lanes rest = lanes.table ? Lanes{lanes.table + (at - address) / 4, 0} : lanes;
    enter_chunk(p, at);
    global_words(p, at, static_cast<uint32_t>((stop - at) / 4), rest);
    at = stop;
  }
  if (at < end) global_part(p, at, static_cast<uint32_t>(end - at), lanes[0]);
}

// What an engine reads or writes.
void ClusterChecker::global_engine(Party& p, uint64_t address, uint64_t bytes) {
  p.global = global_epoch(p);
  if (p.access != Access::kWrite)
    if (const uint64_t at = global_shadow::first_uninitialised(address, bytes); at != ~uint64_t{0})
      uninitialised_global(p, at, p.lane);
  enter_chunk(p, address);
  if (p.races) global_range(p, address, bytes, {.one = static_cast<uint8_t>(p.lane & 31)});
  if (p.access != Access::kRead) global_shadow::set_initialised(address, bytes);
}

void ClusterChecker::global_run(Party& p, const Run& r, uint32_t lane_bytes) {
  enter_chunk(p, r.address);
  const bool tracked = p.bits || (r.address + r.bytes - 1) >> kChunkShift != p.chunk;
  if (tracked && p.access != Access::kWrite)
    if (const uint64_t at = global_shadow::first_uninitialised(r.address, r.bytes); at != ~uint64_t{0})
      uninitialised_global(
          p, at, r.lane + (r.lanes.table ? static_cast<uint32_t>((at - r.address) / lane_bytes) : 0));
  if (p.races) {
    // Here a word belongs to the first lane that uses it.
    if (r.bytes == 4 && r.whole_words) {
      global_word(p, r.address, r.lane);
    } else if (!r.lanes.table) {
      global_range(p, r.address, r.bytes, {.one = static_cast<uint8_t>(r.lane)});
    } else if (lane_bytes >= 4) {
      global_range(p, r.address, r.bytes, r.lanes);
    } else {
      uint8_t table[kWarpSize / 2];
      for (uint32_t k = 0; k < r.bytes / 4; ++k)
        table[k] = static_cast<uint8_t>(lane_of_byte(r.lanes.table[k], 0));
      global_range(p, r.address, r.bytes, {.table = table});
    }
  }
  if (tracked && p.access != Access::kRead) global_shadow::set_initialised(r.address, r.bytes);
}

void ClusterChecker::global_access(WarpState& ws, const Instr& i, uint32_t mask, const uint64_t* addresses,
                                   const AccessInfo& info) {
  const bool strong = info.order != Order::kWeak || info.access == Access::kAtomic;
  Run runs[kWarpSize];
  each_view(ws, mask, [&](View& v, uint32_t part) {
    Party p = party(ws, i, v, info.access, strong);
    p.far = info.scope >= Scope::kGpu || info.order == Order::kVolatile;
    p.global = global_epoch(p);
    const int count = find_runs(part, addresses, info.bytes, runs);
    // The shadow is four times as large as what it is for, and seldom in a cache.
    for (const Run* r = runs; r < runs + count; ++r) {
      enter_chunk(p, r->address);
      if (!p.races) break;
      const size_t first = r->address % kChunkBytes / 4,
                   end = std::min(first + (r->bytes + 3) / 4, kChunkWords);
      for (size_t at = first; at < end; at += 8) {
        __builtin_prefetch(&p.races->reads[at], 1);
        if (info.access != Access::kRead) __builtin_prefetch(&p.races->writes[at], 1);
      }
    }
    for (const Run* r = runs; r < runs + count; ++r) global_run(p, *r, info.bytes);
  });
}

// A strong read found what a strong write of another warp left: that write happened before what this warp
// does next.
void ClusterChecker::note_observed(WarpState& ws, uint64_t address) {
  if (!launch_->tag()) return;
  const uint64_t e = global_shadow::races(address).writes[address % kChunkBytes / 4];
  if (e >> kTagShift != launch_->tag() || warp_number(e) == ws.number ||
      !launch_->site(site_number(e)).strong)
    return;
  ws.observed[ws.next_observed++ % ws.observed.size()] = {address, e};
}

}  // namespace ptxsim::check
