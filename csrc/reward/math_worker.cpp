#include "reward/math_worker.h"

#include <sys/resource.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "data/strict_json.h"
#include "reward/math_verify.h"

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

}  // namespace

int run_math_worker() {
  limit_memory();
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    const nlohmann::json request = parse_strict_json(line);
    const auto text = [&](const char* key) { return request.at(key).get<std::string>(); };
    const MathVerdict verdict = verify_math(text("prompt"), text("completion"), text("answer"));
    const nlohmann::json reply = {
        {"id", request.at("id")}, {"score", verdict.correct ? 1 : 0}, {"status", verdict.status}};
    std::cout << reply.dump() << std::endl;
  }
  return 0;
}

}  // namespace contender
