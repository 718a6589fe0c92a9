#include "memory/global.h"

#include <fmt/format.h>

#include <iterator>
#include <map>
#include <mutex>
#include <shared_mutex>

namespace ptxsim {
namespace {

// Freed ranges that are remembered for messages; the oldest are forgotten first.
constexpr size_t kRememberedFrees = 1 << 16;
// An address this far from a live range is said to be past its end or before its beginning.
constexpr uint64_t kNear = 1 << 20;

const char* kind_name(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kDevice:
      return "device memory";
    case MemoryKind::kPinned:
      return "pinned host memory";
    case MemoryKind::kManaged:
      return "managed memory";
    case MemoryKind::kModule:
      return "a module variable";
    case MemoryKind::kConstant:
      return "constant memory";
    case MemoryKind::kIpc:
      return "another process's device memory";
  }
  return "memory";
}

using Ranges = std::map<uint64_t, Allocation>;  // by first byte

struct Table {
  std::shared_mutex mutex;
  Ranges live, freed;
  std::map<uint64_t, uint64_t> freed_order;  // time of the free -> begin
  std::map<uint64_t, uint64_t> freed_time;   // begin -> time of the free
  uint64_t next_serial = 1, next_time = 1;

  void forget_freed(Ranges::iterator it) {
    const auto time = freed_time.find(it->first);
    freed_order.erase(time->second);
    freed_time.erase(time);
    freed.erase(it);
  }
};

Table& table() {
  static Table* t = new Table;  // outlives every other global: programs free memory from their destructors
  return *t;
}

Ranges::const_iterator around(const Ranges& ranges, uint64_t address) {
  auto it = ranges.upper_bound(address);
  if (it == ranges.begin()) return ranges.end();
  --it;
  return address < it->second.end ? it : ranges.end();
}

}  // namespace

GlobalMemory& GlobalMemory::instance() {
  static GlobalMemory memory;
  return memory;
}

void GlobalMemory::add(uint64_t begin, uint64_t end, int device, MemoryKind kind) {
  Table& t = table();
  std::unique_lock lock(t.mutex);
  // The addresses have a new owner: what was freed there is no longer worth a word.
  auto it = t.freed.lower_bound(begin);
  if (it != t.freed.begin() && std::prev(it)->second.end > begin) --it;
  while (it != t.freed.end() && it->first < end) t.forget_freed(it++);
  t.live[begin] = {begin, end, device, kind, t.next_serial++};
  generation_.fetch_add(1, std::memory_order_acq_rel);
}

bool GlobalMemory::remove(uint64_t begin) {
  Table& t = table();
  std::unique_lock lock(t.mutex);
  const auto it = t.live.find(begin);
  if (it == t.live.end()) return false;
  t.freed[begin] = it->second;
  t.freed_order[t.next_time] = begin;
  t.freed_time[begin] = t.next_time++;
  if (t.freed.size() > kRememberedFrees) t.forget_freed(t.freed.find(t.freed_order.begin()->second));
  t.live.erase(it);
  generation_.fetch_add(1, std::memory_order_acq_rel);
  return true;
}

Allocation GlobalMemory::find(uint64_t address) const {
  Table& t = table();
  std::shared_lock lock(t.mutex);
  const auto it = around(t.live, address);
  return it == t.live.end() ? Allocation{} : it->second;
}

void GlobalMemory::set_peer_access(int device, int owner, bool allowed) {
  const uint64_t bit = uint64_t{1} << owner;
  if (allowed)
    peers_[device].fetch_or(bit);
  else
    peers_[device].fetch_and(~bit);
  generation_.fetch_add(1, std::memory_order_acq_rel);
}

bool GlobalMemory::accessible(int device, const Allocation& allocation) const {
  const bool has_owner = allocation.kind == MemoryKind::kDevice || allocation.kind == MemoryKind::kModule ||
                         allocation.kind == MemoryKind::kConstant;
  if (!has_owner || allocation.device == device) return true;
  return (peers_[device].load(std::memory_order_acquire) >> allocation.device & 1) != 0;
}

std::string GlobalMemory::describe(uint64_t address) const {
  Table& t = table();
  std::shared_lock lock(t.mutex);
  const auto what = [](const Allocation& a) {
    return fmt::format("{} bytes of {} (allocation {})", a.end - a.begin, kind_name(a.kind), a.serial);
  };
  if (const auto it = around(t.live, address); it != t.live.end())
    return fmt::format("byte {} of {}", address - it->first, what(it->second));
  if (const auto it = around(t.freed, address); it != t.freed.end())
    return fmt::format("inside {} bytes freed before (allocation {})", it->second.end - it->first,
                       it->second.serial);

  const auto after = t.live.upper_bound(address);
  const uint64_t to_after = after == t.live.end() ? ~uint64_t{0} : after->first - address;
  const auto before = after == t.live.begin() ? t.live.end() : std::prev(after);
  const uint64_t from_before = before == t.live.end() ? ~uint64_t{0} : address - before->second.end;
  if (from_before < kNear && from_before <= to_after)
    return fmt::format("{} bytes past the end of {}", from_before, what(before->second));
  if (to_after < kNear)
    return fmt::format("{} bytes before the beginning of {}", to_after, what(after->second));
  return "near no allocation";
}

}  // namespace ptxsim
