// Stream capture: what is pushed to a capturing stream becomes a node of a graph.
#pragma once

#include <driver_types.h>

#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/event.h"
#include "runtime/graph.h"
#include "runtime/stream.h"

namespace ptxsim::runtime {

class Capture {
 public:
  std::shared_ptr<Graph> graph;
  cudaGraph_t handle = nullptr;  // as it will be known
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  const Stream* origin = nullptr;
  std::thread::id thread;
  uint64_t id = 0;
  bool valid = true;
  // Per stream that takes part: what its next node depends on.
  std::map<const Stream*, std::vector<Node*>> tails;
  std::map<const Stream*, std::weak_ptr<Stream>> streams;
  std::vector<cudaGraphNode_t> shown;  // cudaStreamGetCaptureInfo hands out its address
};

// Guards every capture and Stream::capture.
std::recursive_mutex& capture_mutex();

// Pushes work to a stream, or adds it to the graph that the stream captures (then there is no ticket to wait
// for: the ticket is done, and *captured set). Refuses the legacy stream while a blocking stream captures.
Ticket submit(Stream& stream, std::shared_ptr<const Work> work, bool* captured = nullptr,
              Node** node = nullptr);
bool is_capturing(Stream& stream);

void begin_capture(Stream& stream, cudaStreamCaptureMode mode, std::shared_ptr<Graph> graph,
                   cudaGraph_t handle, std::vector<Node*> tails);
// The graph; refuses where the capture went wrong, and forgets it all the same.
cudaGraph_t end_capture(Stream& stream);

// Refuses a call that waits for the stream, or that a capture of this or another thread forbids (as the mode
// of both says); the captures are then void.
void forbid_while_capturing(Stream& stream);
void forbid_unsafe();

// cudaEventRecord and cudaStreamWaitEvent, captured or not.
void record_event(const std::shared_ptr<Event>& event, cudaEvent_t handle, Stream& stream, unsigned flags);
void wait_event(Stream& stream, const std::shared_ptr<Event>& event, cudaEvent_t handle, unsigned flags);

}  // namespace ptxsim::runtime
