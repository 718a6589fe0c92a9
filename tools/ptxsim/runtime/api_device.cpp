// Devices, errors, versions.
#include <cuda_profiler_api.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "config.h"
#include "memory/global.h"
#include "runtime/api.h"
#include "runtime/capture.h"
#include "runtime/device.h"
#include "runtime/gpu_figures.h"
#include "runtime/thread_state.h"

using namespace ptxsim;           // NOLINT: this file is C functions only
using namespace ptxsim::runtime;  // NOLINT

namespace {

constexpr int kVersion = 13000;

bool stays(cudaError_t code) {
  const ThreadState& thread = thread_state();
  return code >= cudaErrorIllegalAddress && code == current_device().failure() &&
         thread.last_epoch == current_device().epoch();
}

void check_peers(int device, int peer) {
  device_at(device);
  device_at(peer);
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// --- errors ---
cudaError_t cudaGetLastError() {
  ThreadState& thread = thread_state();
  const cudaError_t code = thread.last;
  if (!stays(code)) thread.last = cudaSuccess;
  return code;
}
cudaError_t cudaPeekAtLastError() { return thread_state().last; }
const char* cudaGetErrorName(cudaError_t code) { return error_name(code); }
const char* cudaGetErrorString(cudaError_t code) { return error_text(code); }

// --- versions, profiler ---
cudaError_t cudaDriverGetVersion(int* version) {
  return api(
      __func__, [&] { *need(version, "version") = config().driver; }, Needs::kNothing);
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  return api(
      __func__, [&] { *need(version, "version") = kVersion; }, Needs::kNothing);
}
cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }

// --- the current device ---
cudaError_t cudaGetDeviceCount(int* count) {
  return api(
      __func__,
      [&] {
        if (config().driver < kVersion)
          refuse(cudaErrorInsufficientDriver, "the driver has version {}, the runtime {}", config().driver,
                 kVersion);
        *need(count, "count") = device_count();
      },
      Needs::kNothing);
}
cudaError_t cudaGetDevice(int* device) {
  return api(
      __func__, [&] { *need(device, "device") = thread_state().device; }, Needs::kNothing);
}
cudaError_t cudaSetDevice(int device) {
  return api(
      __func__, [&] { thread_state().device = device_at(device).index; }, Needs::kNothing);
}
cudaError_t cudaInitDevice(int device, unsigned /*device_flags*/, unsigned /*flags*/) {
  return api(__func__, [&] { device_at(device); });
}
cudaError_t cudaSetValidDevices(int* devices, int count) {
  return api(__func__, [&] {
    for (int i = 0; i < count; ++i) device_at(need(devices, "device_arr")[i]);
  });
}
cudaError_t cudaChooseDevice(int* device, const cudaDeviceProp* properties) {
  return api(__func__, [&] {
    need(properties, "prop");
    *need(device, "device") = 0;
  });
}
cudaError_t cudaSetDeviceFlags(unsigned flags) {
  return api(__func__, [&] { current_device().flags = flags; });
}
cudaError_t cudaGetDeviceFlags(unsigned* flags) {
  return api(__func__, [&] { *need(flags, "flags") = current_device().flags | cudaDeviceMapHost; });
}
cudaError_t cudaDeviceSynchronize() {
  return api_waiting(__func__, [] {
    forbid_unsafe();
    current_device().synchronize();
  });
}
cudaError_t cudaDeviceReset() {
  return api(
      __func__,
      [&] {
        current_device().reset();
        thread_state().streams.erase(thread_state().device);
        thread_state().last = cudaSuccess;
      },
      Needs::kNothing);
}

// --- what it is ---
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return api(
      __func__, [&] { fill_properties(*need(properties, "prop"), device_at(device).index); },
      Needs::kNothing);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return api(
      __func__, [&] { *need(value, "value") = device_attribute(attribute, device_at(device).index); },
      Needs::kNothing);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return api(__func__, [&] {
    constexpr int kGreatest = -5;
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = kGreatest;
  });
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
  return api(__func__, [&] {
    cudaDeviceProp p;
    fill_properties(p, device_at(device).index);
    const std::string text = fmt::format("{:04X}:{:02X}:{:02X}.0", p.pciDomainID, p.pciBusID, p.pciDeviceID);
    need(id, "pciBusId");
    if (length <= static_cast<int>(text.size()))
      refuse(cudaErrorInvalidValue, "{} bytes for a PCI bus id", length);
    std::memcpy(id, text.c_str(), text.size() + 1);
  });
}
cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* id) {
  return api(__func__, [&] {
    need(device, "device");
    unsigned domain = 0, bus = 0, number = 0;
    const int fields = std::sscanf(need(id, "pciBusId"), "%x:%x:%x", &domain, &bus, &number);
    for (int i = 0; i < device_count(); ++i) {
      cudaDeviceProp p;
      fill_properties(p, i);
      if (fields == 3 && domain == static_cast<unsigned>(p.pciDomainID) &&
          bus == static_cast<unsigned>(p.pciBusID)) {
        *device = i;
        return;
      }
    }
    refuse(cudaErrorInvalidDevice, "no device at {}", id);
  });
}

