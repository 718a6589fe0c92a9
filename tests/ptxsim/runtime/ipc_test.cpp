// Memory and events of another process: the test runs itself a second time and hands it the handles.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/ptxsim/runtime/program.h"

namespace {

using ptxsim_test::launch;
using ptxsim_test::Program;

struct Handles {
  cudaIpcMemHandle_t memory;
  cudaIpcEventHandle_t event;
};

std::string to_hex(const Handles& handles) {
  std::string text;
  for (size_t i = 0; i < sizeof handles; ++i) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", reinterpret_cast<const unsigned char*>(&handles)[i]);
    text += digits;
  }
  return text;
}

Handles from_hex(const char* text) {
  Handles handles;
  for (size_t i = 0; i < sizeof handles; ++i)
    reinterpret_cast<unsigned char*>(&handles)[i] =
        static_cast<unsigned char>(std::stoi(std::string(text + 2 * i, 2), nullptr, 16));
  return handles;
}

// Runs the test named below in a new process; its exit status.
int run_peer(const Handles& handles) {
  const std::string setting = "PTXSIM_TEST_HANDLES=" + to_hex(handles);
  const pid_t child = fork();
  if (child == 0) {
    putenv(const_cast<char*>(setting.c_str()));
    execl("/proc/self/exe", "peer", "--gtest_filter=SimIpc.DISABLED_Peer", "--gtest_also_run_disabled_tests",
          nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(SimIpc, AnotherProcessReadsAndWritesTheMemory) {
  int* p = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&p), 10000), cudaSuccess);
  const int before[2] = {11, 12};
  int after[2] = {};
  ASSERT_EQ(cudaMemcpy(p + 100, before, sizeof before, cudaMemcpyHostToDevice), cudaSuccess);
  cudaEvent_t event;
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventInterprocess | cudaEventDisableTiming), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event, nullptr), cudaSuccess);
  Handles handles;
  ASSERT_EQ(cudaIpcGetMemHandle(&handles.memory, p), cudaSuccess);
  ASSERT_EQ(cudaIpcGetEventHandle(&handles.event, event), cudaSuccess);
  EXPECT_EQ(run_peer(handles), 0);
  ASSERT_EQ(cudaMemcpy(after, p + 100, sizeof after, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(after[0], 1011);
  EXPECT_EQ(after[1], 12);
  void* own = nullptr;
  EXPECT_EQ(cudaIpcOpenMemHandle(&own, handles.memory, cudaIpcMemLazyEnablePeerAccess),
            cudaErrorDeviceUninitialized);
  EXPECT_EQ(cudaFree(p), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  (void)cudaGetLastError();
}

TEST(SimIpc, DISABLED_Peer) {
  const Handles handles = from_hex(std::getenv("PTXSIM_TEST_HANDLES"));
  int *p = nullptr, *again = nullptr;
  ASSERT_EQ(
      cudaIpcOpenMemHandle(reinterpret_cast<void**>(&p), handles.memory, cudaIpcMemLazyEnablePeerAccess),
      cudaSuccess);
  ASSERT_EQ(
      cudaIpcOpenMemHandle(reinterpret_cast<void**>(&again), handles.memory, cudaIpcMemLazyEnablePeerAccess),
      cudaSuccess);
  EXPECT_EQ(p, again);
  cudaEvent_t event;
  ASSERT_EQ(cudaIpcOpenEventHandle(&event, handles.event), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(nullptr, event, 0), cudaSuccess);
  ASSERT_EQ(launch(Program::instance().add, 1, 32, nullptr, p + 100, 1000, 1), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(event), cudaSuccess);
  int read = 0;
  ASSERT_EQ(cudaMemcpy(&read, p + 101, 4, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(read, 12);
  // Past the end of the other's allocation.
  EXPECT_EQ(cudaMemcpy(&read, p + 2500, 4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaIpcCloseMemHandle(p), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(&read, p, 4, cudaMemcpyDeviceToHost), cudaSuccess);  // opened twice
  EXPECT_EQ(cudaIpcCloseMemHandle(p), cudaSuccess);
  EXPECT_EQ(cudaIpcCloseMemHandle(p), cudaErrorInvalidValue);
}

TEST(SimIpc, HandlesThatAreNone) {
  cudaIpcMemHandle_t handle = {};
  void* p = nullptr;
  int local = 0;
  EXPECT_EQ(cudaIpcOpenMemHandle(&p, handle, cudaIpcMemLazyEnablePeerAccess), cudaErrorInvalidValue);
  EXPECT_EQ(cudaIpcGetMemHandle(&handle, &local), cudaErrorInvalidValue);
  cudaEvent_t event;
  ASSERT_EQ(cudaEventCreate(&event), cudaSuccess);
  cudaIpcEventHandle_t event_handle;
  EXPECT_EQ(cudaIpcGetEventHandle(&event_handle, event), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventInterprocess), cudaErrorInvalidValue);
  (void)cudaGetLastError();
}

TEST(SimIpc, ForkedChildrenAreRefused) {
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const pid_t child = fork();
  if (child == 0) _exit(cudaDeviceSynchronize() == cudaErrorInitializationError ? 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
