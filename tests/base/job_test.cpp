#include "base/job.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "base/error.h"

namespace contender {
namespace {

// Faults stay planned for the life of the process, so every test uses steps of its own, which no
// run in this process reaches.
class JobTest : public testing::Test {
 protected:
  ~JobTest() override { job_position() = {}; }
  static void at(int64_t step) { job_position().step = step; }
};

TEST_F(JobTest, OneShotAtItsStepAndRank) {
  add_fault("nan@9000101:2");
  at(9000100);
  EXPECT_FALSE(fault_fires("nan", 2));
  at(9000101);
  EXPECT_FALSE(fault_fires("nan", 1));
  EXPECT_FALSE(fault_fires("spike", 2));
  EXPECT_TRUE(fault_fires("nan", 2));
  EXPECT_FALSE(fault_fires("nan", 2)) << "fires once";

  add_fault("nan@9000103:*");
  at(9000104);
  EXPECT_FALSE(fault_fires("nan", 0)) << "a run that resumes past the step does not meet it";
}

TEST_F(JobTest, NextOccasionFromTheStepOn) {
  add_fault("crash_write@9000110:*:12");
  at(9000109);
  EXPECT_FALSE(fault_fires("crash_write", 0));
  at(9000115);
  EXPECT_TRUE(fault_fires("crash_write", 0));
  EXPECT_EQ(fault_param("crash_write"), "12");
  EXPECT_FALSE(fault_fires("crash_write", 0));
  EXPECT_EQ(fault_param("eio"), "");
}

TEST_F(JobTest, DelayLastsFromItsStepOn) {
  add_fault("delay@9000120:1:2ms");
  add_fault("delay@9000122:*:500us");
  at(9000119);
  EXPECT_EQ(fault_delay_ns(1), 0);
  at(9000120);
  EXPECT_EQ(fault_delay_ns(1), 2'000'000);
  EXPECT_EQ(fault_delay_ns(0), 0);
  at(9000130);
  EXPECT_EQ(fault_delay_ns(1), 2'500'000);
  EXPECT_EQ(fault_delay_ns(0), 500'000);
}

TEST_F(JobTest, BadSpecsNameThemselvesAndTheKinds) {
  for (const char* spec : {"",
                           "kill",
                           "kill@",
                           "kill@1",
                           "kill@:0",
                           "kill@x:0",
                           "kill@-1:0",
                           "kill@1:",
                           "kill@1:a",
                           "kill@1:-1",
                           "kill@1:0:5",
                           "kil@1:0",
                           "delay@1:0",
                           "delay@1:0:2",
                           "delay@1:0:ms",
                           "delay@1:0:2h",
                           "delay@1:0:99999999999999999999s",
                           "crash_write@1:0",
                           "crash_write@1:0:x",
                           "kill@1:99999999999",
                           "kill@1:16777216"}) {
    try {
      add_fault(spec);
      ADD_FAILURE() << spec;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
      const std::string message = e.what();
      EXPECT_TRUE(message.starts_with(std::string("--fault ") + spec + ": ")) << message;
      EXPECT_NE(message.find("kill, segv, exit, hang, skip, delay"), std::string::npos) << message;
    }
  }
}

// The wait status of a child that runs into the fault; exits with 7 if nothing happens to it.
int status_of(const char* spec) {
  std::fflush(nullptr);  // or exit(0) in the child would print the pending lines again
  const pid_t child = ::fork();
  if (child == 0) {
    job_position().step = 9000140;
    add_fault(spec);
    run_process_faults(1);
    ::_exit(7);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, WUNTRACED), child);
  if (WIFSTOPPED(status)) {
    ::kill(child, SIGKILL);
    int killed = 0;
    ::waitpid(child, &killed, 0);
  }
  return status;
}

TEST_F(JobTest, ProcessFaults) {
  EXPECT_EQ(WTERMSIG(status_of("kill@9000140:1")), SIGKILL);
  EXPECT_EQ(WTERMSIG(status_of("segv@9000140:1")), SIGSEGV);
  EXPECT_EQ(WTERMSIG(status_of("sigterm@9000140:*")), SIGTERM);
  EXPECT_EQ(WTERMSIG(status_of("sigusr1@9000140:1")), SIGUSR1);
  const int left = status_of("exit@9000140:1"), stopped = status_of("hang@9000140:1"),
            other = status_of("kill@9000140:0");
  EXPECT_TRUE(WIFEXITED(left) && WEXITSTATUS(left) == 0);
  EXPECT_TRUE(WIFSTOPPED(stopped));
  EXPECT_TRUE(WIFEXITED(other) && WEXITSTATUS(other) == 7) << "a fault of another rank";
}

// As status_of, with the process prepared for memory errors; what it says comes back in `said`.
int status_when_prepared(const char* spec, std::string* said) {
  int pipe_ends[2];
  EXPECT_EQ(::pipe(pipe_ends), 0);
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(pipe_ends[1], STDERR_FILENO);
    end_on_memory_errors("rank 1");
    job_position().step = 9000140;
    if (spec) add_fault(spec), run_process_faults(1);
    ::kill(::getpid(), SIGBUS);
    ::_exit(7);
  }
  ::close(pipe_ends[1]);
  char text[1024];
  const ssize_t n = ::read(pipe_ends[0], text, sizeof text);
  said->assign(text, n > 0 ? static_cast<size_t>(n) : 0);
  ::close(pipe_ends[0]);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

TEST_F(JobTest, LastWordsOfSigterm) {
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(pipe_ends[1], STDERR_FILENO);
    set_last_words("first");
    set_last_words("second");
    set_last_words("third, " + std::string(1000, 'x'));
    ::kill(::getpid(), SIGTERM);
    ::_exit(7);
  }
  ::close(pipe_ends[1]);
  char text[2048];
  const ssize_t n = ::read(pipe_ends[0], text, sizeof text);
  ::close(pipe_ends[0]);
  const std::string said(text, n > 0 ? static_cast<size_t>(n) : 0);
  EXPECT_TRUE(said.starts_with("third, xxx") && said.ends_with("x\n") && said.size() < 512) << said;
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
}

TEST_F(JobTest, LostMemoryHasItsExitCodeAndOtherBusErrorsStayFatal) {
  std::string said;
  const int lost = status_when_prepared("memory_error@9000140:1", &said);
  EXPECT_TRUE(WIFEXITED(lost) && WEXITSTATUS(lost) == 16) << lost;
  EXPECT_TRUE(said.starts_with("rank 1 [")) << said;
  EXPECT_NE(said.find(", step 9000140, start]: the machine reports an uncorrectable memory error at 0x"),
            std::string::npos)
      << said;
  EXPECT_EQ(said.find('\n'), said.size() - 1);
  const int other = status_when_prepared(nullptr, &said);
  EXPECT_TRUE(WIFSIGNALED(other) && WTERMSIG(other) == SIGBUS) << other;
  EXPECT_EQ(said, "");
}

}  // namespace
}  // namespace contender
