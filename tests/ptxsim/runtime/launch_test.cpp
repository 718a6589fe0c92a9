// Launches that a GPU refuses, and how far a fault of a kernel reaches.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/ptxsim/runtime/program.h"

namespace {

using ptxsim_test::launch;
using ptxsim_test::Program;

class SimLaunch : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&p_), 4096), cudaSuccess); }
  void TearDown() override {
    EXPECT_EQ(cudaFree(p_), cudaSuccess);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  }
  // The launch is refused with this code and one line that has the word; nothing runs, later calls work.
  template <class F>
  void refuses(cudaError_t code, const char* word, F f) {
    testing::internal::CaptureStderr();
    EXPECT_EQ(f(), code);
    const std::string line = testing::internal::GetCapturedStderr();
    EXPECT_NE(line.find(word), std::string::npos) << line;
    EXPECT_EQ(cudaGetLastError(), code);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  cudaError_t with_attribute(const void* kernel, dim3 grid, cudaLaunchAttributeID id, int value) {
    cudaLaunchAttribute attribute = {};
    attribute.id = id;
    if (id == cudaLaunchAttributeClusterDimension)
      attribute.val.clusterDim = {static_cast<unsigned>(value), 1, 1};
    else
      attribute.val.cooperative = value;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = 32;
    config.attrs = &attribute;
    config.numAttrs = 1;
    void* arguments[] = {&p_};
    return cudaLaunchKernelExC(&config, kernel, arguments);
  }
  Program& program_ = Program::instance();
  int* p_ = nullptr;
};

TEST_F(SimLaunch, RunsEveryThread) {
  ASSERT_EQ(cudaMemset(p_, 0, 4096), cudaSuccess);
  ASSERT_EQ(launch(program_.add, 4, 256, nullptr, p_, 3, 1000), cudaSuccess);
  int got[1024];
  ASSERT_EQ(cudaMemcpy(got, p_, sizeof got, cudaMemcpyDeviceToHost), cudaSuccess);
  for (int i = 0; i < 1024; ++i) EXPECT_EQ(got[i], i < 1000 ? 3 : 0) << i;
}

TEST_F(SimLaunch, ShapesThatNoGpuTakes) {
  const auto bad = cudaErrorInvalidConfiguration;
  const auto shape = [&](dim3 grid, dim3 block) {
    return [=, this] { return launch(program_.store, grid, block, nullptr, p_); };
  };
  refuses(bad, "no blocks", shape(0, 32));
  refuses(bad, "no blocks", shape(dim3(1, 0, 1), 32));
  refuses(bad, "no threads", shape(1, dim3(0, 1, 1)));
  refuses(bad, "1024 threads", shape(1, 1025));
  refuses(bad, "1024 threads", shape(1, dim3(32, 33, 1)));
  refuses(bad, "64 in z", shape(1, dim3(1, 1, 65)));
  refuses(bad, "larger", shape(0x80000000u, 1));
  refuses(bad, "larger", shape(dim3(1, 65536, 1), 1));
  refuses(bad, "larger", shape(dim3(1, 1, 65536), 1));
  refuses(cudaErrorLaunchOutOfResources, "launch bounds",
          [&] { return launch(program_.wide, 1, 160, nullptr, p_); });
}

TEST_F(SimLaunch, SharedMemoryNeedsItsAttribute) {
  void* arguments[] = {&p_};
  const auto with = [&](size_t bytes) {
    return
        [=, this, &arguments] { return cudaLaunchKernel(program_.shared, 1, 32, arguments, bytes, nullptr); };
  };
  EXPECT_EQ(with(48 * 1024 - 1024)(), cudaSuccess);
  refuses(cudaErrorInvalidValue, "cudaFuncAttributeMaxDynamicSharedMemorySize", with(48 * 1024));
  refuses(cudaErrorInvalidValue, "at most", [&] {
    return cudaFuncSetAttribute(program_.shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024);
  });
  ASSERT_EQ(cudaFuncSetAttribute(program_.shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 226 * 1024),
            cudaSuccess);
  EXPECT_EQ(with(226 * 1024)(), cudaSuccess);
  refuses(cudaErrorInvalidValue, "dynamic shared memory", with(226 * 1024 + 1));
  ASSERT_EQ(cudaFuncSetAttribute(program_.shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 0),
            cudaSuccess);
  refuses(cudaErrorInvalidValue, "dynamic shared memory", with(16));
  ASSERT_EQ(cudaFuncSetAttribute(program_.shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 47 * 1024),
            cudaSuccess);
}

