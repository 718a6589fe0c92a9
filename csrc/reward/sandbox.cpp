#include "reward/sandbox.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/timer.h"
#include "reward/sandbox_launch.h"

namespace contender {
namespace {

using End = SandboxResult::End;

constexpr double kSetupSeconds = 10;       // of an overloaded machine; some milliseconds otherwise
constexpr int64_t kGraceNs = 900'000'000;  // between SIGKILL and the end of all processes
constexpr size_t kMaxErrBytes = 4096, kMaxErrFlood = 1 << 20;

// `"key": 123` in what bubblewrap says.
std::optional<int> number_behind(std::string_view text, std::string_view key) {
  const size_t at = text.find(key);
  if (at == text.npos) return {};
  const size_t digits = text.find_first_of("0123456789", at + key.size());
  if (digits == text.npos || text.find_first_not_of("0123456789", digits) == text.npos) return {};
  int value = 0;
  std::from_chars(text.data() + digits, text.data() + text.size(), value);
  return value;
}

// From the launch to the end of the last process of the sandbox.
class Supervisor {
 public:
  Supervisor(const SandboxJob& job, LaunchedSandbox sandbox) : job_(job), sandbox_(std::move(sandbox)) {
    deadline_ns_ = now_ns() + static_cast<int64_t>(kSetupSeconds * 1e9);
  }
  ~Supervisor() {
    if (init_ >= 0) ::close(init_);
  }

  SandboxResult run() {
    while (sandbox_.status.open()) {
      wait();
      read_status();
      read_out();
      read_err();
      read_result();
      if (now_ns() < deadline_ns_) continue;
      if (killed_) break;  // it does not end
      begun_ ? kill(End::kTimeout) : kill(End::kBroken, "bubblewrap was not ready in time");
    }
    if (killed_ && sandbox_.status.open()) ::kill(-sandbox_.monitor, SIGKILL);
    collect();
    return std::move(result_);
  }

 private:
  void wait() {
    pollfd polled[] = {{sandbox_.status.number(), POLLIN, 0},
                       {sandbox_.out.number(), POLLIN, 0},
                       {sandbox_.err.number(), POLLIN, 0},
                       {sandbox_.result.number(), POLLIN, 0}};
    const int64_t left_ms = std::max<int64_t>(0, ceil_div(deadline_ns_ - now_ns(), 1'000'000));
    ::poll(polled, std::size(polled), static_cast<int>(std::min<int64_t>(left_ms, 1'000'000)));
  }

  // What is there, up to 64 KiB. Closes the descriptor at its end.
  std::string_view read_some(Descriptor& from) {
    if (!from.open()) return {};
    const ssize_t got = ::read(from.number(), buffer_, sizeof buffer_);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) from.close();
    return {buffer_, static_cast<size_t>(std::max<ssize_t>(got, 0))};
  }

  void read_status() {
    status_ += read_some(sandbox_.status);
    if (begun_ || killed_) return;
    const std::optional<int> pid = number_behind(status_, "\"child-pid\"");
    if (pid) begin(*pid);
  }

  // The sandbox has its first process, which waits for our word: now it can be held, and limited.
  void begin(pid_t pid) {
    init_ = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    if (init_ < 0 || !limit_processes(pid)) {
      return kill(End::kBroken, fmt::format("process {} cannot be limited: {}", pid, std::strerror(errno)));
    }
    begun_ = ::write(sandbox_.go.number(), "", 1) == 1;
    sandbox_.go.close();
    renew_deadline();
  }

  void renew_deadline() { deadline_ns_ = now_ns() + static_cast<int64_t>(job_.seconds * 1e9); }

  void read_out() {
    const std::string_view more = read_some(sandbox_.out);
    result_.out += more.substr(0, job_.max_out_bytes - result_.out.size());
    out_bytes_ += more.size();
    if (out_bytes_ > job_.max_out_bytes) kill(End::kOutputLimit);
  }

  void read_err() {
    const std::string_view more = read_some(sandbox_.err);
    result_.err += more;
    if (result_.err.size() > kMaxErrBytes) result_.err.erase(0, result_.err.size() - kMaxErrBytes);
    err_bytes_ += more.size();
    if (err_bytes_ > kMaxErrFlood) kill(End::kOutputLimit);
  }

  void read_result() {
    const std::string_view more = read_some(sandbox_.result);
    if (more.empty() || killed_) return;
    received_ += more;
    const AfterResult after = job_.on_result(&received_);
    if (after == AfterResult::kStop) return kill(End::kStopped);
    if (after == AfterResult::kProgress) renew_deadline();
    if (received_.size() > job_.max_out_bytes) kill(End::kOutputLimit);
  }

  // The first reason counts. The kernel ends every process of the pid namespace with its first.
  void kill(End why, std::string text = {}) {
    if (killed_) return;
    killed_ = true;
    result_.end = why;
    result_.why = std::move(text);
    if (init_ >= 0) {
      ::syscall(SYS_pidfd_send_signal, init_, SIGKILL, nullptr, 0);
    } else {
      ::kill(-sandbox_.monitor, SIGKILL);
    }
    deadline_ns_ = now_ns() + kGraceNs;
  }

  // bubblewrap is gone, and before it the sandbox. What the pipes still hold is the program's.
  void collect() {
    int wait_status = 0;
    rusage used = {};
    while (::wait4(sandbox_.monitor, &wait_status, 0, &used) < 0 && errno == EINTR) continue;
    for (size_t before = ~size_t{0}; before != out_bytes_ + err_bytes_;) {
      before = out_bytes_ + err_bytes_;
      read_out();
      read_err();
    }
    for (size_t before = ~size_t{0}; sandbox_.result.open() && !killed_ && before != received_.size();) {
      before = received_.size();
      read_result();
    }
    if (killed_) return;
    const std::optional<int> code = number_behind(status_, "\"exit-code\"");
    if (!code) {
      result_.end = End::kBroken;
      result_.why = result_.err.substr(0, std::min(result_.err.find('\n'), size_t{300}));
      if (result_.why.empty()) result_.why = "bubblewrap ended without a word";
      return;
    }
    result_.exit_code = *code;
    result_.end = End::kExited;
    if (*code != 128 + SIGKILL) return;
    // By the kernel: for its processor time, which is all used up then, or for memory.
    const double seconds = static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                           static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    result_.end = seconds >= std::floor(job_.processor_seconds > 0 ? job_.processor_seconds : job_.seconds)
                      ? End::kTimeout
                      : End::kMemory;
  }

  const SandboxJob& job_;
  LaunchedSandbox sandbox_;
  SandboxResult result_;
  int64_t deadline_ns_ = 0;
  bool begun_ = false, killed_ = false;
  int init_ = -1;  // pidfd of the first process of the sandbox
  std::string status_, received_;
  size_t out_bytes_ = 0, err_bytes_ = 0;
  char buffer_[64 << 10];
};

}  // namespace

SandboxResult run_in_sandbox(const SandboxJob& job) {
  try {
    return Supervisor(job, launch_sandbox(job)).run();
  } catch (const Error& e) {
    SandboxResult broken;
    broken.why = e.what();
    return broken;
  }
}

}  // namespace contender
