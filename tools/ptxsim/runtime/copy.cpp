#include "runtime/copy.h"

#include <cstring>

#include "check/checker.h"
#include "config.h"
#include "fault.h"
#include "memory/global.h"

namespace ptxsim::runtime {
namespace {

uint64_t extent(const BoxPlace& place, const Box& box) {
  return (box.depth - 1) * place.slice + (box.height - 1) * place.pitch + box.width;
}

// Null where [address, address + bytes) is inside the allocation or in memory that CUDA knows nothing of.
std::string objection(const Allocation& allocation, uint64_t address, uint64_t bytes) {
  if (allocation.end != 0) {
    if (bytes <= allocation.end - address) return {};
    return fmt::format("{} bytes from {}", bytes, GlobalMemory::instance().describe(address));
  }
  if (device_of_window(reinterpret_cast<const void*>(address)) == nullptr) return {};
  return fmt::format("{:#x} is {}", address, GlobalMemory::instance().describe(address));
}

// Calls f(to row, from row) for every row of the box.
template <class F>
void each_row(const BoxPlace& to, const BoxPlace& from, const Box& box, F f) {
  const bool flat = box.depth == 1 && (box.height == 1 || (to.pitch == box.width && from.pitch == box.width));
  if (flat) return f(to.base, from.base, box.width * box.height);
  for (uint64_t z = 0; z < box.depth; ++z)
    for (uint64_t y = 0; y < box.height; ++y)
      f(to.base + z * to.slice + y * to.pitch, from.base + z * from.slice + y * from.pitch, box.width);
}

// Memory may have been freed since the call: by then the GPU would fault.
void check_still_there(const BoxPlace& place, const Box& box, const char* what) {
  const auto address = reinterpret_cast<uint64_t>(place.base);
  const std::string bad = objection(GlobalMemory::instance().find(address), address, extent(place, box));
  if (!bad.empty()) throw Fault(ErrorCode::kIllegalAddress, fmt::format("{}: {}", what, bad));
}

void tell_written(const BoxPlace& to, const Box& box) {
  if (!config().checked) return;
  each_row(to, to, box, [](std::byte* row, std::byte*, uint64_t bytes) {
    check_host_write(reinterpret_cast<uint64_t>(row), bytes);
  });
}

}  // namespace

MemorySort sort_of(const BoxPlace& place, const Box& box, const char* name) {
  if (place.base == nullptr) refuse(cudaErrorInvalidValue, "the {} is null", name);
  const auto address = reinterpret_cast<uint64_t>(place.base);
  const Allocation allocation = GlobalMemory::instance().find(address);
  const std::string bad = objection(allocation, address, extent(place, box));
  if (!bad.empty()) refuse(cudaErrorInvalidValue, "the {}: {}", name, bad);
  if (allocation.end == 0) return MemorySort::kPageable;
  if (allocation.kind == MemoryKind::kPinned) return MemorySort::kPinned;
  return allocation.kind == MemoryKind::kManaged ? MemorySort::kManaged : MemorySort::kDevice;
}

CopyWork::CopyWork(BoxPlace to, BoxPlace from, Box box, cudaMemcpyKind kind)
    : to_(to), from_(from), box_(box), kind_(kind) {
  to_sort_ = sort_of(to, box, "destination");
  from_sort_ = sort_of(from, box, "source");
  const auto on_host = [](MemorySort s) { return s != MemorySort::kDevice; };
  const auto on_device = [](MemorySort s) { return s != MemorySort::kPageable; };
  const bool to_host = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost;
  const bool from_host = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost;
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
    refuse(cudaErrorInvalidMemcpyDirection, "copy direction {}", static_cast<int>(kind));
  if (kind == cudaMemcpyDefault) return;
  if (to_host ? !on_host(to_sort_) : !on_device(to_sort_))
    refuse(cudaErrorInvalidValue, "the destination of a copy to the {} is {} memory",
           to_host ? "host" : "device", to_host ? "device" : "pageable host");
  if (from_host ? !on_host(from_sort_) : !on_device(from_sort_))
    refuse(cudaErrorInvalidValue, "the source of a copy from the {} is {} memory",
           from_host ? "host" : "device", from_host ? "device" : "pageable host");
}

void CopyWork::stage() {
  staged_.resize(bytes());
  const BoxPlace packed{staged_.data(), box_.width, box_.width * box_.height};
  each_row(packed, from_, box_, [](std::byte* to, std::byte* from, uint64_t n) { std::memcpy(to, from, n); });
  from_ = packed;
}

void CopyWork::run() const {
  check_still_there(to_, box_, "the destination of a copy");
  check_still_there(from_, box_, "the source of a copy");
  each_row(to_, from_, box_, [](std::byte* to, std::byte* from, uint64_t n) { std::memmove(to, from, n); });
  tell_written(to_, box_);
}

cudaMemcpy3DParms CopyWork::parameters() const {
  cudaMemcpy3DParms p = {};
  const auto pitched = [&](const BoxPlace& place) {
    const uint64_t rows = place.pitch != 0 && box_.depth > 1 ? place.slice / place.pitch : box_.height;
    return cudaPitchedPtr{place.base, box_.height > 1 ? place.pitch : box_.width, box_.width, rows};
  };
  p.srcPtr = pitched(from_);
  p.dstPtr = pitched(to_);
  p.extent = {box_.width, box_.height, box_.depth};
  p.kind = kind_;
  return p;
}

FillWork::FillWork(BoxPlace to, Box box, uint32_t value, uint32_t element_bytes)
    : to_(to), box_(box), value_(value), element_bytes_(element_bytes) {
  if (element_bytes != 1 && element_bytes != 2 && element_bytes != 4)
    refuse(cudaErrorInvalidValue, "elements of {} bytes, allowed are 1, 2 and 4", element_bytes);
  if (box.width % element_bytes != 0 || reinterpret_cast<uint64_t>(to.base) % element_bytes != 0)
    refuse(cudaErrorInvalidValue, "the place or its width is no multiple of the element's {} bytes",
           element_bytes);
  if (sort_of(to, box, "destination") == MemorySort::kPageable)
    refuse(cudaErrorInvalidValue, "the destination {} is pageable host memory", fmt::ptr(to.base));
}

void FillWork::run() const {
  check_still_there(to_, box_, "the destination of a memset");
  each_row(to_, to_, box_, [&](std::byte* row, std::byte*, uint64_t bytes) {
    if (element_bytes_ == 1) {
      std::memset(row, static_cast<int>(value_ & 0xff), bytes);
    } else {
      for (uint64_t at = 0; at < bytes; at += element_bytes_) std::memcpy(row + at, &value_, element_bytes_);
    }
  });
  tell_written(to_, box_);
}

cudaMemsetParams FillWork::parameters() const {
  cudaMemsetParams p = {};
  p.dst = to_.base;
  p.pitch = to_.pitch;
  p.value = value_;
  p.elementSize = element_bytes_;
  p.width = box_.width / element_bytes_;
  p.height = box_.height;
  return p;
}

std::shared_ptr<CopyWork> copy_of(void* to, const void* from, uint64_t bytes, cudaMemcpyKind kind) {
  auto* source = static_cast<std::byte*>(const_cast<void*>(from));
  return std::make_shared<CopyWork>(BoxPlace{static_cast<std::byte*>(to), bytes, bytes},
                                    BoxPlace{source, bytes, bytes}, Box{bytes, 1, 1}, kind);
}

std::shared_ptr<CopyWork> copy_of(const cudaMemcpy3DParms& p) {
  if (p.srcArray != nullptr || p.dstArray != nullptr) refuse(cudaErrorNotSupported, "copies of arrays");
  const Box box{p.extent.width, p.extent.height, p.extent.depth};
  const auto place = [&](const cudaPitchedPtr& pitched, const cudaPos& at, const char* name) {
    const uint64_t rows = pitched.ysize;
    const bool needs_pitch = box.height > 1 || box.depth > 1;
    if (needs_pitch && pitched.pitch < at.x + box.width)
      refuse(cudaErrorInvalidPitchValue, "the pitch {} of the {} is less than the width {}", pitched.pitch,
             name, at.x + box.width);
    if (box.depth > 1 && rows < at.y + box.height)
      refuse(cudaErrorInvalidValue, "the {} has {} rows per plane, the copy {}", name, rows,
             at.y + box.height);
    auto* base = static_cast<std::byte*>(pitched.ptr);
    if (base != nullptr) base += at.z * pitched.pitch * rows + at.y * pitched.pitch + at.x;
    return BoxPlace{base, pitched.pitch, pitched.pitch * rows};
  };
  return std::make_shared<CopyWork>(place(p.dstPtr, p.dstPos, "destination"),
                                    place(p.srcPtr, p.srcPos, "source"), box, p.kind);
}

std::shared_ptr<FillWork> fill_of(const cudaMemsetParams& p) {
  const uint64_t width = p.width * p.elementSize;
  if (p.height > 1 && p.pitch < width)
    refuse(cudaErrorInvalidPitchValue, "the pitch {} is less than the width {}", p.pitch, width);
  return std::make_shared<FillWork>(BoxPlace{static_cast<std::byte*>(p.dst), p.pitch, 0},
                                    Box{width, p.height, 1}, p.value, p.elementSize);
}

}  // namespace ptxsim::runtime