TEST_F(SimLaunch, ClustersDivideTheGrid) {
  const auto bad = cudaErrorInvalidClusterSize;
  refuses(bad, "no multiple", [&] { return launch(program_.pair, 3, 32, nullptr, p_); });
  refuses(bad, "requires",
          [&] { return with_attribute(program_.pair, 4, cudaLaunchAttributeClusterDimension, 4); });
  refuses(bad, "16 with",
          [&] { return with_attribute(program_.store, 16, cudaLaunchAttributeClusterDimension, 16); });
  refuses(bad, "cluster of (0,1,1)",
          [&] { return with_attribute(program_.store, 16, cudaLaunchAttributeClusterDimension, 0); });
  EXPECT_EQ(with_attribute(program_.store, 8, cudaLaunchAttributeClusterDimension, 8), cudaSuccess);
  ASSERT_EQ(launch(program_.pair, 4, 32, nullptr, p_), cudaSuccess);
  int size = 0;
  ASSERT_EQ(cudaMemcpy(&size, p_, sizeof size, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(size, 2);
}

TEST_F(SimLaunch, CooperativeGridsFitTheGpu) {
  EXPECT_EQ(with_attribute(program_.store, 132 * 32, cudaLaunchAttributeCooperative, 1), cudaSuccess);
  refuses(cudaErrorCooperativeLaunchTooLarge, "holds 4224",
          [&] { return with_attribute(program_.store, 132 * 32 + 1, cudaLaunchAttributeCooperative, 1); });
}

TEST_F(SimLaunch, KernelsAndArgumentsThatAreNone) {
  static char unknown;
  void* null_argument[] = {nullptr};
  refuses(cudaErrorInvalidDeviceFunction, "not a kernel",
          [&] { return launch(&unknown, 1, 1, nullptr, p_); });
  refuses(cudaErrorInvalidValue, "no arguments",
          [&] { return cudaLaunchKernel(program_.store, 1, 1, nullptr, 0, nullptr); });
  refuses(cudaErrorInvalidValue, "argument 0",
          [&] { return cudaLaunchKernel(program_.store, 1, 1, null_argument, 0, nullptr); });
  refuses(cudaErrorInvalidValue, "config",
          [&] { return cudaLaunchKernelExC(nullptr, program_.store, null_argument); });
}

TEST_F(SimLaunch, OccupancyIsThatOfTheGpu) {
  int blocks = 0;
  ASSERT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, program_.store, 256, 0), cudaSuccess);
  EXPECT_EQ(blocks, 8);
  ASSERT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, program_.store, 32, 0), cudaSuccess);
  EXPECT_EQ(blocks, 32);
  ASSERT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, program_.store, 128, 100 * 1024),
            cudaSuccess);
  EXPECT_EQ(blocks, 2);
  ASSERT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, program_.store, 128, 200 * 1024),
            cudaSuccess);
  EXPECT_EQ(blocks, 1);
  ASSERT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, program_.store, 1024, 228 * 1024),
            cudaSuccess);
  EXPECT_EQ(blocks, 0);

  cudaLaunchConfig_t config = {};
  config.gridDim = 16;
  config.blockDim = 128;
  config.dynamicSmemBytes = 200 * 1024;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {4, 1, 1};
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  ASSERT_EQ(cudaOccupancyMaxActiveClusters(&clusters, program_.store, &config), cudaSuccess);
  EXPECT_EQ(clusters, 32);  // 4 per GPC of 16 or 18 SMs
}

