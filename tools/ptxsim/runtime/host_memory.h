// Memory of the host that devices know: pinned, registered and managed.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

#include "memory/global.h"

namespace ptxsim::runtime {

class HostMemory {
 public:
  static HostMemory& instance();

  struct Block {
    uint64_t bytes = 0, mapped = 0;
    unsigned flags = 0;
    bool registered = false;  // the program's own memory, known by cudaHostRegister
    MemoryKind kind = MemoryKind::kPinned;
  };
  // Null where the host has none left.
  void* allocate(uint64_t bytes, MemoryKind kind, unsigned flags);
  // False where no such block begins there.
  bool free(void* pointer, MemoryKind kind);
  // False where part of it is known already.
  bool add(void* pointer, uint64_t bytes, unsigned flags);
  bool remove(void* pointer);
  // The block around an address.
  std::optional<Block> find(const void* address) const;

 private:
  mutable std::mutex mutex_;
  std::map<uint64_t, Block> blocks_;
};

}  // namespace ptxsim::runtime
