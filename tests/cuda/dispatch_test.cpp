#include "ops/dispatch.h"

#include <gtest/gtest.h>

#include "cuda/ops.h"
#include "tests/cpu/dispatch_inputs.h"
#include "tests/cuda/device_array.h"

namespace contender {
namespace {

using test::ArrivalBuffers;
using test::DeviceArray;
using test::DeviceWorkspace;
using test::DispatchCase;
using test::SendBuffers;

SendBuffers run_send(const DispatchShape& s, const std::vector<int32_t>& expert, int64_t tokens,
                     const std::vector<int32_t>& slots, bool with_load = true, int32_t overflow = 0) {
  SendBuffers out(s, tokens);
  const DeviceArray<int32_t> device_expert(expert), slot_begin(slots), pos(out.pos), source(out.source),
      counts(out.counts), header(out.header), load(out.load), wanted(std::vector<int32_t>{overflow});
  const DeviceWorkspace workspace(send_plan_workspace_bytes(tokens, s));
  cuda::send_plan(workspace.exec(), {.shape = s,
                                     .expert = i32_tensor(device_expert.data(), tokens, s.top_k),
                                     .slot_begin = slot_begin.data(),
                                     .pos = i32_tensor(pos.data(), tokens, s.top_k),
                                     .source = source.data(),
                                     .counts = counts.data(),
                                     .header = header.data(),
                                     .load = with_load ? load.data() : nullptr,
                                     .overflow = wanted.data()});
  out.pos = pos.download(), out.source = source.download(), out.counts = counts.download();
  out.header = header.download(), out.load = load.download(), out.overflow = wanted.download()[0];
  return out;
}
ArrivalBuffers run_arrival(const DispatchShape& s, const std::vector<int32_t>& host_header, int64_t room,
                           bool with_order = true) {
  ArrivalBuffers out(s, room);
  const DeviceArray<int32_t> device_header(host_header), arrival(out.arrival), counts(out.counts),
      rows(out.rows), offsets(out.offsets), wanted(std::vector<int32_t>{0});
  const DeviceArray<RowSegment> segments(out.segments);
  const DeviceWorkspace workspace(arrival_plan_workspace_bytes(s));
  cuda::arrival_plan(workspace.exec(), {.shape = s,
                                        .header = device_header.data(),
                                        .room = room,
                                        .arrival = with_order ? arrival.data() : nullptr,
                                        .counts = counts.data(),
                                        .rows = rows.data(),
                                        .offsets = offsets.data(),
                                        .segments = segments.data(),
                                        .overflow = wanted.data()});
  out.arrival = arrival.download(), out.counts = counts.download(), out.rows = rows.download();
  out.offsets = offsets.download(), out.segments = segments.download(), out.overflow = wanted.download()[0];
  return out;
}

class CudaDispatch : public testing::TestWithParam<DispatchCase> {};

TEST_P(CudaDispatch, AgreesWithSorting) {
  const DispatchCase& k = GetParam();
  const std::vector<int32_t> expert = test::random_experts(k.shape, k.tokens, 1),
                             slots = test::slot_bounds(k.shape.slots, k.tokens),
                             header = test::random_header(k.shape, 2);
  run_send(k.shape, expert, k.tokens, slots).expect_equal(ref::send_plan(k.shape, expert, slots));
  run_arrival(k.shape, header, k.room).expect_equal(ref::arrival_plan(k.shape, header, k.room));
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaDispatch, testing::ValuesIn(test::dispatch_cases()));
// A whole cluster of blocks, two tiles each; more slots and experts than a warp has lanes.
INSTANTIATE_TEST_SUITE_P(
    Large, CudaDispatch,
    testing::Values(
        DispatchCase{
            {.ep = 2, .experts = 3, .top_k = 1, .slots = 4, .chunks = 1, .capacity = 6000}, 8500, 50},
        DispatchCase{
            {.ep = 1, .experts = 80, .top_k = 2, .slots = 64, .chunks = 2, .capacity = 2000}, 1500, 9000},
        DispatchCase{
            {.ep = 64, .experts = 16, .top_k = 3, .slots = 1, .chunks = 1, .capacity = 5}, 70, 900}));

TEST(CudaDispatch, OptionalOutputsAndLargestOverflow) {
  const DispatchShape s{.ep = 1, .experts = 2, .top_k = 1, .chunks = 1, .capacity = 3};
  const std::vector<int32_t> expert = {1, 0, 1, 1}, slots = {0, 4};
  const SendBuffers without_load = run_send(s, expert, 4, slots, false);
  EXPECT_EQ(without_load.load, (std::vector<int32_t>{0, 0}));
  EXPECT_EQ(without_load.overflow, 4);
  EXPECT_EQ(run_send(s, expert, 4, slots, true, 9).overflow, 9);
  const ArrivalBuffers without_order = run_arrival(s, {1, 2}, 3, false);
  EXPECT_EQ(without_order.offsets, (std::vector<int32_t>{0, 1, 3}));
  EXPECT_EQ(without_order.arrival[0], test::kPoison);
}

TEST(CudaDispatch, WrongShapesAreNamed) {
  const DispatchShape s{.ep = 2, .experts = 2, .top_k = 1, .chunks = 1, .capacity = 3};
  EXPECT_THROW(run_send({.ep = 2, .experts = 2, .top_k = 1}, {0}, 1, {0, 1}), Error);
  EXPECT_THROW(run_arrival(s, {1, 1, 0, 0}, -1), Error);
  EXPECT_THROW(run_arrival(s, {1, 1, 0, 0}, 4, false), Error);
  EXPECT_THROW(run_send({.ep = 2, .experts = 600, .top_k = 1, .capacity = 1}, {0}, 1, {0, 1}), Error);
}

// What only the kernel can see ends the job.
TEST(CudaDispatchDeathTest, BadExpertsAndCountsTrap) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const DispatchShape s{.ep = 1, .experts = 2, .top_k = 1, .chunks = 1, .capacity = 4};
  const auto status_of = [](auto&& run) {
    try {
      run();
    } catch (const Error&) {
      return 3;
    }
    return 0;
  };
  EXPECT_EXIT(std::_Exit(status_of([&] { run_send(s, {1}, 1, {0, 1}); })), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(std::_Exit(status_of([&] { run_send(s, {2}, 1, {0, 1}); })), testing::ExitedWithCode(3), "");
  EXPECT_EXIT(std::_Exit(status_of([&] { run_send(s, {-1}, 1, {0, 1}); })), testing::ExitedWithCode(3), "");
  EXPECT_EXIT(std::_Exit(status_of([&] { run_arrival(s, {0, -1}, 4); })), testing::ExitedWithCode(3), "");
}

}  // namespace
}  // namespace contender
