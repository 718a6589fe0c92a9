// One completion against the tests of its prompt.
#pragma once

#include <string>
#include <string_view>

#include "base/config.h"

namespace contender {

struct CodeVerdict {
  // ok, wrong_answer, no_program, compile_error, timeout, memory, output_limit, runtime_error: the program's
  // own doing. sandbox_error, bad_tests: nobody knows, valid = false.
  std::string status;
  std::string why;  // a line for the log, of sandbox_error and bad_tests
  bool valid = true;
  float accuracy = 0;  // 1 when every test passes, else 0
};

// Runs the program of `completion` test by test, up to the first that fails; each run in a sandbox of its
// own, calls of a function together in one. `prompt` tells whether a template opened the thought. Expected
// values stay outside. Never throws.
CodeVerdict check_code(const RewardConfig& config, std::string_view prompt, std::string_view completion,
                       std::string_view tests);

}  // namespace contender
