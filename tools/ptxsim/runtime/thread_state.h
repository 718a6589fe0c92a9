// What the runtime keeps per host thread.
#pragma once

#include <driver_types.h>
#include <vector_types.h>

#include <map>
#include <memory>
#include <vector>

namespace ptxsim::runtime {

class Stream;

struct CallConfiguration {
  dim3 grid, block;
  size_t shared = 0;
  cudaStream_t stream = nullptr;
};

struct ThreadState {
  int device = 0;
  cudaError_t last = cudaSuccess;   // until cudaGetLastError; errors of a failed device stay
  uint64_t last_epoch = 0;          // the device's resets when `last` was set
  bool in_host_function = false;    // a host function of a stream runs on this thread: no CUDA calls
  bool null_is_per_thread = false;  // inside a _ptsz/_ptds entry point
  cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
  std::vector<CallConfiguration> calls;            // between <<<...>>> and the kernel's stub
  std::map<int, std::shared_ptr<Stream>> streams;  // per device: cudaStreamPerThread
};

ThreadState& thread_state();

}  // namespace ptxsim::runtime
