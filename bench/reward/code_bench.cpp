// What a sandbox costs, and short programs per second: found in a completion, run once in a sandbox of their
// own, compared. By wall clock, since the work is in other processes; refuses to be timed when a program is
// not scored as it should be.
#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include "reward/reward.h"
#include "reward/sandbox.h"

namespace contender {
namespace {

constexpr const char* kStdin = R"({"stdin": [{"input": "1 2\n", "output": "3\n"}]})";
constexpr const char* kCalls = R"({"function": "add", "cases": [{"args": [1, 2], "expected": 3}]})";

void programs_through_workers(benchmark::State& state, const char* tests, const char* program) {
  start_worker_server();
  RewardConfig config;
  config.workers = state.range(0);
  const auto rewarder = make_rewarder(config, 1000, 0);
  Prompt prompt;
  prompt.task = "code";
  prompt.tests = tests;
  constexpr int64_t kPrograms = 50;
  for (auto _ : state) {
    for (int64_t i = 0; i < kPrograms; ++i) {
      ScoreRequest request;
      request.id = static_cast<uint64_t>(i);
      request.prompt = &prompt;
      request.completion = "</think>\n```" + std::string(program) + "\n```";
      rewarder->submit(std::move(request));
    }
    for (const Score& score : rewarder->drain()) {
      if (score.status != "ok") state.SkipWithError(("a right program is " + score.status).c_str());
    }
  }
  state.SetItemsProcessed(state.iterations() * kPrograms);
}

// What one costs in processor time, ours and that of the sandbox: the rate of idle cores, whatever else runs
// on them.
void one_run(benchmark::State& state, const char* option) {
  const auto used_seconds = [] {
    double seconds = 0;
    for (const auto who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
      rusage used;
      ::getrusage(who, &used);
      for (const timeval& t : {used.ru_utime, used.ru_stime})
        seconds += static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    }
    return seconds;
  };
  SandboxJob job;
  job.command = {"/usr/bin/python3", "-s", "-P", "-S", "-B", option};
  if (option == std::string("-c")) job.command.push_back("print(input())");
  job.input = "1 2\n";
  const double before = used_seconds();
  for (auto _ : state) {
    const SandboxResult result = run_in_sandbox(job);
    if (result.exit_code != 0) state.SkipWithError("a run failed");
  }
  state.counters["cpu_ms"] = 1e3 * (used_seconds() - before) / static_cast<double>(state.iterations());
}

BENCHMARK_CAPTURE(one_run, sandbox_alone, "--version")->UseRealTime();
BENCHMARK_CAPTURE(one_run, python, "-c")->UseRealTime();

constexpr const char* kPrint = "python\nprint(sum(map(int, input().split())))";
constexpr const char* kAdd = "python\ndef add(a, b): return a + b";

BENCHMARK_CAPTURE(programs_through_workers, stdin_python, kStdin, kPrint)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK_CAPTURE(programs_through_workers, function_python, kCalls, kAdd)->Arg(2)->UseRealTime();

}  // namespace
}  // namespace contender
