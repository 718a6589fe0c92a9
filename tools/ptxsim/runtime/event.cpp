#include "runtime/event.h"

#include <chrono>
#include <thread>

#include "runtime/device.h"

namespace ptxsim::runtime {
namespace {

int64_t now_nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void wait_until_reached(const SharedMark& mark, uint64_t number) {
  constexpr auto kLook = std::chrono::microseconds(50);
  while (mark.reached.load(std::memory_order_acquire) < number) std::this_thread::sleep_for(kLook);
}

class RecordWork : public Work {
 public:
  RecordWork(std::shared_ptr<Event::Record> record, std::shared_ptr<SharedMark> shared)
      : record_(std::move(record)), shared_(std::move(shared)) {
    if (shared_ != nullptr) number_ = shared_->recorded.fetch_add(1) + 1;
  }
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeEventRecord; }
  void run() const override {
    record_->nanoseconds = now_nanoseconds();
    if (shared_ == nullptr) return;
    uint64_t before = shared_->reached.load();
    while (before < number_ && !shared_->reached.compare_exchange_weak(before, number_)) {
    }
  }
  void skip(cudaError_t) const override { run(); }

 private:
  std::shared_ptr<Event::Record> record_;
  std::shared_ptr<SharedMark> shared_;
  uint64_t number_ = 0;
};

class RemoteWaitWork : public Work {
 public:
  RemoteWaitWork(std::shared_ptr<SharedMark> shared, uint64_t number)
      : shared_(std::move(shared)), number_(number) {}
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeWaitEvent; }
  void run() const override { wait_until_reached(*shared_, number_); }

 private:
  std::shared_ptr<SharedMark> shared_;
  uint64_t number_;
};

}  // namespace

std::shared_ptr<const Work> Event::begin_record(std::shared_ptr<Record>* record) {
  *record = std::make_shared<Record>();
  return std::make_shared<RecordWork>(*record, shared);
}

void Event::record(Stream& stream) {
  std::shared_ptr<Record> record;
  auto work = begin_record(&record);
  std::lock_guard lock(mutex_);
  record->ticket = stream.push(std::move(work));
  last_ = std::move(record);
}

std::shared_ptr<Event::Record> Event::last() const {
  std::lock_guard lock(mutex_);
  return last_;
}

bool Event::reached() const {
  if (shared != nullptr) return shared->reached.load() >= shared->recorded.load();
  const auto record = last();
  return record == nullptr || record->ticket.done();
}

void Event::wait() const {
  if (shared != nullptr) return wait_until_reached(*shared, shared->recorded.load());
  if (const auto record = last()) record->ticket.wait();
}

std::shared_ptr<const Work> Event::remote_wait() const {
  return std::make_shared<RemoteWaitWork>(shared, shared->recorded.load());
}

HandleTable<cudaEvent_t, Event>& event_handles() {
  static auto* table = new HandleTable<cudaEvent_t, Event>("an event");
  return *table;
}

}  // namespace ptxsim::runtime
