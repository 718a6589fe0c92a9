#include "base/job.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace contender {
namespace {

enum class When : uint8_t {
  kAtStep,    // once, in that very step: a resumed run that is past it does not meet it again
  kNext,      // once, at the first occasion from that step on
  kFromStep,  // always, from that step on
};
enum class Param : uint8_t { kNone, kCount, kDuration };

struct Kind {
  std::string_view name;
  When when;
  Param param;
};

constexpr std::array kKinds = {
    Kind{"kill", When::kAtStep, Param::kNone},       Kind{"segv", When::kAtStep, Param::kNone},
    Kind{"exit", When::kAtStep, Param::kNone},       Kind{"hang", When::kAtStep, Param::kNone},
    Kind{"skip", When::kNext, Param::kNone},         Kind{"delay", When::kFromStep, Param::kDuration},
    Kind{"nan", When::kAtStep, Param::kNone},        Kind{"nan_reward", When::kAtStep, Param::kNone},
    Kind{"spike", When::kAtStep, Param::kNone},      Kind{"disk_full", When::kNext, Param::kNone},
    Kind{"eio", When::kNext, Param::kNone},          Kind{"fsync", When::kNext, Param::kNone},
    Kind{"crash_write", When::kNext, Param::kCount}, Kind{"sigterm", When::kAtStep, Param::kNone},
    Kind{"sigusr1", When::kAtStep, Param::kNone},    Kind{"memory_error", When::kAtStep, Param::kNone},
};

constexpr int kEveryRank = -1;

struct Fault {
  const Kind* kind;
  int64_t step;
  int rank;  // or kEveryRank
  std::string param;
  int64_t delay_ns;
  bool consumed = false;
};

std::vector<Fault>& faults() {
  static std::vector<Fault> list;
  return list;
}
std::vector<std::pair<std::string, std::string>>& fired_params() {
  static std::vector<std::pair<std::string, std::string>> list;
  return list;
}

std::optional<int64_t> parse_integer(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// "2ms", "500us", "1s", "100ns".
std::optional<int64_t> parse_duration_ns(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, int64_t>, 4> units = {
      {{"ns", 1}, {"us", 1'000}, {"ms", 1'000'000}, {"s", 1'000'000'000}}};
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::optional<int64_t> value = parse_integer(text.substr(0, digits));
  for (const auto& [unit, ns] : units) {
    if (value && text.substr(digits) == unit && *value <= 3600 * (1'000'000'000 / ns)) return *value * ns;
  }
  return std::nullopt;
}

[[noreturn]] void fail_spec(const std::string& spec, std::string_view why) {
  std::string kinds;
  for (const Kind& k : kKinds) kinds += (kinds.empty() ? "" : ", ") + std::string(k.name);
  fail(ExitCode::kConfig,
       "--fault {}: {}; the form is kind@step:rank[:param], rank may be *, and kinds are {}", spec, why,
       kinds);
}

bool applies(const Fault& f, std::string_view kind, int rank) {
  if (f.consumed || f.kind->name != kind || (f.rank != kEveryRank && f.rank != rank)) return false;
  const int64_t step = job_position().step;
  return f.kind->when == When::kAtStep ? step == f.step : step >= f.step;
}

char g_who[320];  // for the handler: who this process is, and where it runs

// Calls nothing that is unsafe in a signal handler: fmt writes into the given array and allocates nothing.
void on_bus_error(int, siginfo_t* info, void*) {
  if (info->si_code != BUS_MCEERR_AR && info->si_code != BUS_MCEERR_AO) {
    ::signal(SIGBUS, SIG_DFL);
    ::raise(SIGBUS);  // arrives when the handler returns
    return;
  }
  char line[512];
  const JobPosition& at = job_position();
  const auto end = fmt::format_to_n(
      line, sizeof line,
      "{}, step {}, {}]: the machine reports an uncorrectable memory error at {}; keep the job off it, and "
      "start the same command again\n",
      g_who, at.step, at.phase, info->si_addr);
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line, std::min(end.size, sizeof line));
  ::_exit(static_cast<int>(ExitCode::kHardware));
}

char g_last_words[2][512];  // the handler may come at any moment: a new line is written beside the old one
std::atomic<int> g_spoken = 0;

void on_terminate(int) {
  const char* line = g_last_words[g_spoken];
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line, ::strlen(line));
  ::signal(SIGTERM, SIG_DFL);
  ::raise(SIGTERM);  // arrives when the handler returns
}

// The kernel lets a process send itself what it sends on a machine check.
void send_memory_error() {
  siginfo_t info{};
  info.si_signo = SIGBUS;
  info.si_code = BUS_MCEERR_AR;
  info.si_addr = g_who;
  ::syscall(SYS_rt_tgsigqueueinfo, ::getpid(), ::gettid(), SIGBUS, &info);
}

}  // namespace

JobPosition& job_position() {
  static JobPosition position;
  return position;
}

void add_fault(const std::string& spec, int ranks) {
  const std::string_view text = spec;
  const size_t at = text.find('@');
  const size_t colon = at == std::string_view::npos ? at : text.find(':', at);
  if (colon == std::string_view::npos) fail_spec(spec, "no @step:rank");
  const size_t second = text.find(':', colon + 1);
  const std::string_view name = text.substr(0, at);
  const std::string_view rank_text =
      text.substr(colon + 1, second == std::string_view::npos ? second : second - colon - 1);
  const std::string_view param =
      second == std::string_view::npos ? std::string_view() : text.substr(second + 1);

  const auto kind = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& k) { return k.name == name; });
  if (kind == kKinds.end()) fail_spec(spec, fmt::format("unknown kind \"{}\"", name));
  const std::optional<int64_t> step = parse_integer(text.substr(at + 1, colon - at - 1));
  if (!step) fail_spec(spec, "the step is not a number >= 0");
  const std::optional<int64_t> rank = rank_text == "*" ? kEveryRank : parse_integer(rank_text);
  if (!rank) fail_spec(spec, "the rank is neither a number >= 0 nor *");
  if (*rank >= ranks) fail_spec(spec, fmt::format("the job has {} rank{}", ranks, ranks == 1 ? "" : "s"));

  const std::optional<int64_t> delay_ns = parse_duration_ns(param);
  if (kind->param == Param::kNone && second != std::string_view::npos)
    fail_spec(spec, "this kind has no parameter");
  if (kind->param == Param::kCount && !parse_integer(param))
    fail_spec(spec, "the parameter is not a number >= 0");
  if (kind->param == Param::kDuration && !delay_ns)
    fail_spec(spec, "the parameter is not a time such as 2ms");
  faults().push_back({&*kind, *step, static_cast<int>(*rank), std::string(param), delay_ns.value_or(0)});
}

