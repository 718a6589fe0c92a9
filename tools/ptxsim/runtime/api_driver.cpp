// Functions of the driver that programs ask the runtime for, by name.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "runtime/api.h"
#include "runtime/device.h"
#include "runtime/gpu_figures.h"
#include "runtime/thread_state.h"
#include "tensor_map.h"

using namespace ptxsim;           // NOLINT: helpers and C functions
using namespace ptxsim::runtime;  // NOLINT

namespace {

// CUresult and cudaError_t number the errors that both have alike.
CUresult result_of(cudaError_t code) { return static_cast<CUresult>(code); }

CUresult told(int result, const char* name, const std::string& why) {
  if (result != kCuSuccess) say(fmt::format("{}: {} (CUDA_ERROR_INVALID_VALUE)", name, why));
  return static_cast<CUresult>(result);
}

CUresult CUDAAPI encode_tiled_map(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                  const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                                  const cuuint32_t* steps, CUtensorMapInterleave interleave,
                                  CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                  CUtensorMapFloatOOBfill fill) {
  std::string why;
  return told(encode_tiled(map, type, rank, address, reinterpret_cast<const uint64_t*>(dims),
                           reinterpret_cast<const uint64_t*>(strides), box, steps, interleave, swizzle,
                           promotion, fill, &why),
              "cuTensorMapEncodeTiled", why);
}

CUresult CUDAAPI encode_im2col_map(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                   const cuuint64_t* dims, const cuuint64_t* strides, const int* lower,
                                   const int* upper, cuuint32_t channels, cuuint32_t pixels,
                                   const cuuint32_t* steps, CUtensorMapInterleave interleave,
                                   CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                   CUtensorMapFloatOOBfill fill) {
  std::string why;
  return told(encode_im2col(map, type, rank, address, reinterpret_cast<const uint64_t*>(dims),
                            reinterpret_cast<const uint64_t*>(strides), lower, upper, channels, pixels, steps,
                            interleave, swizzle, promotion, fill, &why),
              "cuTensorMapEncodeIm2col", why);
}

CUresult CUDAAPI replace_map_address(CUtensorMap* map, void* address) {
  std::string why;
  return told(replace_address(map, address, &why), "cuTensorMapReplaceAddress", why);
}

// Texts of the driver's own names are those of the runtime.
CUresult CUDAAPI get_error_string(CUresult code, const char** text) {
  *text = error_text(static_cast<int>(code));
  return CUDA_SUCCESS;
}
CUresult CUDAAPI get_error_name(CUresult code, const char** text) {
  *text = error_name(static_cast<int>(code));
  return CUDA_SUCCESS;
}
CUresult CUDAAPI driver_init(unsigned /*flags*/) { return CUDA_SUCCESS; }
CUresult CUDAAPI driver_version(int* version) { return result_of(cudaDriverGetVersion(version)); }
CUresult CUDAAPI device_count_of_driver(int* count) { return result_of(cudaGetDeviceCount(count)); }
CUresult CUDAAPI device_get(CUdevice* device, int ordinal) {
  return result_of(api(
      "cuDeviceGet", [&] { *need(device, "device") = device_at(ordinal).index; }, Needs::kNothing));
}
CUresult CUDAAPI device_of_context(CUdevice* device) { return result_of(cudaGetDevice(device)); }
// The attributes of both have the same numbers.
CUresult CUDAAPI device_attribute_of_driver(int* value, CUdevice_attribute attribute, CUdevice device) {
  return result_of(cudaDeviceGetAttribute(value, static_cast<cudaDeviceAttr>(attribute), device));
}
CUresult CUDAAPI address_range(CUdeviceptr* base, size_t* bytes, CUdeviceptr pointer) {
  return result_of(api("cuMemGetAddressRange", [&] {
    const Allocation a = GlobalMemory::instance().find(pointer);
    if (a.end == 0) refuse(cudaErrorInvalidValue, "{:#x} is no memory of a device", pointer);
    if (base != nullptr) *base = a.begin;
    if (bytes != nullptr) *bytes = a.end - a.begin;
  }));
}

struct EntryPoint {
  const char* name;
  void* function;
};

const EntryPoint* find_entry_point(const char* name) {
  static const EntryPoint kEntryPoints[] = {
      {"cuTensorMapEncodeTiled", reinterpret_cast<void*>(encode_tiled_map)},
      {"cuTensorMapEncodeIm2col", reinterpret_cast<void*>(encode_im2col_map)},
      {"cuTensorMapReplaceAddress", reinterpret_cast<void*>(replace_map_address)},
      {"cuGetErrorString", reinterpret_cast<void*>(get_error_string)},
      {"cuGetErrorName", reinterpret_cast<void*>(get_error_name)},
      {"cuInit", reinterpret_cast<void*>(driver_init)},
      {"cuDriverGetVersion", reinterpret_cast<void*>(driver_version)},
      {"cuDeviceGetCount", reinterpret_cast<void*>(device_count_of_driver)},
      {"cuDeviceGet", reinterpret_cast<void*>(device_get)},
      {"cuCtxGetDevice", reinterpret_cast<void*>(device_of_context)},
      {"cuDeviceGetAttribute", reinterpret_cast<void*>(device_attribute_of_driver)},
      {"cuMemGetAddressRange", reinterpret_cast<void*>(address_range)},
  };
  for (const EntryPoint& e : kEntryPoints)
    if (std::strcmp(e.name, name) == 0) return &e;
  return nullptr;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long /*flags*/,
                                             cudaDriverEntryPointQueryResult* result) {
  return api(
      "cudaGetDriverEntryPoint",
      [&] {
        constexpr unsigned kNewest = 13999;
        need(symbol, "symbol");
        *need(function, "funcPtr") = nullptr;
        const EntryPoint* found = find_entry_point(symbol);
        const bool usable = found != nullptr && version <= kNewest;
        if (result != nullptr)
          *result = usable             ? cudaDriverEntryPointSuccess
                    : found != nullptr ? cudaDriverEntryPointVersionNotSufficent
                                       : cudaDriverEntryPointSymbolNotFound;
        if (usable) {
          *function = found->function;
        } else {
          say(fmt::format("the driver function {} is not implemented", symbol));
          if (result == nullptr) throw ApiError(cudaErrorSymbolNotFound);
        }
      },
      Needs::kNothing);
}
cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long flags,
                                    cudaDriverEntryPointQueryResult* result) {
  return cudaGetDriverEntryPointByVersion(symbol, function, CUDART_VERSION, flags, result);
}

}  // extern "C"
#pragma GCC visibility pop
