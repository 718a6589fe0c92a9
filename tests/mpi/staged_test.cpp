// Collectives staged through host memory, on a device whose memory the host cannot touch and whose streams
// do nothing before they must.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/job.h"
#include "base/timer.h"
#include "tests/mpi/device_collectives.h"
#include "tests/mpi/late_device.h"

namespace contender {
namespace {

class StagedTest : public testing::Test {
 protected:
  LateDevice device_;
  DeviceCollectives c_{device_, "auto"};
};

TEST_F(StagedTest, BlocksThereAndBack) {
  for (const int64_t capacity : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{40}}) {
    c_.blocks<float>(capacity, 20, static_cast<uint32_t>(capacity));
    c_.blocks<uint16_t>(capacity, 33, 50 + static_cast<uint32_t>(capacity));
  }
}

TEST_F(StagedTest, AllToAll) {
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{30}}) c_.all_to_all(n);
}

TEST_F(StagedTest, RowsRaggedAndInPlace) {
  for (const int64_t scale : {int64_t{0}, int64_t{1}, int64_t{31}, int64_t{-6}}) c_.rows(scale, 9);
}

TEST_F(StagedTest, Shards) {
  for (const int64_t n : {int64_t{1}, int64_t{17}, int64_t{64}, int64_t{5003}}) c_.shards(n);
}

TEST_F(StagedTest, SeveralInFlight) { c_.several_in_flight(6); }

TEST_F(StagedTest, WaitsOfTheHostAreCountedApart) {
  const int64_t before = device_.host_waits(), staged_before = staged_waits();
  const auto x = c_.unset<float>(64), sum = c_.unset<float>(64);
  const auto words = c_.put(std::vector<int32_t>(static_cast<size_t>(c_.size()), 7)),
             got = c_.unset<int32_t>(c_.size());
  c_.group().reduce_scatter_flat("reduce", x.data(), 64, sum.data()).wait();
  c_.group().all_to_all("headers", words.data(), got.data(), 1).wait();
  EXPECT_EQ(device_.host_waits() - before, staged_waits() - staged_before);
  EXPECT_EQ(staged_waits() > staged_before, c_.size() > 1);
}

TEST_F(StagedTest, AGroupOfOneMayKeepItsRowsInPlace) {
  if (c_.size() > 1) GTEST_SKIP() << "a group of one";
  const auto rows = c_.put(std::vector<float>{1, 2, 3, 4});
  const auto counts = c_.put(std::vector<int32_t>{2});
  const Tensor x = f32_tensor(rows.data(), 2, 2);
  c_.group().exchange_blocks({"dispatch", x, counts.data(), x, 2}).wait();
  EXPECT_EQ(c_.get(rows, 4), (std::vector<float>{1, 2, 3, 4}));
}

TEST_F(StagedTest, MoreRowsThanRoomIsAnError) {
  if (c_.size() == 1) GTEST_SKIP() << "alone, whole blocks stay";
  const auto rows = c_.unset<float>(c_.size() * 2), got = c_.unset<float>(c_.size() * 2);
  const auto counts = c_.put(std::vector<int32_t>(static_cast<size_t>(c_.size()), 3));
  try {
    c_.group().exchange_blocks({"dispatch", f32_tensor(rows.data(), c_.size() * 2, 1), counts.data(),
                                f32_tensor(got.data(), c_.size() * 2, 1), 2});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("\"dispatch\": 3 rows for rank 0, room for 2"), std::string::npos)
        << e.what();
  }
}

TEST_F(StagedTest, DelayIsHiddenByComputation) {
  if (c_.size() == 1) GTEST_SKIP() << "a group of one sends nothing";
  job_position().step = 9'000'008;  // which no other test of this process reaches
  add_fault("delay@9000008:*:20ms");
  const int64_t delay_ns = fault_delay_ns(c_.rank());  // other tests may have added to it
  const auto x = c_.put(std::vector<float>(16, 1.0f)), all = c_.unset<float>(16 * c_.size());
  take_delay_seconds();
  const int64_t start = now_ns();
  Pending pending = c_.group().all_gather_flat("gather", x.data(), 16 * c_.size(), all.data());
  while (now_ns() < start + 10'000'000) EXPECT_FALSE(pending.poke());
  pending.wait();
  EXPECT_GE(now_ns() - start, delay_ns);
  const DelaySeconds delay = take_delay_seconds();
  EXPECT_NEAR(delay.injected, 1e-9 * static_cast<double>(delay_ns), 1e-6);
  EXPECT_LT(delay.exposed, delay.injected - 0.009);
  job_position().step = 0;
}

std::string refusal(Device* device, const std::string& transport) {
  const int np = launcher_info().size;
  try {
    const Mesh mesh({.dp = np, .edp = np}, device, transport);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    return e.what();
  }
  return "";
}

TEST_F(StagedTest, TransportsThatCannotBeHadAreRefusedByName) {
  const std::unique_ptr<Device> cpu = make_cpu_device();
  EXPECT_EQ(refusal(&device_, "smoke"), "transport \"smoke\": known are auto, host, staged, nccl");
  EXPECT_EQ(refusal(&device_, "host"), "transport \"host\": MPI cannot read the memory of late device");
  EXPECT_EQ(refusal(nullptr, "staged"), "transport \"staged\": there is no device to stage for");
  EXPECT_EQ(refusal(cpu.get(), "nccl"), "transport \"nccl\": there is no GPU");
  EXPECT_EQ(refusal(cpu.get(), "auto"), "");
  EXPECT_EQ(refusal(cpu.get(), "staged"), "");
}

}  // namespace
}  // namespace contender
