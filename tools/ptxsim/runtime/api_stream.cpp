// Streams and events.
#include <cuda_runtime_api.h>

#include <algorithm>

#include "runtime/api.h"
#include "runtime/capture.h"
#include "runtime/device.h"
#include "runtime/event.h"
#include "runtime/ipc.h"
#include "runtime/stream.h"
#include "runtime/thread_state.h"

using namespace ptxsim::runtime;  // NOLINT: this file is C functions only

namespace {

constexpr int kGreatestPriority = -5;

cudaStream_t make_stream(unsigned flags, int priority) {
  if (flags != cudaStreamDefault && flags != cudaStreamNonBlocking)
    refuse(cudaErrorInvalidValue, "flags {}", flags);
  return stream_handles().add(
      Stream::create(current_device(), flags, std::clamp(priority, kGreatestPriority, 0)));
}

cudaEvent_t make_event(unsigned flags) {
  constexpr unsigned kKnown = cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;
  if ((flags & ~kKnown) != 0) refuse(cudaErrorInvalidValue, "flags {}", flags);
  if ((flags & cudaEventInterprocess) != 0 && (flags & cudaEventDisableTiming) == 0)
    refuse(cudaErrorInvalidValue, "an interprocess event needs cudaEventDisableTiming");
  auto event = std::make_shared<Event>(current_device(), flags);
  if ((flags & cudaEventInterprocess) != 0) share_event(*event);
  return event_handles().add(std::move(event));
}

// An event that stands for nodes of a graph has no state to look at.
void forbid_captured(const Event& event) {
  std::lock_guard lock(capture_mutex());
  if (!event.captured) return;
  if (const auto capture = event.capture.lock()) capture->valid = false;
  refuse(cudaErrorCapturedEvent, "the event was last recorded in a capture");
}

int attribute_index(cudaLaunchAttributeID attribute) {
  constexpr int kOfStreams[] = {cudaLaunchAttributeAccessPolicyWindow,
                                cudaLaunchAttributeSynchronizationPolicy, cudaLaunchAttributePriority,
                                cudaLaunchAttributeMemSyncDomainMap, cudaLaunchAttributeMemSyncDomain};
  if (std::find(std::begin(kOfStreams), std::end(kOfStreams), attribute) == std::end(kOfStreams))
    refuse(cudaErrorInvalidValue, "attribute {} of a stream", static_cast<int>(attribute));
  return attribute;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// --- streams ---
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return api(__func__, [&] { *need(stream, "pStream") = make_stream(cudaStreamDefault, 0); });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return api(__func__, [&] { *need(stream, "pStream") = make_stream(flags, 0); });
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return api(__func__, [&] { *need(stream, "pStream") = make_stream(flags, priority); });
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return api(__func__, [&] {
    if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread)
      refuse(cudaErrorInvalidResourceHandle, "a default stream cannot be destroyed");
    const auto stream = stream_handles().get(handle);
    forbid_while_capturing(*stream);
    stream_handles().remove(handle)->close();
  });
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  return api(__func__, [&] { *need(priority, "priority") = stream_of(stream)->priority(); });
}
cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
  return api(__func__, [&] { *need(flags, "flags") = stream_of(stream)->flags(); });
}
cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* id) {
  return api(__func__, [&] { *need(id, "streamId") = stream_of(stream)->id(); });
}
cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  return api(__func__, [&] { *need(device, "device") = stream_of(stream)->device().index; });
}
cudaError_t cudaStreamGetAttribute(cudaStream_t stream, cudaLaunchAttributeID attribute,
                                   cudaLaunchAttributeValue* value) {
  return api(__func__,
             [&] { *need(value, "value_out") = stream_of(stream)->attributes[attribute_index(attribute)]; });
}
cudaError_t cudaStreamSetAttribute(cudaStream_t stream, cudaLaunchAttributeID attribute,
                                   const cudaLaunchAttributeValue* value) {
  return api(__func__,
             [&] { stream_of(stream)->attributes[attribute_index(attribute)] = *need(value, "value"); });
}
cudaError_t cudaStreamCopyAttributes(cudaStream_t to, cudaStream_t from) {
  return api(__func__, [&] {
    const auto source = stream_of(from);
    std::copy(std::begin(source->attributes), std::end(source->attributes), stream_of(to)->attributes);
  });
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return api_waiting(__func__, [&] {
    const auto stream = stream_of(handle);
    forbid_while_capturing(*stream);
    forbid_unsafe();
    // Waiting for the legacy stream waits for what it would wait for.
    if (stream->is_legacy()) stream->push(nullptr);
    stream->synchronize();
  });
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  bool idle = true;
  const cudaError_t code = api_waiting(__func__, [&] {
    const auto stream = stream_of(handle);
    forbid_while_capturing(*stream);
    forbid_unsafe();
    idle = stream->idle();
  });
  return code == cudaSuccess && !idle ? remember(cudaErrorNotReady) : code;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  return api(__func__, [&] {
    if (flags != cudaEventWaitDefault && flags != cudaEventWaitExternal)
      refuse(cudaErrorInvalidValue, "flags {}", flags);
    wait_event(*stream_of(stream), event_handles().get(event), event, flags);
  });
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return api(__func__,
             [&] { submit(*stream_of(stream), std::make_shared<HostWork>(need(function, "fn"), data)); });
}
cudaError_t cudaStreamAddCallback(cudaStream_t handle, cudaStreamCallback_t function, void* data,
                                  unsigned flags) {
  return api(__func__, [&] {
    if (flags != 0) refuse(cudaErrorInvalidValue, "flags {}", flags);
    const auto stream = stream_of(handle);
    forbid_while_capturing(*stream);
    submit(*stream, std::make_shared<CallbackWork>(need(function, "callback"), handle, data));
  });
}

