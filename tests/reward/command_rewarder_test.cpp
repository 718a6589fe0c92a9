#include "reward/command_rewarder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "base/error.h"

namespace contender {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Alive: not even a zombie that waits for whoever inherited it.
bool process_exists(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string stat;
  return std::getline(file, stat) && stat.find(") Z ") == stat.npos;
}

// Ends within the limit: a killed process takes a moment.
template <class Condition>
bool eventually(Condition condition, double limit_seconds = 3) {
  const auto start = Clock::now();
  while (!condition()) {
    if (seconds_since(start) > limit_seconds) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

// Replies to every request with `score`; `$id` and `$line` are at hand for `before` the reply.
std::string script(const std::string& before, const std::string& score = "1") {
  return "while IFS= read -r line; do id=${line#*'\"id\":'}; id=${id%%[!0-9]*}; " + before +
         "; echo \"{\\\"id\\\":$id,\\\"score\\\":" + score + "}\"; done";
}

class CommandRewarderTest : public testing::Test {
 protected:
  CommandRewarderTest() {
    folder_ = std::filesystem::temp_directory_path() / ("contender_worker_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    config_.type = "command";
    config_.timeout_seconds = 5;
    prompt_ = {.task = "addition", .text = "<user>37+85=<assistant>", .answer = "122"};
  }
  ~CommandRewarderTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<Rewarder> start(const std::string& text) {
    config_.command = {"/bin/sh", "-c", text};
    return make_rewarder(config_, 100, 0);
  }
  void submit(Rewarder& rewarder, uint64_t id,
              const std::string& completion = "<think>a</think><answer>122</answer>") {
    rewarder.submit({.id = id, .prompt = &prompt_, .completion = completion, .num_tokens = 10});
  }
  std::map<uint64_t, Score> drain(Rewarder& rewarder) {
    std::map<uint64_t, Score> by_id;
    for (Score& score : rewarder.drain()) {
      EXPECT_FALSE(by_id.contains(score.id));
      by_id[score.id] = std::move(score);
    }
    return by_id;
  }
  // Pids that a script wrote to files of the folder, one each.
  std::vector<pid_t> pids() const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      pid_t pid = 0;
      if (std::ifstream(entry.path()) >> pid) found.push_back(pid);
    }
    return found;
  }
  void expect_all_gone(size_t count) const {
    const std::vector<pid_t> all = pids();
    EXPECT_EQ(all.size(), count);
    for (const pid_t pid : all) EXPECT_TRUE(eventually([&] { return !process_exists(pid); })) << pid;
  }

  std::filesystem::path folder_;
  RewardConfig config_;
  Prompt prompt_;
};

TEST_F(CommandRewarderTest, ExampleScoresByIdWithSeveralWorkers) {
  config_.command = {"tools/examples/reward_worker.sh"};
  config_.workers = 2;
  config_.accuracy_weight = 2;
  config_.format_weight = 0.25;
  const auto rewarder = make_rewarder(config_, 100, 0);
  for (uint64_t id = 0; id < 100; ++id) {
    const std::string thought = id % 3 == 2 ? std::string(60, 'x') + "\\\"" : "x";
    submit(*rewarder, id * 1000003,
           "<think>" + thought + "</think><answer>" + (id % 3 == 0 ? "121" : "122") + "</answer>");
  }
  const auto scores = drain(*rewarder);
  ASSERT_EQ(scores.size(), 100u);
  for (uint64_t id = 0; id < 100; ++id) {
    const Score& score = scores.at(id * 1000003);
    const float expected = id % 3 == 0 ? 0 : id % 3 == 1 ? 1 : 0.5f;
    EXPECT_EQ(score.status, "ok");
    EXPECT_TRUE(score.valid);
    EXPECT_EQ(score.accuracy, id % 3 == 0 ? 0 : 1);
    EXPECT_EQ(score.format, 1);
    EXPECT_FLOAT_EQ(score.reward, 2 * expected + 0.25f);
  }
}

TEST_F(CommandRewarderTest, RequestHasEveryField) {
  const auto rewarder = start(script("printf '%s' \"$line\" > " + (folder_ / "line").string(), "-0.5"));
  submit(*rewarder, UINT64_MAX, "\"a\"\n\xff\xe4\xb8\xad<think>");
  const auto scores = drain(*rewarder);
  EXPECT_EQ(scores.at(UINT64_MAX).accuracy, -0.5f);
  EXPECT_EQ(scores.at(UINT64_MAX).reward, -0.5f);
  std::ifstream file(folder_ / "line");
  const std::string line((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(line,
            "{\"id\":18446744073709551615,\"task\":\"addition\",\"prompt\":\"<user>37+85=<assistant>\","
            "\"completion\":\"\\\"a\\\"\\n\xef\xbf\xbd\xe4\xb8\xad<think>\",\"answer\":\"122\"}");
}

TEST_F(CommandRewarderTest, PollDoesNotBlockAndWorkGoesOnWithoutIt) {
  const auto rewarder = start(script("sleep 0.02"));
  submit(*rewarder, 1);
  submit(*rewarder, 2);
  const auto begin = Clock::now();
  EXPECT_TRUE(rewarder->poll().empty());
  EXPECT_LT(seconds_since(begin), 0.05);
  std::this_thread::sleep_for(std::chrono::milliseconds(250));  // nobody polls
  EXPECT_EQ(rewarder->poll().size(), 2u);
  EXPECT_TRUE(rewarder->drain().empty());
}

// Every kind of failure costs its own sample only: the requests before and after it are scored.
TEST_F(CommandRewarderTest, FailuresCostTheirSampleOnly) {
  struct Case {
    const char* what;
    const char* status;
  };
  const Case cases[] = {{"exit 3", "died"},
                        {"kill -9 $$", "died"},
                        {"exec >&-; sleep 60", "died"},
                        {"sleep 60", "timeout"},
                        {"trap '' TERM INT HUP; while :; do :; done", "timeout"},
                        {"printf '{\"id\":2,\"score\":1}'; sleep 60", "timeout"},
                        {"echo hello; sleep 60", "garbage"},
                        {"echo; sleep 60", "garbage"},
                        {"echo '{\"id\":3,\"score\":1}'; sleep 60", "garbage"},
                        {"echo '{\"id\":\"2\",\"score\":1}'; sleep 60", "garbage"},
                        {"echo '{\"id\":-2,\"score\":1}'; sleep 60", "garbage"},
                        {"echo '{\"score\":1}'; sleep 60", "garbage"},
                        {"echo '[2,1]'; sleep 60", "garbage"},
                        {"echo '{\"id\":2}'; sleep 60", "garbage"},
                        {"echo '{\"id\":2,\"score\":\"1\"}'; sleep 60", "garbage"},
                        {"echo '{\"id\":2,\"score\":NaN}'; sleep 60", "garbage"},
                        {"echo '{\"id\":2,\"score\":1e999}'; sleep 60", "garbage"},
                        {"echo '{\"id\":2,\"score\":1e39}'; sleep 60", "garbage"},
                        {"echo '{\"id\":2,\"score\":1,\"score\":0}'; sleep 60", "garbage"},
                        {"echo '{\"id\":2,\"score\":1,\"accuracy\":null}'; sleep 60", "garbage"},
                        {"yes | tr -d '\\n'", "garbage"},
                        {"yes", "garbage"},
                        {"head -c 100000 /dev/zero; echo; sleep 60", "garbage"}};
  testing::internal::CaptureStderr();
  for (const Case& c : cases) {
    config_.timeout_seconds = std::string(c.status) == "timeout" ? 0.2 : 5;
    const auto rewarder = start(script(std::string("if [ $id = 2 ]; then ") + c.what + "; fi"));
    for (uint64_t id = 1; id <= 3; ++id) submit(*rewarder, id);
    const auto scores = drain(*rewarder);
    ASSERT_EQ(scores.size(), 3u);
    EXPECT_EQ(scores.at(1).status, "ok") << c.what;
    EXPECT_EQ(scores.at(2).status, c.status) << c.what;
    EXPECT_FALSE(scores.at(2).valid) << c.what;
    EXPECT_EQ(scores.at(3).status, "ok") << c.what;
    EXPECT_EQ(scores.at(3).reward, 2);
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("warning: reward worker 0 stopped (died: it closed its stdout; exit status 3)"),
            log.npos)
      << log;
  EXPECT_NE(log.find("stopped (timeout: no reply in 0.2 s; signal 9 (Killed))"), log.npos) << log;
  EXPECT_NE(log.find("stopped (garbage: the id is not 2: {\"id\":3,\"score\":1}; signal 9 (Killed))"),
            log.npos)
      << log;
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), std::ssize(cases)) << log;
}

TEST_F(CommandRewarderTest, WhatFollowsAReplyIsNotTakenForTheNextOne) {
  testing::internal::CaptureStderr();
  // The reply to the first request comes together with one for the second.
  const auto rewarder = start(script(
      "[ $id != 1 ] || { printf '{\"id\":1,\"score\":1}\\n{\"id\":2,\"score\":100}\\n'; sleep 60; }", "0.5"));
  submit(*rewarder, 1);
  submit(*rewarder, 2);
  const auto scores = drain(*rewarder);
  EXPECT_EQ(scores.at(1).accuracy, 1);
  EXPECT_EQ(scores.at(2).accuracy, 0.5f);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("garbage: unasked for: {\"id\":2"),
            std::string::npos);
}

TEST_F(CommandRewarderTest, AnIdleWorkerThatEndsIsStartedAgain) {
  testing::internal::CaptureStderr();
  const auto rewarder = start("echo $$ > " + (folder_ / "pid").string() + "; " + script("true"));
  for (uint64_t id = 1; id <= 2; ++id) {
    submit(*rewarder, id);
    EXPECT_EQ(drain(*rewarder).at(id).status, "ok");
    const pid_t pid = pids().at(0);
    ::kill(pid, SIGTERM);
    EXPECT_TRUE(
        eventually([&] { return ::kill(pid, 0) != 0; }));  // waited for by the server: the rewarder knows
  }
  EXPECT_NE(testing::internal::GetCapturedStderr().find("signal 15 (Terminated)"), std::string::npos);
}

TEST_F(CommandRewarderTest, LargeCompletionsPassAndAWorkerThatDoesNotReadTimesOut) {
  const std::string large(150'000, 'a');
  {
    const auto rewarder = start(script("[ ${#line} -gt 150000 ] || exit 1"));
    submit(*rewarder, 1, large);
    submit(*rewarder, 2, large);
    for (const auto& [id, score] : drain(*rewarder)) EXPECT_EQ(score.status, "ok");
  }
  testing::internal::CaptureStderr();
  config_.timeout_seconds = 0.1;
  const auto rewarder = start("sleep 60");
  submit(*rewarder, 1, large);
  EXPECT_EQ(drain(*rewarder).at(1).status, "timeout");
  testing::internal::GetCapturedStderr();
}

TEST_F(CommandRewarderTest, StderrGoesToTheLogWithinLimits) {
  testing::internal::CaptureStderr();
  {
    const auto rewarder =
        start(script("echo \"scoring $id\" >&2; printf 'tab\\tbell\\007' >&2; head -c 1000 /dev/zero | tr "
                     "'\\0' x >&2; echo >&2"));
    submit(*rewarder, 5);
    drain(*rewarder);
  }
  std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("reward worker 0: scoring 5\n"), log.npos) << log;
  EXPECT_NE(log.find("reward worker 0: tab bell?xxx"), log.npos) << log;
  EXPECT_LT(log.size(), 1200u);

  testing::internal::CaptureStderr();
  {
    const auto rewarder = start(script("i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo noise >&2; done"));
    submit(*rewarder, 5);
    EXPECT_EQ(drain(*rewarder).at(5).status, "ok");
  }
  log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 201);
  EXPECT_NE(log.find("the rest of its stderr is not shown"), log.npos);
}

