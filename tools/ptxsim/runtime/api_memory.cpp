// Allocation, and what the runtime knows of a pointer.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "memory/global.h"
#include "runtime/api.h"
#include "runtime/capture.h"
#include "runtime/device.h"
#include "runtime/host_memory.h"
#include "runtime/registry.h"
#include "runtime/thread_state.h"

using namespace ptxsim;           // NOLINT: this file is C functions only
using namespace ptxsim::runtime;  // NOLINT

namespace {

constexpr size_t kPitch = 512;

void* allocate(size_t bytes) {
  forbid_unsafe();
  if (bytes == 0) return nullptr;
  Device& device = current_device();
  void* pointer = device.arena.allocate(bytes);
  if (pointer == nullptr)
    refuse(cudaErrorMemoryAllocation, "{} bytes on device {}; {} of {} are in use", bytes, device.index,
           device.arena.used(), device.arena.capacity());
  return pointer;
}

void* allocate_host(size_t bytes, MemoryKind kind, unsigned flags) {
  forbid_unsafe();
  if (bytes == 0) return nullptr;
  void* pointer = HostMemory::instance().allocate(bytes, kind, flags);
  if (pointer == nullptr) refuse(cudaErrorMemoryAllocation, "{} bytes of host memory", bytes);
  return pointer;
}

std::string describe(const void* pointer) {
  return fmt::format("{} ({})", pointer,
                     GlobalMemory::instance().describe(reinterpret_cast<uint64_t>(pointer)));
}

// Work that uses the memory was pushed before: freeing waits for it, as on a GPU.
void synchronize_all() {
  for (int i = 0; i < device_count(); ++i) device_at(i).synchronize();
}

size_t rounded_pitch(size_t width) { return (width + kPitch - 1) / kPitch * kPitch; }

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return api(__func__, [&] { *need(pointer, "devPtr") = allocate(bytes); });
}
cudaError_t cudaMallocPitch(void** pointer, size_t* pitch, size_t width, size_t height) {
  return api(__func__, [&] {
    *need(pitch, "pitch") = rounded_pitch(width);
    *need(pointer, "devPtr") = allocate(*pitch * height);
  });
}
cudaError_t cudaMalloc3D(cudaPitchedPtr* pitched, cudaExtent extent) {
  return api(__func__, [&] {
    const size_t pitch = rounded_pitch(extent.width);
    *need(pitched, "pitchedDevPtr") = {allocate(pitch * extent.height * extent.depth), pitch, extent.width,
                                       extent.height};
  });
}
cudaError_t cudaMallocManaged(void** pointer, size_t bytes, unsigned flags) {
  return api(__func__, [&] {
    need(pointer, "devPtr");
    if (bytes == 0) refuse(cudaErrorInvalidValue, "0 bytes of managed memory");
    if (flags != cudaMemAttachGlobal && flags != cudaMemAttachHost)
      refuse(cudaErrorInvalidValue, "flags {}", flags);
    *pointer = allocate_host(bytes, MemoryKind::kManaged, flags);
  });
}
cudaError_t cudaFree(void* pointer) {
  return api(__func__, [&] {
    if (pointer == nullptr) return;
    forbid_unsafe();
    Device* device = device_of_window(pointer);
    if (device != nullptr) {
      device->synchronize();
      if (device->arena.free(pointer)) return;
    } else {
      synchronize_all();
      if (HostMemory::instance().free(pointer, MemoryKind::kManaged)) return;
    }
    refuse(cudaErrorInvalidValue, "{} is not the beginning of an allocation", describe(pointer));
  });
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return api(__func__, [&] {
    *need(pointer, "ptr") = allocate_host(bytes, MemoryKind::kPinned, cudaHostAllocDefault);
  });
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) {
  return api(__func__, [&] {
    constexpr unsigned kKnown = cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;
    if ((flags & ~kKnown) != 0) refuse(cudaErrorInvalidValue, "flags {}", flags);
    *need(pointer, "pHost") = allocate_host(bytes, MemoryKind::kPinned, flags);
  });
}
cudaError_t cudaFreeHost(void* pointer) {
  return api(__func__, [&] {
    if (pointer == nullptr) return;
    forbid_unsafe();
    synchronize_all();
    if (!HostMemory::instance().free(pointer, MemoryKind::kPinned))
      refuse(cudaErrorInvalidValue, "{} is not the beginning of pinned memory", describe(pointer));
  });
}
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned flags) {
  return api(__func__, [&] {
    forbid_unsafe();
    need(pointer, "ptr");
    if (bytes == 0) refuse(cudaErrorInvalidValue, "0 bytes");
    if (device_of_window(pointer) != nullptr)
      refuse(cudaErrorInvalidValue, "{} is device memory", describe(pointer));
    if (!HostMemory::instance().add(pointer, bytes, flags))
      refuse(cudaErrorHostMemoryAlreadyRegistered, "{} bytes from {}", bytes, describe(pointer));
  });
}
cudaError_t cudaHostUnregister(void* pointer) {
  return api(__func__, [&] {
    forbid_unsafe();
    synchronize_all();
    if (!HostMemory::instance().remove(need(pointer, "ptr")))
      refuse(cudaErrorHostMemoryNotRegistered, "{} is not registered", pointer);
  });
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags) {
  return api(__func__, [&] {
    if (flags != 0) refuse(cudaErrorInvalidValue, "flags {}", flags);
    if (!HostMemory::instance().find(need(host, "pHost")))
      refuse(cudaErrorInvalidValue, "{} is not pinned memory", host);
    *need(device, "pDevice") = host;
  });
}
cudaError_t cudaHostGetFlags(unsigned* flags, void* host) {
  return api(__func__, [&] {
    const auto block = HostMemory::instance().find(need(host, "pHost"));
    if (!block) refuse(cudaErrorInvalidValue, "{} is not pinned memory", host);
    *need(flags, "pFlags") = block->flags | cudaHostAllocMapped;
  });
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return api(__func__, [&] {
    const Arena& arena = current_device().arena;
    *need(total, "total") = arena.capacity();
    *need(free, "free") = arena.capacity() - arena.used();
  });
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return api(__func__, [&] {
    need(attributes, "attributes");
    std::memset(attributes, 0, sizeof *attributes);
    const Allocation allocation = GlobalMemory::instance().find(reinterpret_cast<uint64_t>(pointer));
    void* p = const_cast<void*>(pointer);
    if (allocation.end == 0) {
      attributes->type = cudaMemoryTypeUnregistered;
      attributes->device = cudaInvalidDeviceId;
      return;
    }
    const bool pinned = allocation.kind == MemoryKind::kPinned,
               managed = allocation.kind == MemoryKind::kManaged;
    attributes->type = pinned ? cudaMemoryTypeHost : managed ? cudaMemoryTypeManaged : cudaMemoryTypeDevice;
    attributes->device = std::max(allocation.device, 0);
    attributes->devicePointer = p;
    attributes->hostPointer = pinned || managed ? p : nullptr;
  });
}

