#include "reward/math_worker.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/timer.h"

namespace contender {
namespace {

struct Conversation {
  std::string replies;
  int wait_status = 0;
};

constexpr const char* kRequests = R"({"id":1,"prompt":"","completion":"first","answer":"5"}
{"id":2,"prompt":"","completion":"second","answer":"5"}
)";

// A worker with this verifier, as a process, asked kRequests. Its stderr is of no interest.
Conversation ask(double seconds, MathVerifier verify) {
  int in[2], out[2];
  EXPECT_EQ(::pipe(in), 0);
  EXPECT_EQ(::pipe(out), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(in[0], STDIN_FILENO);
    ::dup2(out[1], STDOUT_FILENO);
    ::close_range(STDERR_FILENO, ~0U, 0);
    ::_exit(run_math_worker(seconds, verify));
  }
  ::close(in[0]);
  ::close(out[1]);
  const std::string requests = kRequests;
  EXPECT_EQ(::write(in[1], requests.data(), requests.size()), std::ssize(requests));
  ::close(in[1]);
  Conversation c;
  char buffer[4096];
  for (ssize_t n; (n = ::read(out[0], buffer, sizeof buffer)) > 0;)
    c.replies.append(buffer, static_cast<size_t>(n));
  ::close(out[0]);
  ::waitpid(pid, &c.wait_status, 0);
  return c;
}

void spin(double seconds) {
  const int64_t end_ns = now_ns() + static_cast<int64_t>(1e9 * seconds);
  while (now_ns() < end_ns) continue;
}

const std::string kFirst = "{\"id\":1,\"score\":1,\"status\":\"ok\"}\n";

TEST(MathWorker, RepliesUntilItsInputEnds) {
  const Conversation c =
      ask(3, [](auto, std::string_view completion, auto) -> MathVerdict { return {completion == "first"}; });
  EXPECT_EQ(c.replies, kFirst + "{\"id\":2,\"score\":0,\"status\":\"ok\"}\n");
  EXPECT_TRUE(WIFEXITED(c.wait_status) && WEXITSTATUS(c.wait_status) == 0);
}

// The limit is of each answer, not of all.
TEST(MathWorker, ProcessorTimeEndsItByASignalOfItsOwn) {
  const Conversation c = ask(0.3, [](auto, std::string_view completion, auto) -> MathVerdict {
    spin(completion == "first" ? 0.2 : 60);
    return {true};
  });
  EXPECT_EQ(c.replies, kFirst);
  ASSERT_TRUE(WIFSIGNALED(c.wait_status));
  EXPECT_STREQ(how_maths_ended(WTERMSIG(c.wait_status)), "too_long");
}

// Waiting, as on a machine that is busy with something else, costs nothing.
TEST(MathWorker, WallClockIsNoLimitOfItsOwn) {
  const Conversation c = ask(0.05, [](auto, std::string_view completion, auto) -> MathVerdict {
    ::usleep(200'000);
    return {completion == "first"};
  });
  EXPECT_EQ(c.replies, kFirst + "{\"id\":2,\"score\":0,\"status\":\"ok\"}\n");
}

#ifndef __SANITIZE_ADDRESS__
TEST(MathWorker, MemoryEndsItByASignalOfItsOwn) {
  const Conversation c = ask(60, [](auto, std::string_view completion, auto) -> MathVerdict {
    std::vector<char> memory(completion == "first" ? 100 << 20 : 600 << 20, 'x');
    return {memory.back() == 'x'};
  });
  EXPECT_EQ(c.replies, kFirst);
  ASSERT_TRUE(WIFSIGNALED(c.wait_status));
  EXPECT_STREQ(how_maths_ended(WTERMSIG(c.wait_status)), "aborted");
}
#endif

TEST(MathWorker, OtherEndsAreNoVerdict) {
  for (const int signal : {0, SIGKILL, SIGTERM, SIGSEGV, SIGBUS, SIGHUP})
    EXPECT_EQ(how_maths_ended(signal), nullptr) << signal;
}

}  // namespace
}  // namespace contender
