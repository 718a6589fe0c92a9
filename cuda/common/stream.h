// What Stream of device/device.h is on a GPU.
#pragma once

#include <cuda_runtime.h>

#include "ops/exec.h"

namespace contender {

struct Stream {
  cudaStream_t handle = nullptr;
};

inline cudaStream_t stream_of(const Exec& e) { return e.stream ? e.stream->handle : nullptr; }

}  // namespace contender
