// Graphs: work with dependencies, and executables made of them. Replay goes through streams: nodes that do
// not depend on each other are in different ones.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/event.h"
#include "runtime/handles.h"
#include "runtime/stream.h"

namespace ptxsim::runtime {

class Graph;

struct Node {
  std::shared_ptr<const Work> work;
  Device* device = nullptr;
  Graph* graph = nullptr;
  cudaGraphNode_t handle = nullptr;
  std::vector<Node*> dependencies;
  cudaGraphNode_t original = nullptr;  // that this one is a clone of
};

class Graph {
 public:
  ~Graph();
  Node& add(std::shared_ptr<const Work> work, Device& device, std::vector<Node*> dependencies);
  void remove(Node& node);
  std::shared_ptr<Graph> clone() const;

  // In order of their making.
  const std::vector<std::shared_ptr<Node>>& nodes() const { return nodes_; }
  // The same, dependencies first. Refuses a cycle.
  std::vector<Node*> topological() const;

  std::mutex mutex;
  std::vector<std::shared_ptr<void>> user_objects;

 private:
  std::vector<std::shared_ptr<Node>> nodes_;
};

// --- work that only graphs have, or that needs nothing else ---
class EmptyWork : public Work {
 public:
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeEmpty; }
  void run() const override {}
};

class HostWork : public Work {
 public:
  HostWork(cudaHostFn_t function, void* data) : function(function), data(data) {}
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeHost; }
  void run() const override;
  bool needs_worker() const override { return true; }
  const cudaHostFn_t function;
  void* const data;
};

// cudaStreamAddCallback: called after a failure too.
class CallbackWork : public Work {
 public:
  CallbackWork(cudaStreamCallback_t function, cudaStream_t stream, void* data)
      : function_(function), stream_(stream), data_(data) {}
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeHost; }
  void run() const override { skip(cudaSuccess); }
  void skip(cudaError_t code) const override;
  bool needs_worker() const override { return true; }

 private:
  cudaStreamCallback_t function_;
  cudaStream_t stream_;
  void* data_;
};

class ChildWork : public Work {
 public:
  ChildWork(std::shared_ptr<Graph> graph, cudaGraph_t handle) : graph(std::move(graph)), handle(handle) {}
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeGraph; }
  void run() const override {}
  const std::shared_ptr<Graph> graph;
  const cudaGraph_t handle;
};

// Nodes that record or wait for an event of the program: what the event means is settled at each launch.
class EventWork : public Work {
 public:
  EventWork(std::shared_ptr<Event> event, cudaEvent_t handle, bool records)
      : event(std::move(event)), handle(handle), records(records) {}
  cudaGraphNodeType type() const override {
    return records ? cudaGraphNodeTypeEventRecord : cudaGraphNodeTypeWaitEvent;
  }
  void run() const override {}
  const std::shared_ptr<Event> event;
  const cudaEvent_t handle;
  const bool records;
};

// Memory of a graph: it lives as long as a graph or executable has the node, its contents from node to node.
class AllocWork : public Work {
 public:
  AllocWork(Device& device, uint64_t bytes);
  ~AllocWork() override;
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeMemAlloc; }
  void run() const override;
  void* pointer() const { return pointer_; }
  uint64_t bytes() const { return bytes_; }

 private:
  Device& device_;
  void* pointer_ = nullptr;
  uint64_t bytes_;
};

class FreeWork : public Work {
 public:
  explicit FreeWork(void* pointer) : pointer(pointer) {}
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeMemFree; }
  void run() const override {}
  void* const pointer;
};

class GraphExec {
 public:
  GraphExec(const Graph& graph, unsigned long long flags);
  ~GraphExec();

  // Pushes the nodes behind what is in the stream; what is pushed there later waits for all of them.
  void launch(Stream& stream);
  // Replaces the work of the node that was made from this one.
  void replace(const Node& original, std::shared_ptr<const Work> work);
  void enable(const Node& original, bool enabled);
  bool is_enabled(const Node& original);
  // Takes over the work of a graph of the same shape. The result says why not.
  cudaGraphExecUpdateResultInfo update(const Graph& graph);
  // Waits until no launch of it is under way.
  void wait();

  const unsigned long long flags;

 private:
  struct Step {
    std::shared_ptr<const Work> work;
    Device* device = nullptr;
    std::vector<size_t> dependencies;
    cudaGraphNode_t original = nullptr;
    size_t chain = 0;
    bool enabled = true;
  };
  // Appends the steps of a graph; the ones without dependencies get `before`. Returns those that nothing
  // depends on.
  std::vector<size_t> append(const Graph& graph, const std::vector<size_t>& before);
  void make_chains();
  Step& step_of(const Node& original);

  std::mutex mutex_;
  std::vector<Step> steps_;  // dependencies first
  struct Chain {
    Device* device = nullptr;
    std::shared_ptr<Stream> stream;
  };
  std::vector<Chain> chains_;
  std::vector<std::shared_ptr<void>> user_objects_;
  Ticket last_;
};

HandleTable<cudaGraph_t, Graph>& graph_handles();
HandleTable<cudaGraphNode_t, Node>& node_handles();
HandleTable<cudaGraphExec_t, GraphExec>& exec_handles();

}  // namespace ptxsim::runtime
