#include "runtime/gpu_figures.h"

#include <cstring>

#include "config.h"
#include "runtime/api.h"
#include "sim.h"

namespace ptxsim::runtime {
namespace {

// Where H200 and H800 differ. Sources: data sheets of both.
struct Model {
  const char* name;
  int clock_khz, memory_clock_khz, bus_bits, l2_bytes, pci_id;
  int capability = 9;
};
constexpr Model kH200 = {"NVIDIA H200", 1980000, 3201000, 6144, 60 << 20, 0x233510de};
constexpr Model kH800 = {"NVIDIA H800", 1980000, 2619000, 5120, 50 << 20, 0x232410de};

// For programs that have to refuse it: everything else stays that of Hopper.
constexpr Model kA100 = {"NVIDIA A100-SXM4-80GB", 1410000, 1593000, 5120, 40 << 20, 0x20b210de, 8};

const Model& model() { return config().gpu == "H800" ? kH800 : config().gpu == "A100" ? kA100 : kH200; }

int pci_bus(int device) { return 0x1b + 0x11 * device % 0xe0; }

// What depends on the model or on the configuration; false for everything else.
bool own_attribute(cudaDeviceAttr attribute, int device, int* value) {
  const GpuLimits& gpu = gpu_limits();
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = model().capability;
      return true;
    case cudaDevAttrClockRate:
      *value = model().clock_khz;
      return true;
    case cudaDevAttrMemoryClockRate:
      *value = model().memory_clock_khz;
      return true;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = model().bus_bits;
      return true;
    case cudaDevAttrL2CacheSize:
      *value = model().l2_bytes;
      return true;
    case cudaDevAttrMaxPersistingL2CacheSize:
      *value = model().l2_bytes / 8 * 5;
      return true;
    case cudaDevAttrGpuPciDeviceId:
      *value = model().pci_id;
      return true;
    case cudaDevAttrPciBusId:
      *value = pci_bus(device);
      return true;
    case cudaDevAttrMultiProcessorCount:
      *value = gpu.sms;
      return true;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = gpu.max_threads_per_sm;
      return true;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = gpu.max_blocks_per_sm;
      return true;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = gpu.registers_per_sm;
      return true;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(gpu.shared_per_block);
      return true;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(gpu.shared_per_block_optin);
      return true;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(gpu.shared_per_sm);
      return true;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = static_cast<int>(gpu.reserved_shared);
      return true;
    default:
      return false;
  }
}

struct Figure {
  cudaDeviceAttr attribute;
  int value;
};
// The same for every GH100; attributes that are not listed are 0.
constexpr Figure kFigures[] = {
    {cudaDevAttrMaxThreadsPerBlock, 1024},
    {cudaDevAttrMaxBlockDimX, 1024},
    {cudaDevAttrMaxBlockDimY, 1024},
    {cudaDevAttrMaxBlockDimZ, 64},
    {cudaDevAttrMaxGridDimX, 0x7fffffff},
    {cudaDevAttrMaxGridDimY, 65535},
    {cudaDevAttrMaxGridDimZ, 65535},
    {cudaDevAttrTotalConstantMemory, 65536},
    {cudaDevAttrWarpSize, 32},
    {cudaDevAttrMaxPitch, 0x7fffffff},
    {cudaDevAttrTextureAlignment, 512},
    {cudaDevAttrGpuOverlap, 1},
    {cudaDevAttrCanMapHostMemory, 1},
    {cudaDevAttrMaxTexture1DWidth, 131072},
    {cudaDevAttrMaxTexture2DWidth, 131072},
    {cudaDevAttrMaxTexture2DHeight, 65536},
    {cudaDevAttrMaxTexture3DWidth, 16384},
    {cudaDevAttrMaxTexture3DHeight, 16384},
    {cudaDevAttrMaxTexture3DDepth, 16384},
    {cudaDevAttrMaxTexture2DLayeredWidth, 32768},
    {cudaDevAttrMaxTexture2DLayeredHeight, 32768},
    {cudaDevAttrMaxTexture2DLayeredLayers, 2048},
    {cudaDevAttrSurfaceAlignment, 512},
    {cudaDevAttrConcurrentKernels, 1},
    {cudaDevAttrEccEnabled, 1},
    {cudaDevAttrAsyncEngineCount, 3},
    {cudaDevAttrUnifiedAddressing, 1},
    {cudaDevAttrMaxTexture1DLayeredWidth, 32768},
    {cudaDevAttrMaxTexture1DLayeredLayers, 2048},
    {cudaDevAttrMaxTexture2DGatherWidth, 32768},
    {cudaDevAttrMaxTexture2DGatherHeight, 32768},
    {cudaDevAttrMaxTexture3DWidthAlt, 8192},
    {cudaDevAttrMaxTexture3DHeightAlt, 8192},
    {cudaDevAttrMaxTexture3DDepthAlt, 32768},
    {cudaDevAttrTexturePitchAlignment, 32},
    {cudaDevAttrMaxTextureCubemapWidth, 32768},
    {cudaDevAttrMaxTextureCubemapLayeredWidth, 32768},
    {cudaDevAttrMaxTextureCubemapLayeredLayers, 2046},
    {cudaDevAttrMaxSurface1DWidth, 32768},
    {cudaDevAttrMaxSurface2DWidth, 131072},
    {cudaDevAttrMaxSurface2DHeight, 65536},
    {cudaDevAttrMaxSurface3DWidth, 16384},
    {cudaDevAttrMaxSurface3DHeight, 16384},
    {cudaDevAttrMaxSurface3DDepth, 16384},
    {cudaDevAttrMaxSurface1DLayeredWidth, 32768},
    {cudaDevAttrMaxSurface1DLayeredLayers, 2048},
    {cudaDevAttrMaxSurface2DLayeredWidth, 32768},
    {cudaDevAttrMaxSurface2DLayeredHeight, 32768},
    {cudaDevAttrMaxSurface2DLayeredLayers, 2048},
    {cudaDevAttrMaxSurfaceCubemapWidth, 32768},
    {cudaDevAttrMaxSurfaceCubemapLayeredWidth, 32768},
    {cudaDevAttrMaxSurfaceCubemapLayeredLayers, 2046},
    {cudaDevAttrMaxTexture1DLinearWidth, 268435456},
    {cudaDevAttrMaxTexture2DLinearWidth, 131072},
    {cudaDevAttrMaxTexture2DLinearHeight, 65000},
    {cudaDevAttrMaxTexture2DLinearPitch, 2097120},
    {cudaDevAttrMaxTexture2DMipmappedWidth, 32768},
    {cudaDevAttrMaxTexture2DMipmappedHeight, 32768},
    {cudaDevAttrComputeCapabilityMinor, 0},
    {cudaDevAttrMaxTexture1DMipmappedWidth, 32768},
    {cudaDevAttrStreamPrioritiesSupported, 1},
    {cudaDevAttrGlobalL1CacheSupported, 1},
    {cudaDevAttrLocalL1CacheSupported, 1},
    {cudaDevAttrManagedMemory, 1},
    {cudaDevAttrSingleToDoublePrecisionPerfRatio, 2},
    {cudaDevAttrConcurrentManagedAccess, 1},
    {cudaDevAttrComputePreemptionSupported, 1},
    {cudaDevAttrCanUseHostPointerForRegisteredMem, 1},
    {cudaDevAttrCooperativeLaunch, 1},
    {cudaDevAttrCanFlushRemoteWrites, 1},
    {cudaDevAttrHostRegisterSupported, 1},
    {cudaDevAttrMaxAccessPolicyWindowSize, 134213632},
    {cudaDevAttrSparseCudaArraySupported, 1},
    {cudaDevAttrHostRegisterReadOnlySupported, 1},
    {cudaDevAttrTimelineSemaphoreInteropSupported, 1},
    {cudaDevAttrMemoryPoolsSupported, 1},
    {cudaDevAttrGPUDirectRDMAFlushWritesOptions, 1},
    {cudaDevAttrGPUDirectRDMAWritesOrdering, 100},
    {cudaDevAttrClusterLaunch, 1},
    {cudaDevAttrIpcEventSupport, 1},
    {cudaDevAttrMemSyncDomainCount, 4},
    {cudaDevAttrNumaId, -1},
    {cudaDevAttrHostNumaId, 0},
    {cudaDevAttrGpuPciSubsystemId, 0x10de10de},
};

void fill_uuid(cudaUUID_t& uuid, int device) {
  std::memset(&uuid, 0, sizeof uuid);
  std::memcpy(uuid.bytes, "ptxsim", 6);
  uuid.bytes[15] = static_cast<char>(device);
}

}  // namespace

