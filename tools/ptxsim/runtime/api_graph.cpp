// Graphs as a whole: made, looked at, instantiated, launched.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstdio>

#include "runtime/api.h"
#include "runtime/capture.h"
#include "runtime/device.h"
#include "runtime/graph_params.h"

using namespace ptxsim::runtime;  // NOLINT: this file is C functions only

namespace {

// The convention of every list in the API: count only, or as many as there is room for.
template <class T>
void hand_out(const std::vector<T>& all, T* out, size_t* count) {
  need(count, "the count");
  if (out != nullptr) {
    std::copy_n(all.begin(), std::min(all.size(), *count), out);
    std::fill(out + std::min(all.size(), *count), out + *count, T{});
  }
  *count = out == nullptr ? all.size() : std::min(all.size(), *count);
}

struct UserObject {
  UserObject(void* pointer, cudaHostFn_t destroy) : pointer(pointer), destroy(destroy) {}
  ~UserObject() { destroy(pointer); }
  void* const pointer;
  const cudaHostFn_t destroy;
  std::atomic<int> count{0};  // references of the program: each one a copy of `self`
  std::shared_ptr<UserObject> self;
};

HandleTable<cudaUserObject_t, UserObject>& user_objects() {
  static auto* table = new HandleTable<cudaUserObject_t, UserObject>("a user object");
  return *table;
}

void release(const std::shared_ptr<UserObject>& object, unsigned count) {
  if (object->count.fetch_sub(static_cast<int>(count)) <= static_cast<int>(count)) object->self = nullptr;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags) {
  return api(__func__, [&] {
    if (flags != 0) refuse(cudaErrorInvalidValue, "flags {}", flags);
    *need(graph, "pGraph") = graph_handles().add(std::make_shared<Graph>());
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return api(__func__, [&] { graph_handles().remove(graph); });
}
cudaError_t cudaGraphClone(cudaGraph_t* clone, cudaGraph_t graph) {
  return api(__func__,
             [&] { *need(clone, "pGraphClone") = graph_handles().add(graph_handles().get(graph)->clone()); });
}
cudaError_t cudaGraphNodeFindInClone(cudaGraphNode_t* node, cudaGraphNode_t original, cudaGraph_t clone) {
  return api(__func__, [&] {
    for (const auto& n : graph_handles().get(clone)->nodes())
      if (n->original == original) {
        *need(node, "pNode") = n->handle;
        return;
      }
    refuse(cudaErrorInvalidValue, "the graph has no clone of the node");
  });
}

// --- shape ---
cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
  return api(__func__, [&] { *need(type, "pType") = node_handles().get(node)->work->type(); });
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  return api(__func__, [&] {
    std::vector<cudaGraphNode_t> all;
    for (const auto& n : graph_handles().get(graph)->nodes()) all.push_back(n->handle);
    hand_out(all, nodes, count);
  });
}
cudaError_t cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  return api(__func__, [&] {
    std::vector<cudaGraphNode_t> all;
    for (const auto& n : graph_handles().get(graph)->nodes())
      if (n->dependencies.empty()) all.push_back(n->handle);
    hand_out(all, nodes, count);
  });
}
cudaError_t cudaGraphGetEdges(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to,
                              cudaGraphEdgeData* edges, size_t* count) {
  return api(__func__, [&] {
    std::vector<cudaGraphNode_t> froms, tos;
    for (const auto& n : graph_handles().get(graph)->nodes())
      for (const Node* d : n->dependencies) {
        froms.push_back(d->handle);
        tos.push_back(n->handle);
      }
    size_t room = *need(count, "numEdges");
    if (edges != nullptr) std::fill_n(edges, std::min(room, froms.size()), cudaGraphEdgeData{});
    hand_out(froms, from, &room);
    hand_out(tos, to, count);
  });
}
cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* dependencies,
                                         cudaGraphEdgeData* edges, size_t* count) {
  return api(__func__, [&] {
    std::vector<cudaGraphNode_t> all;
    for (const Node* d : node_handles().get(node)->dependencies) all.push_back(d->handle);
    if (edges != nullptr)
      std::fill_n(edges, std::min(*need(count, "the count"), all.size()), cudaGraphEdgeData{});
    hand_out(all, dependencies, count);
  });
}
cudaError_t cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t* dependents,
                                           cudaGraphEdgeData* edges, size_t* count) {
  return api(__func__, [&] {
    const auto of = node_handles().get(node);
    std::vector<cudaGraphNode_t> all;
    for (const auto& n : of->graph->nodes())
      if (std::find(n->dependencies.begin(), n->dependencies.end(), of.get()) != n->dependencies.end())
        all.push_back(n->handle);
    if (edges != nullptr)
      std::fill_n(edges, std::min(*need(count, "the count"), all.size()), cudaGraphEdgeData{});
    hand_out(all, dependents, count);
  });
}
cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                     const cudaGraphNode_t* to, const cudaGraphEdgeData* /*edges*/,
                                     size_t count) {
  return api(__func__, [&] {
    const auto g = graph_handles().get(graph);
    std::lock_guard lock(g->mutex);
    const auto froms = nodes_of(from, count), tos = nodes_of(to, count);
    for (size_t i = 0; i < count; ++i) {
      auto& list = tos[i]->dependencies;
      if (froms[i]->graph != g.get() || tos[i]->graph != g.get() || froms[i] == tos[i])
        refuse(cudaErrorInvalidValue, "an edge that leaves the graph, or joins a node to itself");
      if (std::find(list.begin(), list.end(), froms[i]) != list.end())
        refuse(cudaErrorInvalidValue, "the edge exists already");
      list.push_back(froms[i]);
    }
  });
}
cudaError_t cudaGraphRemoveDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                        const cudaGraphNode_t* to, const cudaGraphEdgeData* /*edges*/,
                                        size_t count) {
  return api(__func__, [&] {
    const auto g = graph_handles().get(graph);
    std::lock_guard lock(g->mutex);
    const auto froms = nodes_of(from, count), tos = nodes_of(to, count);
    for (size_t i = 0; i < count; ++i)
      if (std::erase(tos[i]->dependencies, froms[i]) == 0)
        refuse(cudaErrorInvalidValue, "there is no such edge");
  });
}
cudaError_t cudaGraphDestroyNode(cudaGraphNode_t node) {
  return api(__func__, [&] {
    const auto n = node_handles().get(node);
    std::lock_guard lock(n->graph->mutex);
    n->graph->remove(*n);
  });
}
cudaError_t cudaGraphDebugDotPrint(cudaGraph_t graph, const char* path, unsigned /*flags*/) {
  return api(__func__, [&] {
    const auto g = graph_handles().get(graph);
    std::FILE* file = std::fopen(need(path, "path"), "w");
    if (file == nullptr) refuse(cudaErrorOperatingSystem, "{} cannot be written", path);
    fmt::print(file, "digraph {{\n");
    for (const auto& n : g->nodes()) {
      const auto* kernel = dynamic_cast<const KernelWork*>(n->work.get());
      const std::string name = kernel != nullptr ? kernel->request().kernel->name
                                                 : fmt::format("type {}", static_cast<int>(n->work->type()));
      fmt::print(file, "  n{} [label=\"{}\"];\n", reinterpret_cast<uint64_t>(n->handle), name);
      for (const Node* d : n->dependencies)
        fmt::print(file, "  n{} -> n{};\n", reinterpret_cast<uint64_t>(d->handle),
                   reinterpret_cast<uint64_t>(n->handle));
    }
    fmt::print(file, "}}\n");
    std::fclose(file);
  });
}

