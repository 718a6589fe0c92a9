#include "runtime/capture.h"

#include <algorithm>
#include <set>
#include <unordered_set>

#include "runtime/device.h"
#include "runtime/thread_state.h"

namespace ptxsim::runtime {
namespace {

struct Captures {
  std::recursive_mutex mutex;
  std::set<std::shared_ptr<Capture>> active;
  std::atomic<int> count{0};
  uint64_t next_id = 1;
};

Captures& captures() {
  static auto* c = new Captures;
  return *c;
}

bool any_active() { return captures().count.load(std::memory_order_acquire) != 0; }

[[noreturn]] void refuse_capturing(Capture& capture, const char* why) {
  capture.valid = false;
  refuse(cudaErrorStreamCaptureUnsupported, "{}", why);
}

void check_valid(const Capture& capture) {
  if (!capture.valid) refuse(cudaErrorStreamCaptureInvalidated, "an earlier call has made the capture void");
}

// The legacy stream would wait for a blocking stream that does nothing but capture.
void check_implicit(Stream& stream) {
  if (!stream.is_legacy()) return;
  for (const auto& capture : captures().active)
    for (const auto& [member, tail] : capture->tails)
      if (&member->device() == &stream.device() && member->is_blocking()) {
        capture->valid = false;
        refuse(cudaErrorStreamCaptureImplicit,
               "the legacy default stream is used while a blocking stream captures");
      }
}

void join(const std::shared_ptr<Capture>& capture, Stream& stream, const std::vector<Node*>& nodes) {
  stream.capture = capture;
  capture->streams[&stream] = stream.weak_from_this();
  auto& tail = capture->tails[&stream];
  tail.insert(tail.end(), nodes.begin(), nodes.end());
  std::sort(tail.begin(), tail.end());
  tail.erase(std::unique(tail.begin(), tail.end()), tail.end());
}

// All streams leave the capture.
void dissolve(const std::shared_ptr<Capture>& capture) {
  for (const auto& [key, weak] : capture->streams)
    if (const auto stream = weak.lock(); stream != nullptr && stream->capture == capture)
      stream->capture = nullptr;
  captures().active.erase(capture);
  --captures().count;
}

// True where every stream that joined leads back to the stream where the capture began.
bool is_joined(const Capture& capture) {
  std::unordered_set<const Node*> reached;
  std::vector<const Node*> todo(capture.tails.at(capture.origin).begin(),
                                capture.tails.at(capture.origin).end());
  while (!todo.empty()) {
    const Node* node = todo.back();
    todo.pop_back();
    if (!reached.insert(node).second) continue;
    todo.insert(todo.end(), node->dependencies.begin(), node->dependencies.end());
  }
  for (const auto& [stream, tail] : capture.tails)
    for (const Node* node : tail)
      if (!reached.contains(node)) return false;
  return true;
}

}  // namespace

std::recursive_mutex& capture_mutex() { return captures().mutex; }

Ticket submit(Stream& stream, std::shared_ptr<const Work> work, bool* captured, Node** node) {
  if (any_active()) {
    std::lock_guard lock(capture_mutex());
    if (const auto capture = stream.capture) {
      check_valid(*capture);
      auto& tail = capture->tails.at(&stream);
      Node& added = capture->graph->add(std::move(work), stream.device(), tail);
      tail = {&added};
      if (captured != nullptr) *captured = true;
      if (node != nullptr) *node = &added;
      return {};
    }
    check_implicit(stream);
  }
  return stream.push(std::move(work));
}

bool is_capturing(Stream& stream) {
  if (!any_active()) return false;
  std::lock_guard lock(capture_mutex());
  return stream.capture != nullptr;
}

void begin_capture(Stream& stream, cudaStreamCaptureMode mode, std::shared_ptr<Graph> graph,
                   cudaGraph_t handle, std::vector<Node*> tails) {
  if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed)
    refuse(cudaErrorInvalidValue, "capture mode {}", static_cast<int>(mode));
  std::lock_guard lock(capture_mutex());
  if (stream.is_legacy())
    refuse(cudaErrorStreamCaptureUnsupported, "the legacy default stream cannot be captured");
  if (stream.capture != nullptr) refuse(cudaErrorIllegalState, "the stream captures already");
  auto capture = std::make_shared<Capture>();
  capture->graph = std::move(graph);
  capture->handle = handle;
  capture->mode = mode;
  capture->origin = &stream;
  capture->thread = std::this_thread::get_id();
  capture->id = captures().next_id++;
  join(capture, stream, tails);
  captures().active.insert(capture);
  ++captures().count;
}