bool fault_fires(const char* kind, int rank) {
  for (Fault& f : faults()) {
    if (!applies(f, kind, rank)) continue;
    f.consumed = f.kind->when != When::kFromStep;
    std::erase_if(fired_params(), [&](const auto& p) { return p.first == kind; });
    fired_params().emplace_back(kind, f.param);
    return true;
  }
  return false;
}

std::string fault_param(const char* kind) {
  for (const auto& [name, param] : fired_params()) {
    if (name == kind) return param;
  }
  return "";
}

int64_t fault_delay_ns(int rank) {
  int64_t delay_ns = 0;
  for (const Fault& f : faults()) {
    if (applies(f, "delay", rank)) delay_ns += f.delay_ns;
  }
  return delay_ns;
}

void end_on_memory_errors(const std::string& who) {
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  *fmt::format_to_n(g_who, sizeof g_who - 1, "{} [{}", who, host).out = '\0';
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

void set_last_words(const std::string& line) {
  char* next = g_last_words[1 - g_spoken];
  *fmt::format_to_n(next, sizeof g_last_words[0] - 2, "{}", line).out = '\0';
  ::strcat(next, "\n");
  g_spoken = 1 - g_spoken;
  ::signal(SIGTERM, on_terminate);
}

void run_process_faults(int rank) {
  if (faults().empty()) return;
  if (fault_fires("kill", rank)) ::raise(SIGKILL);
  if (fault_fires("segv", rank)) {
    ::signal(SIGSEGV, SIG_DFL);  // a real one: no handler of ours or of a library softens it
    ::raise(SIGSEGV);
  }
  if (fault_fires("exit", rank)) std::exit(0);
  if (fault_fires("hang", rank)) ::raise(SIGSTOP);
  if (fault_fires("memory_error", rank)) send_memory_error();
  if (fault_fires("sigterm", rank)) ::raise(SIGTERM);
  if (fault_fires("sigusr1", rank)) ::raise(SIGUSR1);
}

}  // namespace contender
