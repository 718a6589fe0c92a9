// Launches, what is known of kernels, occupancy.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "runtime/api.h"
#include "runtime/capture.h"
#include "runtime/launch.h"
#include "runtime/occupancy.h"

using namespace ptxsim;           // NOLINT: this file is C functions only
using namespace ptxsim::runtime;  // NOLINT

namespace {

void launch(LaunchRequest request, void** arguments, cudaStream_t handle) {
  const auto stream = stream_of(handle);
  const cudaEvent_t after_start = request.after_start, after_end = request.after_end;
  auto work = std::make_shared<KernelWork>(stream->device(), std::move(request), arguments);
  submit(*stream, std::move(work));
  // A kernel has begun and has reached its trigger when it has ended: allowed, since neither says when.
  for (const cudaEvent_t event : {after_start, after_end})
    if (event != nullptr) record_event(event_handles().get(event), event, *stream, cudaEventRecordDefault);
}

LaunchRequest request_of(const void* function, dim3 grid, dim3 block, size_t shared) {
  LaunchRequest request;
  request.kernel = &kernel_of(function);
  request.grid = grid;
  request.block = block;
  request.dynamic_shared = shared;
  return request;
}

LaunchRequest request_of(const cudaLaunchConfig_t* config, const void* function) {
  need(config, "config");
  LaunchRequest request = request_of(function, config->gridDim, config->blockDim, config->dynamicSmemBytes);
  if (config->numAttrs != 0) apply_attributes(request, need(config->attrs, "attrs"), config->numAttrs);
  return request;
}

void set_attribute(Kernel& kernel, cudaFuncAttribute attribute, int value, int device) {
  Kernel::Settings& set = kernel.settings(device);
  const auto cluster = [&](std::atomic<int>& part) {
    if (kernel.function().required_cluster[0] > 0)
      refuse(cudaErrorNotPermitted, "{}: the kernel is compiled with its cluster size", kernel.label());
    if (value < 1) refuse(cudaErrorInvalidValue, "{}: a cluster size of {}", kernel.label(), value);
    part = value;
  };
  switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize: {
      const int fixed = static_cast<int>(kernel.program(device).static_shared_bytes);
      const int most = static_cast<int>(gpu_limits().shared_per_block_optin) - fixed;
      if (value < 0 || value > most)
        refuse(cudaErrorInvalidValue,
               "{}: {} bytes of dynamic shared memory, at most {} fit beside {} static ones", kernel.label(),
               value, most, fixed);
      set.max_dynamic_shared = value;
      return;
    }
    case cudaFuncAttributePreferredSharedMemoryCarveout:
      if (value < -1 || value > 100) refuse(cudaErrorInvalidValue, "a carveout of {} percent", value);
      set.carveout = value;
      return;
    case cudaFuncAttributeNonPortableClusterSizeAllowed:
      set.nonportable_cluster = value != 0;
      return;
    case cudaFuncAttributeClusterDimMustBeSet:
      set.cluster_must_be_set = value != 0;
      return;
    case cudaFuncAttributeRequiredClusterWidth:
      return cluster(set.cluster_width);
    case cudaFuncAttributeRequiredClusterHeight:
      return cluster(set.cluster_height);
    case cudaFuncAttributeRequiredClusterDepth:
      return cluster(set.cluster_depth);
    case cudaFuncAttributeClusterSchedulingPolicyPreference:
      set.cluster_policy = value;
      return;
    default:
      refuse(cudaErrorInvalidValue, "function attribute {}", static_cast<int>(attribute));
  }
}

