// Log lines go to stderr as `[rank 1] message` (rank 0 without the prefix); results and bars go to stdout.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

namespace contender {

enum class LogLevel { kDebug, kInfo, kWarn, kError };

void set_log_rank(int rank, int num_ranks);  // rank < 0: not under MPI yet
void set_log_level(LogLevel level);
int log_rank();
bool stdout_is_terminal();  // colours and bars only then; NO_COLOR and TERM=dumb are respected
void log_message(LogLevel level, const std::string& message);

template <class... A>
void log_info(fmt::format_string<A...> f, A&&... a) {
  log_message(LogLevel::kInfo, fmt::format(f, std::forward<A>(a)...));
}
template <class... A>
void log_warn(fmt::format_string<A...> f, A&&... a) {
  log_message(LogLevel::kWarn, fmt::format(f, std::forward<A>(a)...));
}
template <class... A>
void log_error(fmt::format_string<A...> f, A&&... a) {
  log_message(LogLevel::kError, fmt::format(f, std::forward<A>(a)...));
}
template <class... A>
void log_debug(fmt::format_string<A...> f, A&&... a) {
  log_message(LogLevel::kDebug, fmt::format(f, std::forward<A>(a)...));
}

}  // namespace contender
