// Which bytes of the host's address space a kernel may touch. A device pointer is a host pointer: device
// memory, pinned and managed memory, module variables and memory of other processes are ranges of this
// process registered here.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace ptxsim {

enum class MemoryKind : uint8_t { kDevice, kPinned, kManaged, kModule, kConstant, kIpc };

struct Allocation {
  uint64_t begin = 0;
  uint64_t end = 0;  // one past the last byte; 0: no such allocation
  int device = 0;    // owner; -1 for pinned memory
  MemoryKind kind = MemoryKind::kDevice;
  uint64_t serial = 0;  // of allocations since the process began
};

// All functions may be called from any thread.
class GlobalMemory {
 public:
  static GlobalMemory& instance();

  // Registers [begin, end); the range must not overlap a live one.
  void add(uint64_t begin, uint64_t end, int device, MemoryKind kind);
  // Forgets the range that begins there; keeps enough of it to say "freed" later. False where there is none.
  bool remove(uint64_t begin);
  // The live range around an address; end == 0 where there is none.
  Allocation find(uint64_t address) const;
  // "4 bytes past the end of 4096 bytes of device memory (allocation 7)", "inside 64 bytes freed before
  // (allocation 3)", "near no allocation".
  std::string describe(uint64_t address) const;
  // Kernels of `device` may, or may no longer, touch memory of device `owner`.
  void set_peer_access(int device, int owner, bool allowed);
  // Whether a kernel of `device` may touch the allocation: its own memory, that of enabled peers, pinned and
  // managed memory, and what other processes shared.
  bool accessible(int device, const Allocation& allocation) const;
  // Changes with every add, remove and change of peer access: a cached find() is valid while it stays.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

 private:
  static constexpr int kMaxDevices = 64;
  std::atomic<uint64_t> generation_{1};
  std::atomic<uint64_t> peers_[kMaxDevices] = {};  // per device: bit per owner
};

}  // namespace ptxsim
