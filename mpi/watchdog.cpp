#include "mpi/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "base/job.h"
#include "base/timer.h"
#include "mpi/mesh.h"

namespace contender {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kAnswerPeriodNs = kSecond / 1000;
constexpr int64_t kAnswerWaitNs =
    kSecond / 2;  // a waiting peer answers within a few of its periods and time slices
constexpr int kQuestionTag = 1, kAnswerTag = 2;
constexpr size_t kAnswerBytes = 512;

double g_watchdog_s = 60;
double g_median_step_s = 0;
std::string g_dump_path;
MPI_Comm g_questions = MPI_COMM_NULL;

struct Record {
  const char* name = "";
  int first_rank = 0, last_rank = 0, size = 0;  // of the group, in the world
  int64_t collective = 0;
  int64_t begin_ns = 0;
  int64_t done_ns = 0;  // 0: in flight
};
constexpr int64_t kNumRecords = 64;
std::array<Record, kNumRecords> g_records;
int64_t g_num_records = 0;

Record& record(int64_t number) { return g_records[static_cast<size_t>(number % kNumRecords)]; }

void write_dump(const std::string& headline) {
  std::FILE* file = std::fopen(g_dump_path.c_str(), "w");
  if (!file) return;  // the headline on stderr must not be lost over it
  fmt::print(file, "{}\nlast collectives of this rank, newest first:\n", headline);
  const int64_t now = now_ns();
  for (int64_t i = g_num_records - 1; i >= std::max<int64_t>(0, g_num_records - kNumRecords); --i) {
    const Record& r = record(i);
    const std::string end =
        r.done_ns ? fmt::format("done after {:.6f} s", static_cast<double>(r.done_ns - r.begin_ns) * 1e-9)
                  : "in flight";
    fmt::print(file, "  collective {} \"{}\" of {} ranks {}..{}: begun {:.6f} s ago, {}\n", r.collective,
               r.name, r.size, r.first_rank, r.last_rank, static_cast<double>(now - r.begin_ns) * 1e-9, end);
  }
  std::fclose(file);
}

// World ranks of the peers whose messages have not come, or that have not taken ours. NCCL does not say whom
// it waits for: all others.
std::vector<int> missing_peers(const Pending::Impl& f) {
  std::vector<int> missing;
  if (f.event) {
    missing = f.group->world_ranks;
    std::erase(missing, f.group->world_rank());
    return missing;
  }
  for (size_t i = 0; i < f.requests.size(); ++i) {
    int done = 0;
    MPI_Request_get_status(f.requests[i], &done, MPI_STATUS_IGNORE);
    if (!done) missing.push_back(f.group->world_ranks[static_cast<size_t>(f.peers[i])]);
  }
  std::sort(missing.begin(), missing.end());
  missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
  return missing;
}

std::string describe_wait(const Pending::Impl& f, const std::vector<int>& peers) {
  std::string list;
  for (const int p : peers) list += fmt::format("{}{}", list.empty() ? "" : ", ", p);
  const JobPosition& at = job_position();
  return fmt::format("for rank{} {} in \"{}\" (collective {}, step {}, phase {})",
                     peers.size() == 1 ? "" : "s", list, f.name, f.collective, at.step, at.phase);
}

}  // namespace

void set_watchdog(double watchdog_s, const std::string& dump_path) {
  g_watchdog_s = watchdog_s;
  g_dump_path = dump_path;
}
void set_step_seconds(double median_step_s) { g_median_step_s = median_step_s; }

void start_watchdog() {
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &g_questions), "MPI_Comm_dup", "start");
  check_mpi(MPI_Comm_set_errhandler(g_questions, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", "start");
}

int64_t record_begin(const Group::Impl& group, const char* name, int64_t collective) {
  record(g_num_records) = {
      name, group.world_ranks.front(), group.world_ranks.back(), group.size, collective, now_ns(), 0};
  return g_num_records++;
}

void record_done(int64_t number) {
  if (g_num_records - number <= kNumRecords) record(number).done_ns = now_ns();
}

Watch::Watch(const Pending::Impl& flight)
    : flight_(flight), start_ns_(now_ns()), last_ns_(start_ns_), answered_ns_(start_ns_) {}

void Watch::tick() {
  const int64_t now = now_ns();
  if (now - last_ns_ > kSecond)
    start_ns_ += now - last_ns_;  // this rank itself was stopped: that is not the peer's silence
  last_ns_ = now;
  if (now - answered_ns_ > kAnswerPeriodNs) {
    answered_ns_ = now;
    answer_questions();
  }
  const double waited_s = static_cast<double>(now - start_ns_) * 1e-9;
  if (waited_s < std::max(g_watchdog_s, 10 * g_median_step_s)) return;
  if (asked_ns_ == 0) {
    asked_ns_ = now;
    ask_peers();
  }
  if (now - asked_ns_ < kAnswerWaitNs) return;
  const std::vector<int> missing = missing_peers(flight_);
  std::vector<int> silent;
  std::copy_if(missing.begin(), missing.end(), std::back_inserter(silent),
               [&](int p) { return !answers_.contains(p); });
  if (!silent.empty()) report(silent, waited_s);
  // All of them wait for somebody else, who will be found by its own victims first, unless the ranks wait in
  // a circle.
  if (now - asked_ns_ > 3 * kAnswerWaitNs && !missing.empty()) report(missing, waited_s);
}

// A question carries a number of the asker's, which the answer repeats: late answers to earlier questions are
// told apart.
void Watch::ask_peers() {
  for (const int p : missing_peers(flight_)) {
    check_mpi(MPI_Send(&flight_.record_number, 1, MPI_INT64_T, p, kQuestionTag, g_questions), "MPI_Send",
              "watchdog");
  }
}

void Watch::answer_questions() {
  for (;;) {
    int there = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, g_questions, &there, &status), "MPI_Iprobe",
              "watchdog");
    if (!there) return;
    std::array<char, kAnswerBytes> message{};
    const int from = status.MPI_SOURCE;
    check_mpi(MPI_Recv(message.data(), kAnswerBytes, MPI_BYTE, from, status.MPI_TAG, g_questions,
                       MPI_STATUS_IGNORE),
              "MPI_Recv", "watchdog");
    int64_t number = 0;
    std::memcpy(&number, message.data(), sizeof number);
    char* text = message.data() + sizeof number;
    if (status.MPI_TAG == kAnswerTag) {
      if (number == flight_.record_number) answers_[from] = text;
      continue;
    }
    const std::string wait =
        describe_wait(flight_, missing_peers(flight_)).substr(0, kAnswerBytes - sizeof number - 1);
    std::memcpy(text, wait.c_str(), wait.size() + 1);
    check_mpi(MPI_Send(message.data(), kAnswerBytes, MPI_BYTE, from, kAnswerTag, g_questions), "MPI_Send",
              "watchdog");
  }
}

void Watch::report(const std::vector<int>& lost, double waited_s) {
  const bool circle = answers_.contains(lost.front());
  std::string line = fmt::format("rank {} waited {:.1f} s {}: {}", flight_.group->world_rank(), waited_s,
                                 describe_wait(flight_, lost),
                                 circle ? "not all ranks made the same calls" : "peer lost or hung");
  for (const int p : lost) {
    if (circle) line += fmt::format("; rank {} itself waits {}", p, answers_[p]);
  }
  if (!g_dump_path.empty()) {
    write_dump(line);
    line += "; last collectives in " + g_dump_path;
  }
  line += "\n";
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) {  // nobody to tell: the exit code still says it
  }
  abort_job(static_cast<int>(ExitCode::kPeerLost));
}

}  // namespace contender
