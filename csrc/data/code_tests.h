// The tests of a prompt of task "code", as files hold them. The form: csrc/reward/README.md.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace contender {

struct StdinTest {
  std::string input, output;
};

struct FunctionTest {
  std::string arguments, expected;  // JSON: a list; any value
};

struct CodeTests {
  std::string language = "python";  // of blocks that do not say: python | cpp
  std::vector<StdinTest> runs;      // one of the two is empty
  std::string function;
  std::vector<FunctionTest> calls;
};

// parse_strict_json, but integers of more than 18 characters become texts, \u0001 and then the digits: as
// numbers they would be rounded. Refuses texts and keys that begin with \u0001 themselves.
nlohmann::json parse_exact_json(std::string_view json);

// Is it one of those texts?
bool is_long_integer(const nlohmann::json& json);

// Throws std::runtime_error with a short reason for anything but the documented form, for no tests at all,
// and for tests that a program without output passes.
CodeTests parse_code_tests(std::string_view json);

}  // namespace contender
