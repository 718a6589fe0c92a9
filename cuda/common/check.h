// CUDA errors end the job with one line: host, rank, file:line, call, error.
#pragma once

#include <cuda_runtime.h>

#include "base/error.h"

#define CUDA_CHECK(call)                                                                               \
  do {                                                                                                 \
    const cudaError_t cuda_check_error = (call);                                                       \
    CHECK(cuda_check_error == cudaSuccess, "{}: {} ({})", #call, cudaGetErrorString(cuda_check_error), \
          cudaGetErrorName(cuda_check_error));                                                         \
  } while (0)
// Behind a launch: configuration errors. What the kernel itself does wrong shows at the next synchronisation.
#define CUDA_CHECK_LAUNCH() CUDA_CHECK(cudaPeekAtLastError())
