// What cp.async, bulk copies and TMA share: groups of asynchronous work per lane, and how an engine's work is
// carried out.
//
// Plain mode does the work when it is issued. Late mode does it as late as is legal: transfers that signal an
// mbarrier when the scheduler delivers them, bulk groups at the wait (or when the cluster ends), cp.async
// only at the wait or for the mbarrier that tracks it: without either it never lands.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "check/checker.h"
#include "exec/decoder.h"
#include "exec/warp.h"
#include "exec/worker.h"

namespace ptxsim {

// Pending::kind of this family.
enum PendingKind : uint64_t { kPendingTransfer = 0x100, kPendingBulkGroup, kPendingArrive };

enum class GroupFamily : uint8_t { kCpAsync, kBulk };

// A range of memory that an engine uses: its tagged address, and where it lies.
struct EngineRange {
  uint64_t address = 0;
  uint64_t bytes = 0;
  std::byte* at = nullptr;
};

// Work that a group tracks: of some lanes (cp.async) or of one (bulk).
struct GroupedWork {
  uint32_t lanes = 0;
  uint32_t waited = 0, waited_read = 0;  // lanes that have waited for it, or for its reads
  uint64_t group = 0;                    // the same for all its lanes
  std::vector<AsyncId> ids;              // checked mode: of its lanes in order
  EngineRange source;                    // bulk: what it reads
  std::vector<std::byte> copy;           // of the source, once it has been read
  bool is_read = false;
  std::function<void()> tell_read;  // checked mode: tells what is read; may be empty
  // Late mode: does the work, from where the source lies; empty once done.
  std::function<void(const std::byte* source)> finish;

  void read_source();
  void run();
};

// What the lanes of one warp have issued and not waited for. Kept in late and in checked mode only.
struct AsyncGroups {
  uint64_t launch = 0, uid = 0;  // of the warp it belongs to
  struct Family {
    std::array<uint64_t, kWarpSize> open{};  // number of the group that each lane is filling
    std::vector<std::shared_ptr<GroupedWork>> work;
  };
  Family families[2];
};
AsyncGroups::Family& groups_of(Warp& w, GroupFamily family);
inline bool tracks_groups(const Warp& w) { return w.check || config().late; }

// Bounds and alignment checked.
EngineRange engine_range(Warp& w, const Instr& i, int lane, uint64_t address, uint64_t bytes,
                         uint64_t alignment);
// `what` ("source", "destination") must lie in the shared memory of the issuing block.
void require_own_block(Warp& w, const Instr& i, int lane, uint64_t address, const char* what);
// The mbarrier must lie in the block of the destination.
void require_same_block(Warp& w, const Instr& i, int lane, uint64_t destination, uint64_t mbarrier);

// Blocks and addresses that a transfer into shared memory writes and signals.
struct Destinations {
  uint64_t data = 0, mbarrier = 0;  // of the first block, or of each block of `ranks` with its rank put in
  uint32_t ranks = 0;               // multicast: one bit per block; 0: no multicast
  template <class F>
  void each(F f) const {
    if (ranks == 0) f(data, mbarrier);
    for (uint32_t r = ranks; r; r &= r - 1) {
      const uint64_t rank = static_cast<uint64_t>(__builtin_ctz(r)) << 24;
      f(kSharedTag | rank | shared_offset(data), kSharedTag | rank | shared_offset(mbarrier));
    }
  }
};
// Checked against the cluster, and the mbarrier against the destination.
Destinations destinations_of(Warp& w, const Instr& i, int lane, uint64_t data, uint64_t mbarrier,
                             bool multicast, uint32_t ranks);
// Completes `bytes` on every mbarrier; what was written has been told to the checker before.
void signal(Warp& w, const Instr& i, int lane, AsyncId id, const Destinations& to, uint32_t bytes);

// A transfer that signals mbarriers: work(id) does all of it, now or when the scheduler delivers it.
template <class F>
void issue_transfer(Warp& w, const Instr& i, int lane, Checker::Engine engine, F work) {
  const AsyncId id = w.check ? w.check->begin_async(w, i, lane, engine) : AsyncId{};
  if (!config().late) {
    work(id);
  } else {
    defer(w,
          {.issuer = &w, .lanes = 1u << lane, .kind = kPendingTransfer, .happen = [id, work] { work(id); }});
  }
}

// A transfer that a bulk group tracks. tell_read(id) tells the checker what it reads of `source`; write(id,
// bytes) does the rest, with the bytes of `source` where they lie by then.
void track_bulk(Warp& w, const Instr& i, int lane, AsyncId id, const EngineRange& source,
                std::function<void()> tell_read, std::function<void(const std::byte*)> late_write);
template <class R, class F>
void issue_bulk_group(Warp& w, const Instr& i, int lane, Checker::Engine engine, const EngineRange& source,
                      R tell_read, F write) {
  const AsyncId id = w.check ? w.check->begin_async(w, i, lane, engine) : AsyncId{};
  if (config().late) {
    std::function<void()> tell;
    if (w.check) tell = [id, tell_read] { tell_read(id); };
    track_bulk(w, i, lane, id, source, std::move(tell),
               [id, write](const std::byte* from) { write(id, from); });
    return;
  }
  if (w.check) tell_read(id);
  write(id, static_cast<const std::byte*>(source.at));
  if (w.check) track_bulk(w, i, lane, id, source, nullptr, nullptr);
}

// exec/bulk.cpp: cp.async.bulk, cp.reduce.async.bulk, st.async, red.async; asked by decode_async.
bool decode_bulk(Decoder& d, const ptx::Instruction& in);

}  // namespace ptxsim
