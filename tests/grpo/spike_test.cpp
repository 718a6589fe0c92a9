#include "grpo/spike.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "tests/grpo/tiny_trainer.h"

namespace contender {
namespace {

using namespace testing_trainer;

TEST(Spike, FarAboveTheLastHundredAndTheFloor) {
  RecentValues r;
  for (int i = 0; i < 9; ++i) r.add(-0.5);
  EXPECT_FALSE(r.spike(1e9, 10, 0));  // too few to judge
  r.add(0.2);
  EXPECT_FALSE(r.spike(5.0, 10, 0));
  EXPECT_TRUE(r.spike(5.0001, 10, 0));
  EXPECT_TRUE(r.spike(-5.0001, 10, 0));
  EXPECT_FALSE(r.spike(5.0001, 10, 6));
  EXPECT_FALSE(r.spike(1e9, 0, 0));  // off
}

TEST(Spike, TheWindowMoves) {
  RecentValues r;
  r.add(100);
  for (int i = 0; i < 99; ++i) r.add(1);
  EXPECT_FALSE(r.spike(900, 10, 0));
  r.add(1);
  EXPECT_EQ(r.values.size(), 100u);
  EXPECT_TRUE(r.spike(900, 10, 0));
}

// Nothing has been learnt yet, so the gradient is 0; then the first reward comes.
TEST(Spike, TheFirstRewardIsNone) {
  RecentValues r;
  for (int i = 0; i < 50; ++i) r.add(0);
  EXPECT_FALSE(r.spike(0.7, 10, 1.0));
  EXPECT_TRUE(r.spike(1.1, 10, 1.0));
}

RunConfig watched_run() {
  RunConfig c = tiny_run();
  c.dir = ::testing::TempDir() + "spike";
  std::filesystem::create_directories(c.dir);
  c.train.spike_factor = 10;
  c.train.max_skipped = 2;
  c.rl.kl_beta = 0.01;
  return c;
}

// The update is skipped for this reason and leaves the weights, the optimizer's count and what is remembered
// of earlier updates as they were; the step counts. The second skip in a row ends the run.
void expect_skipped(TinyTrainer& t, void (Trainer::*step)(), const std::string& reason) {
  const uint64_t weights = t->policy_weights().fingerprint();
  const TrainState before = t->state();
  (t.trainer.*step)();
  EXPECT_EQ(t.metric("skipped"), 1);
  EXPECT_EQ(t->state().step, before.step + 1);
  EXPECT_EQ(t->state().updates, before.updates);
  EXPECT_EQ(t->state().norms.values, before.norms.values);
  EXPECT_EQ(t->state().losses.values, before.losses.values);
  EXPECT_EQ(t->state().kls.values, before.kls.values);
  EXPECT_EQ(t->policy_weights().fingerprint(), weights);
  std::ifstream dump(fmt::format("{}/bad_batch_{}.jsonl", t.config.dir, before.global_step));
  std::string line;
  ASSERT_TRUE(std::getline(dump, line));
  EXPECT_NE(line.find("\"why\":\"" + reason + " (gradient norm "), std::string::npos) << line;
  try {
    (t.trainer.*step)();
    ADD_FAILURE() << "went on after two skipped updates";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kNonFinite);
    EXPECT_NE(std::string(e.what()).find("the last one for " + reason), std::string::npos) << e.what();
  }
}

TEST(SpikeSkips, NormOfTheGradient) {
  RunConfig c = watched_run();
  c.train.max_grad_norm = 0.01;
  TinyTrainer t(c, "sft");
  t->sft_step();
  EXPECT_EQ(t.metric("skipped"), 0);
  const double norm = t.metric("grad_norm");
  ASSERT_GT(norm, 10 * 0.01);
  ASSERT_EQ(t->state().norms.values, std::vector<double>{norm});
  t->state().norms.values.assign(10, norm / 1000);
  expect_skipped(t, &Trainer::sft_step, "spike of the gradient norm");
}

TEST(SpikeSkips, Loss) {
  TinyTrainer t(watched_run(), "sft");
  t->sft_step();
  EXPECT_EQ(t.metric("skipped"), 0);
  ASSERT_EQ(t->state().losses.values, std::vector<double>{t.metric("loss")});
  t->state().losses.values.assign(10, 0.01);  // as after a long training; a guess costs ln 272 = 5.6
  expect_skipped(t, &Trainer::sft_step, "spike of the loss");
}

TEST(SpikeSkips, Kl) {
  TinyTrainer t(watched_run());
  t->rl_step();
  EXPECT_EQ(t.metric("skipped"), 0);
  ASSERT_EQ(t->state().kls.values, std::vector<double>{t.metric("kl")});
  // A head that is far too sure: the policy is several nats from its reference.
  const Tensor head = t->policy_weights().master(t->policy_weights().find("head"));
  for (int64_t r = 0; r < head.rows; ++r)
    for (int64_t k = 0; k < head.cols; ++k) static_cast<float*>(head.row(r))[k] *= 20;
  t->policy_weights().repack();
  t->engine().set_weights(t->policy_weights().version());
  t->state().kls.values.assign(10, 0.001);
  expect_skipped(t, &Trainer::rl_step, "spike of the KL");
}

// max_skipped counts those in a row, of which two would end this run.
TEST(SpikeSkips, AGoodUpdateBeginsTheCountAgain) {
  TinyTrainer t(watched_run(), "sft");
  t->sft_step();
  const RecentValues too_few = t->state().losses;
  for (int i = 0; i < 3; ++i) {
    t->state().losses.values.assign(10, 0.01);
    t->sft_step();
    EXPECT_EQ(t.metric("skipped"), 1);
    t->state().losses = too_few;
    t->sft_step();
    EXPECT_EQ(t.metric("skipped"), 0);
  }
}

TEST(SpikeSkips, NothingWithoutAFactor) {
  RunConfig c = watched_run();
  c.train.spike_factor = 0;
  TinyTrainer t(c, "sft");
  t->sft_step();
  t->state().norms.values.assign(10, 1e-9);
  t->state().losses.values.assign(10, 1e-9);
  t->sft_step();
  EXPECT_EQ(t.metric("skipped"), 0);
}

}  // namespace
}  // namespace contender
