// Allocation, copies, and what the runtime knows of a pointer.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "tests/ptxsim/runtime/program.h"

namespace {

template <class T>
T* allocate(size_t n) {
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, n * sizeof(T)), cudaSuccess);
  return static_cast<T*>(p);
}

// The call fails with this code and a line that has the word.
template <class F>
void refuses(cudaError_t code, const char* word, F f) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(f(), code);
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_NE(line.find(word), std::string::npos) << line;
  EXPECT_EQ(cudaGetLastError(), code);
}

TEST(SimMemory, CopiesThereAndBack) {
  std::vector<int> out(1000), back(1000);
  std::iota(out.begin(), out.end(), 17);
  int *a = allocate<int>(1000), *b = allocate<int>(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 256, 0u);
  ASSERT_EQ(cudaMemcpy(a, out.data(), 4000, cudaMemcpyHostToDevice), cudaSuccess);
  ASSERT_EQ(cudaMemcpy(b, a, 4000, cudaMemcpyDeviceToDevice), cudaSuccess);
  ASSERT_EQ(cudaMemcpy(back.data(), b, 4000, cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(out, back);
  EXPECT_EQ(cudaFree(a), cudaSuccess);
  EXPECT_EQ(cudaFree(b), cudaSuccess);
}

TEST(SimMemory, WrongCopiesAreRefused) {
  int* a = allocate<int>(16);
  int host[32] = {};
  const auto bad = cudaErrorInvalidValue;
  refuses(bad, "128 bytes from byte 0 of 64",
          [&] { return cudaMemcpy(a, host, 128, cudaMemcpyHostToDevice); });
  refuses(bad, "from byte 32 of 64", [&] { return cudaMemcpy(host, a + 8, 64, cudaMemcpyDeviceToHost); });
  refuses(bad, "destination", [&] { return cudaMemcpy(host, host + 1, 4, cudaMemcpyHostToDevice); });
  refuses(bad, "source", [&] { return cudaMemcpy(host, host + 1, 4, cudaMemcpyDeviceToHost); });
  refuses(bad, "null", [&] { return cudaMemcpy(nullptr, host, 4, cudaMemcpyHostToDevice); });
  refuses(cudaErrorInvalidMemcpyDirection, "direction 5",
          [&] { return cudaMemcpy(a, host, 4, static_cast<cudaMemcpyKind>(5)); });
  refuses(bad, "pageable", [&] { return cudaMemset(host, 0, 4); });
  refuses(bad, "65 bytes", [&] { return cudaMemset(a, 0, 65); });
  refuses(cudaErrorInvalidPitchValue, "pitches",
          [&] { return cudaMemcpy2D(a, 4, host, 8, 8, 2, cudaMemcpyHostToDevice); });
  ASSERT_EQ(cudaFree(a), cudaSuccess);
  refuses(bad, "freed before", [&] { return cudaMemcpy(a, host, 4, cudaMemcpyHostToDevice); });
  refuses(bad, "freed before", [&] { return cudaFree(a); });
  refuses(bad, "not the beginning", [&] { return cudaFree(host); });
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
}

TEST(SimMemory, FreedAddressesStayUnused) {
  char* first = allocate<char>(64);
  ASSERT_EQ(cudaFree(first), cudaSuccess);
  for (int i = 0; i < 100; ++i) {
    char* next = allocate<char>(64);
    EXPECT_NE(next, first);
    EXPECT_EQ(cudaFree(next), cudaSuccess);
  }
}

TEST(SimMemory, BoxesAndFills) {
  void* p = nullptr;
  size_t pitch = 0;
  ASSERT_EQ(cudaMallocPitch(&p, &pitch, 100, 10), cudaSuccess);
  EXPECT_EQ(pitch, 512u);
  std::vector<unsigned char> out(100 * 10), back(100 * 10);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<unsigned char>(i * 7);
  ASSERT_EQ(cudaMemcpy2D(p, pitch, out.data(), 100, 100, 10, cudaMemcpyHostToDevice), cudaSuccess);
  ASSERT_EQ(cudaMemset2D(static_cast<char*>(p) + 2 * pitch + 10, pitch, 0xab, 5, 3), cudaSuccess);
  ASSERT_EQ(cudaMemcpy2D(back.data(), 100, p, pitch, 100, 10, cudaMemcpyDeviceToHost), cudaSuccess);
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t row = i / 100, column = i % 100;
    const bool filled = row >= 2 && row < 5 && column >= 10 && column < 15;
    ASSERT_EQ(back[i], filled ? 0xab : out[i]) << i;
  }
  EXPECT_EQ(cudaFree(p), cudaSuccess);

  cudaPitchedPtr box;
  ASSERT_EQ(cudaMalloc3D(&box, {60, 4, 3}), cudaSuccess);
  ASSERT_EQ(cudaMemset3D(box, 5, {60, 4, 3}), cudaSuccess);
  cudaMemcpy3DParms copy = {};
  unsigned char cube[3 * 4 * 60];
  copy.srcPtr = box;
  copy.dstPtr = {cube, 60, 60, 4};
  copy.extent = {60, 4, 3};
  copy.kind = cudaMemcpyDeviceToHost;
  ASSERT_EQ(cudaMemcpy3D(&copy), cudaSuccess);
  for (const unsigned char c : cube) ASSERT_EQ(c, 5);
  EXPECT_EQ(cudaFree(box.ptr), cudaSuccess);
}

TEST(SimMemory, HostMemoryThatDevicesKnow) {
  int* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&pinned), 64), cudaSuccess);
  void* seen = nullptr;
  EXPECT_EQ(cudaHostGetDevicePointer(&seen, pinned, 0), cudaSuccess);
  EXPECT_EQ(seen, pinned);
  *pinned = 0;
  ASSERT_EQ(ptxsim_test::launch(ptxsim_test::Program::instance().store, 1, 1, nullptr, pinned), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(*pinned, 1);

  alignas(4096) static int own[1024];
  EXPECT_EQ(cudaHostRegister(own, sizeof own, cudaHostRegisterDefault), cudaSuccess);
  refuses(cudaErrorHostMemoryAlreadyRegistered, "bytes from",
          [&] { return cudaHostRegister(own + 10, 64, cudaHostRegisterDefault); });
  ASSERT_EQ(ptxsim_test::launch(ptxsim_test::Program::instance().store, 1, 1, nullptr, own + 3), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(own[3], 1);
  EXPECT_EQ(cudaHostUnregister(own), cudaSuccess);
  refuses(cudaErrorHostMemoryNotRegistered, "not registered", [&] { return cudaHostUnregister(own); });
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
  refuses(cudaErrorInvalidValue, "pinned", [&] { return cudaFreeHost(pinned); });
}

TEST(SimMemory, KindsOfPointers) {
  int* device = allocate<int>(16);
  int *pinned = nullptr, *managed = nullptr, local = 0;
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&pinned), 64), cudaSuccess);
  ASSERT_EQ(cudaMallocManaged(reinterpret_cast<void**>(&managed), 64, cudaMemAttachGlobal), cudaSuccess);
  const auto type = [](const void* p) {
    cudaPointerAttributes a;
    EXPECT_EQ(cudaPointerGetAttributes(&a, p), cudaSuccess);
    return a.type;
  };
  EXPECT_EQ(type(device), cudaMemoryTypeDevice);
  EXPECT_EQ(type(device + 5), cudaMemoryTypeDevice);
  EXPECT_EQ(type(pinned), cudaMemoryTypeHost);
  EXPECT_EQ(type(managed), cudaMemoryTypeManaged);
  EXPECT_EQ(type(&local), cudaMemoryTypeUnregistered);
  *managed = 3;
  EXPECT_EQ(cudaFree(managed), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
  EXPECT_EQ(cudaFree(device), cudaSuccess);
}

