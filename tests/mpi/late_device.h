// A device that does nothing before it must, over memory that only its own calls can touch: work waits in its
// stream until a download or an event asks for it, and any other access to what `alloc` returned is a
// segmentation fault. Code that forgets an order between streams reads NaN.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device/device.h"

namespace contender {

class LateDevice final : public Device {
 public:
  LateDevice() : memory_(::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    CHECK(memory_ != MAP_FAILED, "no {} bytes", kBytes);
  }
  ~LateDevice() override { ::munmap(memory_, kBytes); }
  LateDevice(const LateDevice&) = delete;
  LateDevice& operator=(const LateDevice&) = delete;

  std::string name() const override { return "late device"; }
  int64_t memory_bytes() const override { return kBytes; }
  bool host_memory() const override { return false; }
  void* alloc(int64_t bytes, const char* what) override {
    CHECK(bytes <= kBytes - used_, "{}: the late device is full", what);
    char* p = static_cast<char*>(memory_) + used_;
    touch([&] { std::memset(p, 0xFF, static_cast<size_t>(bytes)); });  // NaN
    used_ += round_up(bytes, 64);
    return p;
  }
  void free(void*) override {}  // all at once, at the end

  Stream* compute_stream() override { return stream("compute"); }
  Stream* stream(const char* name) override {
    auto& s = streams_[name];
    if (!s) s = std::make_unique<Queue>();
    return reinterpret_cast<Stream*>(s.get());
  }
  void copy(Stream* s, void* dst, const void* src, int64_t bytes) override {
    push(s, [=, this] { touch([&] { std::memcpy(dst, src, static_cast<size_t>(bytes)); }); });
  }
  void zero(Stream* s, void* dst, int64_t bytes) override {
    push(s, [=, this] { touch([&] { std::memset(dst, 0, static_cast<size_t>(bytes)); }); });
  }
  void upload(Stream* s, void* dst, const void* src, int64_t bytes) override {
    std::vector<char> kept(static_cast<const char*>(src), static_cast<const char*>(src) + bytes);
    push(s,
         [=, this, kept = std::move(kept)] { touch([&] { std::memcpy(dst, kept.data(), kept.size()); }); });
  }
  void download(Stream* s, void* dst, const void* src, int64_t bytes) override {
    synchronize(s);
    touch([&] { std::memcpy(dst, src, static_cast<size_t>(bytes)); });
  }
  void synchronize(Stream* s) override {
    ++host_waits_;
    run(*queue(s), queue(s)->pushed);
  }
  int64_t host_waits() const override { return host_waits_; }

  void order(Stream* first, Stream* waiter) override {
    if (first == waiter) return;
    Event* e = record(first);
    wait(waiter, e);
    release(e);
  }
  Event* record(Stream* s) override {
    return reinterpret_cast<Event*>(new Mark{queue(s), queue(s)->pushed, 0});
  }
  void wait(Stream* s, Event* e) override {
    push(s, [this, mark = *reinterpret_cast<Mark*>(e)] { run(*mark.queue, mark.position); });
  }
  // The third time that somebody asks.
  bool done(Event* e) override {
    Mark& mark = *reinterpret_cast<Mark*>(e);
    if (++mark.asked >= 3) run(*mark.queue, mark.position);
    return mark.queue->done >= mark.position;
  }
  void release(Event* e) override { delete reinterpret_cast<Mark*>(e); }

  Graph* capture(Stream*, const std::function<void()>&) override { return nullptr; }
  void launch(Stream*, Graph*) override { CHECK(false, "the late device has no graphs"); }
  void release(Graph*) override {}
  void* handle(Stream*) override { return nullptr; }
  int64_t allocated_bytes() const override { return used_; }
  int64_t peak_bytes() const override { return used_; }

 private:
  static constexpr int64_t kBytes = 64 << 20;
  struct Queue {
    std::deque<std::function<void()>> work;
    int64_t pushed = 0, done = 0;
  };
  struct Mark {
    Queue* queue;
    int64_t position;
    int asked;
  };

  static Queue* queue(Stream* s) { return reinterpret_cast<Queue*>(s); }
  static void push(Stream* s, std::function<void()> work) {
    queue(s)->work.push_back(std::move(work));
    ++queue(s)->pushed;
  }
  void run(Queue& q, int64_t position) {
    while (q.done < position) {
      const std::function<void()> work = std::move(q.work.front());
      q.work.pop_front();
      work();
      ++q.done;
    }
  }
  template <class Work>
  void touch(Work work) {
    ::mprotect(memory_, kBytes, PROT_READ | PROT_WRITE);
    work();
    ::mprotect(memory_, kBytes, PROT_NONE);
  }

  void* memory_;
  int64_t used_ = 0;
  std::map<std::string, std::unique_ptr<Queue>> streams_;
  int64_t host_waits_ = 0;
};

}  // namespace contender
