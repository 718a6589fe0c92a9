// CUDA errors end the job with one line: GPU, host, call, error, file:line; the rank stands before it.
#pragma once

#include <cuda_runtime.h>
#include <unistd.h>

#include <cstdio>

#include "base/error.h"
#include "cuda/common/stall.h"

namespace contender::cuda {

// The GPU reports memory whose contents are lost.
inline bool lost_memory(cudaError_t e) {
  return e == cudaErrorECCUncorrectable || e == cudaErrorNvlinkUncorrectable || e == cudaErrorContained;
}

// What a kernel did wrong, met by a later call; it stays with the process and comes back from every call.
inline bool of_a_kernel(cudaError_t e) {
  return e == cudaErrorIllegalAddress || e == cudaErrorLaunchFailure || e == cudaErrorIllegalInstruction ||
         e == cudaErrorMisalignedAddress || e == cudaErrorInvalidAddressSpace || e == cudaErrorInvalidPc ||
         e == cudaErrorHardwareStackError || e == cudaErrorLaunchTimeout || e == cudaErrorAssert;
}

// Writes out what kernels have printed, then throws Error: exit 19 when memory is out, exit 16 when the GPU
// reports lost memory, exit 1 otherwise.
[[noreturn]] inline void fail_cuda(const char* file, int line, const char* call, cudaError_t error) {
  std::fflush(stdout);  // the words of a DEVICE_CHECK
  char host[256] = "?";
  ::gethostname(host, sizeof host - 1);
  int device = -1;
  cudaGetDevice(&device);
  const ExitCode code = error == cudaErrorMemoryAllocation ? ExitCode::kOutOfMemory
                        : lost_memory(error)               ? ExitCode::kHardware
                                                           : ExitCode::kInternal;
  const StallRecord* stall = of_a_kernel(error) ? stall_record() : nullptr;
  fail(code, "GPU {} of {}: {}{}: {} ({}) at {}:{}{}", device, host,
       of_a_kernel(error) ? "a kernel failed, seen by " : "", call, cudaGetErrorString(error),
       cudaGetErrorName(error), file, line, stall ? stall_words(*stall) : "");
}

}  // namespace contender::cuda

#define CUDA_CHECK(call)                                                         \
  do {                                                                           \
    const cudaError_t cuda_check_error = (call);                                 \
    if (cuda_check_error != cudaSuccess) [[unlikely]]                            \
      ::contender::cuda::fail_cuda(__FILE__, __LINE__, #call, cuda_check_error); \
  } while (0)
// Behind a launch: configuration errors. What the kernel itself does wrong shows at the next synchronisation.
#define CUDA_CHECK_LAUNCH() CUDA_CHECK(cudaPeekAtLastError())
