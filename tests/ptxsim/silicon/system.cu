// Clocks, sleep, register budgets, dependent launches, and the host's side: streams, events, copies, graphs.
#include <atomic>
#include <chrono>

#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

using u32 = uint32_t;
using u64 = uint64_t;

__global__ void clocks(u64* out) {
  u64 t0, t1, c0, c1;
  u32 low0, low1, high;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t0));
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(c0));
  asm volatile("mov.u32 %0, %%clock;" : "=r"(low0));
  asm volatile("nanosleep.u32 %0;" ::"r"(20000));
  __nanosleep(100);
  asm volatile("mov.u32 %0, %%clock;" : "=r"(low1));
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(c1));
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t1));
  asm volatile("mov.u32 %0, %%clock_hi;" : "=r"(high));
  u32 sm, sms, warp, warps;
  asm volatile("mov.u32 %0, %%smid; mov.u32 %1, %%nsmid; mov.u32 %2, %%warpid; mov.u32 %3, %%nwarpid;"
               : "=r"(sm), "=r"(sms), "=r"(warp), "=r"(warps));
  u64* o = out + (blockIdx.x * blockDim.x + threadIdx.x) * 6;
  o[0] = t1 - t0, o[1] = c1 - c0, o[2] = low1 - low0,
  o[3] = sm<sms, o[4] = warp<warps, o[5] = high == c1>> 32;
}
TEST(System, Clocks) {
  Array<u64> out(4 * 64 * 6);
  launch({.grid = 4, .block = 64}, clocks, out.get());
  const std::vector<u64> got = out.host();
  for (size_t i = 0; i < got.size(); i += 6) {
    ASSERT_LT(got[i], 10000000000u) << "globaltimer in ns";
    ASSERT_GT(got[i + 1], 0u);
    ASSERT_LT(got[i + 1], u64(1) << 36);
    ASSERT_GT(got[i + 2], 0u);
    ASSERT_EQ(got[i + 3] + got[i + 4] + got[i + 5], 3u);
  }
}

// One warpgroup gives registers up, two take them; the values in registers survive.
__global__ void __launch_bounds__(384, 1) budgets(const u32* in, u32* out) {
  const u32 group = threadIdx.x / 128;
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    out[threadIdx.x] = in[threadIdx.x] + 1;
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    u32 v[32];
    for (int i = 0; i < 32; ++i) v[i] = in[(threadIdx.x + i) % 384];
    __syncwarp();
    u32 sum = 0;
    for (int i = 0; i < 32; ++i) sum = sum * 3 + v[i];
    out[threadIdx.x] = sum;
  }
}
TEST(System, RegisterBudgets) {
  std::vector<u32> x(384), want(384);
  for (u32 i = 0; i < 384; ++i) x[i] = i * i + 1;
  for (u32 t = 0; t < 384; ++t) {
    u32 sum = 0;
    for (u32 i = 0; i < 32; ++i) sum = sum * 3 + x[(t + i) % 384];
    want[t] = t < 128 ? x[t] + 1 : sum;
  }
  Array<u32> in(x), out(384);
  launch({.block = 384}, budgets, in.get(), out.get());
  expect_same(out.host(), want);
}

// --- a kernel that may begin before the one it depends on has ended ---
__global__ void first(u32* data, int n) {
  asm volatile("griddepcontrol.launch_dependents;");
  for (int r = 0; r < 50; ++r)
    if (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n) data[i] = data[i] * 3 + r;
}
__global__ void second(const u32* data, u32* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  asm volatile("griddepcontrol.wait;" ::: "memory");
  if (i < n) out[i] = data[n - 1 - i] + 1;
}
TEST(System, DependentLaunch) {
  constexpr int n = 1024;
  std::vector<u32> x(n), want(n);
  for (int i = 0; i < n; ++i) x[i] = u32(i) * 7;
  for (int i = 0; i < n; ++i) {
    u32 v = x[n - 1 - i];
    for (u32 r = 0; r < 50; ++r) v = v * 3 + r;
    want[i] = v + 1;
  }
  Array<u32> data(x), out(n);
  cudaStream_t stream;
  CUDA_OK(cudaStreamCreate(&stream));
  first<<<4, 256, 0, stream>>>(data.get(), n);
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = 4, config.blockDim = 256, config.stream = stream, config.attrs = &attribute,
  config.numAttrs = 1;
  CUDA_OK(cudaLaunchKernelEx(&config, second, static_cast<const u32*>(data.get()), out.get(), n));
  CUDA_OK(cudaStreamSynchronize(stream));
  expect_same(out.host(), want);
  CUDA_OK(cudaStreamDestroy(stream));
}

