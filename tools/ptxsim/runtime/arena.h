// The memory of one device: a window of address space over a memory file, so that other processes can map a
// buffer of it. Pages exist from the first touch. Freed addresses are used again only when the window is used
// up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "memory/global.h"

namespace ptxsim::runtime {

class Arena {
 public:
  // Beginnings of allocations are multiples of it; sizes are counted in multiples of it.
  static constexpr uint64_t kAlignment = 512;

  explicit Arena(int device) : device_(device) {}
  Arena(const Arena&) = delete;

  // Null where the device's memory does not suffice. The contents are undefined: a pattern of NaNs in late
  // and checked mode. `stream_ordered`: from cudaMallocAsync.
  void* allocate(uint64_t bytes, bool stream_ordered = false);
  // False where no allocation begins there.
  bool free(void* pointer);
  // True where the allocation that begins there came from cudaMallocAsync.
  bool is_stream_ordered(const void* pointer) const;
  // Frees everything.
  void clear();

  bool contains(const void* address) const;  // live, freed or never allocated
  uint64_t used() const;
  uint64_t capacity() const;

  // Where a live allocation lies in the memory file.
  struct Place {
    int file = -1;
    uint64_t offset = 0, bytes = 0;
  };
  Place place(const Allocation& allocation) const;

 private:
  struct Block {
    uint64_t span = 0;   // bytes of the window, the gap behind it included
    uint64_t bytes = 0;  // as asked for
    bool stream_ordered = false;
  };
  void reserve();
  uint64_t take(uint64_t span);
  void release(std::map<uint64_t, Block>::iterator it);

  const int device_;
  mutable std::mutex mutex_;
  int file_ = -1;
  uint64_t window_ = 0, window_bytes_ = 0;  // address of the window; 0 until the first allocation
  uint64_t next_ = 0;                       // offset of what was never used
  uint64_t used_ = 0;
  std::map<uint64_t, Block> live_;      // by offset
  std::map<uint64_t, uint64_t> freed_;  // offset -> span, neighbours merged
};

}  // namespace ptxsim::runtime