TEST_F(SimLaunch, FunctionAttributes) {
  cudaFuncAttributes a;
  ASSERT_EQ(cudaFuncGetAttributes(&a, program_.shared), cudaSuccess);
  EXPECT_EQ(a.sharedSizeBytes, 1024u);
  EXPECT_EQ(a.maxThreadsPerBlock, 1024);
  EXPECT_EQ(a.ptxVersion, 90);
  ASSERT_EQ(cudaFuncGetAttributes(&a, program_.wide), cudaSuccess);
  EXPECT_EQ(a.maxThreadsPerBlock, 128);
  EXPECT_EQ(a.maxDynamicSharedSizeBytes, 48 * 1024);
  ASSERT_EQ(cudaFuncGetAttributes(&a, program_.pair), cudaSuccess);
  EXPECT_EQ(a.requiredClusterWidth, 2);
  const char* name = nullptr;
  ASSERT_EQ(cudaFuncGetName(&name, program_.pair), cudaSuccess);
  EXPECT_STREQ(name, "pair");
}

TEST(SimFault, EndsTheContextUntilReset) {
  Program& program = Program::instance();
  int *p = nullptr, *freed = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&p), 64), cudaSuccess);
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&freed), 64), cudaSuccess);
  ASSERT_EQ(cudaFree(freed), cudaSuccess);
  testing::internal::CaptureStderr();
  ASSERT_EQ(launch(program.store, 1, 1, nullptr, freed), cudaSuccess);  // asynchronous
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_NE(line.find("freed before"), std::string::npos) << line;
  EXPECT_NE(line.find("cudaErrorIllegalAddress"), std::string::npos) << line;
  // Everything fails the same way, and the error does not go away.
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  void* more = nullptr;
  EXPECT_EQ(cudaMalloc(&more, 64), cudaErrorIllegalAddress);
  EXPECT_EQ(launch(program.store, 1, 1, nullptr, p), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaFree(p), cudaErrorIllegalAddress);
  int device = -1;
  EXPECT_EQ(cudaGetDevice(&device), cudaSuccess);

  EXPECT_EQ(cudaDeviceReset(), cudaSuccess);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaFree(p), cudaErrorInvalidValue);  // gone with the context
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&p), 64), cudaSuccess);
  ASSERT_EQ(launch(program.store, 1, 1, nullptr, p), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaFree(p), cudaSuccess);
}

TEST(SimFault, VariablesBeginAnewAfterReset) {
  Program& program = Program::instance();
  ASSERT_EQ(cudaDeviceReset(), cudaSuccess);
  int value = 0;
  ASSERT_EQ(cudaMemcpyFromSymbol(&value, program.counter, sizeof value, 0, cudaMemcpyDeviceToHost),
            cudaSuccess);
  EXPECT_EQ(value, 5);
  ASSERT_EQ(launch(program.bump, 1, 1, nullptr), cudaSuccess);
  ASSERT_EQ(cudaMemcpyFromSymbol(&value, program.counter, sizeof value, 0, cudaMemcpyDeviceToHost),
            cudaSuccess);
  EXPECT_EQ(value, 6);
  value = 40;
  ASSERT_EQ(cudaMemcpyToSymbol(program.counter, &value, sizeof value, 0, cudaMemcpyHostToDevice),
            cudaSuccess);
  ASSERT_EQ(launch(program.bump, 1, 1, nullptr), cudaSuccess);
  ASSERT_EQ(cudaMemcpyFromSymbol(&value, program.counter, sizeof value, 0, cudaMemcpyDeviceToHost),
            cudaSuccess);
  EXPECT_EQ(value, 41);
  EXPECT_EQ(cudaMemcpyToSymbol(program.counter, &value, 8, 0, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  static int no_variable;
  EXPECT_EQ(cudaMemcpyToSymbol(&no_variable, &value, 4, 0, cudaMemcpyHostToDevice), cudaErrorInvalidSymbol);
  ASSERT_EQ(cudaDeviceReset(), cudaSuccess);
  ASSERT_EQ(cudaMemcpyFromSymbol(&value, program.counter, sizeof value, 0, cudaMemcpyDeviceToHost),
            cudaSuccess);
  EXPECT_EQ(value, 5);
}

}  // namespace
