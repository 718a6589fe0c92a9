// Entry points of programs compiled with --default-stream per-thread: the same calls, where the null stream
// means the thread's own (_ptsz: calls that take a stream; _ptds: calls that use the default one).
#include <cuda_runtime_api.h>

#include "runtime/thread_state.h"

namespace {

// While it lives, stream 0 of this thread's calls is cudaStreamPerThread.
class PerThread {
 public:
  PerThread() { ptxsim::runtime::thread_state().null_is_per_thread = true; }
  ~PerThread() { ptxsim::runtime::thread_state().null_is_per_thread = false; }
};

}  // namespace

// Defines name_ptsz or name_ptds with the parameters of `name`.
#define PTXSIM_PER_THREAD(name, suffix, parameters, arguments) \
  extern "C" cudaError_t name##suffix parameters {             \
    const PerThread scope;                                     \
    return name arguments;                                     \
  }

#pragma GCC visibility push(default)
using Kind = cudaMemcpyKind;
using Stream = cudaStream_t;

PTXSIM_PER_THREAD(cudaMemcpy, _ptds, (void* to, const void* from, size_t n, Kind kind), (to, from, n, kind))
PTXSIM_PER_THREAD(cudaMemcpy2D, _ptds,
                  (void* to, size_t tp, const void* from, size_t fp, size_t w, size_t h, Kind kind),
                  (to, tp, from, fp, w, h, kind))
PTXSIM_PER_THREAD(cudaMemcpy3D, _ptds, (const cudaMemcpy3DParms* p), (p))
PTXSIM_PER_THREAD(cudaMemcpy3DPeer, _ptds, (const cudaMemcpy3DPeerParms* p), (p))
PTXSIM_PER_THREAD(cudaMemcpyToSymbol, _ptds,
                  (const void* symbol, const void* from, size_t n, size_t at, Kind kind),
                  (symbol, from, n, at, kind))
PTXSIM_PER_THREAD(cudaMemcpyFromSymbol, _ptds, (void* to, const void* symbol, size_t n, size_t at, Kind kind),
                  (to, symbol, n, at, kind))
PTXSIM_PER_THREAD(cudaMemset, _ptds, (void* to, int value, size_t n), (to, value, n))
PTXSIM_PER_THREAD(cudaMemset2D, _ptds, (void* to, size_t pitch, int value, size_t w, size_t h),
                  (to, pitch, value, w, h))
PTXSIM_PER_THREAD(cudaMemset3D, _ptds, (cudaPitchedPtr to, int value, cudaExtent extent), (to, value, extent))

PTXSIM_PER_THREAD(cudaMemcpyAsync, _ptsz, (void* to, const void* from, size_t n, Kind kind, Stream s),
                  (to, from, n, kind, s))
PTXSIM_PER_THREAD(cudaMemcpy2DAsync, _ptsz,
                  (void* to, size_t tp, const void* from, size_t fp, size_t w, size_t h, Kind kind, Stream s),
                  (to, tp, from, fp, w, h, kind, s))
PTXSIM_PER_THREAD(cudaMemcpy3DAsync, _ptsz, (const cudaMemcpy3DParms* p, Stream s), (p, s))
PTXSIM_PER_THREAD(cudaMemcpy3DPeerAsync, _ptsz, (const cudaMemcpy3DPeerParms* p, Stream s), (p, s))
PTXSIM_PER_THREAD(cudaMemcpyBatchAsync, _ptsz,
                  (void* const* to, const void* const* from, const size_t* n, size_t count,
                   cudaMemcpyAttributes* a, size_t* indices, size_t attributes, Stream s),
                  (to, from, n, count, a, indices, attributes, s))
PTXSIM_PER_THREAD(cudaMemcpyToSymbolAsync, _ptsz,
                  (const void* symbol, const void* from, size_t n, size_t at, Kind kind, Stream s),
                  (symbol, from, n, at, kind, s))
PTXSIM_PER_THREAD(cudaMemcpyFromSymbolAsync, _ptsz,
                  (void* to, const void* symbol, size_t n, size_t at, Kind kind, Stream s),
                  (to, symbol, n, at, kind, s))
PTXSIM_PER_THREAD(cudaMemsetAsync, _ptsz, (void* to, int value, size_t n, Stream s), (to, value, n, s))
PTXSIM_PER_THREAD(cudaMemset2DAsync, _ptsz, (void* to, size_t pitch, int value, size_t w, size_t h, Stream s),
                  (to, pitch, value, w, h, s))
PTXSIM_PER_THREAD(cudaMemset3DAsync, _ptsz, (cudaPitchedPtr to, int value, cudaExtent extent, Stream s),
                  (to, value, extent, s))
PTXSIM_PER_THREAD(cudaMemPrefetchAsync, _ptsz,
                  (const void* p, size_t n, cudaMemLocation where, unsigned flags, Stream s),
                  (p, n, where, flags, s))
PTXSIM_PER_THREAD(cudaMallocAsync, _ptsz, (void** p, size_t n, Stream s), (p, n, s))
PTXSIM_PER_THREAD(cudaMallocFromPoolAsync, _ptsz, (void** p, size_t n, cudaMemPool_t pool, Stream s),
                  (p, n, pool, s))
PTXSIM_PER_THREAD(cudaFreeAsync, _ptsz, (void* p, Stream s), (p, s))

