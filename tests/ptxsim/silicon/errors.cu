// How kernels fail and what they print. A fault ends the context, so each has a process of its own.
#include <cassert>
#include <cstdio>

#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

__global__ void asserts(int v) { assert(v + int(threadIdx.x) < 20 && "too large"); }
__global__ void traps() {
  if (threadIdx.x == 3) __trap();
}
__global__ void writes(int* p) { p[threadIdx.x] = 1; }
__global__ void reads_misaligned(const char* p, int* out) { *out = *reinterpret_cast<const int*>(p + 1); }
__global__ void uses_shared(int* out) {
  extern __shared__ int memory[];
  memory[threadIdx.x] = int(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = memory[blockDim.x - 1 - threadIdx.x];
}

// Exits with 0 when f() gives `want`, and gives it again: such errors stick.
template <typename F>
void exit_with(cudaError_t want, F f) {
  const cudaError_t got = f(), again = cudaDeviceSynchronize();
  if (got != want || again != want)
    std::fprintf(stderr, "got %s, then %s, expected %s\n", cudaGetErrorName(got), cudaGetErrorName(again),
                 cudaGetErrorName(want));
  std::fprintf(stderr, "process ends\n");
  std::_Exit(got == want && again == want ? 0 : 1);
}
#define EXPECT_FAULT(error, message, ...)         \
  GTEST_FLAG_SET(death_test_style, "threadsafe"); \
  EXPECT_EXIT(exit_with(error, [] { return __VA_ARGS__; }), testing::ExitedWithCode(0), message)

TEST(ErrorsDeathTest, Assert) {
  EXPECT_FAULT(cudaErrorAssert, "errors.cu:[0-9]+: .*Assertion.*too large.*failed",
               try_launch({}, asserts, 0));
}
TEST(ErrorsDeathTest, Trap) { EXPECT_FAULT(cudaErrorLaunchFailure, "process ends", try_launch({}, traps)); }
TEST(ErrorsDeathTest, NullPointer) {
  EXPECT_FAULT(cudaErrorIllegalAddress, "process ends", try_launch({}, writes, static_cast<int*>(nullptr)));
}
TEST(ErrorsDeathTest, Misaligned) {
  EXPECT_FAULT(cudaErrorMisalignedAddress, "process ends", [] {
    Array<int> a(4);
    return try_launch({.block = 1}, reads_misaligned, reinterpret_cast<const char*>(a.get()), a.get() + 2);
  }());
}
TEST(Errors, AssertThatHolds) { launch({.block = 16}, asserts, 4); }

// Launches that cannot be: an error at once, which does not stick.
TEST(Errors, Configurations) {
  Array<int> out(1024);
  const auto refused = [&](cudaError_t want, const Shape& s) {
    EXPECT_EQ(try_launch(s, uses_shared, out.get()), want);
    EXPECT_EQ(cudaGetLastError(), want);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  };
  refused(cudaErrorInvalidConfiguration, {.grid = 0, .block = 32, .shared = 128});
  refused(cudaErrorInvalidConfiguration, {.block = dim3(32, 0), .shared = 128});
  refused(cudaErrorInvalidConfiguration, {.block = 1056, .shared = 8192});
  refused(cudaErrorInvalidConfiguration, {.grid = dim3(1, 65536), .block = 32, .shared = 128});
  EXPECT_EQ(cudaFuncSetAttribute(uses_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10),
            cudaErrorInvalidValue);
  cudaGetLastError();
  uses_shared<<<1, 32, 60 << 10>>>(out.get());  // beyond 48 KB without asking for it
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  launch({.block = 256, .shared = 1024}, uses_shared, out.get());
  std::vector<int> want(256);
  for (int i = 0; i < 256; ++i) want[i] = 255 - i;
  std::vector<int> got = out.host();
  got.resize(256);
  expect_same(got, want);
}

TEST(Errors, HostCalls) {
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, size_t(1) << 45), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(nullptr, 16), cudaErrorInvalidValue);
  int dummy = 0;
  EXPECT_EQ(cudaMemcpy(nullptr, &dummy, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaSetDevice(1000), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
  cudaGetLastError();
  EXPECT_STREQ(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress");
}

__global__ void prints() {
  if (threadIdx.x < 2)
    printf("lane %d of %s: %5.2f %-6s|%x %llu %c %e %%\n", int(threadIdx.x), "kernel", 3.14159 * threadIdx.x,
           "left", 255u, 1ull << 40, 'z', 12345.678);
  if (threadIdx.x == 31) printf("%d\n", printf("no arguments\n"));
  if (threadIdx.x == 31)
    printf("%p %ld %hd %.3f %*d\n", static_cast<void*>(nullptr), -5L, short(7), 1.0f / 3, 6, 42);
}
TEST(Errors, Printf) {
  testing::internal::CaptureStdout();
  launch({}, prints);
  std::fflush(stdout);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_NE(text.find("lane 0 of kernel:  0.00 left  |ff 1099511627776 z 1.234568e+04 %\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("lane 1 of kernel:  3.14 left  |ff 1099511627776 z 1.234568e+04 %\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("no arguments\n0\n"), std::string::npos)
      << text;  // the result is the number of arguments
  EXPECT_NE(text.find(" -5 7 0.333     42\n"), std::string::npos) << text;
}

}  // namespace
}  // namespace silicon
