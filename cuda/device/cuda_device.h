// A GPU as a Device (csrc/device/device.h).
#pragma once

#include <memory>

#include "device/device.h"

namespace contender::cuda {

// GPU `index` of those this process sees, of whose memory this rank gets one of `sharers` equal parts. Calls
// come from the thread that made it.
std::unique_ptr<Device> make_device(int index, int sharers);

// BF16 products with FP32 sums of one of `sharers` ranks, in GFLOP/s: what the tensor cores do at the highest
// clock.
double matrix_gflops(int index, int sharers);

}  // namespace contender::cuda
