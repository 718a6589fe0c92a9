// Copies and fills.
#include <cuda_runtime_api.h>

#include "runtime/api.h"
#include "runtime/capture.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/registry.h"

using namespace ptxsim::runtime;  // NOLINT: this file is C functions only

namespace {

// Up to so many bytes of pageable memory are taken along at the call; for more the call waits.
constexpr uint64_t kStagedBytes = 64 << 10;

// A copy that the caller waits for. Copies within the device need no waiting.
void copy_now(const std::shared_ptr<CopyWork>& work) {
  forbid_unsafe();
  const auto stream = stream_of(nullptr);
  forbid_while_capturing(*stream);
  const bool within = work->to_sort() == MemorySort::kDevice && work->from_sort() == MemorySort::kDevice;
  const Ticket ticket = stream->push(work);
  if (!within) ticket.wait();
}

void copy_later(const std::shared_ptr<CopyWork>& work, cudaStream_t handle) {
  const auto stream = stream_of(handle);
  const bool captures = is_capturing(*stream);
  const bool from_pageable = work->from_sort() == MemorySort::kPageable && !captures;
  const bool staged = from_pageable && work->bytes() <= kStagedBytes;
  if (staged) work->stage();
  const Ticket ticket = submit(*stream, work);
  if ((from_pageable && !staged) || work->to_sort() == MemorySort::kPageable) ticket.wait();
}

// Runs `make` for the copy and `go` with it, unless there is nothing to copy.
template <class Make, class Go>
cudaError_t copying(const char* name, uint64_t bytes, Make make, Go go) {
  return api_waiting(name, [&] {
    if (bytes != 0) go(make());
  });
}

std::shared_ptr<CopyWork> copy_2d(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                  size_t width, size_t height, cudaMemcpyKind kind) {
  cudaMemcpy3DParms p = {};
  p.dstPtr = {to, to_pitch, width, height};
  p.srcPtr = {const_cast<void*>(from), from_pitch, width, height};
  p.extent = {width, height, 1};
  p.kind = kind;
  if (to_pitch < width || from_pitch < width)
    refuse(cudaErrorInvalidPitchValue, "pitches {} and {} for rows of {} bytes", to_pitch, from_pitch, width);
  return copy_of(p);
}

std::shared_ptr<CopyWork> copy_symbol(const void* symbol, size_t offset, const void* from, void* to,
                                      size_t count, cudaMemcpyKind kind) {
  const VariablePlace place = place_of(symbol, current_device().index);
  if (offset > place.bytes || count > place.bytes - offset)
    refuse(cudaErrorInvalidValue, "{} bytes at offset {} of a variable of {} bytes", count, offset,
           place.bytes);
  if (to == nullptr) {
    if (kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDeviceToDevice && kind != cudaMemcpyDefault)
      refuse(cudaErrorInvalidMemcpyDirection, "direction {} to a device variable", static_cast<int>(kind));
    return copy_of(place.address + offset, from, count, kind);
  }
  if (kind != cudaMemcpyDeviceToHost && kind != cudaMemcpyDeviceToDevice && kind != cudaMemcpyDefault)
    refuse(cudaErrorInvalidMemcpyDirection, "direction {} from a device variable", static_cast<int>(kind));
  return copy_of(to, place.address + offset, count, kind);
}

cudaMemcpy3DParms between_devices(const cudaMemcpy3DPeerParms& p) {
  device_at(p.srcDevice);
  device_at(p.dstDevice);
  cudaMemcpy3DParms same = {};
  same.srcArray = p.srcArray;
  same.srcPos = p.srcPos;
  same.srcPtr = p.srcPtr;
  same.dstArray = p.dstArray;
  same.dstPos = p.dstPos;
  same.dstPtr = p.dstPtr;
  same.extent = p.extent;
  same.kind = cudaMemcpyDefault;
  return same;
}

uint64_t volume(const cudaExtent& e) { return uint64_t{e.width} * e.height * e.depth; }

void fill(const cudaMemsetParams& p, cudaStream_t handle) { submit(*stream_of(handle), fill_of(p)); }

cudaMemsetParams bytes_of(void* to, size_t pitch, int value, size_t width, size_t height) {
  cudaMemsetParams p = {};
  p.dst = to;
  p.pitch = pitch;
  p.value = static_cast<unsigned>(value & 0xff);
  p.elementSize = 1;
  p.width = width;
  p.height = height;
  return p;
}

void fill_3d(cudaPitchedPtr to, int value, cudaExtent extent, cudaStream_t stream) {
  for (size_t z = 0; z < extent.depth; ++z)
    fill(bytes_of(static_cast<std::byte*>(to.ptr) + z * to.pitch * to.ysize, to.pitch, value, extent.width,
                  extent.height),
         stream);
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// --- waiting ---
cudaError_t cudaMemcpy(void* to, const void* from, size_t count, cudaMemcpyKind kind) {
  return copying(
      __func__, count, [&] { return copy_of(to, from, count, kind); }, copy_now);
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                         size_t height, cudaMemcpyKind kind) {
  return copying(
      __func__, uint64_t{width} * height,
      [&] { return copy_2d(to, to_pitch, from, from_pitch, width, height, kind); }, copy_now);
}
cudaError_t cudaMemcpy3D(const cudaMemcpy3DParms* p) {
  return p == nullptr ? remember(cudaErrorInvalidValue)
                      : copying(
                            __func__, volume(p->extent), [&] { return copy_of(*p); }, copy_now);
}
cudaError_t cudaMemcpyPeer(void* to, int to_device, const void* from, int from_device, size_t count) {
  return copying(
      __func__, count,
      [&] {
        device_at(to_device);
        device_at(from_device);
        return copy_of(to, from, count, cudaMemcpyDefault);
      },
      copy_now);
}
cudaError_t cudaMemcpy3DPeer(const cudaMemcpy3DPeerParms* p) {
  return p == nullptr
             ? remember(cudaErrorInvalidValue)
             : copying(
                   __func__, volume(p->extent), [&] { return copy_of(between_devices(*p)); }, copy_now);
}
cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t count, size_t offset,
                               cudaMemcpyKind kind) {
  return copying(
      __func__, count, [&] { return copy_symbol(symbol, offset, from, nullptr, count, kind); }, copy_now);
}
cudaError_t cudaMemcpyFromSymbol(void* to, const void* symbol, size_t count, size_t offset,
                                 cudaMemcpyKind kind) {
  return copying(
      __func__, count, [&] { return copy_symbol(symbol, offset, nullptr, need(to, "dst"), count, kind); },
      copy_now);
}

// --- in a stream ---
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t count, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return copying(
      __func__, count, [&] { return copy_of(to, from, count, kind); },
      [&](auto w) { copy_later(w, stream); });
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return copying(
      __func__, uint64_t{width} * height,
      [&] { return copy_2d(to, to_pitch, from, from_pitch, width, height, kind); },
      [&](auto w) { copy_later(w, stream); });
}
cudaError_t cudaMemcpy3DAsync(const cudaMemcpy3DParms* p, cudaStream_t stream) {
  return p == nullptr ? remember(cudaErrorInvalidValue)
                      : copying(
                            __func__, volume(p->extent), [&] { return copy_of(*p); },
                            [&](auto w) { copy_later(w, stream); });
}
cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t count,
                                cudaStream_t stream) {
  return copying(
      __func__, count,
      [&] {
        device_at(to_device);
        device_at(from_device);
        return copy_of(to, from, count, cudaMemcpyDefault);
      },
      [&](auto w) { copy_later(w, stream); });
}
cudaError_t cudaMemcpy3DPeerAsync(const cudaMemcpy3DPeerParms* p, cudaStream_t stream) {
  return p == nullptr ? remember(cudaErrorInvalidValue)
                      : copying(
                            __func__, volume(p->extent), [&] { return copy_of(between_devices(*p)); },
                            [&](auto w) { copy_later(w, stream); });
}
cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* from, size_t count, size_t offset,
                                    cudaMemcpyKind kind, cudaStream_t stream) {
  return copying(
      __func__, count, [&] { return copy_symbol(symbol, offset, from, nullptr, count, kind); },
      [&](auto w) { copy_later(w, stream); });
}
cudaError_t cudaMemcpyFromSymbolAsync(void* to, const void* symbol, size_t count, size_t offset,
                                      cudaMemcpyKind kind, cudaStream_t stream) {
  return copying(
      __func__, count, [&] { return copy_symbol(symbol, offset, nullptr, need(to, "dst"), count, kind); },
      [&](auto w) { copy_later(w, stream); });
}
cudaError_t cudaMemcpyBatchAsync(void* const* to, const void* const* from, const size_t* bytes, size_t count,
                                 cudaMemcpyAttributes* /*attributes*/, size_t* /*indices*/,
                                 size_t /*attribute_count*/, cudaStream_t stream) {
  return api(__func__, [&] {
    for (size_t i = 0; i < count; ++i)
      if (bytes[i] != 0) copy_later(copy_of(to[i], from[i], bytes[i], cudaMemcpyDefault), stream);
  });
}

