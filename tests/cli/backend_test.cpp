// What holds on every machine; tests/e2e/device.sh plays machines with and without GPUs and drivers.
#include "cli/backend.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"

namespace contender {
namespace {

TEST(Backend, TheCpuAsksForNothing) {
  const DeviceChoice c = choose_device("cpu");
  EXPECT_EQ(c.device, "cpu");
  EXPECT_EQ(c.why_not_cuda, "");
  EXPECT_EQ(c.library, nullptr);
  const Backend b = make_backend(c, "cpu");
  EXPECT_STREQ(b.ops->name, "cpu");
  EXPECT_TRUE(b.make_device()->host_memory());
  EXPECT_EQ(b.asked, "cpu");
}

TEST(Backend, AutoComesToTheCpuForAReasonThatCudaIsRefusedWith) {
  const DeviceChoice c = choose_device("auto");
  EXPECT_EQ(c.device == "cpu", !c.why_not_cuda.empty());
  if (c.device == "cuda") GTEST_SKIP() << "a GPU is here";
  const Backend b = make_backend(c, "auto");
  EXPECT_EQ(b.why_not_cuda, c.why_not_cuda);
  EXPECT_EQ(b.asked, "auto");
  try {
    choose_device("cuda");
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_EQ(std::string(e.what()),
              "run.device: cuda: " + c.why_not_cuda + "; use auto or cpu to run on the CPU");
  }
}

TEST(Backend, LocalRankAsTheLauncherSaysIt) {
  ::unsetenv("OMPI_COMM_WORLD_LOCAL_RANK");
  EXPECT_EQ(local_rank(), 0);
  ::setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3", 1);
  EXPECT_EQ(local_rank(), 3);
  ::unsetenv("OMPI_COMM_WORLD_LOCAL_RANK");
}

}  // namespace
}  // namespace contender
