// What the host code that nvcc generates calls: registration of device code, and the stub of a kernel.
#include <cuda_runtime_api.h>

#include "runtime/launch.h"
#include "runtime/registry.h"
#include "runtime/thread_state.h"

using namespace ptxsim::runtime;  // NOLINT: this file is C functions only

#pragma GCC visibility push(default)
extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) { return register_binary(wrapper); }
void __cudaRegisterFatBinaryEnd(void** /*handle*/) {}
void __cudaUnregisterFatBinary(void** handle) { unregister_binary(handle); }

void __cudaRegisterFunction(void** handle, const char* host, char* /*device*/, const char* name,
                            int /*threads*/, uint3* /*tid*/, uint3* /*bid*/, dim3* /*block*/, dim3* /*grid*/,
                            int* /*warp_size*/) {
  register_kernel(handle, host, name);
}

void __cudaRegisterVar(void** handle, char* host, char* /*device*/, const char* name, int /*is_extern*/,
                       size_t bytes, int /*constant*/, int /*global*/) {
  register_variable(handle, host, name, bytes);
}

// The address of page-locked host memory stands in a variable of the device; nvcc has no use for it on Linux.
void __cudaRegisterHostVar(void** /*handle*/, const char* /*name*/, char* /*host*/, size_t /*bytes*/) {}

void __cudaRegisterManagedVar(void** handle, void** host, char* /*device*/, const char* name,
                              int /*is_extern*/, size_t bytes, int /*constant*/, int /*global*/) {
  register_variable(handle, host, name, bytes);
  if (const auto binary = binary_of(handle)) {
    binary->managed.push_back(host);
    binary->managed_names.emplace_back(name);
  }
}

// Before the first use of a managed variable by the host: it lies where device 0 has it.
char __cudaInitModule(void** handle) {
  const auto binary = binary_of(handle);
  if (binary == nullptr) return 0;
  const cudaError_t code = api("__cudaInitModule", [&] {
    for (size_t i = 0; i < binary->managed.size(); ++i)
      *binary->managed[i] = place_of(*binary, binary->managed_names[i], 0).address;
  });
  return code == cudaSuccess ? 1 : 0;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  thread_state().calls.push_back({grid, block, shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  auto& calls = thread_state().calls;
  if (calls.empty()) return remember(cudaErrorMissingConfiguration);
  *grid = calls.back().grid;
  *block = calls.back().block;
  *shared = calls.back().shared;
  *static_cast<cudaStream_t*>(stream) = calls.back().stream;
  calls.pop_back();
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  return api(
      "__cudaGetKernel", [&] { *kernel = reinterpret_cast<cudaKernel_t>(&kernel_of(function)); },
      Needs::kNothing);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments, shared, stream);
}

cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                                    size_t shared, cudaStream_t stream) {
  return __cudaLaunchKernel(kernel, grid, block, arguments, shared,
                            stream != nullptr ? stream : cudaStreamPerThread);
}

}  // extern "C"
#pragma GCC visibility pop
