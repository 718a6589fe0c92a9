// The tests of a prompt of task "code", and what it means to pass one. The form: csrc/reward/README.md.
#pragma once

#include <cstdint>
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

// Throws std::runtime_error with a short reason for anything but the documented form, for no tests at all,
// and for tests that a program without output passes.
CodeTests parse_code_tests(std::string_view json);

// Empty, or why `json` are no tests: for readers of prompt files.
std::string code_tests_problem(std::string_view json);

// Line by line, without white space at the end of lines and without empty lines at the end.
bool same_output(std::string_view expected, std::string_view output);

// JSON values: the same type and value; an expected number with a point or an exponent is met within 1e-6
// (relative above 1), integers exactly whatever their size. False when either is not JSON.
bool same_value(std::string_view expected, std::string_view value);

}  // namespace contender
