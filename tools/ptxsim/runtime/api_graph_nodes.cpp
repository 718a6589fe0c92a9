// Nodes of graphs: made, read and changed, in graphs and in executables.
#include <cuda_runtime_api.h>

#include <cstring>

#include "runtime/api.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/graph_params.h"

using namespace ptxsim::runtime;  // NOLINT: this file is C functions only

namespace {

// Adds what `make` returns.
template <class Make>
cudaError_t add(const char* name, cudaGraphNode_t* node, cudaGraph_t graph,
                const cudaGraphNode_t* dependencies, size_t count, Make make) {
  return api(name, [&] {
    need(node, "pGraphNode");
    const auto g = graph_handles().get(graph);
    std::lock_guard lock(g->mutex);
    *node = g->add(make(), current_device(), nodes_of(dependencies, count)).handle;
  });
}

template <class Make>
cudaError_t set(const char* name, cudaGraphNode_t node, Make make) {
  return api(name, [&] { set_work(*node_handles().get(node), make()); });
}

template <class Make>
cudaError_t set_exec(const char* name, cudaGraphExec_t exec, cudaGraphNode_t node, Make make) {
  return api(name, [&] { exec_handles().get(exec)->replace(*node_handles().get(node), make()); });
}

// The attributes of the node stay when its other parameters change.
std::shared_ptr<const Work> kernel_like(cudaGraphNode_t node, const cudaKernelNodeParams* p) {
  return kernel_work(*need(p, "pNodeParams"),
                     work_as<KernelWork>(*node_handles().get(node)).request().attributes);
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

cudaError_t cudaGraphAddNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* dependencies,
                             const cudaGraphEdgeData* /*edges*/, size_t count, cudaGraphNodeParams* p) {
  return add(__func__, node, graph, dependencies, count, [&] { return work_of(*need(p, "nodeParams")); });
}
cudaError_t cudaGraphNodeSetParams(cudaGraphNode_t node, cudaGraphNodeParams* p) {
  return set(__func__, node, [&] { return work_of(*need(p, "nodeParams")); });
}
cudaError_t cudaGraphExecNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node, cudaGraphNodeParams* p) {
  return set_exec(__func__, exec, node, [&] { return work_of(*need(p, "nodeParams")); });
}

// --- kernels ---
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   const cudaGraphNode_t* dependencies, size_t count,
                                   const cudaKernelNodeParams* p) {
  return add(__func__, node, graph, dependencies, count,
             [&] { return kernel_work(*need(p, "pNodeParams")); });
}
cudaError_t cudaGraphKernelNodeGetParams(cudaGraphNode_t node, cudaKernelNodeParams* p) {
  return api(__func__, [&] {
    const auto& work = work_as<KernelWork>(*node_handles().get(node));
    const LaunchRequest& r = work.request();
    *need(p, "pNodeParams") = {r.kernel,         r.grid, r.block, static_cast<unsigned>(r.dynamic_shared),
                               work.arguments(), nullptr};
  });
}
cudaError_t cudaGraphKernelNodeSetParams(cudaGraphNode_t node, const cudaKernelNodeParams* p) {
  return set(__func__, node, [&] { return kernel_like(node, p); });
}
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* p) {
  return set_exec(__func__, exec, node, [&] { return kernel_like(node, p); });
}
cudaError_t cudaGraphKernelNodeGetAttribute(cudaGraphNode_t node, cudaLaunchAttributeID id,
                                            cudaLaunchAttributeValue* value) {
  return api(__func__, [&] {
    std::memset(need(value, "value_out"), 0, sizeof *value);
    for (const auto& a : work_as<KernelWork>(*node_handles().get(node)).request().attributes)
      if (a.id == id) *value = a.val;
  });
}
cudaError_t cudaGraphKernelNodeSetAttribute(cudaGraphNode_t node, cudaLaunchAttributeID id,
                                            const cudaLaunchAttributeValue* value) {
  return api(__func__, [&] {
    const auto n = node_handles().get(node);
    const auto& work = work_as<KernelWork>(*n);
    LaunchRequest request = work.request();
    cudaLaunchAttribute attribute = {};
    attribute.id = id;
    attribute.val = *need(value, "value");
    apply_attributes(request, &attribute, 1);
    n->work = std::make_shared<KernelWork>(work.device(), std::move(request), work.arguments());
  });
}
cudaError_t cudaGraphKernelNodeCopyAttributes(cudaGraphNode_t to, cudaGraphNode_t from) {
  return api(__func__, [&] {
    const auto n = node_handles().get(to);
    const auto& work = work_as<KernelWork>(*n);
    LaunchRequest request = work.request();
    const auto attributes = work_as<KernelWork>(*node_handles().get(from)).request().attributes;
    apply_attributes(request, attributes.data(), static_cast<unsigned>(attributes.size()));
    n->work = std::make_shared<KernelWork>(work.device(), std::move(request), work.arguments());
  });
}

