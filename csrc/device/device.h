// One interface to memory and queues of work; trivial for the CPU, CUDA behind it later.
//
// On the CPU a stream runs its work at once, in order; an event is always complete; `copy` is memcpy.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/tensor.h"

namespace contender {

struct Stream;  // opaque, owned by the device
struct Event;   // opaque, owned by the device

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;      // "CPU (AMD EPYC ...)", "NVIDIA H800"
  virtual int64_t memory_bytes() const = 0;  // total memory usable by one rank
  // 64-byte aligned; `what` is named in the out-of-memory message (exit 19): write the setting that sizes it
  // into it, "KV cache (rollout.kv_tokens)".
  virtual void* alloc(int64_t bytes, const char* what) = 0;
  virtual void free(void* p) = 0;
  virtual Stream* compute_stream() = 0;
  virtual void copy(Stream* s, void* dst, const void* src, int64_t bytes) = 0;
  virtual void zero(Stream* s, void* dst, int64_t bytes) = 0;
  virtual void synchronize(Stream* s) = 0;
  virtual int64_t allocated_bytes() const = 0;  // now
  virtual int64_t peak_bytes() const = 0;       // highest so far
};

std::unique_ptr<Device> make_cpu_device();

// Owned device memory.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device* device, int64_t bytes, const char* what);
  Buffer(Buffer&& o) noexcept { swap(o); }
  Buffer& operator=(Buffer&& o) noexcept {
    swap(o);
    return *this;
  }
  ~Buffer();
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  float* f32() const { return static_cast<float*>(data_); }

 private:
  void swap(Buffer& o) {
    std::swap(device_, o.device_);
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
  }
  Device* device_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Activation arena: a bump allocator with marks. Allocation is a pointer increment; `release(mark)` frees
// everything allocated after the mark. Sized once, by the same functions the planner uses; overflow is exit
// 19 naming the setting.
class Arena {
 public:
  Arena() = default;
  Arena(Device* device, int64_t bytes, const char* what, const char* setting);
  Tensor tensor(DType dtype, int64_t rows, int64_t cols);
  Tensor f32(int64_t rows, int64_t cols) { return tensor(DType::kF32, rows, cols); }
  Tensor i32(int64_t rows, int64_t cols) { return tensor(DType::kI32, rows, cols); }
  void* bytes(int64_t n);
  int64_t mark() const { return used_; }
  void release(int64_t mark) { used_ = mark; }
  int64_t peak() const { return peak_; }
  int64_t capacity() const { return buffer_.bytes(); }

 private:
  Buffer buffer_;
  const char* what_ = "";
  const char* setting_ = "";
  int64_t used_ = 0;
  int64_t peak_ = 0;
};

// Releases everything allocated since its construction.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& a) : arena_(a), mark_(a.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  int64_t mark_;
};

}  // namespace contender
