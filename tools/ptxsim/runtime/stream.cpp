#include "runtime/stream.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "config.h"
#include "fault.h"
#include "runtime/device.h"
#include "runtime/thread_state.h"

namespace ptxsim::runtime {
namespace {

uint64_t next_stream_id() {
  static std::atomic<uint64_t> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

// A number that depends on the seed and on nothing else that two runs do differently.
uint64_t scramble(uint64_t a, uint64_t b, uint64_t c) {
  uint64_t x = a * 0x9e3779b97f4a7c15u + b * 0xbf58476d1ce4e5b9u + c;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

bool Ticket::done() const { return stream == nullptr || stream->done(number); }
void Ticket::wait() const {
  if (!done()) stream->wait(number);
}

Stream::Stream(Device& device, unsigned flags, int priority, bool legacy)
    : device_(device), flags_(flags), priority_(priority), legacy_(legacy), id_(next_stream_id()) {}

std::shared_ptr<Stream> Stream::create(Device& device, unsigned flags, int priority, bool legacy) {
  std::shared_ptr<Stream> stream(new Stream(device, flags, priority, legacy));
  if (!legacy) {
    std::lock_guard lock(device.order_mutex);
    device.streams.push_back(stream);
  }
  return stream;
}

Ticket Stream::push(std::shared_ptr<const Work> work, std::vector<Ticket> waits) {
  if (!is_blocking()) return append(std::move(work), std::move(waits));
  // One order for all streams that wait for each other: every wait points to something pushed before.
  const auto legacy = device_.legacy_stream();
  std::lock_guard lock(device_.order_mutex);
  if (legacy_) {
    for (const auto& other : device_.streams)
      if (other->is_blocking() && !other->idle()) waits.push_back(other->last());
  } else if (!legacy->idle()) {
    waits.push_back(legacy->last());
  }
  return append(std::move(work), std::move(waits));
}

Ticket Stream::append(std::shared_ptr<const Work> work, std::vector<Ticket> waits) {
  std::erase_if(waits, [](const Ticket& t) { return t.done(); });
  std::unique_lock lock(mutex_);
  queue_.push_back({std::move(work), std::move(waits)});
  const Ticket ticket{shared_from_this(), ++pushed_};
  if (!served_) {
    served_ = true;
    std::thread([self = shared_from_this()] { self->serve(); }).detach();
  } else if (asleep_) {
    lock.unlock();
    work_.notify_one();
  }
  return ticket;
}

Ticket Stream::last() {
  std::lock_guard lock(mutex_);
  return {shared_from_this(), pushed_};
}

bool Stream::idle() {
  std::lock_guard lock(mutex_);
  return completed_.load(std::memory_order_relaxed) == pushed_;
}

void Stream::close() {
  std::unique_lock lock(mutex_);
  closed_ = true;
  const bool ended = !served_;
  lock.unlock();
  work_.notify_one();
  if (ended) device_.forget(this);
}

// Takes the front of the queue and does it without the lock. Nobody else may be doing so.
void Stream::run_front(std::unique_lock<std::mutex>& lock) {
  running_ = true;
  {
    Op op = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    for (const Ticket& ticket : op.waits) ticket.wait();
    execute(op);
  }
  lock.lock();
  running_ = false;
  completed_.fetch_add(1, std::memory_order_release);
  if (waiting_ > 0) progress_.notify_all();
}

void Stream::execute(const Op& op) noexcept {
  if (op.work == nullptr) return;
  if (const cudaError_t failure = device_.failure(); failure != cudaSuccess) return op.work->skip(failure);
  try {
    op.work->run();
  } catch (const Fault& fault) {
    device_.fail(static_cast<cudaError_t>(fault.code), fault.what());
  } catch (const ApiError& error) {
    device_.fail(error.code, error.why);
  } catch (const std::bad_alloc&) {
    device_.fail(cudaErrorLaunchFailure, "the host has no memory left for the simulation");
  } catch (const std::exception& error) {
    device_.fail(cudaErrorLaunchFailure, error.what());
  }
}

void Stream::wait(uint64_t number) {
  std::unique_lock lock(mutex_);
  ++waiting_;
  while (!done(number)) {
    const bool help = !running_ && !queue_.empty() &&
                      (queue_.front().work == nullptr || !queue_.front().work->needs_worker());
    if (help) {
      run_front(lock);
      // The worker may have gone to sleep while this thread held the turn.
      if (!queue_.empty() && asleep_) work_.notify_one();
    } else {
      if (asleep_ && !running_) work_.notify_one();
      progress_.wait(lock);
    }
  }
  --waiting_;
}

// Late mode: work that nobody waits for begins a little later than it could, so that a missing wait shows.
void Stream::dally(std::unique_lock<std::mutex>& lock) {
  constexpr uint64_t kMostMicroseconds = 400;
  const auto pause = std::chrono::microseconds(scramble(config().seed, id_, pushed_) % kMostMicroseconds);
  const auto until = std::chrono::steady_clock::now() + pause;
  asleep_ = true;
  while (waiting_ == 0 && !queue_.empty() && std::chrono::steady_clock::now() < until)
    work_.wait_until(lock, until);
  asleep_ = false;
}

void Stream::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    const bool was_idle = queue_.empty();
    asleep_ = true;
    work_.wait(lock,
               [&] { return (!running_ && !queue_.empty()) || (closed_ && queue_.empty() && !running_); });
    asleep_ = false;
    if (queue_.empty()) break;
    if (was_idle && config().late) dally(lock);
    if (!running_ && !queue_.empty()) run_front(lock);
  }
  lock.unlock();
  device_.forget(this);
}

HandleTable<cudaStream_t, Stream>& stream_handles() {
  static auto* table = new HandleTable<cudaStream_t, Stream>("a stream");
  return *table;
}

std::shared_ptr<Stream> stream_of(cudaStream_t handle) {
  ThreadState& thread = thread_state();
  if (handle == nullptr && thread.null_is_per_thread) handle = cudaStreamPerThread;
  if (handle == nullptr || handle == cudaStreamLegacy) return current_device().legacy_stream();
  if (handle != cudaStreamPerThread) return stream_handles().get(handle);
  auto& stream = thread.streams[thread.device];
  if (stream == nullptr) stream = Stream::create(current_device(), cudaStreamDefault, 0);
  return stream;
}

}  // namespace ptxsim::runtime
