// Streams and events: what runs beside what, and what waits.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tests/ptxsim/runtime/program.h"

namespace {

using ptxsim_test::launch;
using ptxsim_test::Program;

// A flag in pinned memory that keeps `spin` running until it is set.
class SimStream : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&flag_), 64), cudaSuccess);
    ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&p_), 4096), cudaSuccess);
    ASSERT_EQ(cudaMemset(p_, 0, 4096), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    *flag_ = 0;
    for (auto& s : streams_) ASSERT_EQ(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    for (auto& s : blocking_) ASSERT_EQ(cudaStreamCreate(&s), cudaSuccess);
    for (auto& e : events_) ASSERT_EQ(cudaEventCreate(&e), cudaSuccess);
  }
  void TearDown() override {
    release();
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (auto& e : events_) EXPECT_EQ(cudaEventDestroy(e), cudaSuccess);
    for (auto& s : streams_) EXPECT_EQ(cudaStreamDestroy(s), cudaSuccess);
    for (auto& s : blocking_) EXPECT_EQ(cudaStreamDestroy(s), cudaSuccess);
    EXPECT_EQ(cudaFree(p_), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(flag_), cudaSuccess);
    (void)cudaGetLastError();
  }
  void hold(cudaStream_t stream) { ASSERT_EQ(launch(program_.spin, 1, 1, stream, flag_), cudaSuccess); }
  void release() { __atomic_store_n(flag_, 1, __ATOMIC_SEQ_CST); }
  void add(cudaStream_t stream, int value) {
    ASSERT_EQ(launch(program_.add, 1, 32, stream, p_, value, 1), cudaSuccess);
  }
  // The value that the kernels have left, read without waiting for any stream.
  int peek() { return __atomic_load_n(p_, __ATOMIC_SEQ_CST); }
  bool idle_soon(cudaStream_t stream) {
    for (int i = 0; i < 2000; ++i) {
      if (cudaStreamQuery(stream) == cudaSuccess) return true;
      (void)cudaGetLastError();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  bool stays_busy(cudaStream_t stream) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    const bool busy = cudaStreamQuery(stream) == cudaErrorNotReady;
    (void)cudaGetLastError();
    return busy;
  }

  Program& program_ = Program::instance();
  int *flag_ = nullptr, *p_ = nullptr;
  cudaStream_t streams_[2] = {}, blocking_[2] = {};
  cudaEvent_t events_[2] = {};
};

TEST_F(SimStream, StreamsRunBesideEachOther) {
  hold(streams_[0]);
  add(streams_[1], 5);
  EXPECT_EQ(cudaStreamSynchronize(streams_[1]), cudaSuccess);
  EXPECT_EQ(peek(), 5);
  EXPECT_TRUE(stays_busy(streams_[0]));
  release();
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
}

TEST_F(SimStream, EventsOrderStreams) {
  hold(streams_[0]);
  add(streams_[0], 1);
  ASSERT_EQ(cudaEventRecord(events_[0], streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(streams_[1], events_[0], 0), cudaSuccess);
  add(streams_[1], 10);
  EXPECT_TRUE(stays_busy(streams_[1]));
  EXPECT_EQ(peek(), 0);
  EXPECT_EQ(cudaEventQuery(events_[0]), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);
  release();
  EXPECT_EQ(cudaStreamSynchronize(streams_[1]), cudaSuccess);
  EXPECT_EQ(peek(), 11);
  EXPECT_EQ(cudaEventQuery(events_[0]), cudaSuccess);
}

TEST_F(SimStream, WaitingForAnEventMeansItsRecordAtThatTime) {
  ASSERT_EQ(cudaEventRecord(events_[0], streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(streams_[1], events_[0], 0), cudaSuccess);
  hold(streams_[0]);
  ASSERT_EQ(cudaEventRecord(events_[0], streams_[0]), cudaSuccess);  // a later record binds nobody before
  add(streams_[1], 1);
  EXPECT_TRUE(idle_soon(streams_[1]));
  // An event that was never recorded holds nobody up either.
  ASSERT_EQ(cudaStreamWaitEvent(streams_[1], events_[1], 0), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(events_[1]), cudaSuccess);
  EXPECT_TRUE(idle_soon(streams_[1]));
}

TEST_F(SimStream, LegacyStreamWaitsForBlockingStreamsAndTheyForIt) {
  hold(blocking_[0]);
  add(nullptr, 1);
  add(blocking_[1], 2);
  add(streams_[0], 4);
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);  // non-blocking: not held up
  EXPECT_TRUE(stays_busy(blocking_[1]));
  EXPECT_EQ(peek(), 4);
  release();
  EXPECT_EQ(cudaStreamSynchronize(blocking_[1]), cudaSuccess);
  EXPECT_EQ(peek(), 7);
}

TEST_F(SimStream, PerThreadStreamsAreBlockingOnesOfTheirThread) {
  hold(blocking_[0]);
  add(cudaStreamPerThread, 1);
  std::thread([&] {
    add(cudaStreamPerThread, 2);
    EXPECT_EQ(cudaStreamSynchronize(cudaStreamPerThread), cudaSuccess);
  }).join();
  EXPECT_EQ(cudaStreamSynchronize(cudaStreamPerThread), cudaSuccess);
  EXPECT_EQ(peek(), 3);
  EXPECT_TRUE(stays_busy(blocking_[0]));
}

TEST_F(SimStream, ElapsedTimeIsReal) {
  float ms = -1;
  EXPECT_EQ(cudaEventElapsedTime(&ms, events_[0], events_[1]), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaEventRecord(events_[0], streams_[0]), cudaSuccess);
  ASSERT_EQ(cudaEventSynchronize(events_[0]), cudaSuccess);
  hold(streams_[0]);
  ASSERT_EQ(cudaEventRecord(events_[1], streams_[0]), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&ms, events_[0], events_[1]), cudaErrorNotReady);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  release();
  ASSERT_EQ(cudaEventSynchronize(events_[1]), cudaSuccess);
  ASSERT_EQ(cudaEventElapsedTime(&ms, events_[0], events_[1]), cudaSuccess);
  EXPECT_GE(ms, 19);
  EXPECT_LT(ms, 5000);
}

TEST_F(SimStream, HostFunctionsRunInTheirTurnAndMayNotCallCuda) {
  struct State {
    std::atomic<int> seen{-1}, inner{-1};
    int* p;
  } state;
  state.p = p_;
  add(streams_[0], 3);
  ASSERT_EQ(cudaLaunchHostFunc(
                streams_[0],
                [](void* data) {
                  auto& s = *static_cast<State*>(data);
                  s.seen = *s.p;
                  s.inner = cudaDeviceSynchronize();
                },
                &state),
            cudaSuccess);
  add(streams_[0], 4);
  ASSERT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_EQ(state.seen, 3);
  EXPECT_EQ(state.inner, cudaErrorNotPermitted);
  EXPECT_EQ(peek(), 7);
}

TEST_F(SimStream, CallbacksLearnTheStatus) {
  std::atomic<int> status{-1};
  ASSERT_EQ(
      cudaStreamAddCallback(
          streams_[0],
          [](cudaStream_t, cudaError_t code, void* data) { *static_cast<std::atomic<int>*>(data) = code; },
          &status, 0),
      cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_EQ(status, cudaSuccess);
}

TEST_F(SimStream, CopiesOfPinnedMemoryHappenLater) {
  int* source = flag_ + 1;
  *source = 1;
  hold(streams_[0]);
  ASSERT_EQ(cudaMemcpyAsync(p_, source, 4, cudaMemcpyHostToDevice, streams_[0]), cudaSuccess);
  *source = 2;  // too early: the copy has not happened
  int pageable = 30;
  ASSERT_EQ(cudaMemcpyAsync(p_ + 1, &pageable, 4, cudaMemcpyHostToDevice, streams_[0]), cudaSuccess);
  pageable = 40;  // allowed: it was taken along
  release();
  ASSERT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_EQ(p_[0], 2);
  EXPECT_EQ(p_[1], 30);
}

TEST_F(SimStream, DestroyedHandlesAreKnown) {
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  add(stream, 1);
  ASSERT_EQ(cudaStreamDestroy(stream), cudaSuccess);  // what was pushed is still done
  testing::internal::CaptureStderr();
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(launch(program_.add, 1, 32, stream, p_, 1, 1), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamQuery(reinterpret_cast<cudaStream_t>(0x1234)), cudaErrorInvalidResourceHandle);
  const std::string lines = testing::internal::GetCapturedStderr();
  EXPECT_NE(lines.find("was a stream that has been destroyed"), std::string::npos) << lines;
  EXPECT_NE(lines.find("0x1234 is not a stream"), std::string::npos) << lines;
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(peek(), 1);
  cudaEvent_t event;
  ASSERT_EQ(cudaEventCreate(&event), cudaSuccess);
  ASSERT_EQ(cudaEventDestroy(event), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(event, nullptr), cudaErrorInvalidResourceHandle);
}

// Chains of events over several streams: nothing may lock up, and every step sees the one before.
TEST_F(SimStream, LongChainsThroughManyStreams) {
  std::vector<cudaStream_t> streams(6);
  for (auto& s : streams) ASSERT_EQ(cudaStreamCreate(&s), cudaSuccess);
  for (int i = 0; i < 300; ++i) {
    cudaStream_t from = streams[i % 6], to = streams[(i * 5 + 1) % 6];
    add(from, 1);
    ASSERT_EQ(cudaEventRecord(events_[i % 2], from), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(to, events_[i % 2], 0), cudaSuccess);
    // All later steps follow this one.
    for (cudaStream_t s : streams) ASSERT_EQ(cudaStreamWaitEvent(s, events_[i % 2], 0), cudaSuccess);
    if (i % 50 == 0) add(nullptr, 1000);
  }
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(peek(), 6300);
  for (auto& s : streams) EXPECT_EQ(cudaStreamDestroy(s), cudaSuccess);
}

TEST_F(SimStream, ThreadsPushAtOnce) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        EXPECT_EQ(launch(program_.add, 1, 32, blocking_[0], p_ + t, 1, 1), cudaSuccess);
        if (i % 10 == 0) {
          EXPECT_EQ(cudaStreamSynchronize(blocking_[0]), cudaSuccess);
          EXPECT_GE(__atomic_load_n(p_ + t, __ATOMIC_SEQ_CST), i + 1);
        }
      }
    });
  for (auto& thread : threads) thread.join();
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  for (int t = 0; t < 4; ++t) EXPECT_EQ(p_[t], 100);
}

}  // namespace
