#include "base/log.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string_view>

#include "base/error.h"

namespace contender {
namespace {

std::atomic<int> g_rank{-1};
std::atomic<LogLevel> g_level{LogLevel::kInfo};

const char* level_prefix(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug: ";
    case LogLevel::kInfo:
      return "";
    case LogLevel::kWarn:
      return "warning: ";
    case LogLevel::kError:
      return "error: ";
  }
  return "";
}

// One system call per line, so that lines of several ranks and threads never mix.
void write_line(const std::string& line) {
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::write(STDERR_FILENO, line.data() + done, line.size() - done);
    if (n <= 0) return;  // nowhere left to say it
    done += static_cast<size_t>(n);
  }
}

// Open MPI gives every rank a pseudo-terminal as stdout even when mpirun's own output goes to a file: then
// the terminal that counts is mpirun's. On a remote node the parent's stdout is no terminal, which is the
// right answer there too.
bool detect_terminal() {
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  if ((no_color && *no_color) || !term || std::string_view(term) == "dumb") return false;
  if (!::isatty(STDOUT_FILENO)) return false;
  if (!std::getenv("OMPI_COMM_WORLD_RANK")) return true;
  struct stat target;
  const std::string launcher_stdout = fmt::format("/proc/{}/fd/1", ::getppid());
  constexpr unsigned kMemoryDevices = 1;  // /dev/null
  return ::stat(launcher_stdout.c_str(), &target) == 0 && S_ISCHR(target.st_mode) &&
         major(target.st_rdev) != kMemoryDevices;
}

}  // namespace

void set_log_rank(int rank, int num_ranks) {
  CHECK(rank < num_ranks || rank < 0, "rank {} of {}", rank, num_ranks);
  g_rank = rank;
}

void set_log_level(LogLevel level) { g_level = level; }

int log_rank() { return g_rank; }

bool stdout_is_terminal() {
  static const bool terminal = detect_terminal();
  return terminal;
}

void log_message(LogLevel level, const std::string& message) {
  if (level < g_level.load()) return;
  const int rank = g_rank;
  const char* over_bar = stdout_is_terminal() ? "\r\x1b[K" : "";  // a progress bar may stand on the line
  write_line(fmt::format("{}{}{}{}\n", over_bar, rank > 0 ? fmt::format("[rank {}] ", rank) : "",
                         level_prefix(level), message));
}

}  // namespace contender