// --- variables ---
cudaError_t cudaGetSymbolAddress(void** pointer, const void* symbol) {
  return api(__func__, [&] { *need(pointer, "devPtr") = place_of(symbol, current_device().index).address; });
}
cudaError_t cudaGetSymbolSize(size_t* bytes, const void* symbol) {
  return api(__func__, [&] { *need(bytes, "size") = place_of(symbol, current_device().index).bytes; });
}

// --- hints for managed memory: it is where it is ---
cudaError_t cudaMemPrefetchAsync(const void* pointer, size_t /*bytes*/, cudaMemLocation /*location*/,
                                 unsigned /*flags*/, cudaStream_t stream) {
  return api(__func__, [&] {
    need(pointer, "devPtr");
    submit(*stream_of(stream), std::make_shared<EmptyWork>());
  });
}
cudaError_t cudaMemAdvise(const void* pointer, size_t /*bytes*/, cudaMemoryAdvise /*advice*/,
                          cudaMemLocation /*location*/) {
  return api(__func__, [&] { need(pointer, "devPtr"); });
}
cudaError_t cudaStreamAttachMemAsync(cudaStream_t stream, void* pointer, size_t /*bytes*/,
                                     unsigned /*flags*/) {
  return api(__func__, [&] {
    need(pointer, "devPtr");
    submit(*stream_of(stream), std::make_shared<EmptyWork>());
  });
}

}  // extern "C"
#pragma GCC visibility pop