// --- events ---
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return api(__func__, [&] { *need(event, "event") = make_event(cudaEventDefault); });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return api(__func__, [&] { *need(event, "event") = make_event(flags); });
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return api(__func__, [&] { event_handles().remove(event); });
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  return api(__func__, [&] {
    if (flags != cudaEventRecordDefault && flags != cudaEventRecordExternal)
      refuse(cudaErrorInvalidValue, "flags {}", flags);
    record_event(event_handles().get(event), event, *stream_of(stream), flags);
  });
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}
cudaError_t cudaEventQuery(cudaEvent_t handle) {
  bool reached = true;
  const cudaError_t code = api_waiting(__func__, [&] {
    const auto event = event_handles().get(handle);
    forbid_captured(*event);
    forbid_unsafe();
    reached = event->reached();
  });
  return code == cudaSuccess && !reached ? remember(cudaErrorNotReady) : code;
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return api_waiting(__func__, [&] {
    const auto event = event_handles().get(handle);
    forbid_captured(*event);
    forbid_unsafe();
    event->wait();
  });
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  return api(__func__, [&] {
    need(milliseconds, "ms");
    const auto begin = event_handles().get(from), end = event_handles().get(to);
    for (const Event* event : {begin.get(), end.get()}) {
      forbid_captured(*event);
      if ((event->flags & cudaEventDisableTiming) != 0)
        refuse(cudaErrorInvalidResourceHandle, "an event was created with cudaEventDisableTiming");
      if (event->last() == nullptr) refuse(cudaErrorInvalidResourceHandle, "an event was never recorded");
      if (!event->reached()) throw ApiError(cudaErrorNotReady);
    }
    constexpr double kPerMillisecond = 1e6;
    *milliseconds = static_cast<float>(
        static_cast<double>(end->last()->nanoseconds - begin->last()->nanoseconds) / kPerMillisecond);
  });
}

// --- capture ---
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return api(__func__,
             [&] { begin_capture(*stream_of(stream), mode, std::make_shared<Graph>(), nullptr, {}); });
}
cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph,
                                          const cudaGraphNode_t* dependencies,
                                          const cudaGraphEdgeData* /*edges*/, size_t count,
                                          cudaStreamCaptureMode mode) {
  return api(__func__, [&] {
    std::vector<Node*> nodes;
    for (size_t i = 0; i < count; ++i)
      nodes.push_back(node_handles().get(need(dependencies, "dependencies")[i]).get());
    begin_capture(*stream_of(stream), mode, graph_handles().get(graph), graph, std::move(nodes));
  });
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return api(__func__, [&] {
    *need(graph, "pGraph") = nullptr;
    *graph = end_capture(*stream_of(stream));
  });
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return api(__func__, [&] { std::swap(*need(mode, "mode"), thread_state().capture_mode); });
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return cudaStreamGetCaptureInfo(stream, status, nullptr, nullptr, nullptr, nullptr, nullptr);
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies, const cudaGraphEdgeData** edges,
                                     size_t* count) {
  return api(__func__, [&] {
    const auto stream = stream_of(handle);
    std::lock_guard lock(capture_mutex());
    const auto capture = stream->capture;
    *need(status, "captureStatus_out") = capture == nullptr ? cudaStreamCaptureStatusNone
                                         : capture->valid   ? cudaStreamCaptureStatusActive
                                                            : cudaStreamCaptureStatusInvalidated;
    if (capture == nullptr || !capture->valid) return;
    if (id != nullptr) *id = capture->id;
    if (graph != nullptr) {
      if (capture->handle == nullptr) capture->handle = graph_handles().add(capture->graph);
      *graph = capture->handle;
    }
    if (edges != nullptr) *edges = nullptr;
    capture->shown.clear();
    for (const Node* node : capture->tails.at(stream.get())) capture->shown.push_back(node->handle);
    if (dependencies != nullptr) *dependencies = capture->shown.data();
    if (count != nullptr) *count = capture->shown.size();
  });
}
cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t handle, cudaGraphNode_t* dependencies,
                                                const cudaGraphEdgeData* /*edges*/, size_t count,
                                                unsigned flags) {
  return api(__func__, [&] {
    const auto stream = stream_of(handle);
    std::lock_guard lock(capture_mutex());
    if (stream->capture == nullptr) refuse(cudaErrorIllegalState, "the stream does not capture");
    auto& tail = stream->capture->tails.at(stream.get());
    if (flags == cudaStreamSetCaptureDependencies) tail.clear();
    for (size_t i = 0; i < count; ++i)
      tail.push_back(node_handles().get(need(dependencies, "dependencies")[i]).get());
  });
}

}  // extern "C"
#pragma GCC visibility pop
