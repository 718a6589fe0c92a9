// A GPU as a Device: memory and its ledger, staging, streams in order, events, graphs, errors of kernels.
#include "device/device.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "cuda/backend.h"
#include "cuda/device/staging.h"
#include "cuda/ops.h"

namespace contender::cuda {
extern "C" const Library* contender_cuda_backend(int version);
namespace {

constexpr int64_t kMiB = 1 << 20;

const Library& library() { return *contender_cuda_backend(kLibraryVersion); }
std::unique_ptr<Device> gpu(int sharers = 1) { return library().make_device(0, sharers); }

template <class F>
std::string error_of(ExitCode code, F f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

std::vector<float> numbers(int64_t n, float first) {
  std::vector<float> v(static_cast<size_t>(n));
  std::iota(v.begin(), v.end(), first);
  return v;
}

class CudaDeviceTest : public testing::Test {
 protected:
  void upload(Stream* s, const Buffer& b, const std::vector<float>& v) {
    device_->upload(s, b.data(), v.data(), static_cast<int64_t>(v.size() * sizeof(float)));
  }
  std::vector<float> download(Stream* s, const Buffer& b) {
    std::vector<float> v(static_cast<size_t>(b.bytes()) / sizeof(float));
    device_->download(s, v.data(), b.data(), b.bytes());
    return v;
  }
  // y = a + b in stream s.
  void add(Stream* s, const Buffer& a, const Buffer& b, const Buffer& y) {
    const auto row = [](const Buffer& x) { return Tensor(x.data(), DType::kF32, 1, x.bytes() / 4); };
    cuda::add({.stream = s}, {.a = row(a), .b = row(b), .y = row(y)});
  }
  Buffer buffer(int64_t floats) { return {device_.get(), floats * 4, "test"}; }

  std::unique_ptr<Device> device_ = gpu();
  Stream* compute_ = device_->compute_stream();
};

TEST(CudaLibrary, KnowsItsGpusAndHasEveryOperator) {
  EXPECT_EQ(contender_cuda_backend(kLibraryVersion + 1), nullptr);
  const Gpus found = library().find_gpus();
  EXPECT_EQ(found.problem, "");
  EXPECT_GE(found.driver, found.runtime / 1000 * 1000);
  ASSERT_GE(found.gpus.size(), 1u);
  EXPECT_EQ(found.gpus[0].major, 9);
  EXPECT_EQ(found.gpus[0].uuid.size(), 32u);
  EXPECT_GT(library().matrix_gflops(0, 1), 1e5);
  EXPECT_EQ(library().matrix_gflops(0, 2) * 2, library().matrix_gflops(0, 1));

  // From the first operator to the end the table is made of pointers to functions.
  const Ops& ops = *library().ops;
  EXPECT_STREQ(ops.name, "cuda");
  EXPECT_EQ(ops.activation, DType::kBF16);
  const auto* begin = reinterpret_cast<void* const*>(&ops.pack_weight);
  const auto* end = reinterpret_cast<void* const*>(&ops + 1);
  for (const auto* p = begin; p != end; ++p) EXPECT_NE(*p, nullptr) << "operator " << p - begin;
}

TEST_F(CudaDeviceTest, CountsItsMemory) {
  EXPECT_FALSE(device_->host_memory());
  const int64_t before = device_->allocated_bytes();
  {
    const Buffer a(device_.get(), 1000, "a"), empty(device_.get(), 0, "empty");
    EXPECT_NE(empty.data(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % 256, 0u);
    EXPECT_EQ(device_->allocated_bytes() - before, 1024 + 256);
  }
  EXPECT_EQ(device_->allocated_bytes(), before);
  EXPECT_EQ(device_->peak_bytes(), before + 1024 + 256);
  int x = 0;
  EXPECT_THROW(device_->free(&x), Error);
}

TEST(CudaMemory, RefusesBeyondTheLimitAndNamesTheUsers) {
  ::setenv("CONTENDER_MEMORY_LIMIT", std::to_string(8 * kMiB).c_str(), 1);
  const std::unique_ptr<Device> device = gpu();
  ::unsetenv("CONTENDER_MEMORY_LIMIT");
  EXPECT_EQ(device->memory_bytes(), 8 * kMiB);
  const Buffer weights(device.get(), 5 * kMiB, "weights");
  EXPECT_EQ(
      error_of(ExitCode::kOutOfMemory,
               [&] { Buffer(device.get(), 4 * kMiB, "KV cache (rollout.kv_tokens)"); }),
      "out of memory: KV cache (rollout.kv_tokens) needs 4.0 MiB, 3.0 of 8.0 MiB are free; largest users: "
      "weights 5.0 MiB; lower a setting that sizes one of them");
  const Buffer fits(device.get(), 3 * kMiB, "fits");
}

// Two ranks believe they are alone; then the GPU itself is full.
TEST(CudaMemory, SaysWhenTheGpuIsFullOfOthers) {
  const std::unique_ptr<Device> one = gpu(), other = gpu();
  const Buffer most(one.get(), one->memory_bytes() / 10 * 9, "most");
  const std::string error = error_of(ExitCode::kOutOfMemory,
                                     [&] { Buffer(other.get(), other->memory_bytes() / 10 * 9, "weights"); });
  EXPECT_NE(error.find("does another program use this memory?"), std::string::npos) << error;
  const Buffer small(other.get(), kMiB, "after the refusal");  // it leaves no error behind
}

TEST(CudaMemory, IsSharedAmongRanks) {
  const int64_t alone = gpu()->memory_bytes(), half = gpu(2)->memory_bytes();
  EXPECT_LT(half, alone / 2 + kMiB);
  EXPECT_GT(half, alone / 4);
}

// The source changes behind every call; the sizes are of every kind of block, ragged, and past the largest.
TEST_F(CudaDeviceTest, UploadsOfABufferThatChanges) {
  std::vector<Buffer> targets;
  const std::vector<int64_t> sizes = {1, 3, 1024, 1025, 5000, 70'001, 1 << 20, (1 << 20) + 1};
  std::vector<float> source(1 << 21);
  for (int round = 0; round < 3; ++round) {
    for (const int64_t n : sizes) {
      targets.push_back(buffer(n));
      const float first = static_cast<float>(100 * targets.size());
      std::iota(source.begin(), source.begin() + n, first);
      device_->upload(compute_, targets.back().data(), source.data(), n * 4);
      std::fill(source.begin(), source.begin() + n, -1.0f);
    }
  }
  EXPECT_EQ(device_->host_waits(), 0);
  for (size_t i = 0; i < targets.size(); ++i) {
    const int64_t n = sizes[i % sizes.size()];
    EXPECT_EQ(download(compute_, targets[i]), numbers(n, static_cast<float>(100 * (i + 1)))) << i;
  }
}

// More on the way than may be pinned: the host waits for the oldest, and says so.
TEST_F(CudaDeviceTest, UploadStagingIsBounded) {
  const int64_t pieces = 40, floats = UploadStaging::kLargest / 4;
  const Buffer target = buffer(floats);
  std::vector<float> source(static_cast<size_t>(floats));
  UploadStaging staging;
  const auto stream = static_cast<cudaStream_t>(device_->handle(compute_));
  for (int64_t i = 0; i < pieces; ++i) {
    source[0] = source.back() = static_cast<float>(i);
    staging.upload(stream, target.data(), source.data(), target.bytes());
    EXPECT_LE(staging.pinned_bytes(), UploadStaging::kBound);
  }
  const std::vector<float> last = download(compute_, target);
  EXPECT_EQ(last[0], static_cast<float>(pieces - 1));
  EXPECT_EQ(last.back(), static_cast<float>(pieces - 1));
}

TEST_F(CudaDeviceTest, DownloadWaitsForTheStreamAndIsCounted) {
  const int64_t n = 3'000'001;  // three blocks, the last ragged
  const Buffer x = buffer(n), y = buffer(n);
  upload(compute_, x, numbers(n, 0));
  device_->zero(compute_, y.data(), y.bytes());
  for (int i = 0; i < 3; ++i) add(compute_, x, y, y);
  EXPECT_EQ(device_->host_waits(), 0);
  const std::vector<float> got = download(compute_, y);
  EXPECT_EQ(device_->host_waits(), 1);
  for (int64_t i = 0; i < n; i += 1000)
    ASSERT_EQ(got[static_cast<size_t>(i)], static_cast<float>(3 * i)) << i;
  EXPECT_EQ(got.back(), static_cast<float>(3 * (n - 1)));
  device_->synchronize(compute_);
  EXPECT_EQ(device_->host_waits(), 2);
  device_->download(compute_, nullptr, x.data(), 0);
  EXPECT_EQ(device_->host_waits(), 3);
}

TEST_F(CudaDeviceTest, StreamsByName) {
  Stream* reduce = device_->stream("reduce");
  EXPECT_EQ(device_->stream("reduce"), reduce);
  Stream* dispatch = device_->stream("dispatch");
  EXPECT_NE(dispatch, reduce);
  EXPECT_NE(reduce, compute_);
  EXPECT_NE(device_->handle(reduce), device_->handle(dispatch));
  EXPECT_NE(device_->handle(compute_), nullptr);  // the default stream would wait for all others
  EXPECT_EQ(device_->stream("reduce"), reduce);
}

// Written in one stream, read in another, written again in the first: right only if both orders hold.
TEST_F(CudaDeviceTest, OrderBetweenStreams) {
  const int64_t n = 10'000;
  const Buffer x = buffer(n), one = buffer(n), y = buffer(n), zero = buffer(n);
  Stream* other = device_->stream("other");
  upload(compute_, one, std::vector<float>(n, 1));
  for (const Buffer* b : {&x, &y, &zero}) device_->zero(compute_, b->data(), b->bytes());
  const int rounds = 5;
  for (int i = 0; i < rounds; ++i) {
    add(compute_, x, one, x);
    device_->order(compute_, other);
    add(other, y, x, y);
    device_->order(other, compute_);
  }
  device_->copy(other, zero.data(), y.data(), y.bytes());
  EXPECT_EQ(download(other, zero), std::vector<float>(n, rounds * (rounds + 1) / 2));
  EXPECT_EQ(device_->host_waits(), 1);
}

TEST_F(CudaDeviceTest, Events) {
  const int64_t n = 10'000;
  const Buffer x = buffer(n), y = buffer(n);
  Stream* other = device_->stream("other");
  upload(other, x, numbers(n, 1));
  Event* filled = device_->record(other);
  device_->wait(compute_, filled);
  device_->zero(compute_, y.data(), y.bytes());
  add(compute_, x, y, y);
  Event* added = device_->record(compute_);
  EXPECT_NE(added, filled);
  device_->release(filled);
  Event* again = device_->record(compute_);
  EXPECT_EQ(again, filled);  // from the pool
  EXPECT_EQ(download(compute_, y), numbers(n, 1));
  EXPECT_TRUE(device_->done(added));
  EXPECT_TRUE(device_->done(again));
  device_->release(added);
  device_->release(again);
}

// Work on two streams as one graph, launched twice on inputs that have changed.
TEST_F(CudaDeviceTest, CaptureOnceLaunchTwice) {
  const int64_t n = 5'000;
  const Buffer x = buffer(n), twice = buffer(n), thrice = buffer(n);
  Stream* other = device_->stream("other");
  upload(compute_, thrice, std::vector<float>(n, -1));
  Graph* graph = device_->capture(compute_, [&] {
    device_->order(compute_, other);
    add(other, x, x, twice);
    device_->order(other, compute_);
    add(compute_, twice, x, thrice);
  });
  ASSERT_NE(graph, nullptr);
  EXPECT_EQ(download(compute_, thrice), std::vector<float>(n, -1));  // captured, not run
  for (const float value : {2.0f, 5.0f}) {
    upload(compute_, x, std::vector<float>(n, value));
    device_->launch(compute_, graph);
    EXPECT_EQ(download(compute_, thrice), std::vector<float>(n, 3 * value));
  }
  device_->release(graph);
}

TEST_F(CudaDeviceTest, WhatAGraphMayNotHold) {
  const Buffer x = buffer(4);
  const std::vector<float> v(4);
  const auto in_graph = [&](const std::function<void()>& work) {
    return error_of(ExitCode::kInternal, [&] { device_->capture(compute_, work); });
  };
  EXPECT_NE(in_graph([&] { upload(compute_, x, v); }).find("an upload into a graph"), std::string::npos);
  EXPECT_NE(in_graph([&] { download(compute_, x); }).find("a download into a graph"), std::string::npos);
  EXPECT_NE(in_graph([&] { device_->synchronize(compute_); }).find("a wait of the host"), std::string::npos);
  upload(compute_, x, v);  // and the stream goes on
  EXPECT_EQ(download(compute_, x), v);
}

// A kernel that traps: its words, one line with the call that saw it, and the code; taking down says no more.
[[noreturn]] void gather_past_the_rows() {
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  try {
    const std::unique_ptr<Device> device = gpu();
    Stream* s = device->compute_stream();
    const Buffer index(device.get(), 64, "index"), x(device.get(), 64, "x"), y(device.get(), 64, "y");
    const int32_t row = 9;
    device->upload(s, index.data(), &row, 4);
    gather_rows({.stream = s}, {.x = {x.data(), DType::kF32, 2, 4},
                                .index = static_cast<const int32_t*>(index.data()),
                                .y = {y.data(), DType::kF32, 1, 4}});
    device->synchronize(s);
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    std::_Exit(10 + static_cast<int>(e.code()));  // nothing else is written out
  }
  std::_Exit(0);
}

TEST(CudaDeviceDeathTest, AKernelsErrorIsOneLineBehindItsWords) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(gather_past_the_rows(), testing::ExitedWithCode(11),
              "index\\[0\\] = 9 of 2 rows\n(.*\n)*GPU 0 of .*: a kernel failed, seen by "
              "cudaStreamSynchronize\\(s->handle\\): .*cudaErrorLaunchFailure");
}

}  // namespace
}  // namespace contender::cuda
