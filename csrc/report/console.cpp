#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/log.h"
#include "base/timer.h"
#include "report/metrics.h"
#include "report/text.h"

namespace contender {
namespace {

constexpr int64_t kRedrawNs = 50'000'000;
constexpr int64_t kDefaultColumns = 80;

struct Column {
  std::string_view key;
  std::string_view label;
  bool percent = false;
};
// The phases' seconds stand between kBeforeSeconds and kAfterSeconds.
constexpr std::array kBeforeSeconds = {
    Column{"reward", "reward"}, Column{"accuracy", "accuracy"},      Column{"response_length", "len"},
    Column{"kl", "kl"},         Column{"clip_fraction", "clipfrac"}, Column{"entropy", "entropy"},
    Column{"loss", "loss"},     Column{"grad_norm", "norm"},         Column{"lr", "lr"},
};
constexpr std::array kAfterSeconds = {
    Column{"tokens_per_second", "tok/s"},
    Column{"matrix_share", "matrix", true},
    Column{"dollars", "$"},
    Column{"eval_accuracy", "eval"},
    Column{"eval_accuracy_greedy", "eval greedy"},
};
constexpr std::array<std::string_view, 3> kHeadlines = {"accuracy", "reward", "loss"};

bool has(const MetricRecord& record, std::string_view key) {
  const auto& numbers = record.numbers();
  return std::any_of(numbers.begin(), numbers.end(), [&](const auto& n) { return n.first == key; });
}

std::string value_text(const Column& column, const MetricRecord& record) {
  const double v = record.number(std::string(column.key));
  return column.percent ? compact_number(100 * v) + "%" : compact_number(v);
}

int64_t columns_of(int fd) {
  winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

// Under mpirun our stdout is a pseudo-terminal without a size: the terminal is the launcher's.
int64_t terminal_columns() {
  if (const int64_t own = columns_of(STDOUT_FILENO); own > 0) return own;
  const int fd = ::open(fmt::format("/proc/{}/fd/1", ::getppid()).c_str(), O_RDONLY | O_NOCTTY | O_CLOEXEC);
  if (fd >= 0) {
    const int64_t launcher = columns_of(fd);
    ::close(fd);
    if (launcher > 0) return launcher;
  }
  const char* text = std::getenv("COLUMNS");
  const int64_t told = text ? std::atoll(text) : 0;
  return told > 0 ? told : kDefaultColumns;
}

void print_now(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

std::string plain_step_line(const std::string& phase, int64_t step, int64_t total,
                            const MetricRecord& record) {
  const std::string total_text = total > 0 ? fmt::format("/{}", total) : "";
  std::string line =
      fmt::format("{} {}{}", pad_right(phase, 12), pad_left(std::to_string(step), 5), total_text);
  const auto add = [&](const Column& c) {
    if (has(record, c.key)) line += fmt::format(" | {} {}", c.label, pad_left(value_text(c, record), 8));
  };
  for (const Column& c : kBeforeSeconds) add(c);
  if (!record.seconds().empty()) line += " |";
  for (const auto& [name, seconds] : record.seconds()) line += fmt::format(" {} {:7.3f}s", name, seconds);
  for (const Column& c : kAfterSeconds) add(c);
  return line;
}

struct Console::Impl {
  std::string phase;
  int64_t total = 0;
  bool terminal = stdout_is_terminal();
  int64_t start_ns = now_ns();
  int64_t drawn_ns = 0;
  int64_t first_step = -1;  // of this process: a resumed run does not start at 1
  int64_t step = 0;
  bool finished = false;
  std::string headline;
  std::vector<double> history;
  std::vector<std::pair<std::string, std::string>> extras;

  void take(int64_t new_step, const MetricRecord& record);
  void draw();
};

void Console::Impl::take(int64_t new_step, const MetricRecord& record) {
  step = new_step;
  if (first_step < 0) first_step = new_step;
  for (size_t i = 0; i < kHeadlines.size() && headline.empty(); ++i) {
    if (has(record, kHeadlines[i])) headline = kHeadlines[i];
  }
  if (!headline.empty() && has(record, headline)) history.push_back(record.number(headline));
  extras.clear();
  const auto add = [&](const Column& c) {
    if (c.key != headline && has(record, c.key)) extras.emplace_back(c.label, value_text(c, record));
  };
  for (const Column& c : kBeforeSeconds) add(c);
  for (const Column& c : kAfterSeconds) add(c);
  // On the narrow line of a terminal speed says more than optimizer details.
  std::stable_partition(extras.begin(), extras.end(), [](const auto& e) {
    return e.first == "reward" || e.first == "len" || e.first == "tok/s" || e.first == "eval";
  });
}

void Console::Impl::draw() {
  drawn_ns = now_ns();
  const double elapsed_seconds = static_cast<double>(drawn_ns - start_ns) * 1e-9;
  const int64_t done = first_step < 0 ? 0 : step - first_step + 1;
  const double remaining_seconds =
      done > 0 && total > 0 ? elapsed_seconds / static_cast<double>(done) * static_cast<double>(total - step)
                            : -1;
  const ProgressView view{phase,    step,     total,   elapsed_seconds, remaining_seconds,
                          finished, headline, history, extras};
  // One column stays free, or the terminal would wrap. The cursor waits in column 0: a log line begins there.
  print_now("\r" + progress_line(view, terminal_columns() - 1) + "\x1b[K\r");
}

Console::Console(std::string phase, int64_t total_steps) : impl_(std::make_unique<Impl>()) {
  impl_->phase = std::move(phase);
  impl_->total = total_steps;
  if (impl_->terminal) impl_->draw();
}

Console::~Console() {
  impl_->finished = true;
  if (!impl_->terminal) return;
  impl_->draw();
  print_now("\n");
}

void Console::step(int64_t step, const MetricRecord& record) {
  impl_->take(step, record);
  if (!impl_->terminal) {
    print_now(plain_step_line(impl_->phase, step, impl_->total, record) + "\n");
  } else if (step == impl_->total || now_ns() - impl_->drawn_ns >= kRedrawNs) {
    impl_->draw();
  }
}

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  return format_table(rows, stdout_is_terminal() ? TextStyle::kTerminal : TextStyle::kPlain,
                      terminal_columns());
}

}  // namespace contender