cudaFuncAttributes attributes_of(Kernel& kernel, int device) {
  const ptx::Function& f = kernel.function();
  const Program& program = kernel.program(device);
  const SassUsage usage = kernel.binary->usage(kernel.name);
  Kernel::Settings& set = kernel.settings(device);
  cudaFuncAttributes a = {};
  a.sharedSizeBytes = program.static_shared_bytes;
  for (const ptx::Variable& v : kernel.binary->module().variables)
    if (v.space == ptx::Space::kConst) a.constSizeBytes += v.bytes;
  a.localSizeBytes = usage.registers > 0 ? static_cast<size_t>(usage.stack_bytes) : program.local_bytes;
  a.numRegs = kernel.registers(device);
  int threads = kernel.max_threads();
  while (threads > 32 && !registers_fit(threads, a.numRegs)) threads -= 32;
  a.maxThreadsPerBlock = threads;
  constexpr int kBinary = 90;
  a.ptxVersion = a.binaryVersion = kBinary;
  const int allowed = set.max_dynamic_shared;
  a.maxDynamicSharedSizeBytes = allowed >= 0 ? allowed
                                             : static_cast<int>(gpu_limits().shared_per_block) -
                                                   static_cast<int>(program.static_shared_bytes);
  a.preferredShmemCarveout = set.carveout;
  const bool compiled = f.required_cluster[0] > 0;
  a.clusterDimMustBeSet = set.cluster_must_be_set || f.explicit_cluster || compiled;
  a.requiredClusterWidth = compiled ? f.required_cluster[0] : set.cluster_width.load();
  a.requiredClusterHeight = compiled ? std::max(f.required_cluster[1], 1) : set.cluster_height.load();
  a.requiredClusterDepth = compiled ? std::max(f.required_cluster[2], 1) : set.cluster_depth.load();
  a.clusterSchedulingPolicyPreference = set.cluster_policy;
  a.nonPortableClusterSizeAllowed = set.nonportable_cluster;
  return a;
}

BlockNeeds needs_of(Kernel& kernel, int device, int threads, size_t shared) {
  return {threads, kernel.registers(device), kernel.program(device).static_shared_bytes + shared};
}

// What a block or cluster of a launch configuration needs, its cluster settled.
struct Shape {
  BlockNeeds needs;
  int cluster = 1;
};
Shape shape_of(const cudaLaunchConfig_t* config, const void* function, int device) {
  LaunchRequest r = request_of(config, function);
  const auto& required = r.kernel->function().required_cluster;
  if (required[0] > 0) r.cluster = dim3(required[0], std::max(required[1], 1), std::max(required[2], 1));
  const dim3& b = r.block;
  const auto threads = static_cast<int>(std::min<uint64_t>(uint64_t{b.x} * b.y * b.z, 1 << 20));
  const auto cluster = static_cast<int>(uint64_t{r.cluster.x} * r.cluster.y * r.cluster.z);
  return {needs_of(*r.kernel, device, threads, r.dynamic_shared), std::max(cluster, 1)};
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// --- launches ---
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  return api(__func__, [&] { launch(request_of(function, grid, block, shared), arguments, stream); });
}
cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                                        size_t shared, cudaStream_t stream) {
  return api(__func__, [&] {
    LaunchRequest request = request_of(function, grid, block, shared);
    request.cooperative = true;
    launch(std::move(request), arguments, stream);
  });
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  return api(__func__, [&] {
    LaunchRequest request = request_of(config, function);
    launch(std::move(request), arguments, config->stream);
  });
}

