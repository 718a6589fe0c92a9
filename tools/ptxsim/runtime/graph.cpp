#include "runtime/graph.h"

#include <algorithm>
#include <unordered_map>

#include "check/checker.h"
#include "config.h"
#include "runtime/device.h"
#include "runtime/thread_state.h"

namespace ptxsim::runtime {
namespace {

// For the time of a host function: the CUDA calls that it makes are refused.
class HostFunctionScope {
 public:
  HostFunctionScope() { thread_state().in_host_function = true; }
  ~HostFunctionScope() { thread_state().in_host_function = false; }
};

}  // namespace

void HostWork::run() const {
  const HostFunctionScope scope;
  function(data);
}

void CallbackWork::skip(cudaError_t code) const {
  const HostFunctionScope scope;
  function_(stream_, code, data_);
}

AllocWork::AllocWork(Device& device, uint64_t bytes) : device_(device), bytes_(bytes) {
  pointer_ = device.arena.allocate(bytes, true);
  if (pointer_ == nullptr)
    refuse(cudaErrorMemoryAllocation, "{} bytes for a graph; {} of {} are in use", bytes, device.arena.used(),
           device.arena.capacity());
}
AllocWork::~AllocWork() { device_.arena.free(pointer_); }
void AllocWork::run() const {
  if (config().checked) check_host_allocate(reinterpret_cast<uint64_t>(pointer_), bytes_);
}

Graph::~Graph() {
  for (const auto& node : nodes_) node_handles().remove(node->handle);
}

Node& Graph::add(std::shared_ptr<const Work> work, Device& device, std::vector<Node*> dependencies) {
  auto node = std::make_shared<Node>();
  node->work = std::move(work);
  node->device = &device;
  node->graph = this;
  std::sort(dependencies.begin(), dependencies.end());
  dependencies.erase(std::unique(dependencies.begin(), dependencies.end()), dependencies.end());
  for (const Node* d : dependencies)
    if (d->graph != this) refuse(cudaErrorInvalidValue, "a dependency is a node of another graph");
  node->dependencies = std::move(dependencies);
  node->handle = node_handles().add(node);
  nodes_.push_back(node);
  return *node;
}

void Graph::remove(Node& node) {
  for (const auto& other : nodes_) std::erase(other->dependencies, &node);
  const cudaGraphNode_t handle = node.handle;
  const auto kept = node_handles().remove(handle);
  std::erase(nodes_, kept);
}

std::shared_ptr<Graph> Graph::clone() const {
  auto copy = std::make_shared<Graph>();
  std::unordered_map<const Node*, Node*> made;
  for (const Node* node : topological()) {
    std::vector<Node*> dependencies;
    for (const Node* d : node->dependencies) dependencies.push_back(made.at(d));
    made[node] = &copy->add(node->work, *node->device, std::move(dependencies));
    made[node]->original = node->handle;
  }
  copy->user_objects = user_objects;
  return copy;
}

std::vector<Node*> Graph::topological() const {
  std::unordered_map<const Node*, size_t> missing;
  std::unordered_map<const Node*, std::vector<Node*>> dependents;
  std::vector<Node*> order;
  for (const auto& node : nodes_) {
    missing[node.get()] = node->dependencies.size();
    if (node->dependencies.empty()) order.push_back(node.get());
    for (const Node* d : node->dependencies) dependents[d].push_back(node.get());
  }
  for (size_t i = 0; i < order.size(); ++i)
    for (Node* dependent : dependents[order[i]])
      if (--missing[dependent] == 0) order.push_back(dependent);
  if (order.size() != nodes_.size())
    refuse(cudaErrorInvalidValue, "the dependencies of the graph form a cycle");
  return order;
}

GraphExec::GraphExec(const Graph& graph, unsigned long long flags)
    : flags(flags), user_objects_(graph.user_objects) {
  append(graph, {});
  make_chains();
}

GraphExec::~GraphExec() {
  for (const Chain& chain : chains_)
    if (chain.stream != nullptr) chain.stream->close();
}

std::vector<size_t> GraphExec::append(const Graph& graph, const std::vector<size_t>& before) {
  std::unordered_map<const Node*, size_t> made;
  std::unordered_map<size_t, bool> is_leaf;
  for (const Node* node : graph.topological()) {
    Step step;
    step.work = node->work;
    step.device = node->device;
    step.original = node->handle;
    for (const Node* d : node->dependencies) step.dependencies.push_back(made.at(d));
    if (node->dependencies.empty()) step.dependencies = before;
    if (const auto* child = dynamic_cast<const ChildWork*>(node->work.get()))
      step.dependencies = append(*child->graph, step.dependencies);
    for (const Node* d : node->dependencies) is_leaf[made.at(d)] = false;
    made[node] = steps_.size();
    is_leaf[steps_.size()] = true;
    steps_.push_back(std::move(step));
  }
  std::vector<size_t> leaves;
  for (const auto& [index, leaf] : is_leaf)
    if (leaf) leaves.push_back(index);
  return leaves.empty() ? before : leaves;
}

// Deals the steps to chains: a step follows a dependency that is the end of its chain, or begins a chain, or,
// where there are many of them, goes behind the shortest. All of it in topological order, so every chain can
// make progress.
void GraphExec::make_chains() {
  constexpr size_t kMostChains = 8;  // of one device
  std::vector<size_t> ends, lengths;
  for (size_t i = 0; i < steps_.size(); ++i) {
    Step& step = steps_[i];
    size_t chain = chains_.size();
    for (const size_t d : step.dependencies)
      if (ends[steps_[d].chain] == d && chains_[steps_[d].chain].device == step.device)
        chain = steps_[d].chain;
    if (chain == chains_.size()) {
      size_t of_device = 0, shortest = chain;
      for (size_t c = 0; c < chains_.size(); ++c) {
        if (chains_[c].device != step.device) continue;
        ++of_device;
        if (shortest == chain || lengths[c] < lengths[shortest]) shortest = c;
      }
      if (of_device >= kMostChains) chain = shortest;
    }
    if (chain == chains_.size()) {
      chains_.push_back({step.device, nullptr});
      ends.push_back(i);
      lengths.push_back(0);
    }
    step.chain = chain;
    ends[chain] = i;
    ++lengths[chain];
  }
}

void GraphExec::launch(Stream& stream) {
  std::lock_guard lock(mutex_);
  const Ticket start = stream.push(nullptr, {last_});
  std::vector<Ticket> tickets(steps_.size());
  std::vector<std::shared_ptr<Stream>> lanes(chains_.size());
  for (size_t c = 0; c < chains_.size(); ++c) {
    // The first chain needs no stream of its own.
    if (c == 0 && chains_[c].device == &stream.device()) {
      lanes[c] = start.stream;
      continue;
    }
    if (chains_[c].stream == nullptr)
      chains_[c].stream = Stream::create(*chains_[c].device, cudaStreamNonBlocking, 0);
    lanes[c] = chains_[c].stream;
  }
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    std::vector<Ticket> waits{start};
    for (const size_t d : step.dependencies) waits.push_back(tickets[d]);
    std::shared_ptr<const Work> work = step.enabled ? step.work : nullptr;
    const auto* event = dynamic_cast<const EventWork*>(work.get());
    if (event == nullptr) {
      tickets[i] = lanes[step.chain]->push(std::move(work), std::move(waits));
    } else if (event->records) {
      lanes[step.chain]->push(nullptr, std::move(waits));
      event->event->record(*lanes[step.chain]);
      tickets[i] = event->event->last()->ticket;
    } else {
      if (const auto record = event->event->last()) waits.push_back(record->ticket);
      tickets[i] = lanes[step.chain]->push(nullptr, std::move(waits));
    }
  }
  last_ = stream.push(nullptr, std::move(tickets));
}

