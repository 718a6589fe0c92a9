#include "base/timer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/job.h"

namespace contender {
namespace {

std::string trace_path() {
  return testing::TempDir() + "contender_timer_test_" + std::to_string(::getpid()) + ".json";
}

nlohmann::json written_trace() {
  const std::string path = trace_path();
  write_trace(path);
  const nlohmann::json trace = nlohmann::json::parse(std::ifstream(path));
  ::unlink(path.c_str());
  return trace;
}

TEST(TimerTest, PhasesAddUpAndNest) {
  take_phase_seconds();
  const char* outside = job_position().phase;
  for (int i = 0; i < 3; ++i) {
    const TimerScope outer("timer_outer");
    EXPECT_STREQ(job_position().phase, "timer_outer");
    {
      const TimerScope inner("timer_inner");
      EXPECT_STREQ(job_position().phase, "timer_inner");
      ::usleep(2000);
    }
    EXPECT_STREQ(job_position().phase, "timer_outer");
    ::usleep(1000);
  }
  EXPECT_STREQ(job_position().phase, outside);
  const std::map<std::string, double> seconds = take_phase_seconds();
  ASSERT_EQ(seconds.size(), 2u);
  EXPECT_GE(seconds.at("timer_inner"), 0.006);
  EXPECT_GE(seconds.at("timer_outer"), seconds.at("timer_inner") + 0.003);
  EXPECT_TRUE(take_phase_seconds().empty());
}

TEST(TimerTest, TraceHasLanesAndNamesThem) {
  start_trace(3);
  { const TimerScope scope("timer_compute"); }
  // Two exchanges in flight at once need two tracks; the third fits on the first again.
  trace_span("timer_a", Lane::kComm, 1'000'000, 5'000'000);
  trace_span("timer_b", Lane::kComm, 2'000'500, 3'000'000);
  trace_span("timer_c", Lane::kComm, 6'000'000, 7'000'000);
  const nlohmann::json trace = written_trace();
  std::map<std::string, nlohmann::json> spans;
  std::map<int, std::string> thread_names;
  std::string process_name;
  for (const nlohmann::json& e : trace.at("traceEvents")) {
    EXPECT_EQ(e.at("pid"), 3);
    if (e.at("ph") == "X") spans[e.at("name")] = e;
    if (e.at("name") == "thread_name") thread_names[e.at("tid")] = e.at("args").at("name");
    if (e.at("name") == "process_name") process_name = e.at("args").at("name");
  }
  EXPECT_EQ(process_name, "rank 3");
  EXPECT_EQ(thread_names, (std::map<int, std::string>{{0, "compute"}, {1, "comm"}, {2, "comm 2"}}));
  ASSERT_EQ(spans.size(), 4u);
  EXPECT_EQ(spans["timer_compute"].at("tid"), 0);
  EXPECT_EQ(spans["timer_a"].at("tid"), 1);
  EXPECT_EQ(spans["timer_b"].at("tid"), 2);
  EXPECT_EQ(spans["timer_c"].at("tid"), 1);
  EXPECT_DOUBLE_EQ(spans["timer_b"].at("ts"), 2000.5);
  EXPECT_DOUBLE_EQ(spans["timer_b"].at("dur"), 999.5);
  EXPECT_EQ(trace.at("otherData").at("dropped_events"), 0);
}

TEST(TimerTest, TraceCountsWhatItDoesNotKeepAndTakesThreads) {
  start_trace(0, 100);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 50; ++i) trace_span("timer_thread", Lane::kComm, i, i + 1);
    });
  }
  for (std::thread& t : threads) t.join();
  const nlohmann::json trace = written_trace();
  int64_t kept = 0;
  for (const nlohmann::json& e : trace.at("traceEvents")) kept += e.at("ph") == "X";
  EXPECT_EQ(kept, 100);
  EXPECT_EQ(trace.at("otherData").at("dropped_events"), 100);
  start_trace(0);
}

TEST(TimerTest, UnwritableTraceIsAStorageError) {
  try {
    write_trace("/nonexistent/trace.json");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kStorage);
    EXPECT_NE(std::string(e.what()).find("/nonexistent/trace.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace contender
