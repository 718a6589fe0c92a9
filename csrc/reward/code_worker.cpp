#include "reward/code_worker.h"

#include <iostream>
#include <nlohmann/json.hpp>

#include "data/strict_json.h"
#include "reward/code_check.h"
#include "reward/sandbox.h"
#include "reward/worker_pool.h"

namespace contender {
namespace {

constexpr const char* kProbe = "sandbox";  // the task of a request that asks for sandbox_problem()

CodeVerdict probe() {
  const std::string problem = sandbox_problem();
  return {.status = problem.empty() ? "ok" : problem, .why = {}, .valid = problem.empty(), .accuracy = 0};
}

}  // namespace

int run_code_worker(const RewardConfig& config) {
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    const nlohmann::json request = parse_strict_json(line);
    const auto text = [&](const char* key) { return request.at(key).get<std::string>(); };
    const CodeVerdict verdict =
        request.at("task") == kProbe
            ? probe()
            : check_code(config, text("prompt"), text("completion"), request.value("tests", ""));
    if (!verdict.why.empty()) std::cerr << verdict.status << ": " << verdict.why << std::endl;
    const nlohmann::json reply = {{"id", request.at("id")},
                                  {"score", verdict.accuracy},
                                  {"accuracy", verdict.accuracy},
                                  {"status", verdict.status},
                                  {"valid", verdict.valid}};
    std::cout << reply.dump() << std::endl;
  }
  return 0;
}

std::string code_worker_problem() {
  WorkerPool pool(WorkerKind::kCode, RewardConfig());
  Prompt prompt;
  prompt.task = kProbe;
  ScoreRequest request;
  request.prompt = &prompt;
  pool.submit(request, Score());
  const Score score = pool.drain().at(0);
  return score.valid ? "" : score.status;
}

}  // namespace contender