GraphExec::Step& GraphExec::step_of(const Node& original) {
  const auto it = std::find_if(steps_.begin(), steps_.end(),
                               [&](const Step& s) { return s.original == original.handle; });
  if (it == steps_.end())
    refuse(cudaErrorInvalidValue, "the executable graph was not made from a graph with this node");
  return *it;
}

void GraphExec::replace(const Node& original, std::shared_ptr<const Work> work) {
  std::lock_guard lock(mutex_);
  Step& step = step_of(original);
  if (step.work->type() != work->type()) refuse(cudaErrorInvalidValue, "the node is of another type");
  step.work = std::move(work);
}

void GraphExec::enable(const Node& original, bool enabled) {
  std::lock_guard lock(mutex_);
  step_of(original).enabled = enabled;
}

bool GraphExec::is_enabled(const Node& original) {
  std::lock_guard lock(mutex_);
  return step_of(original).enabled;
}

cudaGraphExecUpdateResultInfo GraphExec::update(const Graph& graph) {
  const GraphExec fresh(graph, flags);
  std::lock_guard lock(mutex_);
  if (fresh.steps_.size() != steps_.size())
    return {cudaGraphExecUpdateErrorTopologyChanged, nullptr, nullptr};
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step &mine = steps_[i], &its = fresh.steps_[i];
    const auto objects = [&](cudaGraphExecUpdateResult result) {
      return cudaGraphExecUpdateResultInfo{result, its.original, nullptr};
    };
    if (mine.dependencies != its.dependencies || mine.device != its.device)
      return objects(cudaGraphExecUpdateErrorTopologyChanged);
    if (mine.work->type() != its.work->type()) return objects(cudaGraphExecUpdateErrorNodeTypeChanged);
  }
  for (size_t i = 0; i < steps_.size(); ++i) steps_[i].work = fresh.steps_[i].work;
  return {cudaGraphExecUpdateSuccess, nullptr, nullptr};
}

void GraphExec::wait() {
  Ticket last;
  {
    std::lock_guard lock(mutex_);
    last = last_;
  }
  last.wait();
}

HandleTable<cudaGraph_t, Graph>& graph_handles() {
  static auto* table = new HandleTable<cudaGraph_t, Graph>("a graph");
  return *table;
}
HandleTable<cudaGraphNode_t, Node>& node_handles() {
  static auto* table = new HandleTable<cudaGraphNode_t, Node>("a graph node");
  return *table;
}
HandleTable<cudaGraphExec_t, GraphExec>& exec_handles() {
  static auto* table = new HandleTable<cudaGraphExec_t, GraphExec>("an executable graph");
  return *table;
}

}  // namespace ptxsim::runtime