// --- executables ---
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  return api(__func__, [&] {
    *need(exec, "pGraphExec") =
        exec_handles().add(std::make_shared<GraphExec>(*graph_handles().get(graph), flags));
  });
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph,
                                          unsigned long long flags) {
  return cudaGraphInstantiate(exec, graph, flags);
}
cudaError_t cudaGraphInstantiateWithParams(cudaGraphExec_t* exec, cudaGraph_t graph,
                                           cudaGraphInstantiateParams* p) {
  if (p == nullptr) return remember(cudaErrorInvalidValue);
  const cudaError_t code = cudaGraphInstantiate(exec, graph, p->flags);
  p->result_out = code == cudaSuccess ? cudaGraphInstantiateSuccess : cudaGraphInstantiateError;
  p->errNode_out = nullptr;
  return code;
}
cudaError_t cudaGraphExecGetFlags(cudaGraphExec_t exec, unsigned long long* flags) {
  return api(__func__, [&] { *need(flags, "flags") = exec_handles().get(exec)->flags; });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return api(__func__, [&] { exec_handles().remove(exec); });
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
  return api(__func__, [&] {
    exec_handles().get(exec);
    stream_of(stream);
  });
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
  return api(__func__, [&] {
    const auto stream = stream_of(handle);
    const auto e = exec_handles().get(exec);
    if (is_capturing(*stream)) refuse(cudaErrorNotSupported, "a graph launched into a capturing stream");
    e->launch(*stream);
  });
}
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo* info) {
  return api(__func__, [&] {
    *need(info, "resultInfo") = exec_handles().get(exec)->update(*graph_handles().get(graph));
    if (info->result != cudaGraphExecUpdateSuccess)
      refuse(cudaErrorGraphExecUpdateFailure, "the graph has another shape (result {})",
             static_cast<int>(info->result));
  });
}
cudaError_t cudaGraphNodeSetEnabled(cudaGraphExec_t exec, cudaGraphNode_t node, unsigned enabled) {
  return api(__func__, [&] { exec_handles().get(exec)->enable(*node_handles().get(node), enabled != 0); });
}
cudaError_t cudaGraphNodeGetEnabled(cudaGraphExec_t exec, cudaGraphNode_t node, unsigned* enabled) {
  return api(__func__, [&] {
    *need(enabled, "isEnabled") = exec_handles().get(exec)->is_enabled(*node_handles().get(node)) ? 1 : 0;
  });
}

