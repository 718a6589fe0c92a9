// Events: marks in the order of a stream, with the real time at which they were reached; those of other
// processes too.
#pragma once

#include <driver_types.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/handles.h"
#include "runtime/stream.h"

namespace ptxsim::runtime {

class Capture;
class Device;
struct Node;

// A page that processes share: how often an interprocess event was recorded, and up to which record it was
// reached.
struct SharedMark {
  std::atomic<uint64_t> recorded{0}, reached{0};
};

class Event {
 public:
  Event(Device& device, unsigned flags) : device(device), flags(flags) {}

  // One record of the event; done when its ticket is.
  struct Record {
    Ticket ticket;
    std::atomic<int64_t> nanoseconds{0};  // of the steady clock; 0 until reached
  };

  // Makes a new record the event's last one; the work sets its time. For a push to the stream by the caller,
  // who then sets the record's ticket.
  std::shared_ptr<const Work> begin_record(std::shared_ptr<Record>* record);
  // Records it in the stream's order.
  void record(Stream& stream);
  // What a stream has to wait for now; null where the event was never recorded.
  std::shared_ptr<Record> last() const;

  bool reached() const;
  void wait() const;
  // Work that waits for what is recorded now, for an interprocess event.
  std::shared_ptr<const Work> remote_wait() const;
  bool is_interprocess() const { return shared != nullptr; }

  Device& device;
  const unsigned flags;
  std::shared_ptr<SharedMark> shared;  // of an interprocess event
  int shared_file = -1;                // that holds it, where this process made it

  // Where it was last recorded in a capture: then it stands for these nodes. Guarded by capture_mutex().
  bool captured = false;
  std::weak_ptr<Capture> capture;
  std::vector<Node*> nodes;

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Record> last_;
};

HandleTable<cudaEvent_t, Event>& event_handles();

}  // namespace ptxsim::runtime
