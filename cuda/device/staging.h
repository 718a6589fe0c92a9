// Page-locked host memory through which copies between host and device pass.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <deque>

namespace contender::cuda {

cudaEvent_t new_event();     // without a clock
bool passed(cudaEvent_t e);  // all work before it is done

// Blocks on their way to the device, each with an event behind its copy: a block is used again when its event
// has come to pass. They grow up to kBound bytes in all; beyond it the host waits for the oldest of the size
// it needs.
class UploadStaging {
 public:
  ~UploadStaging();
  // Copies `bytes` out of `src` and puts the way on to `dst` into `stream`. Returns how often the host
  // waited.
  int64_t upload(cudaStream_t stream, void* dst, const void* src, int64_t bytes);
  int64_t pinned_bytes() const { return pinned_; }

  static constexpr int64_t kSmallest = 4096;    // bytes of a block; sizes are 4 KiB, 16 KiB, ... 4 MiB
  static constexpr int64_t kLargest = 4 << 20;  // longer uploads go in pieces
  static constexpr int64_t kBound = 64ll << 20;

 private:
  struct Block {
    char* data = nullptr;
    cudaEvent_t event = nullptr;
  };
  static constexpr int kNumSizes = 6;
  bool piece(cudaStream_t stream, char* dst, const char* src, int64_t bytes);

  std::array<std::deque<Block>, kNumSizes> blocks_;  // by size; the one used longest ago in front
  int64_t pinned_ = 0;
};

// Two blocks by turns: while the host empties one, the device fills the other.
class DownloadStaging {
 public:
  ~DownloadStaging();
  // Returns when `dst` holds the bytes.
  void download(cudaStream_t stream, void* dst, const void* src, int64_t bytes);

 private:
  static constexpr int64_t kBlock = 4 << 20;
  char* data_ = nullptr;  // [2][kBlock], at the first download
  std::array<cudaEvent_t, 2> filled_ = {};
};

}  // namespace contender::cuda