// --- streams, events, callbacks ---
__global__ void affine(u32* x, int n, u32 a, u32 b) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i] = x[i] * a + b;
}
TEST(System, StreamsAndEvents) {
  constexpr int n = 5000;
  u32 *host = nullptr, *p = nullptr;
  CUDA_OK(cudaMallocHost(&host, n * 4));
  CUDA_OK(cudaMalloc(&p, n * 4));
  for (int i = 0; i < n; ++i) host[i] = u32(i);
  cudaStream_t one, two;
  cudaEvent_t copied, done, begin;
  CUDA_OK(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking));
  CUDA_OK(cudaStreamCreateWithPriority(&two, cudaStreamNonBlocking, 0));
  CUDA_OK(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
  CUDA_OK(cudaEventCreate(&begin));
  CUDA_OK(cudaEventCreate(&done));
  CUDA_OK(cudaEventRecord(begin, one));
  CUDA_OK(cudaMemcpyAsync(p, host, n * 4, cudaMemcpyHostToDevice, one));
  CUDA_OK(cudaEventRecord(copied, one));
  CUDA_OK(cudaStreamWaitEvent(two, copied, 0));
  affine<<<3, 128, 0, two>>>(p, n, 5, 1);
  std::atomic<int> calls{0};
  CUDA_OK(cudaLaunchHostFunc(
      two, [](void* c) { ++*static_cast<std::atomic<int>*>(c); }, &calls));
  affine<<<3, 128, 0, two>>>(p, n, 3, 2);
  CUDA_OK(cudaMemcpyAsync(host, p, n * 4, cudaMemcpyDeviceToHost, two));
  CUDA_OK(cudaEventRecord(done, two));
  CUDA_OK(cudaEventSynchronize(done));
  EXPECT_EQ(cudaEventQuery(done), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(two), cudaSuccess);
  EXPECT_EQ(calls.load(), 1);
  float ms = -1;
  CUDA_OK(cudaEventElapsedTime(&ms, begin, done));
  EXPECT_GE(ms, 0.0f);
  for (int i = 0; i < n; ++i) ASSERT_EQ(host[i], (u32(i) * 5 + 1) * 3 + 2);
  CUDA_OK(cudaMemsetAsync(p, 0x11, 64, one));
  CUDA_OK(cudaMemcpy2DAsync(host, 16, p, 8, 8, 4, cudaMemcpyDeviceToHost, one));
  CUDA_OK(cudaStreamSynchronize(one));
  EXPECT_EQ(host[0], 0x11111111u);
  EXPECT_EQ(host[4], 0x11111111u);
  EXPECT_EQ(host[2], (2u * 5 + 1) * 3 + 2);
  CUDA_OK(cudaEventDestroy(copied));
  CUDA_OK(cudaEventDestroy(begin));
  CUDA_OK(cudaEventDestroy(done));
  CUDA_OK(cudaStreamDestroy(one));
  CUDA_OK(cudaStreamDestroy(two));
  CUDA_OK(cudaFree(p));
  CUDA_OK(cudaFreeHost(host));
}

