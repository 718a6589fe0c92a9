// Collectives on the memory of a GPU, or of the simulator's: staged, and by NCCL or its stand-in
// (tests/nccl). Ranks may share the GPU.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "cuda/device/cuda_device.h"
#include "tests/mpi/device_collectives.h"
#include "tests/mpi/drill.h"

namespace contender {
namespace {

class CudaGroupTest : public testing::TestWithParam<const char*> {
 protected:
  // All ranks are on GPU 0, which only the stand-in allows; it leaves out what nobody calls.
  void SetUp() override {
    if (GetParam() != std::string("nccl") || launcher_info().size == 1) return;
    void* library = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (::dlsym(library, "ncclGetVersion")) GTEST_SKIP() << "ranks that share a GPU, which NCCL refuses";
  }

  std::unique_ptr<Device> device_ = cuda::make_device(0, launcher_info().size);
  DeviceCollectives c_{*device_, GetParam()};
};

TEST_P(CudaGroupTest, BlocksThereAndBack) {
  for (const int64_t capacity : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{40}}) {
    c_.blocks<float>(capacity, 20, static_cast<uint32_t>(capacity));
    c_.blocks<uint16_t>(capacity, 33, 50 + static_cast<uint32_t>(capacity));
  }
}

TEST_P(CudaGroupTest, AllToAll) {
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{30}}) c_.all_to_all(n);
}

TEST_P(CudaGroupTest, RowsRaggedAndInPlace) {
  for (const int64_t scale : {int64_t{0}, int64_t{1}, int64_t{31}, int64_t{-6}}) c_.rows(scale, 9);
}

TEST_P(CudaGroupTest, Shards) {
  for (const int64_t n : {int64_t{1}, int64_t{17}, int64_t{64}, int64_t{5003}}) c_.shards(n);
}

TEST_P(CudaGroupTest, SeveralInFlight) { c_.several_in_flight(6); }

// Begin to wait: no host waits but the staged ones.
TEST_P(CudaGroupTest, HostWaits) {
  const auto x = c_.put(c_.numbers(c_.rank(), 64, 1)), sum = c_.unset<float>(64);
  const auto words = c_.put(std::vector<int32_t>(static_cast<size_t>(c_.size()), 7)),
             got = c_.unset<int32_t>(c_.size());
  const int64_t before = device_->host_waits(), staged_before = staged_waits();
  Pending reduce = c_.group().reduce_scatter_flat("reduce", x.data(), 64, sum.data());
  c_.group().all_to_all("headers", words.data(), got.data(), 1).wait();
  reduce.wait();
  EXPECT_EQ(device_->host_waits() - before, staged_waits() - staged_before);
  EXPECT_EQ(staged_waits() > staged_before, c_.size() > 1 && GetParam() == std::string("staged"));
}

TEST_P(CudaGroupTest, FinishedCollectivesAreDoneOnTheDevice) {
  if (GetParam() != std::string("nccl") || c_.size() == 1) GTEST_SKIP() << "of NCCL";
  const auto x = c_.put(c_.numbers(c_.rank(), 4096, 1)), sum = c_.unset<float>(4096);
  c_.group().reduce_scatter_flat("reduce", x.data(), 4096, sum.data()).wait();
  Event* between = device_->record(device_->stream("reduce"));
  c_.group().reduce_scatter_flat("reduce", x.data(), 4096, sum.data()).wait();
  c_.mesh().finish_collectives();
  EXPECT_TRUE(device_->done(between));
  device_->release(between);
}

TEST_P(CudaGroupTest, AFailedCommunicatorEndsTheJob) {
  if (GetParam() != std::string("nccl") || c_.size() == 1) GTEST_SKIP() << "of NCCL";
  const int64_t n = c_.rank() == 0 ? 2 : 3;  // everybody has an argument with 0
  const auto send = c_.unset<int32_t>(n * c_.size()), recv = c_.unset<int32_t>(n * c_.size());
  c_.group().all_to_all("headers", send.data(), recv.data(), n).wait();
  try {
    c_.mesh().finish_collectives();
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kPeerLost);
    EXPECT_EQ(std::string(e.what()),
              fmt::format("a message in \"headers\" of ranks 0..{} failed: invalid usage "
                          "(NCCL_DEBUG=WARN says more)",
                          c_.size() - 1));
  }
}

std::unique_ptr<Device> make_drill_device() { return cuda::make_device(0, launcher_info().size); }
const bool g_drill = (g_make_drill_device = make_drill_device) != nullptr;

INSTANTIATE_TEST_SUITE_P(Transports, CudaGroupTest, testing::Values("staged", "nccl"),
                         [](const auto& p) { return std::string(p.param); });

}  // namespace
}  // namespace contender
