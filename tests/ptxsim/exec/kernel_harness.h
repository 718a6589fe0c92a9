// A kernel given as PTX text, launched on memory of the test.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "memory/global.h"
#include "sim.h"

namespace ptxsim::testing {

// n values of T that kernels may touch, zero at first.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : n_(n), p_(static_cast<T*>(std::aligned_alloc(256, bytes()))) {
    for (size_t k = 0; k < n; ++k) p_[k] = T{};
    GlobalMemory::instance().add(address(), address() + n * sizeof(T), 0, MemoryKind::kDevice);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    GlobalMemory::instance().remove(address());
    std::free(p_);
  }
  T& operator[](size_t k) { return p_[k]; }
  T* data() { return p_; }
  size_t size() const { return n_; }
  uint64_t address() const { return reinterpret_cast<uint64_t>(p_); }

 private:
  size_t bytes() const { return (n_ * sizeof(T) + 255) / 256 * 256; }
  size_t n_;
  T* p_;
};

// Entry `k` with .u64 parameters p0, p1, ...; body without the braces. `tid` is in %t, the lane in %lane.
class Kernel {
 public:
  Kernel(int parameters, const std::string& body) {
    std::string text =
        ".version 9.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n.visible "
        ".entry k(";
    for (int p = 0; p < parameters; ++p)
      text += (p ? ", " : "") + std::string(".param .u64 p") + std::to_string(p);
    text +=
        ")\n{\n.reg .pred %p<16>;\n.reg .b32 %r<512>;\n.reg .f32 %f<256>;\n.reg .b64 %d<256>;\n.reg .b32 %t, "
        "%lane;\n"
        "mov.u32 %t, %tid.x;\nmov.u32 %lane, %laneid;\n";
    image_ = Image::load(Image::parse(text + body + "\nret;\n}\n"), 0);
  }
  void run(uint32_t threads, uint32_t shared_bytes, const std::vector<uint64_t>& parameters,
           uint32_t blocks = 1) {
    LaunchSpec spec;
    spec.program = &image_->kernel("k");
    spec.grid = {blocks, 1, 1};
    spec.block = {threads, 1, 1};
    spec.dynamic_shared = shared_bytes;
    spec.parameters = parameters.data();
    launch(spec);
  }

 private:
  std::shared_ptr<Image> image_;
};

}  // namespace ptxsim::testing
