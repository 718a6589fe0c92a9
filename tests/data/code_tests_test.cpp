#include "data/code_tests.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace contender {
namespace {

std::string reason(const std::string& json) {
  try {
    parse_code_tests(json);
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

TEST(CodeTests, Runs) {
  const CodeTests tests = parse_code_tests(
      R"({"language": "cpp", "stdin": [{"input": "1\n", "output": "2\n"}, {"input": "", "output": ""}]})");
  EXPECT_EQ(tests.language, "cpp");
  ASSERT_EQ(tests.runs.size(), 2u);
  EXPECT_EQ(tests.runs[0].input, "1\n");
  EXPECT_EQ(tests.runs[0].output, "2\n");
  EXPECT_TRUE(tests.calls.empty());
}

TEST(CodeTests, Calls) {
  const CodeTests tests = parse_code_tests(
      R"({"function": "f", "cases": [{"args": [100000000000000000000001, "a"], "expected": null},
          {"args": [], "expected": [-100000000000000000000001, 1.5e-7, "1\u0001", "9999999999999999999999",
              "\"\u00011111111111111111111111"]}]})");
  EXPECT_EQ(tests.language, "python");
  EXPECT_EQ(tests.function, "f");
  ASSERT_EQ(tests.calls.size(), 2u);
  EXPECT_EQ(tests.calls[0].arguments, R"([100000000000000000000001,"a"])");
  EXPECT_EQ(tests.calls[0].expected, "null");
  EXPECT_EQ(
      tests.calls[1].expected,
      R"([-100000000000000000000001,1.5e-07,"1\u0001","9999999999999999999999","\"\u00011111111111111111111111"])");
}

TEST(CodeTests, RefusalsSayWhatIsWrong) {
  EXPECT_NE(reason(""), "");
  EXPECT_EQ(reason("[]"), "tests: array instead of object");
  EXPECT_EQ(reason("{}"), R"(tests have either "stdin" or "function" and "cases")");
  EXPECT_EQ(reason(R"({"stdin": []})"), R"("stdin" is empty)");
  EXPECT_EQ(reason(R"({"stdin": {}})"), R"("stdin" of tests: object instead of array)");
  EXPECT_EQ(reason(R"({"stdin": [{"input": "1"}]})"), R"(test 1 of "stdin" has no "output")");
  EXPECT_EQ(reason(R"({"stdin": [{"input": 1, "output": "1"}]})"),
            R"("input" of test 1 of "stdin": number instead of string)");
  EXPECT_EQ(reason(R"({"stdin": [{"input": "1", "output": "1", "x": 1}]})"),
            R"(test 1 of "stdin" has the unknown key "x")");
  EXPECT_EQ(reason(R"({"stdin": [{"input": "1", "output": " \n"}]})"),
            R"(no test of "stdin" expects any output: every program that prints nothing would pass)");
  EXPECT_EQ(reason(R"({"stdin": [{"input": "", "output": "1"}], "function": "f"})"),
            R"(tests have either "stdin" or "function" and "cases")");
  EXPECT_EQ(reason(R"({"function": "f"})"), R"(tests has no "cases")");
  EXPECT_EQ(reason(R"({"function": "f", "cases": []})"), R"("cases" is empty)");
  EXPECT_EQ(reason(R"({"function": "f", "cases": [{"args": 1, "expected": 1}]})"),
            R"("args" of case 1: number instead of array)");
  EXPECT_EQ(reason(R"({"function": "f", "cases": [{"args": []}]})"), R"(case 1 has no "expected")");
  EXPECT_EQ(reason(R"({"function": "f", "cases": [{"args": [], "expected": null}]})"),
            "every case expects null: a function that does nothing would pass");
  EXPECT_EQ(reason(R"({"function": "f(); import os", "cases": [{"args": [], "expected": 1}]})"),
            R"("f(); import os" is not the name of a function)");
  EXPECT_EQ(reason(R"({"language": "cpp", "function": "f", "cases": [{"args": [], "expected": 1}]})"),
            R"(function tests are for Python: give programs in other languages tests of "stdin")");
  EXPECT_EQ(reason(R"({"language": "java", "stdin": []})"), R"(language "java": python or cpp)");
  EXPECT_NE(reason(R"({"function": "f", "cases": [{"args": [-], "expected": 1}]})"), "");
  EXPECT_NE(reason(R"({"function": "f", "cases": [{"args": [0000000000000000000001], "expected": 1}]})"), "");
  EXPECT_EQ(reason(R"({"stdin": [{"input": 1111111111111111111111, "output": "1"}]})"),
            R"("input" of test 1 of "stdin": number instead of string)");
  EXPECT_EQ(
      reason(R"({"function": "f", "cases": [{"args": ["\u0001111111111111111111111"], "expected": 1}]})"),
      R"(a text begins with the control character \u0001)");
  EXPECT_NE(reason(R"({"function": "f", "cases": [{"args": [{1111111111111111111111: 1}], "expected": 1}]})"),
            "");
  EXPECT_NE(reason(R"({"function": "f", "cases": [{"args": [1e999], "expected": 1}]})"), "");
}

}  // namespace
}  // namespace contender
