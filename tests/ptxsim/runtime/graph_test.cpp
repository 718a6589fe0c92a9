// Graphs: captured and built by hand, changed, replayed.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/ptxsim/runtime/program.h"

namespace {

using ptxsim_test::launch;
using ptxsim_test::Program;

class SimGraph : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&p_), 4096), cudaSuccess);
    ASSERT_EQ(cudaMemset(p_, 0, 4096), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);  // the streams below do not wait for the default one
    for (auto& s : streams_) ASSERT_EQ(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    for (auto& e : events_) ASSERT_EQ(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), cudaSuccess);
  }
  void TearDown() override {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (auto& e : events_) EXPECT_EQ(cudaEventDestroy(e), cudaSuccess);
    for (auto& s : streams_) EXPECT_EQ(cudaStreamDestroy(s), cudaSuccess);
    EXPECT_EQ(cudaFree(p_), cudaSuccess);
    (void)cudaGetLastError();
  }
  cudaError_t add(cudaStream_t stream, int* p, int value) {
    return launch(program_.add, 1, 32, stream, p, value, 1);
  }
  void begin(cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal) {
    ASSERT_EQ(cudaStreamBeginCapture(streams_[0], mode), cudaSuccess);
  }
  cudaGraph_t end(cudaError_t expected = cudaSuccess) {
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(streams_[0], &graph), expected);
    EXPECT_EQ(graph != nullptr, expected == cudaSuccess);
    return graph;
  }
  cudaGraphExec_t instantiate(cudaGraph_t graph) {
    cudaGraphExec_t exec = nullptr;
    EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    return exec;
  }
  void run(cudaGraphExec_t exec) {
    ASSERT_EQ(cudaGraphLaunch(exec, streams_[0]), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  }
  size_t node_count(cudaGraph_t graph) {
    size_t n = 0;
    EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &n), cudaSuccess);
    return n;
  }
  cudaKernelNodeParams add_node(void** arguments) {
    cudaKernelNodeParams p = {};
    p.func = const_cast<void*>(program_.add);
    p.gridDim = 1;
    p.blockDim = 32;
    p.kernelParams = arguments;
    return p;
  }

  Program& program_ = Program::instance();
  int* p_ = nullptr;
  cudaStream_t streams_[3] = {};
  cudaEvent_t events_[3] = {};
};

TEST_F(SimGraph, CapturedWorkRunsAtEveryLaunchOnly) {
  begin();
  ASSERT_EQ(cudaMemsetAsync(p_ + 1, 0, 4, streams_[0]), cudaSuccess);
  ASSERT_EQ(add(streams_[0], p_, 1), cudaSuccess);
  ASSERT_EQ(add(streams_[0], p_ + 1, 7), cudaSuccess);
  cudaGraph_t graph = end();
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(p_[0], 0);
  EXPECT_EQ(node_count(graph), 3u);
  cudaGraphExec_t exec = instantiate(graph);
  ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);  // the executable lives on
  for (int i = 1; i <= 5; ++i) {
    run(exec);
    EXPECT_EQ(p_[0], i);
    EXPECT_EQ(p_[1], 7);
  }
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(exec, streams_[0]), cudaErrorInvalidResourceHandle);
}

