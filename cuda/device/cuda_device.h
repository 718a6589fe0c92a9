// A GPU as a Device (csrc/device/device.h).
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "device/device.h"

namespace contender::cuda {

// GPU `index` of those this process sees, of whose memory this rank gets one of `sharers` equal parts. Calls
// come from the thread that made it.
std::unique_ptr<Device> make_device(int index, int sharers);

// The same for all processes that see the GPU.
std::string uuid_text(const cudaUUID_t& uuid);

// BF16 products with FP32 sums of one of `sharers` ranks, in GFLOP/s: what the tensor cores do at the highest
// clock.
double matrix_gflops(int index, int sharers);

}  // namespace contender::cuda