PTXSIM_PER_THREAD(cudaLaunchKernel, _ptsz,
                  (const void* f, dim3 grid, dim3 block, void** arguments, size_t shared, Stream s),
                  (f, grid, block, arguments, shared, s))
PTXSIM_PER_THREAD(cudaLaunchCooperativeKernel, _ptsz,
                  (const void* f, dim3 grid, dim3 block, void** arguments, size_t shared, Stream s),
                  (f, grid, block, arguments, shared, s))
PTXSIM_PER_THREAD(cudaLaunchKernelExC, _ptsz, (const cudaLaunchConfig_t* c, const void* f, void** arguments),
                  (c, f, arguments))
PTXSIM_PER_THREAD(cudaLaunchHostFunc, _ptsz, (Stream s, cudaHostFn_t f, void* data), (s, f, data))
PTXSIM_PER_THREAD(cudaStreamAddCallback, _ptsz,
                  (Stream s, cudaStreamCallback_t f, void* data, unsigned flags), (s, f, data, flags))
PTXSIM_PER_THREAD(cudaGraphLaunch, _ptsz, (cudaGraphExec_t exec, Stream s), (exec, s))
PTXSIM_PER_THREAD(cudaGraphUpload, _ptsz, (cudaGraphExec_t exec, Stream s), (exec, s))
PTXSIM_PER_THREAD(cudaGraphInstantiateWithParams, _ptsz,
                  (cudaGraphExec_t * exec, cudaGraph_t graph, cudaGraphInstantiateParams* p),
                  (exec, graph, p))

PTXSIM_PER_THREAD(cudaStreamQuery, _ptsz, (Stream s), (s))
PTXSIM_PER_THREAD(cudaStreamSynchronize, _ptsz, (Stream s), (s))
PTXSIM_PER_THREAD(cudaStreamWaitEvent, _ptsz, (Stream s, cudaEvent_t event, unsigned flags),
                  (s, event, flags))
PTXSIM_PER_THREAD(cudaStreamAttachMemAsync, _ptsz, (Stream s, void* p, size_t n, unsigned flags),
                  (s, p, n, flags))
PTXSIM_PER_THREAD(cudaStreamGetDevice, _ptsz, (Stream s, int* device), (s, device))
PTXSIM_PER_THREAD(cudaStreamGetFlags, _ptsz, (Stream s, unsigned* flags), (s, flags))
PTXSIM_PER_THREAD(cudaStreamGetId, _ptsz, (Stream s, unsigned long long* id), (s, id))
PTXSIM_PER_THREAD(cudaStreamGetPriority, _ptsz, (Stream s, int* priority), (s, priority))
PTXSIM_PER_THREAD(cudaStreamCopyAttributes, _ptsz, (Stream to, Stream from), (to, from))
PTXSIM_PER_THREAD(cudaStreamGetAttribute, _ptsz,
                  (Stream s, cudaLaunchAttributeID id, cudaLaunchAttributeValue* v), (s, id, v))
PTXSIM_PER_THREAD(cudaStreamSetAttribute, _ptsz,
                  (Stream s, cudaLaunchAttributeID id, const cudaLaunchAttributeValue* v), (s, id, v))
PTXSIM_PER_THREAD(cudaEventRecord, _ptsz, (cudaEvent_t event, Stream s), (event, s))
PTXSIM_PER_THREAD(cudaEventRecordWithFlags, _ptsz, (cudaEvent_t event, Stream s, unsigned flags),
                  (event, s, flags))
PTXSIM_PER_THREAD(cudaStreamBeginCapture, _ptsz, (Stream s, cudaStreamCaptureMode mode), (s, mode))
PTXSIM_PER_THREAD(cudaStreamBeginCaptureToGraph, _ptsz,
                  (Stream s, cudaGraph_t graph, const cudaGraphNode_t* nodes, const cudaGraphEdgeData* edges,
                   size_t n, cudaStreamCaptureMode mode),
                  (s, graph, nodes, edges, n, mode))
PTXSIM_PER_THREAD(cudaStreamEndCapture, _ptsz, (Stream s, cudaGraph_t* graph), (s, graph))
PTXSIM_PER_THREAD(cudaStreamIsCapturing, _ptsz, (Stream s, cudaStreamCaptureStatus* status), (s, status))
PTXSIM_PER_THREAD(cudaStreamGetCaptureInfo, _ptsz,
                  (Stream s, cudaStreamCaptureStatus* status, unsigned long long* id, cudaGraph_t* graph,
                   const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges, size_t* n),
                  (s, status, id, graph, nodes, edges, n))
PTXSIM_PER_THREAD(cudaStreamUpdateCaptureDependencies, _ptsz,
                  (Stream s, cudaGraphNode_t* nodes, const cudaGraphEdgeData* edges, size_t n,
                   unsigned flags),
                  (s, nodes, edges, n, flags))
PTXSIM_PER_THREAD(cudaGetDriverEntryPointByVersion, _ptsz,
                  (const char* name, void** f, unsigned version, unsigned long long flags,
                   cudaDriverEntryPointQueryResult* result),
                  (name, f, version, flags, result))

extern "C" cudaError_t cudaGetDriverEntryPoint_ptsz(const char* name, void** f, unsigned long long flags,
                                                    cudaDriverEntryPointQueryResult* result) {
  return cudaGetDriverEntryPointByVersion_ptsz(name, f, CUDART_VERSION, flags, result);
}
#pragma GCC visibility pop