// --- limits and preferences ---
cudaError_t cudaDeviceSetLimit(cudaLimit limit, size_t value) {
  return api(__func__, [&] {
    if (limit < cudaLimitStackSize || limit > cudaLimitPersistingL2CacheSize)
      refuse(cudaErrorUnsupportedLimit, "limit {}", static_cast<int>(limit));
    current_device().limits[limit] = value;
  });
}
cudaError_t cudaDeviceGetLimit(size_t* value, cudaLimit limit) {
  return api(__func__, [&] {
    if (limit < cudaLimitStackSize || limit > cudaLimitPersistingL2CacheSize)
      refuse(cudaErrorUnsupportedLimit, "limit {}", static_cast<int>(limit));
    *need(value, "pValue") = current_device().limits[limit];
  });
}
cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache /*config*/) {
  return api(__func__, [] {});
}
cudaError_t cudaDeviceGetCacheConfig(cudaFuncCache* config) {
  return api(__func__, [&] { *need(config, "pCacheConfig") = cudaFuncCachePreferNone; });
}
cudaError_t cudaDeviceSetSharedMemConfig(cudaSharedMemConfig /*config*/) {
  return api(__func__, [] {});
}
cudaError_t cudaDeviceGetSharedMemConfig(cudaSharedMemConfig* config) {
  return api(__func__, [&] { *need(config, "pConfig") = cudaSharedMemBankSizeFourByte; });
}
cudaError_t cudaCtxResetPersistingL2Cache() {
  return api(__func__, [] {});
}

// --- peers ---
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  return api(__func__, [&] {
    check_peers(device, peer);
    *need(can, "canAccessPeer") = device != peer ? 1 : 0;
  });
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  return api(__func__, [&] {
    Device& device = current_device();
    check_peers(device.index, peer);
    if (flags != 0) refuse(cudaErrorInvalidValue, "flags {}", flags);
    if (peer == device.index) refuse(cudaErrorInvalidDevice, "device {} is no peer of itself", peer);
    const uint64_t bit = uint64_t{1} << peer;
    if ((device.peers.fetch_or(bit) & bit) != 0)
      refuse(cudaErrorPeerAccessAlreadyEnabled, "device {} has access to device {} already", device.index,
             peer);
    GlobalMemory::instance().set_peer_access(device.index, peer, true);
  });
}
cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  return api(__func__, [&] {
    Device& device = current_device();
    check_peers(device.index, peer);
    const uint64_t bit = uint64_t{1} << peer;
    if ((device.peers.fetch_and(~bit) & bit) == 0)
      refuse(cudaErrorPeerAccessNotEnabled, "device {} has no access to device {}", device.index, peer);
    GlobalMemory::instance().set_peer_access(device.index, peer, false);
  });
}
cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr attribute, int device, int peer) {
  return api(__func__, [&] {
    check_peers(device, peer);
    if (device == peer) refuse(cudaErrorInvalidDevice, "device {} is no peer of itself", peer);
    *need(value, "value") = attribute == cudaDevP2PAttrPerformanceRank ? 0 : 1;
  });
}

}  // extern "C"
#pragma GCC visibility pop