cudaGraph_t end_capture(Stream& stream) {
  std::lock_guard lock(capture_mutex());
  const auto capture = stream.capture;
  if (capture == nullptr) refuse(cudaErrorIllegalState, "the stream does not capture");
  if (capture->origin != &stream) {
    capture->valid = false;
    refuse(cudaErrorStreamCaptureUnmatched, "the capture began in another stream");
  }
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
    refuse(cudaErrorStreamCaptureWrongThread, "the capture began in another thread");
  }
  dissolve(capture);
  check_valid(*capture);
  if (!is_joined(*capture))
    refuse(cudaErrorStreamCaptureUnjoined,
           "a stream that joined the capture by an event was not joined back");
  return capture->handle != nullptr ? capture->handle : graph_handles().add(capture->graph);
}

void forbid_while_capturing(Stream& stream) {
  if (!any_active()) return;
  std::lock_guard lock(capture_mutex());
  if (stream.capture != nullptr)
    refuse_capturing(*stream.capture, "the call waits for or looks at a stream that captures");
  check_implicit(stream);
}

void forbid_unsafe() {
  if (!any_active()) return;
  const cudaStreamCaptureMode mode = thread_state().capture_mode;
  if (mode == cudaStreamCaptureModeRelaxed) return;
  std::lock_guard lock(capture_mutex());
  for (const auto& capture : captures().active) {
    const bool own =
        capture->thread == std::this_thread::get_id() && capture->mode != cudaStreamCaptureModeRelaxed;
    const bool others = mode == cudaStreamCaptureModeGlobal && capture->mode == cudaStreamCaptureModeGlobal;
    if (own || others) refuse_capturing(*capture, "the call is not allowed while a stream captures");
  }
}

void record_event(const std::shared_ptr<Event>& event, cudaEvent_t handle, Stream& stream, unsigned flags) {
  if (&event->device != &stream.device() && !event->is_interprocess())
    refuse(cudaErrorInvalidResourceHandle, "an event of device {} is recorded in a stream of device {}",
           event->device.index, stream.device().index);
  if (any_active()) {
    std::lock_guard lock(capture_mutex());
    if (const auto capture = stream.capture) {
      check_valid(*capture);
      if ((flags & cudaEventRecordExternal) != 0) {
        submit(stream, std::make_shared<EventWork>(event, handle, true));
      } else {
        event->captured = true;
        event->capture = capture;
        event->nodes = capture->tails.at(&stream);
      }
      return;
    }
    check_implicit(stream);
    event->captured = false;
  } else {
    event->captured = false;
  }
  event->record(stream);
}

void wait_event(Stream& stream, const std::shared_ptr<Event>& event, cudaEvent_t handle, unsigned flags) {
  std::lock_guard lock(capture_mutex());
  if (event->captured) {
    const auto capture = event->capture.lock();
    if (capture == nullptr || !captures().active.contains(capture))
      refuse(cudaErrorStreamCaptureIsolation, "the event was recorded in a capture that has ended");
    if (stream.capture != nullptr && stream.capture != capture) {
      capture->valid = stream.capture->valid = false;
      refuse(cudaErrorStreamCaptureMerge, "the event and the stream are of two captures");
    }
    if (stream.is_legacy()) {
      capture->valid = false;
      refuse(cudaErrorStreamCaptureImplicit, "the legacy default stream would join a capture");
    }
    check_valid(*capture);
    return join(capture, stream, event->nodes);
  }
  if (const auto capture = stream.capture) {
    check_valid(*capture);
    if ((flags & cudaEventWaitExternal) != 0) {
      submit(stream, std::make_shared<EventWork>(event, handle, false));
    } else if (event->last() != nullptr) {
      capture->valid = false;
      refuse(cudaErrorStreamCaptureIsolation,
             "the capturing stream would wait for an event outside the capture");
    }
    return;
  }
  if (event->is_interprocess()) {
    stream.push(event->remote_wait());
  } else if (const auto record = event->last()) {
    stream.push(nullptr, {record->ticket});
  }
}

}  // namespace ptxsim::runtime