TEST(SimMemory, StreamOrderedMemoryIsFreedInItsTurn) {
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  size_t before = 0, during = 0, after = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&before, &total), cudaSuccess);
  int* p = nullptr;
  ASSERT_EQ(cudaMallocAsync(reinterpret_cast<void**>(&p), 1 << 20, stream), cudaSuccess);
  ASSERT_EQ(cudaMemGetInfo(&during, &total), cudaSuccess);
  EXPECT_EQ(before - during, size_t{1} << 20);
  cudaMemPool_t pool;
  ASSERT_EQ(cudaDeviceGetDefaultMemPool(&pool, 0), cudaSuccess);
  uint64_t used = 0;
  ASSERT_EQ(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used), cudaSuccess);
  EXPECT_EQ(used, uint64_t{1} << 20);
  ASSERT_EQ(ptxsim_test::launch(ptxsim_test::Program::instance().store, 1, 1, stream, p), cudaSuccess);
  ASSERT_EQ(cudaFreeAsync(p, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  ASSERT_EQ(cudaMemGetInfo(&after, &total), cudaSuccess);
  EXPECT_EQ(after, before);
  int* plain = allocate<int>(4);
  refuses(cudaErrorInvalidValue, "cudaMallocAsync", [&] { return cudaFreeAsync(plain, stream); });
  EXPECT_EQ(cudaFree(plain), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

// In processes of their own: the settings are read once.
class SimSettingsDeathTest : public testing::Test {
 protected:
  SimSettingsDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(SimSettingsDeathTest, MemoryRunsOut) {
  const auto use_up = [] {
    setenv("PTXSIM_MEMORY", "1M", 1);
    void *a = nullptr, *b = nullptr;
    size_t free = 0, total = 0;
    const bool right = cudaMemGetInfo(&free, &total) == cudaSuccess && total == 1 << 20 && free == total &&
                       cudaMalloc(&a, 700 << 10) == cudaSuccess &&
                       cudaMalloc(&b, 400 << 10) == cudaErrorMemoryAllocation &&
                       cudaGetLastError() == cudaErrorMemoryAllocation && cudaFree(a) == cudaSuccess &&
                       cudaMalloc(&b, 400 << 10) == cudaSuccess;
    std::exit(right ? 0 : 1);
  };
  EXPECT_EXIT(use_up(), testing::ExitedWithCode(0), "409600 bytes on device 0; 716800 of 1048576 are in use");
}

// The window of addresses is eight times the memory: then freed ones come back.
TEST_F(SimSettingsDeathTest, AddressesComeBackWhenUsedUp) {
  const auto use_up = [] {
    setenv("PTXSIM_MEMORY", "16G", 1);
    for (int i = 0; i < 100; ++i) {
      void* p = nullptr;
      if (cudaMalloc(&p, size_t{10} << 30) != cudaSuccess || cudaFree(p) != cudaSuccess) std::exit(1);
    }
    std::exit(0);
  };
  EXPECT_EXIT(use_up(), testing::ExitedWithCode(0), "");
}

TEST_F(SimSettingsDeathTest, NewMemoryIsPoisonedInLateMode) {
  const auto look = [] {
    setenv("PTXSIM_LATE", "1", 1);
    void* p = nullptr;
    unsigned word = 0;
    const bool right = cudaMalloc(&p, 64) == cudaSuccess &&
                       cudaMemcpy(&word, p, 4, cudaMemcpyDeviceToHost) == cudaSuccess && word == 0xffffffffu;
    std::exit(right ? 0 : 1);
  };
  EXPECT_EXIT(look(), testing::ExitedWithCode(0), "");
}

TEST_F(SimSettingsDeathTest, SeveralDevices) {
  const auto look = [] {
    setenv("PTXSIM_DEVICES", "3", 1);
    setenv("PTXSIM_GPU", "H800", 1);
    int count = 0, can = 0;
    cudaDeviceProp properties;
    void *a = nullptr, *b = nullptr;
    int value = 7, back = 0;
    const bool right =
        cudaGetDeviceCount(&count) == cudaSuccess && count == 3 &&
        cudaSetDevice(3) == cudaErrorInvalidDevice &&
        cudaGetDeviceProperties(&properties, 2) == cudaSuccess &&
        std::strcmp(properties.name, "NVIDIA H800") == 0 && properties.multiProcessorCount == 132 &&
        properties.major == 9 && cudaMalloc(&a, 64) == cudaSuccess && cudaSetDevice(2) == cudaSuccess &&
        cudaMalloc(&b, 64) == cudaSuccess && cudaDeviceCanAccessPeer(&can, 2, 0) == cudaSuccess && can == 1 &&
        cudaMemcpy(a, &value, 4, cudaMemcpyHostToDevice) == cudaSuccess &&
        cudaMemcpyPeer(b, 2, a, 0, 4) == cudaSuccess &&
        cudaMemcpy(&back, b, 4, cudaMemcpyDeviceToHost) == cudaSuccess && back == 7 &&
        cudaDeviceEnablePeerAccess(0, 0) == cudaSuccess &&
        cudaDeviceEnablePeerAccess(0, 0) == cudaErrorPeerAccessAlreadyEnabled &&
        cudaDeviceDisablePeerAccess(0) == cudaSuccess &&
        cudaDeviceDisablePeerAccess(0) == cudaErrorPeerAccessNotEnabled &&
        // A fault on one device is no business of the others.
        ptxsim_test::launch(ptxsim_test::Program::instance().store, 1, 1, nullptr, nullptr) == cudaSuccess &&
        cudaDeviceSynchronize() == cudaErrorIllegalAddress && cudaSetDevice(1) == cudaSuccess &&
        cudaDeviceSynchronize() == cudaSuccess;
    std::exit(right ? 0 : 1);
  };
  EXPECT_EXIT(look(), testing::ExitedWithCode(0), "");
}

}  // namespace
