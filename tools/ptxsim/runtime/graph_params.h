// Between the parameter structures of graph nodes and the work that they describe.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "runtime/graph.h"
#include "runtime/launch.h"

namespace ptxsim::runtime {

// Each checks what it is given, on the current device.
std::shared_ptr<KernelWork> kernel_work(const cudaKernelNodeParams& parameters,
                                        const std::vector<cudaLaunchAttribute>& attributes = {});
std::shared_ptr<const Work> symbol_copy(const void* symbol, const void* from, void* to, size_t count,
                                        size_t offset, cudaMemcpyKind kind);
std::shared_ptr<const Work> host_work(const cudaHostNodeParams& parameters);
std::shared_ptr<const Work> child_work(cudaGraph_t graph);
std::shared_ptr<const Work> event_work(cudaEvent_t event, bool records);
// By the type in the structure. An allocation's address is written into it.
std::shared_ptr<const Work> work_of(cudaGraphNodeParams& parameters);

// The work of a node, which has to be of this kind (cudaErrorInvalidValue otherwise).
template <class T>
const T& work_as(const Node& node) {
  const auto* work = dynamic_cast<const T*>(node.work.get());
  if (work == nullptr)
    refuse(cudaErrorInvalidValue, "the node is of type {}", static_cast<int>(node.work->type()));
  return *work;
}
void set_work(Node& node, std::shared_ptr<const Work> work);
std::vector<Node*> nodes_of(const cudaGraphNode_t* handles, size_t count);

}  // namespace ptxsim::runtime
