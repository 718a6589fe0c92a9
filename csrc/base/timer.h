// Timer scopes. One line, `TimerScope scope("gen");`, gives the NVTX range, the log column and the Chrome
// trace event.
//
// Scopes nest; a thread has one lane ("compute"); exchanges in flight are recorded on the lane "comm" with
// `trace_span`. Names are string literals. Times are seconds of the monotonic clock.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace contender {

int64_t now_ns();  // monotonic
inline double now_seconds() { return static_cast<double>(now_ns()) * 1e-9; }

enum class Lane : uint8_t { kCompute = 0, kComm = 1 };

class TimerScope {
 public:
  explicit TimerScope(const char* name);
  ~TimerScope();
  TimerScope(const TimerScope&) = delete;
  TimerScope& operator=(const TimerScope&) = delete;

 private:
  const char* name_;
  const char* outer_phase_;  // of job_position(), restored at the end
  int64_t start_ns_;
};

// Work whose begin and end are in different scopes (an exchange in flight): its NVTX range, whose number
// begin_range gives, and, at the end, its span on a lane.
uint64_t begin_range(const char* name);
void end_range(uint64_t range);
void trace_span(const char* name, Lane lane, int64_t start_ns, int64_t end_ns);

// A named piece of computation inside a phase: an NVTX range and a trace event, without a log column.
class TraceScope {
 public:
  explicit TraceScope(const char* name);
  ~TraceScope();
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  const char* name_;
  int64_t start_ns_;
};

// Seconds per scope name since the last call, and a reset (the step's log columns). Main thread.
std::map<std::string, double> take_phase_seconds();

// From `start_trace` on every scope is kept and `write_trace` writes Chrome trace JSON (chrome://tracing,
// Perfetto): pid = rank, tid = lane. At most `max_events`; later ones are counted, not kept.
void start_trace(int rank, int64_t max_events = 2'000'000);
void write_trace(const std::string& path);

}  // namespace contender
