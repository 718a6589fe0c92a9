#include "runtime/launch.h"

#include <algorithm>
#include <cstring>

#include "runtime/occupancy.h"
#include "sim.h"

namespace ptxsim::runtime {
namespace {

constexpr uint32_t kMaxThreads = 1024, kMaxBlockZ = 64;
constexpr uint64_t kMaxGridX = 0x7fffffff, kMaxGridYZ = 65535;
constexpr uint64_t kMaxClusterPortable = 8;

std::string text(const dim3& d) { return fmt::format("({},{},{})", d.x, d.y, d.z); }
uint64_t count(const dim3& d) { return uint64_t{d.x} * d.y * d.z; }

void check_shape(const LaunchRequest& r, Kernel& kernel) {
  const auto bad = cudaErrorInvalidConfiguration;
  if (count(r.grid) == 0) refuse(bad, "{}: the grid {} has no blocks", kernel.label(), text(r.grid));
  if (count(r.block) == 0) refuse(bad, "{}: the block {} has no threads", kernel.label(), text(r.block));
  if (r.grid.x > kMaxGridX || r.grid.y > kMaxGridYZ || r.grid.z > kMaxGridYZ)
    refuse(bad, "{}: the grid {} is larger than ({},{},{})", kernel.label(), text(r.grid), kMaxGridX,
           kMaxGridYZ, kMaxGridYZ);
  if (count(r.block) > kMaxThreads || r.block.z > kMaxBlockZ)
    refuse(bad, "{}: the block {} is larger than {} threads or {} in z", kernel.label(), text(r.block),
           kMaxThreads, kMaxBlockZ);
}

void check_bounds(const LaunchRequest& r, Kernel& kernel, Device& device) {
  const ptx::Function& f = kernel.function();
  const auto& required = f.required_threads;
  const auto axis = [&](int i) { return static_cast<uint32_t>(std::max(required[i], 1)); };
  if (required[0] > 0 && (r.block.x != axis(0) || r.block.y != axis(1) || r.block.z != axis(2)))
    refuse(cudaErrorInvalidConfiguration, "{}: the kernel is compiled for blocks of ({},{},{}), not {}",
           kernel.label(), axis(0), axis(1), axis(2), text(r.block));
  const int threads = static_cast<int>(count(r.block));
  if (threads > kernel.max_threads())
    refuse(cudaErrorLaunchOutOfResources, "{}: {} threads per block, its launch bounds say at most {}",
           kernel.label(), threads, kernel.max_threads());
  const int registers = kernel.registers(device.index);
  if (!registers_fit(threads, registers))
    refuse(cudaErrorLaunchOutOfResources, "{}: {} threads of {} registers are more than the {} of an SM",
           kernel.label(), threads, registers, gpu_limits().registers_per_sm);
}

void check_shared(const LaunchRequest& r, Kernel& kernel, Device& device) {
  const GpuLimits& gpu = gpu_limits();
  const uint64_t fixed = kernel.program(device.index).static_shared_bytes;
  const int allowed = kernel.settings(device.index).max_dynamic_shared;
  const uint64_t most = allowed >= 0 ? static_cast<uint64_t>(allowed)
                                     : gpu.shared_per_block - std::min<uint64_t>(fixed, gpu.shared_per_block);
  if (r.dynamic_shared > most)
    refuse(cudaErrorInvalidValue,
           "{}: {} bytes of dynamic shared memory, allowed are {} "
           "(cudaFuncSetAttribute with cudaFuncAttributeMaxDynamicSharedMemorySize allows up to {})",
           kernel.label(), r.dynamic_shared, most, gpu.shared_per_block_optin - fixed);
  if (fixed + r.dynamic_shared > gpu.shared_per_block_optin)
    refuse(cudaErrorInvalidValue,
           "{}: {} static and {} dynamic bytes of shared memory are more than a block's {}", kernel.label(),
           fixed, r.dynamic_shared, gpu.shared_per_block_optin);
}

// Takes over what the kernel requires; afterwards the cluster is never 0.
void check_cluster(LaunchRequest& r, Kernel& kernel, Device& device) {
  const auto bad = cudaErrorInvalidClusterSize;
  const ptx::Function& f = kernel.function();
  Kernel::Settings& set = kernel.settings(device.index);
  dim3 required(0, 0, 0);
  if (f.required_cluster[0] > 0)
    required =
        dim3(f.required_cluster[0], std::max(f.required_cluster[1], 1), std::max(f.required_cluster[2], 1));
  else if (set.cluster_width > 0)
    required =
        dim3(set.cluster_width, std::max<int>(set.cluster_height, 1), std::max<int>(set.cluster_depth, 1));
  if (count(r.cluster) == 0) {
    if (count(required) == 0 && (f.explicit_cluster || set.cluster_must_be_set))
      refuse(bad, "{}: the kernel needs a cluster size, the launch gives none", kernel.label());
    r.cluster = count(required) != 0 ? required : dim3(1, 1, 1);
  } else if (count(required) != 0 && text(r.cluster) != text(required)) {
    refuse(bad, "{}: the kernel requires clusters of {}, the launch asks for {}", kernel.label(),
           text(required), text(r.cluster));
  }
  const uint64_t size = count(r.cluster);
  if (size == 1) return;
  const uint64_t most = set.nonportable_cluster ? gpu_limits().max_cluster_nonportable : kMaxClusterPortable;
  if (size > most)
    refuse(bad, "{}: a cluster of {} blocks, allowed are {}{}", kernel.label(), size, most,
           set.nonportable_cluster ? "" : " (16 with cudaFuncAttributeNonPortableClusterSizeAllowed)");
  if (r.grid.x % r.cluster.x != 0 || r.grid.y % r.cluster.y != 0 || r.grid.z % r.cluster.z != 0)
    refuse(bad, "{}: the grid {} is no multiple of the cluster {}", kernel.label(), text(r.grid),
           text(r.cluster));
}

void check_resident(const LaunchRequest& r, Kernel& kernel, Device& device) {
  const BlockNeeds needs{static_cast<int>(count(r.block)), kernel.registers(device.index),
                         kernel.program(device.index).static_shared_bytes + r.dynamic_shared};
  const uint64_t size = count(r.cluster);
  const uint64_t fit = size > 1 ? clusters_per_gpu(needs, static_cast<int>(size)) * size
                                : uint64_t(blocks_per_sm(needs)) * gpu_limits().sms;
  if (size > 1 && fit == 0)
    refuse(cudaErrorInvalidClusterSize, "{}: no cluster of {} such blocks fits into a GPC", kernel.label(),
           size);
  if (r.cooperative && count(r.grid) > fit)
    refuse(cudaErrorCooperativeLaunchTooLarge,
           "{}: a cooperative launch of {} blocks, the GPU holds {} at once", kernel.label(), count(r.grid),
           fit);
}

}  // namespace

void apply_attributes(LaunchRequest& r, const cudaLaunchAttribute* attributes, unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    const cudaLaunchAttribute& a = attributes[i];
    switch (a.id) {
      case cudaLaunchAttributeClusterDimension:
        r.cluster = dim3(a.val.clusterDim.x, a.val.clusterDim.y, a.val.clusterDim.z);
        if (uint64_t{r.cluster.x} * r.cluster.y * r.cluster.z == 0)
          refuse(cudaErrorInvalidClusterSize, "{}: a cluster of {}", r.kernel->label(), text(r.cluster));
        break;
      case cudaLaunchAttributeCooperative:
        r.cooperative = a.val.cooperative != 0;
        break;
      case cudaLaunchAttributeProgrammaticEvent:
        r.after_end = a.val.programmaticEvent.event;
        break;
      case cudaLaunchAttributeLaunchCompletionEvent:
        r.after_start = a.val.launchCompletionEvent.event;
        break;
      // Hints that change no result; kernels of a stream run one after the other, which every kernel has to
      // allow.
      case cudaLaunchAttributeProgrammaticStreamSerialization:
      case cudaLaunchAttributeIgnore:
      case cudaLaunchAttributeAccessPolicyWindow:
      case cudaLaunchAttributeSynchronizationPolicy:
      case cudaLaunchAttributeClusterSchedulingPolicyPreference:
      case cudaLaunchAttributePriority:
      case cudaLaunchAttributeMemSyncDomainMap:
      case cudaLaunchAttributeMemSyncDomain:
      case cudaLaunchAttributePreferredClusterDimension:
      case cudaLaunchAttributePreferredSharedMemoryCarveout:
      case cudaLaunchAttributeNvlinkUtilCentricScheduling:
        break;
      default:
        refuse(cudaErrorNotSupported, "{}: launch attribute {}", r.kernel->label(), static_cast<int>(a.id));
    }
    std::erase_if(r.attributes, [&](const cudaLaunchAttribute& old) { return old.id == a.id; });
    r.attributes.push_back(a);
  }
}