// --- memory of graphs: nothing is cached ---
cudaError_t cudaDeviceGraphMemTrim(int device) {
  return api(__func__, [&] { device_at(device); });
}

// --- objects that live as long as a graph ---
cudaError_t cudaUserObjectCreate(cudaUserObject_t* handle, void* pointer, cudaHostFn_t destroy,
                                 unsigned references, unsigned flags) {
  return api(__func__, [&] {
    if (flags != cudaUserObjectNoDestructorSync || references == 0)
      refuse(cudaErrorInvalidValue, "flags {}, {} references", flags, references);
    auto object = std::make_shared<UserObject>(pointer, need(destroy, "destroy"));
    object->count = static_cast<int>(references);
    object->self = object;
    *need(handle, "object_out") = user_objects().add(object);
  });
}
cudaError_t cudaUserObjectRetain(cudaUserObject_t handle, unsigned count) {
  return api(__func__, [&] { user_objects().get(handle)->count += static_cast<int>(count); });
}
cudaError_t cudaUserObjectRelease(cudaUserObject_t handle, unsigned count) {
  return api(__func__, [&] {
    const auto object = user_objects().get(handle);
    release(object, count);
    if (object->self == nullptr) user_objects().remove(handle);
  });
}
cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t handle, unsigned count,
                                      unsigned flags) {
  return api(__func__, [&] {
    const auto g = graph_handles().get(graph);
    const auto object = user_objects().get(handle);
    std::lock_guard lock(g->mutex);
    for (unsigned i = 0; i < count; ++i) g->user_objects.push_back(object);
    if ((flags & cudaGraphUserObjectMove) == 0) return;
    release(object, count);
    if (object->self == nullptr) user_objects().remove(handle);
  });
}
cudaError_t cudaGraphReleaseUserObject(cudaGraph_t graph, cudaUserObject_t handle, unsigned count) {
  return api(__func__, [&] {
    const auto g = graph_handles().get(graph);
    const std::shared_ptr<void> object = user_objects().get(handle);
    std::lock_guard lock(g->mutex);
    for (unsigned i = 0; i < count; ++i) {
      const auto it = std::find(g->user_objects.begin(), g->user_objects.end(), object);
      if (it != g->user_objects.end()) g->user_objects.erase(it);
    }
  });
}

}  // extern "C"
#pragma GCC visibility pop
