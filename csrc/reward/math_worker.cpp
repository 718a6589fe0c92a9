#include "reward/math_worker.h"

#include <sys/resource.h>
#include <sys/time.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "data/strict_json.h"

namespace contender {
namespace {

constexpr rlim_t kMemoryBytes = 512 << 20;

void limit_memory() {
  const rlimit none = {0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
#ifndef __SANITIZE_ADDRESS__  // its shadow is larger than any limit
  const rlimit memory = {kMemoryBytes, kMemoryBytes};
  ::setrlimit(RLIMIT_DATA, &memory);
#endif
}

// SIGPROF when the process has used so much more; 0: never.
void limit_processor_time(double seconds) {
  const auto us = static_cast<int64_t>(std::ceil(1e6 * seconds));
  const itimerval timer = {.it_value = {.tv_sec = us / 1'000'000, .tv_usec = us % 1'000'000}};
  ::setitimer(ITIMER_PROF, &timer, nullptr);
}

// Out of memory is the end here: SIGABRT.
MathVerdict judge(MathVerifier verify, const std::string& prompt, const std::string& completion,
                  const std::string& answer, double seconds) noexcept {
  limit_processor_time(seconds);
  const MathVerdict verdict = verify(prompt, completion, answer);
  limit_processor_time(0);
  return verdict;
}

}  // namespace

int run_math_worker(double seconds, MathVerifier verify) {
  limit_memory();
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    const nlohmann::json request = parse_strict_json(line);
    const auto text = [&](const char* key) { return request.at(key).get<std::string>(); };
    const MathVerdict verdict = judge(verify, text("prompt"), text("completion"), text("answer"), seconds);
    const nlohmann::json reply = {
        {"id", request.at("id")}, {"score", verdict.correct ? 1 : 0}, {"status", verdict.status}};
    std::cout << reply.dump() << std::endl;
  }
  return 0;
}

const char* how_maths_ended(int signal) {
  return signal == SIGPROF ? "too_long" : signal == SIGABRT ? "aborted" : nullptr;
}

double math_wall_seconds(double seconds) {
  constexpr double kTimes = 10, kLeast = 30;
  return std::max(kLeast, kTimes * seconds);
}

}  // namespace contender
