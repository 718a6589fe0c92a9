#include "cli/terminal.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace contender {
namespace {

volatile sig_atomic_t g_answering = 0, g_interrupted = 0;

void on_interrupt(int number) {
  if (g_answering && !g_interrupted) {
    g_interrupted = 1;
    return;
  }
  constexpr char kPlain[] = "\x1b[0m";
  if (::isatty(STDOUT_FILENO) && ::write(STDOUT_FILENO, kPlain, sizeof kPlain - 1) < 0) {
    // nowhere left to say it
  }
  ::signal(number, SIG_DFL);
  ::raise(number);
}

}  // namespace

std::optional<std::string> QuestionReader::take_line() {
  const size_t end = buffer_.find('\n');
  if (!lines_ || end == std::string::npos) return std::nullopt;
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  return line;
}

std::optional<std::string> QuestionReader::poll() {
  if (std::optional<std::string> line = take_line()) return line;
  if (ended_) return std::exchange(buffer_, {});
  constexpr int kWaitMs = 100;
  pollfd p = {.fd = fd_, .events = POLLIN};
  if (::poll(&p, 1, kWaitMs) <= 0) return std::nullopt;
  char bytes[65536];
  const ssize_t n = ::read(fd_, bytes, sizeof bytes);
  if (n < 0 && errno != EINTR && errno != EAGAIN)
    fail(ExitCode::kConfig, "stdin cannot be read: {}", std::strerror(errno));
  if (n > 0) buffer_.append(bytes, static_cast<size_t>(n));
  ended_ = n == 0;
  if (std::ssize(buffer_) > kMaxBytes)
    fail(ExitCode::kConfig, "stdin: more than {} bytes for one question", kMaxBytes);
  return std::nullopt;
}

void show(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    fail(ExitCode::kStorage, "stdout cannot be written: {}", std::strerror(errno));
}

void take_interrupts() { ::signal(SIGINT, on_interrupt); }

void begin_answer() {
  g_interrupted = 0;
  g_answering = 1;
}
void end_answer() { g_answering = 0; }
bool interrupted() { return g_interrupted != 0; }

}  // namespace contender
