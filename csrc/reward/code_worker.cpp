#include "reward/code_worker.h"

#include <iostream>
#include <nlohmann/json.hpp>

#include "data/strict_json.h"
#include "reward/code_check.h"

namespace contender {

int run_code_worker(const RewardConfig& config) {
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    const nlohmann::json request = parse_strict_json(line);
    const CodeVerdict verdict =
        check_code(config, request.at("completion").get<std::string>(), request.value("tests", ""));
    if (!verdict.valid) std::cerr << verdict.status << ": " << verdict.why << std::endl;
    const nlohmann::json reply = {{"id", request.at("id")},
                                  {"score", verdict.accuracy},
                                  {"accuracy", verdict.accuracy},
                                  {"status", verdict.status},
                                  {"valid", verdict.valid}};
    std::cout << reply.dump() << std::endl;
  }
  return 0;
}

}  // namespace contender