// --- copies ---
cudaError_t cudaGraphAddMemcpyNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   const cudaGraphNode_t* dependencies, size_t count,
                                   const cudaMemcpy3DParms* p) {
  return add(__func__, node, graph, dependencies, count, [&] { return copy_of(*need(p, "pCopyParams")); });
}
cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t* node, cudaGraph_t graph,
                                     const cudaGraphNode_t* dependencies, size_t count, void* to,
                                     const void* from, size_t bytes, cudaMemcpyKind kind) {
  return add(__func__, node, graph, dependencies, count, [&] { return copy_of(to, from, bytes, kind); });
}
cudaError_t cudaGraphAddMemcpyNodeToSymbol(cudaGraphNode_t* node, cudaGraph_t graph,
                                           const cudaGraphNode_t* dependencies, size_t count,
                                           const void* symbol, const void* from, size_t bytes, size_t offset,
                                           cudaMemcpyKind kind) {
  return add(__func__, node, graph, dependencies, count,
             [&] { return symbol_copy(symbol, from, nullptr, bytes, offset, kind); });
}
cudaError_t cudaGraphAddMemcpyNodeFromSymbol(cudaGraphNode_t* node, cudaGraph_t graph,
                                             const cudaGraphNode_t* dependencies, size_t count, void* to,
                                             const void* symbol, size_t bytes, size_t offset,
                                             cudaMemcpyKind kind) {
  return add(__func__, node, graph, dependencies, count,
             [&] { return symbol_copy(symbol, nullptr, need(to, "dst"), bytes, offset, kind); });
}
cudaError_t cudaGraphMemcpyNodeGetParams(cudaGraphNode_t node, cudaMemcpy3DParms* p) {
  return api(__func__,
             [&] { *need(p, "pNodeParams") = work_as<CopyWork>(*node_handles().get(node)).parameters(); });
}
cudaError_t cudaGraphMemcpyNodeSetParams(cudaGraphNode_t node, const cudaMemcpy3DParms* p) {
  return set(__func__, node, [&] { return copy_of(*need(p, "pNodeParams")); });
}
cudaError_t cudaGraphMemcpyNodeSetParams1D(cudaGraphNode_t node, void* to, const void* from, size_t bytes,
                                           cudaMemcpyKind kind) {
  return set(__func__, node, [&] { return copy_of(to, from, bytes, kind); });
}
cudaError_t cudaGraphExecMemcpyNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaMemcpy3DParms* p) {
  return set_exec(__func__, exec, node, [&] { return copy_of(*need(p, "pNodeParams")); });
}
cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t exec, cudaGraphNode_t node, void* to,
                                               const void* from, size_t bytes, cudaMemcpyKind kind) {
  return set_exec(__func__, exec, node, [&] { return copy_of(to, from, bytes, kind); });
}

// --- fills ---
cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   const cudaGraphNode_t* dependencies, size_t count,
                                   const cudaMemsetParams* p) {
  return add(__func__, node, graph, dependencies, count, [&] { return fill_of(*need(p, "pMemsetParams")); });
}
cudaError_t cudaGraphMemsetNodeGetParams(cudaGraphNode_t node, cudaMemsetParams* p) {
  return api(__func__,
             [&] { *need(p, "pNodeParams") = work_as<FillWork>(*node_handles().get(node)).parameters(); });
}
cudaError_t cudaGraphMemsetNodeSetParams(cudaGraphNode_t node, const cudaMemsetParams* p) {
  return set(__func__, node, [&] { return fill_of(*need(p, "pNodeParams")); });
}
cudaError_t cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaMemsetParams* p) {
  return set_exec(__func__, exec, node, [&] { return fill_of(*need(p, "pNodeParams")); });
}