TEST(System, StreamOrderedMemory) {
  cudaStream_t stream;
  CUDA_OK(cudaStreamCreate(&stream));
  u32* p = nullptr;
  CUDA_OK(cudaMallocAsync(reinterpret_cast<void**>(&p), 4000, stream));
  CUDA_OK(cudaMemsetAsync(p, 0, 4000, stream));
  affine<<<2, 128, 0, stream>>>(p, 1000, 1, 9);
  std::vector<u32> got(1000);
  CUDA_OK(cudaMemcpyAsync(got.data(), p, 4000, cudaMemcpyDeviceToHost, stream));
  CUDA_OK(cudaFreeAsync(p, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  expect_same(got, std::vector<u32>(1000, 9));
  CUDA_OK(cudaStreamDestroy(stream));
}

// A graph of a copy, two kernels on forked streams and a memset, replayed.
TEST(System, Graph) {
  constexpr int n = 2048;
  Array<u32> x(std::vector<u32>(n, 1)), y(std::vector<u32>(n, 2));
  cudaStream_t stream, side;
  cudaEvent_t fork, join;
  CUDA_OK(cudaStreamCreate(&stream));
  CUDA_OK(cudaStreamCreate(&side));
  CUDA_OK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  CUDA_OK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  affine<<<2, 128, 0, stream>>>(x.get(), n, 3, 1);
  CUDA_OK(cudaEventRecord(fork, stream));
  CUDA_OK(cudaStreamWaitEvent(side, fork, 0));
  affine<<<2, 128, 0, side>>>(y.get(), n, 2, 5);
  CUDA_OK(cudaEventRecord(join, side));
  CUDA_OK(cudaMemsetAsync(x.get(), 0, 16, stream));
  CUDA_OK(cudaStreamWaitEvent(stream, join, 0));
  CUDA_OK(cudaMemcpyAsync(y.get(), x.get(), 32, cudaMemcpyDeviceToDevice, stream));
  CUDA_OK(cudaStreamEndCapture(stream, &graph));
  expect_same(x.host(), std::vector<u32>(n, 1), "nothing runs while it is captured");
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 2; ++i) CUDA_OK(cudaGraphLaunch(exec, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  std::vector<u32> want_x(n, (1 * 3 + 1) * 3 + 1), want_y(n, (2 * 2 + 5) * 2 + 5);
  for (int i = 0; i < 4; ++i) want_x[i] = 0;
  for (int i = 0; i < 8; ++i) want_y[i] = want_x[i];
  expect_same(x.host(), want_x);
  expect_same(y.host(), want_y);
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaGraphDestroy(graph));
  CUDA_OK(cudaEventDestroy(fork));
  CUDA_OK(cudaEventDestroy(join));
  CUDA_OK(cudaStreamDestroy(stream));
  CUDA_OK(cudaStreamDestroy(side));
}

TEST(System, Attributes) {
  cudaDeviceProp p;
  CUDA_OK(cudaGetDeviceProperties(&p, 0));
  EXPECT_EQ(p.major, 9);
  EXPECT_EQ(p.minor, 0);
  EXPECT_EQ(p.warpSize, 32);
  EXPECT_EQ(p.maxThreadsPerBlock, 1024);
  EXPECT_EQ(p.regsPerMultiprocessor, 65536);
  EXPECT_EQ(p.sharedMemPerBlockOptin, 232448u);
  EXPECT_EQ(p.sharedMemPerMultiprocessor, 233472u);
  int sms = 0, clusters = 0, cooperative = 0, blocks = 0;
  CUDA_OK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  EXPECT_EQ(sms, p.multiProcessorCount);
  CUDA_OK(cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, 0));
  EXPECT_EQ(clusters, 1);
  CUDA_OK(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, 0));
  EXPECT_EQ(cooperative, 1);
  cudaFuncAttributes f;
  CUDA_OK(cudaFuncGetAttributes(&f, budgets));
  EXPECT_EQ(f.maxThreadsPerBlock, 384);
  EXPECT_GT(f.numRegs, 8);
  CUDA_OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, affine, 1024, 0));
  EXPECT_EQ(blocks, 2);
  CUDA_OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, affine, 64, 40 << 10));
  EXPECT_EQ(blocks, 5);  // 228 KB, 1 KB of each block reserved
  size_t free = 0, total = 0;
  CUDA_OK(cudaMemGetInfo(&free, &total));
  EXPECT_GT(total, size_t(60) << 30);
  EXPECT_LE(free, total);
  cudaPointerAttributes a;
  Array<u32> x(16);
  CUDA_OK(cudaPointerGetAttributes(&a, x.get() + 3));
  EXPECT_EQ(a.type, cudaMemoryTypeDevice);
  int local = 0;
  CUDA_OK(cudaPointerGetAttributes(&a, &local));
  EXPECT_EQ(a.type, cudaMemoryTypeUnregistered);
}

}  // namespace
}  // namespace silicon
