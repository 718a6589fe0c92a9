#include "reward/worker_pool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <thread>

#include "base/error.h"

namespace contender {
namespace {

const Prompt kProblem = {.task = "math", .text = "<user>1/2+1/4?<assistant>", .answer = "\\frac{3}{4}"};

std::string boxed(const std::string& answer) { return "<think>x</think>\\boxed{" + answer + "}"; }

std::map<uint64_t, Score> by_id(std::vector<Score> scores) {
  std::map<uint64_t, Score> map;
  for (Score& score : scores) map[score.id] = std::move(score);
  return map;
}

TEST(WorkerPool, RuleRewarderSendsMathsToItsWorkersAndScoresTheRestAtOnce) {
  RewardConfig config;
  config.workers = 2;
  config.accuracy_weight = 2;
  const auto rewarder = make_rewarder(config, 100, 0);
  const Prompt sum = {.task = "addition", .answer = "12"};
  rewarder->submit({.id = 1000, .prompt = &sum, .completion = "<think>x</think><answer>12</answer>"});
  EXPECT_EQ(rewarder->poll().size(), 1u);
  for (uint64_t id = 0; id < 200; ++id)
    rewarder->submit(
        {.id = id, .prompt = &kProblem, .completion = boxed(id % 2 ? "\\frac{3}{4}" : "\\frac{3}{5}")});
  rewarder->submit({.id = 300, .prompt = &kProblem, .completion = "<think>\\boxed{\\frac{3}{4}}\xff"});
  const auto scores = by_id(rewarder->drain());
  ASSERT_EQ(scores.size(), 201u);
  for (uint64_t id = 0; id < 200; ++id) {
    EXPECT_EQ(scores.at(id).accuracy, id % 2);
    EXPECT_EQ(scores.at(id).reward, id % 2 ? 2 : 0);
    EXPECT_EQ(scores.at(id).status, "ok");
    EXPECT_TRUE(scores.at(id).valid);
  }
  EXPECT_EQ(scores.at(300).status, "no_answer");
  EXPECT_EQ(scores.at(300).accuracy, 0);
}

// Whatever ends the verifier of maths, or keeps it busy, is the answer's fault: 0, and the next one is
// scored.
TEST(WorkerPool, AnAnswerThatStopsTheVerifierIsWrongAndCostsItselfOnly) {
  testing::internal::CaptureStderr();
  RewardConfig config;
  config.math_seconds = 1e-9;
  {
    WorkerPool pool(WorkerKind::kMath, config);
    pool.submit({.id = 1, .prompt = &kProblem, .completion = boxed("1")}, {.id = 1, .reward = 0.5f});
    const std::vector<Score> scores = pool.drain();
    EXPECT_EQ(scores.at(0).status, "timeout");
    EXPECT_TRUE(scores.at(0).valid);
    EXPECT_EQ(scores.at(0).accuracy, 0);
    EXPECT_EQ(scores.at(0).reward, 0.5f);
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("math worker 0 stopped (timeout"), log.npos) << log;
}

// A worker's stdout speaks to the rank: nothing that the rank had buffered when its server was forked.
TEST(WorkerPool, UnwrittenOutputOfTheRankIsNoReply) {
  std::fflush(nullptr);
  const pid_t rank = ::fork();
  if (rank == 0) {
    std::printf("of the rank");
    WorkerPool pool(WorkerKind::kMath, RewardConfig{});
    pool.submit({.id = 1, .prompt = &kProblem, .completion = boxed("0.75")}, {.id = 1});
    const Score score = pool.drain().at(0);
    ::_exit(score.status == "ok" && score.accuracy == 1 ? 0 : 1);
  }
  int status = 0;
  ::waitpid(rank, &status, 0);
  EXPECT_EQ(status, 0);
}

#ifndef __SANITIZE_ADDRESS__
TEST(WorkerPool, TheVerifierOfMathsHas512MiB) {
  start_worker_server();
  WorkerProcess worker;
  ASSERT_EQ(spawn_worker(WorkerKind::kMath, RewardConfig{}, &worker), 0);
  bool limited = false;
  for (int tries = 0; tries < 1000 && !limited; ++tries) {
    std::ifstream limits("/proc/" + std::to_string(worker.pid) + "/limits");
    for (std::string line; std::getline(limits, line);)
      limited = limited || (line.starts_with("Max data size") && line.find(" 536870912 ") != line.npos);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_TRUE(limited);
  EXPECT_EQ(stop_worker(&worker), "signal 9 (Killed)");
}
#endif

TEST(WorkerPool, StatusAndValidityAreTheWorkersToSay) {
  RewardConfig config;
  config.command = {"/bin/sh", "-c",
                    "read -r line; echo '{\"id\":1,\"score\":0,\"status\":\"no_compiler\",\"valid\":false}'; "
                    "read -r line; echo '{\"id\":2,\"score\":0,\"status\":7}'"};
  const Prompt with_tests = {.task = "code", .tests = "{\"stdin\":[]}"};
  testing::internal::CaptureStderr();
  WorkerPool pool(WorkerKind::kCommand, config);
  for (uint64_t id = 1; id <= 2; ++id) pool.submit({.id = id, .prompt = &with_tests}, {.id = id});
  const auto scores = by_id(pool.drain());
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(scores.at(1).status, "no_compiler");
  EXPECT_FALSE(scores.at(1).valid);
  EXPECT_EQ(scores.at(2).status, "garbage");
  EXPECT_FALSE(scores.at(2).valid);
}

TEST(WorkerPool, RequestsCarryTests) {
  RewardConfig config;
  const Prompt prompt = {.task = "code", .tests = "{\"stdin\":[{},{}]}"};
  const RewardJob job = make_job(WorkerKind::kCode, config, {.id = 1, .prompt = &prompt}, {});
  EXPECT_NE(job.line.find("\"tests\":\"{\\\"stdin\\\":[{},{}]}\""), std::string::npos) << job.line;
  EXPECT_GE(job.seconds, 3 * config.code_seconds);
  EXPECT_EQ(make_job(WorkerKind::kMath, config, {.id = 1, .prompt = &kProblem}, {}).line.find("tests"),
            std::string::npos);
}

}  // namespace
}  // namespace contender
