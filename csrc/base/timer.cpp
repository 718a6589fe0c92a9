#include "base/timer.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "base/job.h"

// NVTX 3 is header-only and costs one test of a null pointer while no profiler is attached.
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define CONTENDER_HAS_NVTX 1
#else
#define CONTENDER_HAS_NVTX 0
#endif

namespace contender {
namespace {

struct PhaseTotal {
  const char* name;
  int64_t ns;
};

struct TraceEvent {
  const char* name;
  int64_t start_ns;
  int64_t end_ns;
  Lane lane;
};

struct Trace {
  std::mutex mutex;
  bool on = false;
  int rank = 0;
  int64_t max_events = 0;
  int64_t dropped = 0;
  std::vector<TraceEvent> events;
};

std::vector<PhaseTotal>& phase_totals() {
  static std::vector<PhaseTotal> totals;
  return totals;
}

Trace& trace() {
  static Trace t;
  return t;
}

// Names are literals: the same scope is the same pointer, so a short scan finds it.
void add_phase_ns(const char* name, int64_t ns) {
  for (PhaseTotal& t : phase_totals()) {
    if (t.name == name) {
      t.ns += ns;
      return;
    }
  }
  phase_totals().push_back({name, ns});
}

void push_range(const char* name) {
#if CONTENDER_HAS_NVTX
  nvtxRangePushA(name);
#else
  (void)name;
#endif
}
void pop_range() {
#if CONTENDER_HAS_NVTX
  nvtxRangePop();
#endif
}

// Exchanges in flight overlap without nesting, which a viewer cannot draw on one track: each goes to the
// first track of its lane that is free. Events must be sorted by start.
std::vector<int> assign_tracks(const std::vector<TraceEvent>& events, int* num_comm_tracks) {
  std::vector<int> track(events.size(), 0);
  std::vector<int64_t> busy_until_ns;
  for (size_t i = 0; i < events.size(); ++i) {
    if (events[i].lane == Lane::kCompute) continue;
    const auto free = std::find_if(busy_until_ns.begin(), busy_until_ns.end(),
                                   [&](int64_t end_ns) { return end_ns <= events[i].start_ns; });
    const auto t = free - busy_until_ns.begin();
    if (free == busy_until_ns.end()) busy_until_ns.push_back(0);
    busy_until_ns[static_cast<size_t>(t)] = events[i].end_ns;
    track[i] = static_cast<int>(t) + 1;
  }
  *num_comm_tracks = static_cast<int>(busy_until_ns.size());
  return track;
}

std::string metadata_event(int rank, int track, const char* what, const std::string& name) {
  return fmt::format("{{\"ph\":\"M\",\"pid\":{},\"tid\":{},\"name\":\"{}\",\"args\":{{\"name\":\"{}\"}}}}",
                     rank, track, what, name);
}

}  // namespace

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

TimerScope::TimerScope(const char* name)
    : name_(name), outer_phase_(job_position().phase), start_ns_(now_ns()) {
  job_position().phase = name;
  push_range(name);
}

TimerScope::~TimerScope() {
  const int64_t end_ns = now_ns();
  pop_range();
  job_position().phase = outer_phase_;
  add_phase_ns(name_, end_ns - start_ns_);
  trace_span(name_, Lane::kCompute, start_ns_, end_ns);
}

TraceScope::TraceScope(const char* name) : name_(name), start_ns_(now_ns()) { push_range(name); }

TraceScope::~TraceScope() {
  pop_range();
  trace_span(name_, Lane::kCompute, start_ns_, now_ns());
}

uint64_t begin_range(const char* name) {
#if CONTENDER_HAS_NVTX
  return nvtxRangeStartA(name);
#else
  (void)name;
  return 0;
#endif
}
void end_range(uint64_t range) {
#if CONTENDER_HAS_NVTX
  nvtxRangeEnd(range);
#else
  (void)range;
#endif
}

void trace_span(const char* name, Lane lane, int64_t start_ns, int64_t end_ns) {
  Trace& t = trace();
  const std::lock_guard lock(t.mutex);
  if (!t.on) return;
  if (static_cast<int64_t>(t.events.size()) >= t.max_events) {
    ++t.dropped;
    return;
  }
  t.events.push_back({name, start_ns, end_ns, lane});
}

std::map<std::string, double> take_phase_seconds() {
  std::map<std::string, double> seconds;
  for (const PhaseTotal& t : phase_totals()) seconds[t.name] += static_cast<double>(t.ns) * 1e-9;
  phase_totals().clear();
  return seconds;
}

void start_trace(int rank, int64_t max_events) {
  Trace& t = trace();
  const std::lock_guard lock(t.mutex);
  t.on = true;
  t.rank = rank;
  t.max_events = max_events;
  t.dropped = 0;
  t.events.clear();
}

void write_trace(const std::string& path) {
  Trace& t = trace();
  const std::lock_guard lock(t.mutex);
  std::stable_sort(t.events.begin(), t.events.end(),
                   [](const TraceEvent& a, const TraceEvent& b) { return a.start_ns < b.start_ns; });
  int num_comm_tracks = 0;
  const std::vector<int> track = assign_tracks(t.events, &num_comm_tracks);

  std::FILE* file = std::fopen(path.c_str(), "w");
  if (!file) fail(ExitCode::kStorage, "trace {}: cannot open for writing", path);
  fmt::print(file, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{{\"dropped_events\":{}}},\"traceEvents\":[\n",
             t.dropped);
  fmt::print(file, "{},\n", metadata_event(t.rank, 0, "process_name", fmt::format("rank {}", t.rank)));
  fmt::print(file, "{}", metadata_event(t.rank, 0, "thread_name", "compute"));
  for (int c = 1; c <= num_comm_tracks; ++c) {
    const std::string name = c == 1 ? "comm" : fmt::format("comm {}", c);
    fmt::print(file, ",\n{}", metadata_event(t.rank, c, "thread_name", name));
  }
  // Microseconds of the monotonic clock, so that the files of the ranks of one machine can be laid over each
  // other.
  for (size_t i = 0; i < t.events.size(); ++i) {
    const TraceEvent& e = t.events[i];
    fmt::print(file, ",\n{{\"ph\":\"X\",\"pid\":{},\"tid\":{},\"name\":\"{}\",\"ts\":{:.3f},\"dur\":{:.3f}}}",
               t.rank, track[i], e.name, static_cast<double>(e.start_ns) * 1e-3,
               static_cast<double>(e.end_ns - e.start_ns) * 1e-3);
  }
  fmt::print(file, "\n]}}\n");
  const bool bad = std::ferror(file) != 0;
  if (std::fclose(file) != 0 || bad) fail(ExitCode::kStorage, "trace {}: write failed", path);
}

}  // namespace contender
