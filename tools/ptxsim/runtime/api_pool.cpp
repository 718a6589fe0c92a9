// Memory in the order of a stream, and pools. Addresses are given at once and never while something else has
// them; what a pool keeps back from the system is not simulated.
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <map>

#include "fault.h"
#include "memory/global.h"
#include "runtime/api.h"
#include "runtime/capture.h"
#include "runtime/device.h"

using namespace ptxsim;           // NOLINT: helpers and C functions
using namespace ptxsim::runtime;  // NOLINT

namespace {

struct Pool {
  explicit Pool(int device) : device(device) {}
  const int device;
  std::atomic<uint64_t> used{0}, most_used{0};
  std::array<std::atomic<uint64_t>, 8> attributes = {};  // the settable ones, by cudaMemPoolAttr

  void count(int64_t bytes) {
    const uint64_t now = used.fetch_add(static_cast<uint64_t>(bytes)) + static_cast<uint64_t>(bytes);
    uint64_t most = most_used.load();
    while (now > most && !most_used.compare_exchange_weak(most, now)) {
    }
  }
};

HandleTable<cudaMemPool_t, Pool>& pools() {
  static auto* table = new HandleTable<cudaMemPool_t, Pool>("a memory pool");
  return *table;
}

struct PoolState {
  std::mutex mutex;
  std::map<int, cudaMemPool_t> defaults, current;       // by device
  std::map<const void*, std::shared_ptr<Pool>> owners;  // of live allocations
};

PoolState& state() {
  static auto* s = new PoolState;
  return *s;
}

cudaMemPool_t default_pool(int device) {
  PoolState& s = state();
  std::lock_guard lock(s.mutex);
  auto& handle = s.defaults[device_at(device).index];
  if (handle == nullptr) handle = pools().add(std::make_shared<Pool>(device));
  return handle;
}

cudaMemPool_t current_pool(int device) {
  const cudaMemPool_t otherwise = default_pool(device);
  PoolState& s = state();
  std::lock_guard lock(s.mutex);
  const auto it = s.current.find(device);
  return it == s.current.end() ? otherwise : it->second;
}

int device_of(const cudaMemLocation* location) {
  if (need(location, "location")->type != cudaMemLocationTypeDevice)
    refuse(cudaErrorNotSupported, "pools of host memory");
  return device_at(location->id).index;
}

void forget_owner(void* pointer, uint64_t bytes) {
  PoolState& s = state();
  std::lock_guard lock(s.mutex);
  const auto it = s.owners.find(pointer);
  if (it == s.owners.end()) return;
  it->second->count(-static_cast<int64_t>(bytes));
  s.owners.erase(it);
}

class FreeInOrder : public Work {
 public:
  explicit FreeInOrder(void* pointer) : pointer_(pointer) {}
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeMemFree; }
  void run() const override {
    const Allocation a = GlobalMemory::instance().find(reinterpret_cast<uint64_t>(pointer_));
    Device* device = device_of_window(pointer_);
    if (device == nullptr || !device->arena.free(pointer_))
      throw Fault(ErrorCode::kInvalidValue,
                  fmt::format("cudaFreeAsync of {}, which has been freed", pointer_));
    forget_owner(pointer_, a.end - a.begin);
  }

 private:
  void* pointer_;
};

void* allocate(size_t bytes, cudaMemPool_t handle, Stream& stream) {
  if (bytes == 0) return nullptr;
  const auto pool = pools().get(handle);
  if (is_capturing(stream)) {
    auto work = std::make_shared<AllocWork>(stream.device(), bytes);
    submit(stream, work);
    return work->pointer();
  }
  Device& device = device_at(pool->device);
  void* pointer = device.arena.allocate(bytes, true);
  // What is still to be freed may make room.
  if (pointer == nullptr) {
    device.synchronize();
    pointer = device.arena.allocate(bytes, true);
  }
  if (pointer == nullptr)
    refuse(cudaErrorMemoryAllocation, "{} bytes on device {}; {} of {} are in use", bytes, device.index,
           device.arena.used(), device.arena.capacity());
  pool->count(static_cast<int64_t>(bytes));
  PoolState& s = state();
  std::lock_guard lock(s.mutex);
  s.owners[pointer] = pool;
  return pointer;
}

std::atomic<uint64_t>* settable(Pool& pool, cudaMemPoolAttr attribute) {
  const bool known =
      attribute >= cudaMemPoolReuseFollowEventDependencies && attribute <= cudaMemPoolAttrReleaseThreshold;
  return known ? &pool.attributes[attribute] : nullptr;
}

