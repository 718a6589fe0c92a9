// A simulated GPU: its memory, its streams, and the error that it died of.
#pragma once

#include <driver_types.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "runtime/arena.h"

namespace ptxsim::runtime {

class Stream;

class Device {
 public:
  explicit Device(int index);

  const int index;
  Arena arena;

  // --- the error that ended the context; cudaSuccess while it lives ---
  cudaError_t failure() const { return static_cast<cudaError_t>(failure_.load(std::memory_order_acquire)); }
  // The first failure counts; later ones are consequences.
  void fail(cudaError_t code, const std::string& line);
  // Changes with every reset.
  uint64_t epoch() const { return epoch_.load(std::memory_order_acquire); }

  // --- streams ---
  std::shared_ptr<Stream> legacy_stream();
  // Guards the order in which work of streams that order each other is pushed, and `streams`.
  std::mutex order_mutex;
  std::vector<std::shared_ptr<Stream>> streams;  // all but the legacy one, until closed and empty
  void forget(const Stream* stream);
  // Waits for everything that has been pushed.
  void synchronize();

  // cudaDeviceReset: waits, frees memory and streams, forgets the failure.
  void reset();

  std::atomic<unsigned> flags{0};
  std::array<std::atomic<size_t>, 8> limits;  // by cudaLimit

  // Peers that kernels of this device may touch: bit per device.
  std::atomic<uint64_t> peers{0};

 private:
  std::atomic<int> failure_{cudaSuccess};
  std::atomic<uint64_t> epoch_{1};
  std::mutex legacy_mutex_;
  std::shared_ptr<Stream> legacy_;
};

int device_count();
// Refuses a number that no device has (cudaErrorInvalidDevice).
Device& device_at(int index);
Device& current_device();
// The device whose memory window holds the address, live or not; null where none does.
Device* device_of_window(const void* address);

}  // namespace ptxsim::runtime
