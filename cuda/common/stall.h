// The last words of a kernel that waited in vain, or refused its groups. Kernels with wgmma cannot print
// (ptx.cuh), and memory of the device is lost with a trap: so a wait that runs out of time leaves a record in
// the host's memory, and fail_cuda (check.h) reads it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>

namespace contender::cuda {

// Up to eight letters as a number, which a kernel can store.
__host__ __device__ constexpr uint64_t stall_word(const char* text) {
  uint64_t word = 0;
  for (int i = 0; i < 8 && text[i] != 0; ++i)
    word |= uint64_t{static_cast<unsigned char>(text[i])} << (8 * i);
  return word;
}

struct StallRecord {
  uint64_t kernel = 0, phase = 0;  // words; 0: nothing has happened
  uint32_t block = 0, thread = 0, barrier = 0, parity = 0;
};

// A record instead of a wait: rows [begin, end) of a group are none, or more than there may be. The kernel
// has to make it visible to the host and trap.
inline constexpr uint64_t kRefusedGroup = stall_word("group");
__host__ __device__ inline StallRecord refused_group(uint64_t kernel, int group, int begin, int end,
                                                     int limit) {
  return {kernel,
          kRefusedGroup,
          static_cast<uint32_t>(group),
          static_cast<uint32_t>(begin),
          static_cast<uint32_t>(end),
          static_cast<uint32_t>(limit)};
}

// One for the process, pinned; what kernels are given. Null where no memory could be had: then they trap
// without a word. May be called while a stream is captured.
inline StallRecord* stall_record() {
  static StallRecord* const record = [] {
    void* p = nullptr;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    const cudaError_t error =
        cudaHostAlloc(&p, sizeof(StallRecord), cudaHostAllocPortable | cudaHostAllocMapped);
    cudaThreadExchangeStreamCaptureMode(&mode);
    if (error != cudaSuccess) return static_cast<StallRecord*>(nullptr);
    return new (p) StallRecord;
  }();
  return record;
}

// "; bf16gemm stalled: full 2, ..." or nothing.
inline std::string stall_words(const StallRecord& r) {
  if (r.kernel == 0) return "";
  char kernel[9] = {}, phase[9] = {}, line[160];
  std::memcpy(kernel, &r.kernel, 8);
  std::memcpy(phase, &r.phase, 8);
  if (r.phase == kRefusedGroup) {
    std::snprintf(line, sizeof line, "; %s refuses group %u: rows [%d, %d), they may end at %d", kernel,
                  r.block, static_cast<int>(r.thread), static_cast<int>(r.barrier),
                  static_cast<int>(r.parity));
    return line;
  }
  std::snprintf(line, sizeof line,
                "; %s stalled: block %u, thread %u waits for %s (barrier at %u, parity %u)", kernel, r.block,
                r.thread, phase, r.barrier, r.parity);
  return line;
}

}  // namespace contender::cuda
