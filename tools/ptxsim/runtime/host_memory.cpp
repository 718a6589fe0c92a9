#include "runtime/host_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "check/checker.h"
#include "config.h"

namespace ptxsim::runtime {
namespace {

constexpr uint64_t kPage = 4096;

}  // namespace

HostMemory& HostMemory::instance() {
  static auto* memory = new HostMemory;  // programs free from their destructors
  return *memory;
}

void* HostMemory::allocate(uint64_t bytes, MemoryKind kind, unsigned flags) {
  // A page that cannot be touched behind each block: the host's overruns show as well.
  const uint64_t usable = (bytes + kPage - 1) / kPage * kPage, mapped = usable + kPage;
  if (mapped < bytes) return nullptr;
  void* at =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  mprotect(static_cast<std::byte*>(at) + usable, kPage, PROT_NONE);
  const auto address = reinterpret_cast<uint64_t>(at);
  std::lock_guard lock(mutex_);
  blocks_[address] = {bytes, mapped, flags, false, kind};
  GlobalMemory::instance().add(address, address + bytes, kind == MemoryKind::kPinned ? -1 : 0, kind);
  // The host writes here without a call that would tell.
  if (config().checked) check_host_write(address, bytes);
  return at;
}

bool HostMemory::free(void* pointer, MemoryKind kind) {
  std::lock_guard lock(mutex_);
  const auto it = blocks_.find(reinterpret_cast<uint64_t>(pointer));
  if (it == blocks_.end() || it->second.registered || it->second.kind != kind) return false;
  GlobalMemory::instance().remove(it->first);
  if (config().checked) check_host_free(it->first, it->second.bytes);
  munmap(pointer, it->second.mapped);
  blocks_.erase(it);
  return true;
}

bool HostMemory::add(void* pointer, uint64_t bytes, unsigned flags) {
  const auto begin = reinterpret_cast<uint64_t>(pointer), end = begin + bytes;
  std::lock_guard lock(mutex_);
  const auto after = blocks_.lower_bound(begin);
  if (after != blocks_.end() && after->first < end) return false;
  if (after != blocks_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second.bytes > begin) return false;
  }
  blocks_[begin] = {bytes, 0, flags, true, MemoryKind::kPinned};
  GlobalMemory::instance().add(begin, end, -1, MemoryKind::kPinned);
  if (config().checked) check_host_write(begin, bytes);
  return true;
}

bool HostMemory::remove(void* pointer) {
  std::lock_guard lock(mutex_);
  const auto it = blocks_.find(reinterpret_cast<uint64_t>(pointer));
  if (it == blocks_.end() || !it->second.registered) return false;
  GlobalMemory::instance().remove(it->first);
  blocks_.erase(it);
  return true;
}

std::optional<HostMemory::Block> HostMemory::find(const void* address) const {
  const auto at = reinterpret_cast<uint64_t>(address);
  std::lock_guard lock(mutex_);
  const auto after = blocks_.upper_bound(at);
  if (after == blocks_.begin()) return std::nullopt;
  const auto it = std::prev(after);
  if (at - it->first >= it->second.bytes) return std::nullopt;
  return it->second;
}

}  // namespace ptxsim::runtime