bool is_int(cudaMemPoolAttr attribute) { return attribute < cudaMemPoolAttrReleaseThreshold; }

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t handle) {
  return api(__func__, [&] {
    const auto stream = stream_of(handle);
    *need(pointer, "devPtr") = allocate(bytes, current_pool(stream->device().index), *stream);
  });
}
cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  return api(__func__, [&] { *need(pointer, "ptr") = allocate(bytes, pool, *stream_of(stream)); });
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t handle) {
  return api(__func__, [&] {
    if (pointer == nullptr) return;
    const auto stream = stream_of(handle);
    if (is_capturing(*stream)) {
      submit(*stream, std::make_shared<FreeWork>(pointer));
      return;
    }
    Device* device = device_of_window(pointer);
    if (device == nullptr || !device->arena.is_stream_ordered(pointer))
      refuse(cudaErrorInvalidValue, "{} is not the beginning of memory of cudaMallocAsync ({})", pointer,
             GlobalMemory::instance().describe(reinterpret_cast<uint64_t>(pointer)));
    submit(*stream, std::make_shared<FreeInOrder>(pointer));
  });
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  return api(__func__, [&] { *need(pool, "memPool") = default_pool(device); });
}
cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* pool, int device) {
  return api(__func__, [&] { *need(pool, "memPool") = current_pool(device); });
}
cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t pool) {
  return api(__func__, [&] {
    device_at(device);
    if (pools().get(pool)->device != device) refuse(cudaErrorInvalidValue, "the pool is of another device");
    std::lock_guard lock(state().mutex);
    state().current[device] = pool;
  });
}
cudaError_t cudaMemGetDefaultMemPool(cudaMemPool_t* pool, cudaMemLocation* location,
                                     cudaMemAllocationType /*type*/) {
  return api(__func__, [&] { *need(pool, "memPool") = default_pool(device_of(location)); });
}
cudaError_t cudaMemGetMemPool(cudaMemPool_t* pool, cudaMemLocation* location,
                              cudaMemAllocationType /*type*/) {
  return api(__func__, [&] { *need(pool, "memPool") = current_pool(device_of(location)); });
}
cudaError_t cudaMemSetMemPool(cudaMemLocation* location, cudaMemAllocationType /*type*/, cudaMemPool_t pool) {
  return location == nullptr ? remember(cudaErrorInvalidValue) : cudaDeviceSetMemPool(location->id, pool);
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  return api(__func__, [&] {
    *need(pool, "memPool") =
        pools().add(std::make_shared<Pool>(device_of(&need(properties, "poolProps")->location)));
  });
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  return api(__func__, [&] {
    const int device = pools().get(pool)->device;
    if (default_pool(device) == pool) refuse(cudaErrorInvalidValue, "the default pool cannot be destroyed");
    {
      std::lock_guard lock(state().mutex);
      std::erase_if(state().current, [&](const auto& entry) { return entry.second == pool; });
    }
    pools().remove(pool);
  });
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t /*keep*/) {
  return api(__func__, [&] { pools().get(pool); });
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute, void* value) {
  return api(__func__, [&] {
    const auto pool = pools().get(handle);
    need(value, "value");
    if (auto* place = settable(*pool, attribute)) {
      *place = is_int(attribute) ? static_cast<uint64_t>(*static_cast<int*>(value))
                                 : *static_cast<uint64_t*>(value);
    } else if (attribute == cudaMemPoolAttrUsedMemHigh || attribute == cudaMemPoolAttrReservedMemHigh) {
      if (*static_cast<uint64_t*>(value) != 0)
        refuse(cudaErrorInvalidValue, "a high-water mark can only be set to 0");
      pool->most_used = pool->used.load();
    } else {
      refuse(cudaErrorInvalidValue, "pool attribute {}", static_cast<int>(attribute));
    }
  });
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute, void* value) {
  return api(__func__, [&] {
    const auto pool = pools().get(handle);
    need(value, "value");
    const bool high = attribute == cudaMemPoolAttrUsedMemHigh || attribute == cudaMemPoolAttrReservedMemHigh;
    if (const auto* place = settable(*pool, attribute)) {
      if (is_int(attribute))
        *static_cast<int*>(value) = static_cast<int>(place->load());
      else
        *static_cast<uint64_t*>(value) = place->load();
    } else if (high || attribute == cudaMemPoolAttrUsedMemCurrent ||
               attribute == cudaMemPoolAttrReservedMemCurrent) {
      *static_cast<uint64_t*>(value) = high ? pool->most_used : pool->used;
    } else {
      refuse(cudaErrorInvalidValue, "pool attribute {}", static_cast<int>(attribute));
    }
  });
}
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const cudaMemAccessDesc* list, size_t count) {
  return api(__func__, [&] {
    const int owner = pools().get(pool)->device;
    for (size_t i = 0; i < count; ++i) {
      const int device = device_of(&need(list, "descList")[i].location);
      if (device != owner)
        GlobalMemory::instance().set_peer_access(device, owner,
                                                 list[i].flags == cudaMemAccessFlagsProtReadWrite);
    }
  });
}
cudaError_t cudaMemPoolGetAccess(cudaMemAccessFlags* flags, cudaMemPool_t pool, cudaMemLocation* location) {
  return api(__func__, [&] {
    const Allocation of_owner{0, 1, pools().get(pool)->device, MemoryKind::kDevice, 0};
    *need(flags, "flags") = GlobalMemory::instance().accessible(device_of(location), of_owner)
                                ? cudaMemAccessFlagsProtReadWrite
                                : cudaMemAccessFlagsProtNone;
  });
}

}  // extern "C"
#pragma GCC visibility pop