// --- host functions, child graphs, events, nothing ---
cudaError_t cudaGraphAddHostNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                 const cudaGraphNode_t* dependencies, size_t count,
                                 const cudaHostNodeParams* p) {
  return add(__func__, node, graph, dependencies, count, [&] { return host_work(*need(p, "pNodeParams")); });
}
cudaError_t cudaGraphHostNodeGetParams(cudaGraphNode_t node, cudaHostNodeParams* p) {
  return api(__func__, [&] {
    const auto& work = work_as<HostWork>(*node_handles().get(node));
    *need(p, "pNodeParams") = {work.function, work.data};
  });
}
cudaError_t cudaGraphHostNodeSetParams(cudaGraphNode_t node, const cudaHostNodeParams* p) {
  return set(__func__, node, [&] { return host_work(*need(p, "pNodeParams")); });
}
cudaError_t cudaGraphExecHostNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                           const cudaHostNodeParams* p) {
  return set_exec(__func__, exec, node, [&] { return host_work(*need(p, "pNodeParams")); });
}
cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                       const cudaGraphNode_t* dependencies, size_t count, cudaGraph_t child) {
  return add(__func__, node, graph, dependencies, count, [&] { return child_work(child); });
}
cudaError_t cudaGraphChildGraphNodeGetGraph(cudaGraphNode_t node, cudaGraph_t* graph) {
  return api(__func__,
             [&] { *need(graph, "pGraph") = work_as<ChildWork>(*node_handles().get(node)).handle; });
}
cudaError_t cudaGraphAddEmptyNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                  const cudaGraphNode_t* dependencies, size_t count) {
  return add(__func__, node, graph, dependencies, count, [] { return std::make_shared<EmptyWork>(); });
}
cudaError_t cudaGraphAddEventRecordNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                        const cudaGraphNode_t* dependencies, size_t count,
                                        cudaEvent_t event) {
  return add(__func__, node, graph, dependencies, count, [&] { return event_work(event, true); });
}
cudaError_t cudaGraphAddEventWaitNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                      const cudaGraphNode_t* dependencies, size_t count, cudaEvent_t event) {
  return add(__func__, node, graph, dependencies, count, [&] { return event_work(event, false); });
}
cudaError_t cudaGraphEventRecordNodeGetEvent(cudaGraphNode_t node, cudaEvent_t* event) {
  return api(__func__,
             [&] { *need(event, "event_out") = work_as<EventWork>(*node_handles().get(node)).handle; });
}
cudaError_t cudaGraphEventWaitNodeGetEvent(cudaGraphNode_t node, cudaEvent_t* event) {
  return api(__func__,
             [&] { *need(event, "event_out") = work_as<EventWork>(*node_handles().get(node)).handle; });
}
cudaError_t cudaGraphEventRecordNodeSetEvent(cudaGraphNode_t node, cudaEvent_t event) {
  return set(__func__, node, [&] { return event_work(event, true); });
}
cudaError_t cudaGraphEventWaitNodeSetEvent(cudaGraphNode_t node, cudaEvent_t event) {
  return set(__func__, node, [&] { return event_work(event, false); });
}
cudaError_t cudaGraphExecEventRecordNodeSetEvent(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                 cudaEvent_t event) {
  return set_exec(__func__, exec, node, [&] { return event_work(event, true); });
}
cudaError_t cudaGraphExecEventWaitNodeSetEvent(cudaGraphExec_t exec, cudaGraphNode_t node,
                                               cudaEvent_t event) {
  return set_exec(__func__, exec, node, [&] { return event_work(event, false); });
}

// --- memory of the graph ---
cudaError_t cudaGraphAddMemAllocNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                     const cudaGraphNode_t* dependencies, size_t count,
                                     cudaMemAllocNodeParams* p) {
  return add(__func__, node, graph, dependencies, count, [&] {
    auto work = std::make_shared<AllocWork>(current_device(), need(p, "nodeParams")->bytesize);
    p->dptr = work->pointer();
    return work;
  });
}
cudaError_t cudaGraphAddMemFreeNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                    const cudaGraphNode_t* dependencies, size_t count, void* pointer) {
  return add(__func__, node, graph, dependencies, count, [&] { return std::make_shared<FreeWork>(pointer); });
}
cudaError_t cudaGraphMemFreeNodeGetParams(cudaGraphNode_t node, void* pointer) {
  return api(__func__, [&] {
    *static_cast<void**>(need(pointer, "dptr_out")) = work_as<FreeWork>(*node_handles().get(node)).pointer;
  });
}

}  // extern "C"
#pragma GCC visibility pop