TEST_F(CommandRewarderTest, ProgramsThatCannotRunAreConfigErrors) {
  const auto message = [&](std::vector<std::string> command) -> std::string {
    config_.command = std::move(command);
    try {
      make_rewarder(config_, 100, 0);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kConfig);
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message({}), "reward.command is empty (reward.type = \"command\")");
  EXPECT_EQ(message({"./no-such-program"}),
            "reward.command: cannot run \"./no-such-program\": No such file or directory");
  EXPECT_EQ(message({"/dev/null"}), "reward.command: cannot run \"/dev/null\": Permission denied");
  EXPECT_EQ(message({"/bin/sh", std::string(100000, 'x')}),
            "reward.command: cannot run \"/bin/sh\": Argument list too long");
}

// $1: a name. A worker with a child, a daemon in a session of its own, and a child of that daemon; each
// leaves its pid in the folder.
std::string family(const std::filesystem::path& folder, const std::string& name) {
  const std::string to = " > " + (folder / name).string();
  return "echo $$" + to + ".worker; sleep 1000 & echo $!" + to + ".child; " +
         "setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & echo $!" + to + ".grandchild; echo $$" + to +
         ".daemon; wait' & ";
}

TEST_F(CommandRewarderTest, NothingIsLeftOverByTimeoutsAndAtTheEnd) {
  testing::internal::CaptureStderr();
  config_.timeout_seconds = 0.3;
  {
    const auto rewarder = start(family(folder_, "$$") + script("[ $id != 1 ] || sleep 60"));
    submit(*rewarder, 1);
    EXPECT_EQ(drain(*rewarder).at(1).status, "timeout");
    expect_all_gone(4);
    submit(*rewarder, 2);
    EXPECT_EQ(drain(*rewarder).at(2).status, "ok");
    EXPECT_TRUE(eventually([&] { return pids().size() == 8; }));
  }
  expect_all_gone(8);
  testing::internal::GetCapturedStderr();
}

