#include "runtime/graph_params.h"

#include "runtime/copy.h"
#include "runtime/device.h"

namespace ptxsim::runtime {

std::shared_ptr<KernelWork> kernel_work(const cudaKernelNodeParams& p,
                                        const std::vector<cudaLaunchAttribute>& attributes) {
  if (p.extra != nullptr) refuse(cudaErrorNotSupported, "kernel arguments in one buffer (extra)");
  LaunchRequest request;
  request.kernel = &kernel_of(p.func);
  request.grid = p.gridDim;
  request.block = p.blockDim;
  request.dynamic_shared = p.sharedMemBytes;
  apply_attributes(request, attributes.data(), static_cast<unsigned>(attributes.size()));
  return std::make_shared<KernelWork>(current_device(), std::move(request), p.kernelParams);
}

std::shared_ptr<const Work> symbol_copy(const void* symbol, const void* from, void* to, size_t count,
                                        size_t offset, cudaMemcpyKind kind) {
  const VariablePlace place = place_of(symbol, current_device().index);
  if (offset > place.bytes || count > place.bytes - offset)
    refuse(cudaErrorInvalidValue, "{} bytes at offset {} of a variable of {} bytes", count, offset,
           place.bytes);
  return to == nullptr ? copy_of(place.address + offset, from, count, kind)
                       : copy_of(to, place.address + offset, count, kind);
}

std::shared_ptr<const Work> host_work(const cudaHostNodeParams& p) {
  return std::make_shared<HostWork>(need(p.fn, "fn"), p.userData);
}

std::shared_ptr<const Work> child_work(cudaGraph_t graph) {
  const auto copy = graph_handles().get(graph)->clone();
  return std::make_shared<ChildWork>(copy, graph_handles().add(copy));
}

std::shared_ptr<const Work> event_work(cudaEvent_t event, bool records) {
  return std::make_shared<EventWork>(event_handles().get(event), event, records);
}

std::shared_ptr<const Work> work_of(cudaGraphNodeParams& p) {
  switch (p.type) {
    case cudaGraphNodeTypeKernel: {
      const auto& k = p.kernel;
      return kernel_work({k.func, k.gridDim, k.blockDim, k.sharedMemBytes, k.kernelParams, k.extra});
    }
    case cudaGraphNodeTypeMemcpy:
      return copy_of(p.memcpy.copyParams);
    case cudaGraphNodeTypeMemset: {
      const auto& m = p.memset;
      return fill_of(cudaMemsetParams{m.dst, m.pitch, m.value, m.elementSize, m.width, m.height});
    }
    case cudaGraphNodeTypeHost:
      return host_work({p.host.fn, p.host.userData});
    case cudaGraphNodeTypeGraph:
      return child_work(p.graph.graph);
    case cudaGraphNodeTypeEmpty:
      return std::make_shared<EmptyWork>();
    case cudaGraphNodeTypeWaitEvent:
      return event_work(p.eventWait.event, false);
    case cudaGraphNodeTypeEventRecord:
      return event_work(p.eventRecord.event, true);
    case cudaGraphNodeTypeMemAlloc: {
      auto work = std::make_shared<AllocWork>(current_device(), p.alloc.bytesize);
      p.alloc.dptr = work->pointer();
      return work;
    }
    case cudaGraphNodeTypeMemFree:
      return std::make_shared<FreeWork>(p.free.dptr);
    default:
      refuse(cudaErrorNotSupported, "graph nodes of type {}", static_cast<int>(p.type));
  }
}

void set_work(Node& node, std::shared_ptr<const Work> work) {
  if (node.work->type() != work->type())
    refuse(cudaErrorInvalidValue, "the node is of type {}", static_cast<int>(node.work->type()));
  node.work = std::move(work);
}

std::vector<Node*> nodes_of(const cudaGraphNode_t* handles, size_t count) {
  std::vector<Node*> nodes;
  for (size_t i = 0; i < count; ++i)
    nodes.push_back(node_handles().get(need(handles, "dependencies")[i]).get());
  return nodes;
}

}  // namespace ptxsim::runtime
