// Kernel launches: what the GPU would refuse is refused here, the rest goes to the interpreter in its
// stream's turn.
#pragma once

#include <driver_types.h>

#include <memory>
#include <vector>

#include "runtime/device.h"
#include "runtime/registry.h"
#include "runtime/stream.h"

namespace ptxsim::runtime {

struct LaunchRequest {
  Kernel* kernel = nullptr;
  dim3 grid, block;
  size_t dynamic_shared = 0;
  dim3 cluster{0, 0, 0};  // 0: none given
  bool cooperative = false;
  std::vector<cudaLaunchAttribute> attributes;             // as given, for graphs to show
  cudaEvent_t after_start = nullptr, after_end = nullptr;  // events of attributes, recorded with the kernel
};

// Attributes of a launch or of a graph node. Refuses unknown ones.
void apply_attributes(LaunchRequest& request, const cudaLaunchAttribute* attributes, unsigned count);

// Throws ApiError with the code of the real runtime where the device cannot run it; fills in the cluster that
// the kernel itself requires.
void check_launch(LaunchRequest& request, Device& device);

class KernelWork : public Work {
 public:
  // Checks, decodes the kernel, copies the arguments.
  KernelWork(Device& device, LaunchRequest request, void** arguments);
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeKernel; }
  void run() const override;

  Device& device() const { return device_; }
  const LaunchRequest& request() const { return request_; }
  void** arguments() const { return const_cast<void**>(pointers_.data()); }

 private:
  Device& device_;
  LaunchRequest request_;
  std::shared_ptr<Image> image_;
  const Program* program_ = nullptr;
  std::vector<std::byte> parameters_;
  std::vector<void*> pointers_;  // to each argument in parameters_
};

}  // namespace ptxsim::runtime
