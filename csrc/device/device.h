// One interface to memory and queues of work; trivial for the CPU, CUDA behind it.
//
// On the CPU a stream runs its work at once, in order; an event is always complete; `copy` is memcpy.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/tensor.h"

namespace contender {

struct Stream;  // opaque, owned by the device
struct Event;   // opaque, owned by the device
struct Graph;   // opaque, owned by the device

// Calls come from the thread that made the device; alloc and free from any on the CPU.
class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;  // "CPU (AMD EPYC ...)", "NVIDIA H800"
  // The same for two ranks exactly when they share it (a GPU's UUID); empty where nobody asks.
  virtual std::string id() const { return ""; }
  virtual int64_t memory_bytes() const = 0;  // this rank's part of what can be used
  // 64-byte aligned; `what` is named in the out-of-memory message (exit 19): write the setting that sizes it
  // into it, "KV cache (rollout.kv_tokens)".
  virtual void* alloc(int64_t bytes, const char* what) = 0;
  virtual void free(void* p) = 0;
  // True where the host reads and writes what alloc returned, as on the CPU.
  virtual bool host_memory() const = 0;

  virtual Stream* compute_stream() = 0;
  // Other queues, one per name ("dispatch", "reduce"), made at the first call; on the CPU all are the same.
  virtual Stream* stream(const char* name) = 0;
  virtual void copy(Stream* s, void* dst, const void* src, int64_t bytes) = 0;  // within the device
  virtual void zero(Stream* s, void* dst, int64_t bytes) = 0;
  // Host to device in the stream's order; `src` may change as soon as the call returns.
  virtual void upload(Stream* s, void* dst, const void* src, int64_t bytes) = 0;
  // Device to host; returns when `dst` holds the bytes, and all earlier work of the stream is done.
  virtual void download(Stream* s, void* dst, const void* src, int64_t bytes) = 0;
  virtual void synchronize(Stream* s) = 0;
  // Times the host has waited for the device so far: downloads, synchronisations, and uploads that found the
  // staging memory full. 0 on the CPU.
  virtual int64_t host_waits() const = 0;

  // Order between streams: what is put into `waiter` from now on runs after what is in `first` now. The host
  // does not wait.
  virtual void order(Stream* first, Stream* waiter) = 0;
  // The same in two parts; an event belongs to the caller until `release`.
  virtual Event* record(Stream* s) = 0;
  virtual void wait(Stream* s, Event* e) = 0;
  virtual bool done(Event* e) = 0;
  virtual void release(Event* e) = 0;

  // A graph of the work that `work` puts into `s`, to be launched many times as one; nullptr where there are
  // none (then `work` was not called). `work` must neither wait nor upload.
  virtual Graph* capture(Stream* s, const std::function<void()>& work) = 0;
  virtual void launch(Stream* s, Graph* g) = 0;
  virtual void release(Graph* g) = 0;

  // The stream as the vendor's libraries know it (cudaStream_t); nullptr on the CPU.
  virtual void* handle(Stream* s) = 0;
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