int device_attribute(cudaDeviceAttr attribute, int device) {
  if (attribute < 1 || attribute >= cudaDevAttrMax)
    refuse(cudaErrorInvalidValue, "device attribute {} (known are 1 to {})", static_cast<int>(attribute),
           static_cast<int>(cudaDevAttrMax) - 1);
  int value = 0;
  if (own_attribute(attribute, device, &value)) return value;
  for (const Figure& figure : kFigures)
    if (figure.attribute == attribute) return figure.value;
  return 0;
}

void fill_properties(cudaDeviceProp& p, int device) {
  std::memset(&p, 0, sizeof p);
  const auto a = [device](cudaDeviceAttr attribute) { return device_attribute(attribute, device); };
  std::strncpy(p.name, model().name, sizeof p.name - 1);
  fill_uuid(p.uuid, device);
  p.totalGlobalMem = gpu_limits().memory_bytes;

  p.maxThreadsPerBlock = a(cudaDevAttrMaxThreadsPerBlock);
  const cudaDeviceAttr block[] = {cudaDevAttrMaxBlockDimX, cudaDevAttrMaxBlockDimY, cudaDevAttrMaxBlockDimZ};
  const cudaDeviceAttr grid[] = {cudaDevAttrMaxGridDimX, cudaDevAttrMaxGridDimY, cudaDevAttrMaxGridDimZ};
  for (int i = 0; i < 3; ++i) p.maxThreadsDim[i] = a(block[i]), p.maxGridSize[i] = a(grid[i]);
  p.warpSize = a(cudaDevAttrWarpSize);
  p.multiProcessorCount = a(cudaDevAttrMultiProcessorCount);
  p.maxThreadsPerMultiProcessor = a(cudaDevAttrMaxThreadsPerMultiProcessor);
  p.maxBlocksPerMultiProcessor = a(cudaDevAttrMaxBlocksPerMultiprocessor);
  p.regsPerBlock = a(cudaDevAttrMaxRegistersPerBlock);
  p.regsPerMultiprocessor = a(cudaDevAttrMaxRegistersPerMultiprocessor);
  p.sharedMemPerBlock = a(cudaDevAttrMaxSharedMemoryPerBlock);
  p.sharedMemPerBlockOptin = a(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  p.sharedMemPerMultiprocessor = a(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  p.reservedSharedMemPerBlock = a(cudaDevAttrReservedSharedMemoryPerBlock);
  p.totalConstMem = a(cudaDevAttrTotalConstantMemory);
  p.memPitch = a(cudaDevAttrMaxPitch);
  p.major = a(cudaDevAttrComputeCapabilityMajor);
  p.minor = a(cudaDevAttrComputeCapabilityMinor);
  p.memoryBusWidth = a(cudaDevAttrGlobalMemoryBusWidth);
  p.l2CacheSize = a(cudaDevAttrL2CacheSize);
  p.persistingL2CacheMaxSize = a(cudaDevAttrMaxPersistingL2CacheSize);
  p.accessPolicyMaxWindowSize = a(cudaDevAttrMaxAccessPolicyWindowSize);

  p.textureAlignment = a(cudaDevAttrTextureAlignment);
  p.texturePitchAlignment = a(cudaDevAttrTexturePitchAlignment);
  p.surfaceAlignment = a(cudaDevAttrSurfaceAlignment);
  p.canMapHostMemory = a(cudaDevAttrCanMapHostMemory);
  p.concurrentKernels = a(cudaDevAttrConcurrentKernels);
  p.ECCEnabled = a(cudaDevAttrEccEnabled);
  p.pciBusID = a(cudaDevAttrPciBusId);
  p.asyncEngineCount = a(cudaDevAttrAsyncEngineCount);
  p.unifiedAddressing = a(cudaDevAttrUnifiedAddressing);
  p.streamPrioritiesSupported = a(cudaDevAttrStreamPrioritiesSupported);
  p.globalL1CacheSupported = a(cudaDevAttrGlobalL1CacheSupported);
  p.localL1CacheSupported = a(cudaDevAttrLocalL1CacheSupported);
  p.managedMemory = a(cudaDevAttrManagedMemory);
  p.concurrentManagedAccess = a(cudaDevAttrConcurrentManagedAccess);
  p.computePreemptionSupported = a(cudaDevAttrComputePreemptionSupported);
  p.canUseHostPointerForRegisteredMem = a(cudaDevAttrCanUseHostPointerForRegisteredMem);
  p.cooperativeLaunch = a(cudaDevAttrCooperativeLaunch);
  p.hostRegisterSupported = a(cudaDevAttrHostRegisterSupported);
  p.memoryPoolsSupported = a(cudaDevAttrMemoryPoolsSupported);
  p.ipcEventSupported = a(cudaDevAttrIpcEventSupport);
  p.clusterLaunch = a(cudaDevAttrClusterLaunch);
  p.deviceNumaId = a(cudaDevAttrNumaId);
  p.hostNumaId = a(cudaDevAttrHostNumaId);
  p.gpuPciDeviceID = static_cast<unsigned>(a(cudaDevAttrGpuPciDeviceId));
  p.gpuPciSubsystemID = static_cast<unsigned>(a(cudaDevAttrGpuPciSubsystemId));
}

}  // namespace ptxsim::runtime
