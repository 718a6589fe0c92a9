#include "ops/dispatch.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/dispatch_inputs.h"

namespace contender {
namespace {

using test::ArrivalBuffers;
using test::DispatchCase;
using test::SendBuffers;

SendBuffers run_send(const DispatchShape& s, std::vector<int32_t> expert, const std::vector<int32_t>& slots) {
  SendBuffers out(s, std::ssize(expert) / s.top_k);
  test::Workspace workspace(send_plan_workspace_bytes(out.tokens, s));
  cpu::send_plan(workspace.exec(), out.args(expert.data(), slots.data()));
  return out;
}
ArrivalBuffers run_arrival(const DispatchShape& s, const std::vector<int32_t>& header, int64_t room) {
  ArrivalBuffers out(s, room);
  test::Workspace workspace(arrival_plan_workspace_bytes(s));
  cpu::arrival_plan(workspace.exec(), out.args(header.data()));
  return out;
}

class CpuDispatch : public testing::TestWithParam<DispatchCase> {};

TEST_P(CpuDispatch, AgreesWithSorting) {
  const DispatchCase& k = GetParam();
  const std::vector<int32_t> expert = test::random_experts(k.shape, k.tokens, 1),
                             slots = test::slot_bounds(k.shape.slots, k.tokens);
  run_send(k.shape, expert, slots).expect_equal(ref::send_plan(k.shape, expert, slots));
  const std::vector<int32_t> header = test::random_header(k.shape, 2);
  run_arrival(k.shape, header, k.room).expect_equal(ref::arrival_plan(k.shape, header, k.room));
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuDispatch, testing::ValuesIn(test::dispatch_cases()));

// All ranks of a group plan, exchange headers and blocks, sort what arrives and send it back: every choice of
// every token finds its expert, in the order (expert, leaf, token), and finds its way home.
TEST(CpuDispatch, RowsGoThereAndBack) {
  constexpr int64_t kTokens = 21, kRoom = 88;
  const DispatchShape s{.ep = 4, .experts = 3, .top_k = 2, .slots = 2, .chunks = 2, .capacity = 22};
  const std::vector<int32_t> slots = test::slot_bounds(s.slots, kTokens);
  std::vector<std::vector<int32_t>> expert;
  std::vector<SendBuffers> sent;
  for (int64_t r = 0; r < s.ep; ++r) {
    expert.push_back(test::random_experts(s, kTokens, 10 + r));
    sent.push_back(run_send(s, expert.back(), slots));
  }
  const int64_t header_len = s.chunks * s.experts * s.slots;
  std::vector<std::vector<int32_t>> seen(s.ep, std::vector<int32_t>(kTokens * s.top_k, 0));
  for (int64_t r = 0; r < s.ep; ++r) {
    std::vector<int32_t> header;
    for (const SendBuffers& p : sent)
      header.insert(header.end(), p.header.begin() + r * header_len, p.header.begin() + (r + 1) * header_len);
    const ArrivalBuffers a = run_arrival(s, header, kRoom);
    EXPECT_EQ(a.overflow, 0);
    for (int64_t i = 0; i < s.experts * s.ep * s.slots * s.chunks; ++i) {
      const RowSegment& g = a.segments[i];
      const int64_t c = i % s.chunks, peer = g.leaf / s.slots;
      int32_t last = -1;
      for (int32_t row = g.begin; row < g.end; ++row) {
        const int32_t at = a.arrival[row],
                      token = sent[peer].source[(c * s.ep + r) * s.capacity + at % s.capacity];
        ASSERT_EQ(at / s.capacity, peer);
        ASSERT_LT(last, token);
        ASSERT_TRUE(slots[g.leaf % s.slots] <= token && token < slots[g.leaf % s.slots + 1]);
        last = token;
        for (int64_t j = 0; j < s.top_k; ++j) {
          if (expert[peer][token * s.top_k + j] != r * s.experts + g.group) continue;
          ++seen[peer][token * s.top_k + j];
          EXPECT_EQ(sent[peer].pos[token * s.top_k + j], (c * s.ep + r) * s.capacity + at % s.capacity);
        }
      }
    }
  }
  for (const auto& rank : seen) EXPECT_EQ(rank, std::vector<int32_t>(kTokens * s.top_k, 1));
}

// One rank needs no order of arrival: it is the order of sending.
TEST(CpuDispatch, OneRankIsTheIdentity) {
  const DispatchShape s{.experts = 5, .top_k = 2, .slots = 4, .chunks = 3, .capacity = 14};
  const std::vector<int32_t> expert = test::random_experts(s, 20, 20), slots = test::slot_bounds(4, 20);
  const SendBuffers sent = run_send(s, expert, slots);
  const ArrivalBuffers a = run_arrival(s, sent.header, s.capacity);
  for (int64_t c = 0; c < s.chunks; ++c) {
    for (int64_t i = 0; i < s.capacity; ++i) EXPECT_EQ(a.arrival[c * s.capacity + i], i < a.rows[c] ? i : -1);
  }
  ArrivalBuffers without(s, s.capacity);
  test::Workspace workspace(arrival_plan_workspace_bytes(s));
  ArrivalPlanArgs args = without.args(sent.header.data());
  args.arrival = nullptr;
  cpu::arrival_plan(workspace.exec(), args);
  EXPECT_EQ(without.offsets, a.offsets);
  EXPECT_EQ(without.rows, a.rows);
}

// The load counts on, an overflow is the largest so far, and a plan without a counter of loads is the same.
TEST(CpuDispatch, LoadAndOverflowAccumulate) {
  const DispatchShape s{.ep = 2, .experts = 2, .top_k = 2, .capacity = 3};
  const std::vector<int32_t> expert = {0, 1, 1, 0, 0, 3, 1, 0}, slots = {0, 4};
  SendBuffers out(s, 4);
  test::Workspace workspace(send_plan_workspace_bytes(4, s));
  cpu::send_plan(workspace.exec(), out.args(expert.data(), slots.data()));
  EXPECT_EQ(out.overflow, 7);
  out.overflow = 9;
  cpu::send_plan(workspace.exec(), out.args(expert.data(), slots.data()));
  EXPECT_EQ(out.overflow, 9);
  EXPECT_EQ(out.load, (std::vector<int32_t>{8, 6, 0, 2}));
  SendPlanArgs args = out.args(expert.data(), slots.data());
  args.load = nullptr;
  cpu::send_plan(workspace.exec(), args);
  EXPECT_EQ(out.counts, (std::vector<int32_t>{3, 1}));
}

TEST(CpuDispatch, WrongShapesAndExpertsAreNamed) {
  const DispatchShape s{.ep = 2, .experts = 2, .top_k = 1, .capacity = 3};
  const std::vector<int32_t> slots = {0, 1};
  EXPECT_THROW(run_send(s, {4}, slots), Error);
  EXPECT_THROW(run_send(s, {-1}, slots), Error);
  EXPECT_THROW(run_send({.ep = 2, .experts = 2, .top_k = 1}, {0}, slots), Error);
  EXPECT_THROW(run_arrival(s, {1, -1, 0, 0}, 4), Error);
  EXPECT_THROW(run_arrival(s, {1, 1, 0, 0}, -1), Error);
  ArrivalBuffers out(s, 4);
  const std::vector<int32_t> header(4, 1);
  ArrivalPlanArgs args = out.args(header.data());
  args.arrival = nullptr;
  test::Workspace workspace(arrival_plan_workspace_bytes(s));
  EXPECT_THROW(cpu::arrival_plan(workspace.exec(), args), Error);
}

}  // namespace
}  // namespace contender
