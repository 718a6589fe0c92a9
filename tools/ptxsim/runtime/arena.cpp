#include "runtime/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "check/checker.h"
#include "config.h"
#include "runtime/api.h"
#include "sim.h"

namespace ptxsim::runtime {
namespace {

constexpr uint64_t kPage = 4096;
// Between two allocations, so that an index a little too large meets nobody's memory.
constexpr uint64_t kGap = kPage;
// The window is that many times the device's memory: how much can be freed before an address comes back.
constexpr uint64_t kWindows = 8;
constexpr uint64_t kSmallestWindow = uint64_t{1} << 36;
// Of a larger allocation only both ends are filled with the pattern: filling creates every page.
constexpr uint64_t kPoisonWhole = uint64_t{256} << 20, kPoisonEnd = uint64_t{16} << 20;

uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

void poison(void* begin, uint64_t bytes) {
  constexpr int kNanByte = 0xff;  // 0xffff.. is a NaN in every format, and -1 as an index
  auto* p = static_cast<std::byte*>(begin);
  if (bytes <= kPoisonWhole) {
    std::memset(p, kNanByte, bytes);
  } else {
    std::memset(p, kNanByte, kPoisonEnd);
    std::memset(p + bytes - kPoisonEnd, kNanByte, kPoisonEnd);
  }
}

}  // namespace

void Arena::reserve() {
  file_ = memfd_create("ptxsim", MFD_CLOEXEC);
  if (file_ < 0) refuse(cudaErrorMemoryAllocation, "no memory file: {}", std::strerror(errno));
  window_bytes_ = std::max(kSmallestWindow, round_up(capacity(), kPage) * kWindows);
  for (;; window_bytes_ /= 2) {
    if (window_bytes_ < capacity() / 8 || window_bytes_ < kPage)
      refuse(cudaErrorMemoryAllocation, "no address space for {} bytes of device memory", capacity());
    if (ftruncate(file_, static_cast<off_t>(window_bytes_)) != 0) continue;
    void* at = mmap(nullptr, window_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file_, 0);
    if (at == MAP_FAILED) continue;
    madvise(at, window_bytes_, MADV_DONTDUMP);
    window_ = reinterpret_cast<uint64_t>(at);
    next_ = kGap;
    return;
  }
}

// Offset of a free span: never used before while there is such a place.
uint64_t Arena::take(uint64_t span) {
  if (next_ + span <= window_bytes_) {
    next_ += span;
    return next_ - span;
  }
  const auto fits =
      std::find_if(freed_.begin(), freed_.end(), [&](const auto& f) { return f.second >= span; });
  if (fits == freed_.end()) return 0;
  const auto [offset, bytes] = *fits;
  freed_.erase(fits);
  if (bytes > span) freed_.emplace(offset + span, bytes - span);
  return offset;
}

void* Arena::allocate(uint64_t bytes, bool stream_ordered) {
  std::lock_guard lock(mutex_);
  if (window_ == 0) reserve();
  if (bytes > capacity()) return nullptr;
  const uint64_t counted = round_up(std::max<uint64_t>(bytes, 1), kAlignment);
  if (used_ + counted > capacity()) return nullptr;
  const uint64_t span = counted + kGap;
  const uint64_t offset = take(span);
  if (offset == 0) return nullptr;
  used_ += counted;
  live_[offset] = {span, bytes, stream_ordered};
  const uint64_t address = window_ + offset;
  if (config().late || config().checked) poison(reinterpret_cast<void*>(address), bytes);
  if (config().checked) check_host_allocate(address, bytes);
  GlobalMemory::instance().add(address, address + bytes, device_, MemoryKind::kDevice);
  return reinterpret_cast<void*>(address);
}

void Arena::release(std::map<uint64_t, Block>::iterator it) {
  const auto [offset, block] = *it;
  const uint64_t address = window_ + offset;
  GlobalMemory::instance().remove(address);
  if (config().checked) check_host_free(address, block.bytes);
  used_ -= block.span - kGap;
  live_.erase(it);
  // Whole pages go back to the system; a failure only costs memory.
  const uint64_t first = round_up(offset, kPage), last = (offset + block.span - kGap) / kPage * kPage;
  if (last > first)
    (void)fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(first),
                    static_cast<off_t>(last - first));
  auto at = freed_.emplace(offset, block.span).first;
  if (const auto after = std::next(at); after != freed_.end() && at->first + at->second == after->first) {
    at->second += after->second;
    freed_.erase(after);
  }
  if (at != freed_.begin()) {
    const auto before = std::prev(at);
    if (before->first + before->second == at->first) {
      before->second += at->second;
      freed_.erase(at);
    }
  }
}

bool Arena::free(void* pointer) {
  std::lock_guard lock(mutex_);
  const auto it = live_.find(reinterpret_cast<uint64_t>(pointer) - window_);
  if (window_ == 0 || it == live_.end()) return false;
  release(it);
  return true;
}

bool Arena::is_stream_ordered(const void* pointer) const {
  std::lock_guard lock(mutex_);
  const auto it = live_.find(reinterpret_cast<uint64_t>(pointer) - window_);
  return window_ != 0 && it != live_.end() && it->second.stream_ordered;
}

void Arena::clear() {
  std::lock_guard lock(mutex_);
  while (!live_.empty()) release(live_.begin());
}

bool Arena::contains(const void* address) const {
  std::lock_guard lock(mutex_);
  return window_ != 0 && reinterpret_cast<uint64_t>(address) - window_ < window_bytes_;
}

uint64_t Arena::used() const {
  std::lock_guard lock(mutex_);
  return used_;
}

uint64_t Arena::capacity() const { return gpu_limits().memory_bytes; }

Arena::Place Arena::place(const Allocation& allocation) const {
  std::lock_guard lock(mutex_);
  return {file_, allocation.begin - window_, allocation.end - allocation.begin};
}

}  // namespace ptxsim::runtime