TEST_F(SimGraph, ForkAndJoinThroughEvents) {
  begin();
  ASSERT_EQ(add(streams_[0], p_, 1), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(events_[0], streams_[0]), cudaSuccess);
  for (int i = 1; i < 3; ++i) {
    ASSERT_EQ(cudaStreamWaitEvent(streams_[i], events_[0], 0), cudaSuccess);
    // Copies what the first step left, to show that it came before.
    ASSERT_EQ(cudaMemcpyAsync(p_ + i, p_, 4, cudaMemcpyDeviceToDevice, streams_[i]), cudaSuccess);
    ASSERT_EQ(add(streams_[i], p_ + i, 10 * i), cudaSuccess);
    ASSERT_EQ(cudaEventRecord(events_[i], streams_[i]), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(streams_[0], events_[i], 0), cudaSuccess);
  }
  ASSERT_EQ(cudaMemcpyAsync(p_ + 4, p_ + 1, 8, cudaMemcpyDeviceToDevice, streams_[0]), cudaSuccess);
  cudaGraph_t graph = end();
  EXPECT_EQ(node_count(graph), 6u);
  size_t edges = 0, roots = 0;
  ASSERT_EQ(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges), cudaSuccess);
  EXPECT_EQ(edges, 7u);
  ASSERT_EQ(cudaGraphGetRootNodes(graph, nullptr, &roots), cudaSuccess);
  EXPECT_EQ(roots, 1u);
  cudaGraphExec_t exec = instantiate(graph);
  for (int i = 1; i <= 20; ++i) {
    run(exec);
    EXPECT_EQ(p_[0], i);
    EXPECT_EQ(p_[4], i + 10);
    EXPECT_EQ(p_[5], i + 20);
  }
  // The streams that took part are free again.
  ASSERT_EQ(add(streams_[1], p_, 1), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(streams_[1]), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(SimGraph, LaunchesOfOneExecutableDoNotOverlap) {
  begin();
  for (int i = 0; i < 4; ++i) ASSERT_EQ(add(streams_[0], p_, 1), cudaSuccess);
  cudaGraphExec_t exec = instantiate(end());
  for (int i = 0; i < 60; ++i) ASSERT_EQ(cudaGraphLaunch(exec, streams_[i % 3]), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(p_[0], 240);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
}

TEST_F(SimGraph, WhatGoesWrongInACapture) {
  testing::internal::CaptureStderr();
  // A call that waits.
  begin();
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(add(streams_[0], p_, 1), cudaErrorStreamCaptureInvalidated);
  end(cudaErrorStreamCaptureInvalidated);
  // A call that a global capture forbids.
  begin();
  void* more = nullptr;
  EXPECT_EQ(cudaMalloc(&more, 64), cudaErrorStreamCaptureUnsupported);
  end(cudaErrorStreamCaptureInvalidated);
  // The same in a relaxed one.
  begin(cudaStreamCaptureModeRelaxed);
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  EXPECT_EQ(cudaThreadExchangeStreamCaptureMode(&mode), cudaSuccess);
  EXPECT_EQ(mode, cudaStreamCaptureModeGlobal);
  EXPECT_EQ(cudaMalloc(&more, 64), cudaSuccess);
  EXPECT_EQ(cudaThreadExchangeStreamCaptureMode(&mode), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(end()), cudaSuccess);
  EXPECT_EQ(cudaFree(more), cudaSuccess);
  // A stream that is not joined.
  begin();
  ASSERT_EQ(cudaEventRecord(events_[0], streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(streams_[1], events_[0], 0), cudaSuccess);
  ASSERT_EQ(add(streams_[1], p_, 1), cudaSuccess);
  end(cudaErrorStreamCaptureUnjoined);
  // An end in another stream.
  begin();
  ASSERT_EQ(cudaEventRecord(events_[0], streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(streams_[1], events_[0], 0), cudaSuccess);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(streams_[1], &graph), cudaErrorStreamCaptureUnmatched);
  end(cudaErrorStreamCaptureInvalidated);
  // An event from outside, and one of a capture looked at from outside.
  ASSERT_EQ(cudaEventRecord(events_[1], streams_[2]), cudaSuccess);
  begin();
  EXPECT_EQ(cudaStreamWaitEvent(streams_[0], events_[1], 0), cudaErrorStreamCaptureIsolation);
  end(cudaErrorStreamCaptureInvalidated);
  begin();
  ASSERT_EQ(cudaEventRecord(events_[0], streams_[0]), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(events_[0]), cudaErrorCapturedEvent);
  end(cudaErrorStreamCaptureInvalidated);
  // The legacy stream.
  cudaStream_t blocking;
  ASSERT_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeRelaxed), cudaSuccess);
  EXPECT_EQ(add(nullptr, p_, 1), cudaErrorStreamCaptureImplicit);
  EXPECT_EQ(cudaStreamEndCapture(blocking, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(cudaStreamDestroy(blocking), cudaSuccess);
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed), cudaErrorStreamCaptureUnsupported);
  testing::internal::GetCapturedStderr();
  // After all that nothing captures.
  cudaStreamCaptureStatus status;
  ASSERT_EQ(cudaStreamIsCapturing(streams_[0], &status), cudaSuccess);
  EXPECT_EQ(status, cudaStreamCaptureStatusNone);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(p_[0], 0);
}

TEST_F(SimGraph, CaptureEndsInItsThread) {
  begin();
  cudaGraph_t graph = nullptr;
  std::thread([&] {
    EXPECT_EQ(cudaStreamEndCapture(streams_[0], &graph), cudaErrorStreamCaptureWrongThread);
  }).join();
  EXPECT_EQ(cudaGraphDestroy(end()), cudaSuccess);
}

TEST_F(SimGraph, NodesMadeByHand) {
  cudaGraph_t graph;
  ASSERT_EQ(cudaGraphCreate(&graph, 0), cudaSuccess);
  int* target = p_;
  int value = 3, count = 1, called = 0;
  void* arguments[] = {&target, &value, &count};
  cudaKernelNodeParams kernel = add_node(arguments);
  cudaGraphNode_t set, first, second, host, copy, nothing;
  cudaMemsetParams fill = {};
  fill.dst = p_;
  fill.value = 0x01010101;
  fill.elementSize = 4;
  fill.width = 2;
  fill.height = 1;
  ASSERT_EQ(cudaGraphAddMemsetNode(&set, graph, nullptr, 0, &fill), cudaSuccess);
  ASSERT_EQ(cudaGraphAddKernelNode(&first, graph, &set, 1, &kernel), cudaSuccess);
  value = 5;  // the node keeps 3
  ASSERT_EQ(cudaGraphAddKernelNode(&second, graph, &first, 1, &kernel), cudaSuccess);
  cudaHostNodeParams function = {[](void* data) { ++*static_cast<int*>(data); }, &called};
  ASSERT_EQ(cudaGraphAddHostNode(&host, graph, &second, 1, &function), cudaSuccess);
  int result = 0;
  ASSERT_EQ(cudaGraphAddMemcpyNode1D(&copy, graph, &host, 1, &result, p_, 4, cudaMemcpyDeviceToHost),
            cudaSuccess);
  ASSERT_EQ(cudaGraphAddEmptyNode(&nothing, graph, &copy, 1), cudaSuccess);

  cudaGraphNodeType type;
  ASSERT_EQ(cudaGraphNodeGetType(copy, &type), cudaSuccess);
  EXPECT_EQ(type, cudaGraphNodeTypeMemcpy);
  cudaKernelNodeParams seen;
  ASSERT_EQ(cudaGraphKernelNodeGetParams(first, &seen), cudaSuccess);
  EXPECT_EQ(*static_cast<int*>(seen.kernelParams[1]), 3);
  cudaGraphNode_t dependency;
  size_t n = 1;
  ASSERT_EQ(cudaGraphNodeGetDependencies(host, &dependency, nullptr, &n), cudaSuccess);
  EXPECT_EQ(n, 1u);
  EXPECT_EQ(dependency, second);

  cudaGraphExec_t exec = instantiate(graph);
  run(exec);
  EXPECT_EQ(result, 0x01010101 + 8);
  EXPECT_EQ(called, 1);
  // Changed in the executable; then a node is switched off.
  value = 100;
  ASSERT_EQ(cudaGraphExecKernelNodeSetParams(exec, second, &kernel), cudaSuccess);
  run(exec);
  EXPECT_EQ(result, 0x01010101 + 103);
  ASSERT_EQ(cudaGraphNodeSetEnabled(exec, first, 0), cudaSuccess);
  run(exec);
  EXPECT_EQ(result, 0x01010101 + 100);
  EXPECT_EQ(called, 3);
  EXPECT_EQ(cudaGraphAddDependencies(graph, &copy, &set, nullptr, 1), cudaSuccess);
  cudaGraphExec_t circle;
  EXPECT_EQ(cudaGraphInstantiate(&circle, graph, 0), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroyNode(copy), cudaErrorInvalidResourceHandle);  // gone with its graph
}

TEST_F(SimGraph, ExecutablesTakeOverGraphsOfTheirShape) {
  const auto capture = [&](int value, int kernels) {
    begin();
    for (int i = 0; i < kernels; ++i) EXPECT_EQ(add(streams_[0], p_, value), cudaSuccess);
    return end();
  };
  cudaGraphExec_t exec = instantiate(capture(1, 2));
  cudaGraph_t same = capture(10, 2), other = capture(10, 3);
  cudaGraphExecUpdateResultInfo info;
  EXPECT_EQ(cudaGraphExecUpdate(exec, same, &info), cudaSuccess);
  run(exec);
  EXPECT_EQ(p_[0], 20);
  EXPECT_EQ(cudaGraphExecUpdate(exec, other, &info), cudaErrorGraphExecUpdateFailure);
  EXPECT_EQ(info.result, cudaGraphExecUpdateErrorTopologyChanged);
  run(exec);
  EXPECT_EQ(p_[0], 40);
}

TEST_F(SimGraph, ChildGraphsAndClones) {
  begin();
  ASSERT_EQ(add(streams_[0], p_, 1), cudaSuccess);
  ASSERT_EQ(add(streams_[0], p_, 2), cudaSuccess);
  cudaGraph_t child = end(), parent, clone;
  ASSERT_EQ(cudaGraphCreate(&parent, 0), cudaSuccess);
  cudaGraphNode_t first, second, found;
  ASSERT_EQ(cudaGraphAddChildGraphNode(&first, parent, nullptr, 0, child), cudaSuccess);
  ASSERT_EQ(cudaGraphAddChildGraphNode(&second, parent, &first, 1, child), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(child), cudaSuccess);  // a child is a copy
  ASSERT_EQ(cudaGraphClone(&clone, parent), cudaSuccess);
  ASSERT_EQ(cudaGraphNodeFindInClone(&found, second, clone), cudaSuccess);
  EXPECT_NE(found, second);
  run(instantiate(clone));
  EXPECT_EQ(p_[0], 6);
}

TEST_F(SimGraph, EventsOfTheProgramInAGraph) {
  begin();
  ASSERT_EQ(add(streams_[0], p_, 1), cudaSuccess);
  ASSERT_EQ(cudaEventRecordWithFlags(events_[0], streams_[0], cudaEventRecordExternal), cudaSuccess);
  cudaGraph_t graph = end();
  EXPECT_EQ(node_count(graph), 2u);
  cudaGraphExec_t exec = instantiate(graph);
  ASSERT_EQ(cudaGraphLaunch(exec, streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaEventSynchronize(events_[0]), cudaSuccess);
  EXPECT_EQ(__atomic_load_n(p_, __ATOMIC_SEQ_CST), 1);
}

TEST_F(SimGraph, MemoryOfAGraph) {
  begin();
  int* scratch = nullptr;
  ASSERT_EQ(cudaMallocAsync(reinterpret_cast<void**>(&scratch), 64, streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(scratch, 0, 64, streams_[0]), cudaSuccess);
  ASSERT_EQ(add(streams_[0], scratch, 9), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(p_, scratch, 4, cudaMemcpyDeviceToDevice, streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaFreeAsync(scratch, streams_[0]), cudaSuccess);
  cudaGraph_t graph = end();
  cudaGraphExec_t exec = instantiate(graph);
  run(exec);
  run(exec);
  EXPECT_EQ(p_[0], 9);
  size_t before = 0, after = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&before, &total), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  ASSERT_EQ(cudaMemGetInfo(&after, &total), cudaSuccess);
  EXPECT_GT(after, before);
}

}  // namespace
