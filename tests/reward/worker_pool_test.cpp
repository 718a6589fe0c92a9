#include "reward/worker_pool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <map>
#include <thread>

#include "base/error.h"
#include "base/timer.h"

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

// A worker of maths, and a question that it cannot answer: it is stopped.
class StarvedMathWorker : public testing::Test {
 protected:
  StarvedMathWorker() : worker_(WorkerKind::kMath, 0, config_) {
    testing::internal::CaptureStderr();
    start_worker_server();
    EXPECT_EQ(worker_.start(), 0);
    send(SIGSTOP);
    job_ = make_job(WorkerKind::kMath, config_, {.id = 1, .prompt = &kProblem, .completion = boxed("0.75")},
                    {.id = 1, .reward = 0.5f});
  }
  ~StarvedMathWorker() override {
    if (!logged_) testing::internal::GetCapturedStderr();
  }

  // To the worker alone: kill() takes -1 for everybody.
  void send(int signal) {
    const pid_t pid = worker_.pid();
    if (pid <= 1) fail(ExitCode::kInternal, "no worker to send signal {} to", signal);
    EXPECT_EQ(::kill(pid, signal), 0);
  }
  Score end() {
    std::optional<Score> score;
    while (!(score = worker_.advance(now_ns()))) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return *score;
  }
  std::string log() {
    logged_ = true;
    return testing::internal::GetCapturedStderr();
  }

  RewardConfig config_;
  RewardWorker worker_;
  RewardJob job_;
  bool logged_ = false;
};

// On a machine that has no time for it, nobody knows whether the answer is right.
TEST_F(StarvedMathWorker, WallClockIsNoVerdict) {
  EXPECT_GE(job_.seconds, 30);  // not the answer's own time
  job_.seconds = 0.01;
  worker_.begin(std::move(job_));
  const Score score = end();
  EXPECT_FALSE(score.valid);
  EXPECT_EQ(score.status, "timeout");
  const std::string said = log();
  EXPECT_NE(said.find("math worker 0 stopped (timeout: no reply in 0.01 s; signal 9 (Killed))"), said.npos)
      << said;
}

TEST_F(StarvedMathWorker, KilledByTheKernelIsNoVerdict) {
  worker_.begin(std::move(job_));
  send(SIGKILL);
  const Score score = end();
  EXPECT_FALSE(score.valid);
  EXPECT_EQ(score.status, "died");
  const std::string said = log();
  EXPECT_NE(said.find("signal 9 (Killed))"), said.npos) << said;
}

// What the evaluation of an answer brings upon itself is the answer's fault.
TEST_F(StarvedMathWorker, LimitsOfTheAnswerAreAWrongOne) {
  for (const auto& [signal, status] : {std::pair{SIGPROF, "too_long"}, std::pair{SIGABRT, "aborted"}}) {
    RewardJob job = job_;
    worker_.begin(std::move(job));
    send(signal);
    send(SIGCONT);
    const Score score = end();
    EXPECT_TRUE(score.valid);
    EXPECT_EQ(score.status, status);
    EXPECT_EQ(score.accuracy, 0);
    EXPECT_EQ(score.reward, 0.5f);
    ASSERT_EQ(worker_.start(), 0);
    send(SIGSTOP);
  }
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
  EXPECT_EQ(stop_worker(&worker).text, "signal 9 (Killed)");
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
