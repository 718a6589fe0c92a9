// The plan against the run: memory of every rank, and bytes that the ranks of a training step really send.
#include "plan/plan.h"

#include <gtest/gtest.h>

#include <cmath>

#include "cpu/cpu_ops.h"
#include "grpo/trainer.h"
#include "mpi/group.h"
#include "plan/traffic.h"

namespace contender {
namespace {

RunConfig small_run(int tp, int ep, const char* recompute) {
  RunConfig c;
  c.model.hidden_size = 64;
  c.model.num_hidden_layers = 3;
  c.model.intermediate_size = 128;
  c.model.moe_intermediate_size = 32;
  c.model.q_lora_rank = 32;
  c.model.n_routed_experts = 8;
  c.mesh.tp = tp;
  c.mesh.ep = ep;
  c.train.token_budget = 256;
  c.train.recompute = recompute;
  c.sft.steps = 4;
  c.sft.batch_size = 16;
  c.rl.steps = 4;
  c.rl.prompts_per_step = 4;
  c.rl.group_size = 4;
  c.rollout.max_sequences = 16;
  c.rollout.max_tokens_per_step = 256;
  c.task.eval_problems = 16;
  c.stages = {{"sft", "sft", c.sft, c.rl, c.task, c.reward}, {"rl", "rl", c.sft, c.rl, c.task, c.reward}};
  return c;
}

// (tp, ep) that divide the ranks of this job.
std::vector<std::pair<int, int>> layouts() {
  const int np = launcher_info().size;
  std::vector<std::pair<int, int>> list;
  for (int tp = 1; tp <= np; tp *= 2) {
    for (int ep = 1; ep <= np; ep *= 2) list.emplace_back(tp, ep);
  }
  return list;
}

// The device's peak over an SFT and an RL step is what the plan says: it is made of the sizes that the run
// allocates with.
TEST(PlanOnRanks, MemoryIsThePeakOfTheDevice) {
  for (const auto& [tp, ep] : layouts()) {
    SCOPED_TRACE(fmt::format("tp {} ep {}", tp, ep));
    const RunConfig c = small_run(tp, ep, "none");
    Machine machine(c, cpu_ops(), make_cpu_device());
    Trainer trainer(c, machine);
    trainer.begin_stage(c.stages[0]);
    trainer.sft_step();
    trainer.begin_stage(c.stages[1]);
    trainer.rl_step();
    const Plan plan = make_plan(c, {.np = machine.mesh->size()}, {"test", 1e9, 1e9, 0});
    const double planned = static_cast<double>(plan.memory_bytes());
    EXPECT_NEAR(static_cast<double>(machine.device->peak_bytes()), planned, 0.02 * planned);
  }
}

// Bytes of an SFT step, all ranks together, sent and planned.
std::pair<double, double> traffic_of_a_step(const RunConfig& c) {
  Machine machine(c, cpu_ops(), make_cpu_device());
  Trainer trainer(c, machine);
  trainer.begin_stage(c.stages[0]);
  take_sent_bytes();
  trainer.sft_step();
  int64_t sent = take_sent_bytes();
  machine.mesh->world().all_reduce_sum("test.sent", &sent, 1);

  const double np = machine.mesh->size(), tokens = trainer.record().number("tokens");
  const double rounds = std::ceil(tokens / static_cast<double>(c.mesh.data_slots * c.train.token_budget));
  const PhaseTokens t = {
      .own = tokens / np, .passes = rounds, .head_rows = tokens / machine.mesh->shape().dp};
  Traffic traffic(c, machine.mesh->shape());
  traffic.forward("update", t, /*sampling=*/false);
  traffic.backward("update", t);
  traffic.optimizer("update", rounds);
  double planned = 0;
  for (const TrafficItem& i : traffic.take()) planned += np * i.bytes;
  return {static_cast<double>(sent), planned};
}

// Headers and statistics are not planned, and experts are not perfectly balanced.
void expect_planned(const RunConfig& c) {
  const auto [sent, planned] = traffic_of_a_step(c);
  EXPECT_EQ(planned > 0, launcher_info().size > 1);
  EXPECT_NEAR(sent, planned, (c.mesh.ep > 1 ? 0.04 : 0.005) * planned);
}

TEST(PlanOnRanks, TrafficIsWhatRanksSend) {
  for (const auto& [tp, ep] : layouts()) {
    SCOPED_TRACE(fmt::format("tp {} ep {}", tp, ep));
    expect_planned(small_run(tp, ep, "none"));
  }
}

TEST(PlanOnRanks, TrafficOfOtherFormsAndRecomputes) {
  const int np = launcher_info().size;
  for (const char* recompute : {"selective", "full"}) {
    SCOPED_TRACE(recompute);
    expect_planned(small_run(np, 1, recompute));
  }
  for (const char* recompute : {"none", "selective"}) {
    SCOPED_TRACE(recompute);
    RunConfig c = small_run(np, 1, recompute);
    c.model.q_lora_rank = 0;
    expect_planned(c);
    c.model.family = "gqa";
    c.model.n_routed_experts = 0;
    c.model.num_key_value_heads = 4;
    expect_planned(c);
  }
}

}  // namespace
}  // namespace contender
