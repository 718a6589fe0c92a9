// Collectives on the memory of a GPU, or of the simulator's: staged, and by NCCL or its stand-in
// (tests/nccl). Ranks may share the GPU.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "cuda/device/cuda_device.h"
#include "tests/mpi/device_collectives.h"

namespace contender {
namespace {

class CudaGroupTest : public testing::TestWithParam<const char*> {
 protected:
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
  const auto x = c_.put(c_.numbers(c_.rank(), 4096, 1)), sum = c_.unset<float>(4096);
  for (int i = 0; i < 8; ++i) c_.group().reduce_scatter_flat("reduce", x.data(), 4096, sum.data()).wait();
  c_.mesh().finish_collectives();
  Event* last = device_->record(device_->stream("reduce"));
  while (!device_->done(last)) {
  }
  device_->release(last);
  c_.mesh().finish_collectives();
}

INSTANTIATE_TEST_SUITE_P(Transports, CudaGroupTest, testing::Values("staged", "nccl"),
                         [](const auto& p) { return std::string(p.param); });

}  // namespace
}  // namespace contender