void check_launch(LaunchRequest& r, Device& device) {
  Kernel& kernel = *r.kernel;
  check_shape(r, kernel);
  check_bounds(r, kernel, device);
  check_shared(r, kernel, device);
  check_cluster(r, kernel, device);
  check_resident(r, kernel, device);
}

KernelWork::KernelWork(Device& device, LaunchRequest request, void** arguments)
    : device_(device), request_(std::move(request)) {
  Kernel& kernel = *request_.kernel;
  check_launch(request_, device_);
  image_ = kernel.binary->image(device_.index);
  program_ = &image_->kernel(kernel.name);

  const auto& declared = kernel.function().parameters;
  if (!declared.empty() && arguments == nullptr)
    refuse(cudaErrorInvalidValue, "{}: {} parameters and no arguments", kernel.label(), declared.size());
  parameters_.resize(program_->parameter_bytes);
  for (size_t i = 0; i < declared.size(); ++i) {
    if (arguments[i] == nullptr) refuse(cudaErrorInvalidValue, "{}: argument {} is null", kernel.label(), i);
    std::byte* to = parameters_.data() + program_->parameter_offsets[i];
    std::memcpy(to, arguments[i], declared[i].bytes);
    pointers_.push_back(to);
  }
}

void KernelWork::run() const {
  const auto dim = [](const dim3& d) { return Dim3{d.x, d.y, d.z}; };
  LaunchSpec spec;
  spec.program = program_;
  spec.grid = dim(request_.grid);
  spec.block = dim(request_.block);
  spec.cluster = dim(request_.cluster);
  spec.dynamic_shared = static_cast<uint32_t>(request_.dynamic_shared);
  spec.parameters = parameters_.data();
  spec.device = device_.index;
  spec.cooperative = request_.cooperative;
  launch(spec);
}

}  // namespace ptxsim::runtime
