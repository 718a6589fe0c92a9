// Streams: queues of work that is done in order, each by a host thread of its own or by whoever waits for it.
#pragma once

#include <driver_types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/handles.h"

namespace ptxsim::runtime {

class Capture;
class Device;
class Stream;

// One thing that a stream or a graph does: a kernel, a copy, a host function, ...
class Work {
 public:
  virtual ~Work() = default;
  virtual cudaGraphNodeType type() const = 0;
  // Does it, in its turn. May throw Fault: the stream's device has then failed.
  virtual void run() const = 0;
  // Instead of run() on a device that has failed.
  virtual void skip(cudaError_t /*code*/) const {}
  // True where it must not run on a thread of the program that waits for the stream.
  virtual bool needs_worker() const { return false; }
};

// A place in a stream's order: done once everything up to it is.
struct Ticket {
  std::shared_ptr<Stream> stream;
  uint64_t number = 0;
  bool done() const;
  void wait() const;
};

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  // `flags`: cudaStreamNonBlocking or 0. `legacy`: the default stream that orders all blocking streams of its
  // device.
  static std::shared_ptr<Stream> create(Device& device, unsigned flags, int priority, bool legacy = false);

  // Appends work that begins when the tickets are done and, where the legacy default stream is involved, when
  // what was pushed before is.
  Ticket push(std::shared_ptr<const Work> work, std::vector<Ticket> waits = {});
  // The end of what has been pushed so far.
  Ticket last();
  void synchronize() { last().wait(); }
  bool idle();
  // No more work will come: the thread ends when the queue is empty.
  void close();

  Device& device() const { return device_; }
  unsigned flags() const { return flags_; }
  int priority() const { return priority_; }
  uint64_t id() const { return id_; }
  bool is_legacy() const { return legacy_; }
  bool is_blocking() const { return (flags_ & cudaStreamNonBlocking) == 0; }

  // The capture that this stream takes part in; null outside. Guarded by capture_mutex().
  std::shared_ptr<Capture> capture;
  cudaLaunchAttributeValue attributes[cudaLaunchAttributePriority + 3] = {};

 private:
  friend struct Ticket;
  struct Op {
    std::shared_ptr<const Work> work;
    std::vector<Ticket> waits;
  };

  Stream(Device& device, unsigned flags, int priority, bool legacy);
  bool done(uint64_t number) const { return completed_.load(std::memory_order_acquire) >= number; }
  void wait(uint64_t number);
  Ticket append(std::shared_ptr<const Work> work, std::vector<Ticket> waits);
  void run_front(std::unique_lock<std::mutex>& lock);
  void execute(const Op& op) noexcept;
  void dally(std::unique_lock<std::mutex>& lock);
  void serve();

  Device& device_;
  const unsigned flags_;
  const int priority_;
  const bool legacy_;
  const uint64_t id_;

  std::mutex mutex_;
  std::condition_variable work_, progress_;
  std::deque<Op> queue_;
  uint64_t pushed_ = 0;
  std::atomic<uint64_t> completed_{0};
  int waiting_ = 0;       // threads in wait()
  bool running_ = false;  // someone runs the op that was at the front
  bool served_ = false;   // there is a thread in serve()
  bool asleep_ = false;   // it waits for work
  bool closed_ = false;
};

HandleTable<cudaStream_t, Stream>& stream_handles();
// The stream that a handle means on this thread and its current device: null, cudaStreamLegacy and
// cudaStreamPerThread are default streams. Refuses what is none.
std::shared_ptr<Stream> stream_of(cudaStream_t handle);

}  // namespace ptxsim::runtime