// --- kernels ---
cudaError_t cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  return api(__func__,
             [&] { *need(kernel, "kernelPtr") = reinterpret_cast<cudaKernel_t>(&kernel_of(function)); });
}
cudaError_t cudaGetFuncBySymbol(cudaFunction_t* out, const void* function) {
  return api(__func__,
             [&] { *need(out, "functionPtr") = reinterpret_cast<cudaFunction_t>(&kernel_of(function)); });
}
cudaError_t cudaFuncGetName(const char** name, const void* function) {
  return api(__func__, [&] { *need(name, "name") = kernel_of(function).name.c_str(); });
}
cudaError_t cudaFuncGetParamInfo(const void* function, size_t index, size_t* offset, size_t* bytes) {
  return api(__func__, [&] {
    Kernel& kernel = kernel_of(function);
    const auto& parameters = kernel.function().parameters;
    if (index >= parameters.size())
      refuse(cudaErrorInvalidValue, "parameter {} of {}", index, parameters.size());
    *need(offset, "paramOffset") = kernel.program(current_device().index).parameter_offsets[index];
    if (bytes != nullptr) *bytes = parameters[index].bytes;
  });
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  return api(__func__,
             [&] { *need(attributes, "attr") = attributes_of(kernel_of(function), current_device().index); });
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  return api(__func__, [&] { set_attribute(kernel_of(function), attribute, value, current_device().index); });
}
cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, cudaFuncAttribute attribute, int value,
                                            int device) {
  return api(__func__, [&] {
    set_attribute(kernel_of(reinterpret_cast<const void*>(kernel)), attribute, value,
                  device_at(device).index);
  });
}
cudaError_t cudaFuncSetCacheConfig(const void* function, cudaFuncCache /*config*/) {
  return api(__func__, [&] { kernel_of(function); });
}
cudaError_t cudaFuncSetSharedMemConfig(const void* function, cudaSharedMemConfig /*config*/) {
  return api(__func__, [&] { kernel_of(function); });
}

// --- occupancy ---
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* function,
                                                                   int threads, size_t shared,
                                                                   unsigned /*flags*/) {
  return api(__func__, [&] {
    Kernel& kernel = kernel_of(function);
    if (threads <= 0) refuse(cudaErrorInvalidValue, "a block of {} threads", threads);
    *need(blocks, "numBlocks") =
        threads > kernel.max_threads()
            ? 0
            : blocks_per_sm(needs_of(kernel, current_device().index, threads, shared));
  });
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int threads,
                                                          size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared,
                                                                cudaOccupancyDefault);
}
cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, const void* function, int blocks,
                                                      int threads) {
  return api(__func__, [&] {
    if (blocks <= 0 || threads <= 0)
      refuse(cudaErrorInvalidValue, "{} blocks of {} threads", blocks, threads);
    const GpuLimits& gpu = gpu_limits();
    const uint64_t fixed =
        kernel_of(function).program(current_device().index).static_shared_bytes + gpu.reserved_shared;
    const uint64_t share = gpu.shared_per_sm / static_cast<unsigned>(blocks) / 128 * 128;
    *need(bytes, "dynamicSmemSize") =
        share < fixed
            ? 0
            : std::min<uint64_t>(share - fixed, gpu.shared_per_block_optin + gpu.reserved_shared - fixed);
  });
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function,
                                           const cudaLaunchConfig_t* config) {
  return api(__func__, [&] {
    const Shape shape = shape_of(config, function, current_device().index);
    const bool allowed = shape.cluster <= gpu_limits().max_cluster ||
                         kernel_of(function).settings(current_device().index).nonportable_cluster;
    if (!allowed || shape.cluster > gpu_limits().max_cluster_nonportable)
      refuse(cudaErrorInvalidClusterSize, "clusters of {} blocks", shape.cluster);
    *need(clusters, "numClusters") = clusters_per_gpu(shape.needs, shape.cluster);
  });
}
cudaError_t cudaOccupancyMaxPotentialClusterSize(int* size, const void* function,
                                                 const cudaLaunchConfig_t* config) {
  return api(__func__, [&] {
    const int device = current_device().index;
    const Shape shape = shape_of(config, function, device);
    int most = kernel_of(function).settings(device).nonportable_cluster ? gpu_limits().max_cluster_nonportable
                                                                        : gpu_limits().max_cluster;
    while (most > 1 && clusters_per_gpu(shape.needs, most) == 0) most /= 2;
    *need(size, "clusterSize") = most;
  });
}

}  // extern "C"
#pragma GCC visibility pop