// --- fills: asynchronous for device memory, waiting or not ---
cudaError_t cudaMemset(void* to, int value, size_t count) {
  return api(__func__, [&] {
    if (count != 0) fill(bytes_of(to, count, value, count, 1), nullptr);
  });
}
cudaError_t cudaMemset2D(void* to, size_t pitch, int value, size_t width, size_t height) {
  return api(__func__, [&] {
    if (width != 0 && height != 0) fill(bytes_of(to, pitch, value, width, height), nullptr);
  });
}
cudaError_t cudaMemset3D(cudaPitchedPtr to, int value, cudaExtent extent) {
  return api(__func__, [&] {
    if (volume(extent) != 0) fill_3d(to, value, extent, nullptr);
  });
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t count, cudaStream_t stream) {
  return api(__func__, [&] {
    if (count != 0) fill(bytes_of(to, count, value, count, 1), stream);
  });
}
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
  return api(__func__, [&] {
    if (width != 0 && height != 0) fill(bytes_of(to, pitch, value, width, height), stream);
  });
}
cudaError_t cudaMemset3DAsync(cudaPitchedPtr to, int value, cudaExtent extent, cudaStream_t stream) {
  return api(__func__, [&] {
    if (volume(extent) != 0) fill_3d(to, value, extent, stream);
  });
}

}  // extern "C"
#pragma GCC visibility pop
