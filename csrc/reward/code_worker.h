// The worker that runs programs of completions against the tests of their prompts, each run in a sandbox of
// its own (reward/sandbox.h). What tests look like and how outputs are compared: csrc/reward/README.md.
#pragma once

#include <string>

#include "base/config.h"

namespace contender {

// The body of a worker process (a forked child of the worker server): reads requests from stdin, one JSON
// object a line, and answers each with a line on stdout, until stdin ends. Returns the exit status.
//
//   {"id": 3, "task": "code", "prompt": "...", "completion": "...", "answer": "", "tests": "{\"stdin\":
//   ...}"}
//   {"id": 3, "score": 1, "accuracy": 1, "status": "ok", "valid": true}
int run_code_worker(const RewardConfig& config);

// sandbox_problem() (reward/sandbox.h), found out by a worker: a rank that runs MPI is no place to fork from.
// start_worker_server() comes first.
std::string code_worker_problem();

}  // namespace contender