TEST_F(CommandRewarderTest, NothingIsLeftOverWhenTheRankIsKilled) {
  const pid_t rank = ::fork();
  if (rank == 0) {
    ::setpgid(0, 0);
    const auto rewarder = start(family(folder_, "rank") + script("sleep 60"));
    submit(*rewarder, 1);
    for (;;) ::pause();
  }
  ASSERT_GT(rank, 1);
  EXPECT_TRUE(eventually([&] { return pids().size() == 4; }));
  for (const pid_t pid : pids()) EXPECT_TRUE(process_exists(pid));
  ::kill(-rank, SIGKILL);  // as mpirun does: the whole process group
  ::waitpid(rank, nullptr, 0);
  expect_all_gone(4);
}

TEST_F(CommandRewarderTest, WorkersAreNotChildrenOfTheRankAndALostServerIsNoCrash) {
  testing::internal::CaptureStderr();
  pid_t server = 0;
  {
    const auto rewarder = start(script("echo $PPID > " + (folder_ / "server").string() + "; echo $$ > " +
                                       (folder_ / "worker").string()));
    submit(*rewarder, 1);
    EXPECT_EQ(drain(*rewarder).at(1).status, "ok");
    std::ifstream(folder_ / "server") >> server;
    ASSERT_GT(server, 1);
    EXPECT_NE(server, ::getpid());
    EXPECT_NE(::getsid(server), ::getsid(0));

    ::kill(server, SIGKILL);
    ::waitpid(server, nullptr, 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    submit(*rewarder, 2);
    const Score lost = drain(*rewarder).at(2);
    EXPECT_FALSE(lost.valid);
    EXPECT_TRUE(lost.status == "unavailable" || lost.status == "died") << lost.status;
    expect_all_gone(2);
  }
  const auto rewarder = start(script("true"));  // with a new server
  submit(*rewarder, 3);
  EXPECT_EQ(drain(*rewarder).at(3).status, "ok");
  testing::internal::GetCapturedStderr();
}

TEST_F(CommandRewarderTest, WorkersDoNotTakeThemselvesForRanks) {
  const pid_t rank = ::fork();
  if (rank == 0) {
    ::setenv("OMPI_COMM_WORLD_RANK", "1", 1);
    ::setenv("PMIX_RANK", "1", 1);
    const auto rewarder = start(script("[ -z \"$OMPI_COMM_WORLD_RANK$PMIX_RANK\" ] || exit 1"));
    submit(*rewarder, 1);
    ::_exit(drain(*rewarder).at(1).status == "ok" ? 0 : 1);
  }
  int status = 0;
  ::waitpid(rank, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace contender
