#include "reward/code_check.h"

#include <sys/random.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "base/error.h"
#include "data/code_tests.h"
#include "reward/code_compare.h"
#include "reward/code_driver.h"
#include "reward/code_program.h"
#include "reward/sandbox.h"

namespace contender {
namespace {

using End = SandboxResult::End;

constexpr double kCompileSeconds = 30;
constexpr int64_t kCompileMemoryMib = 2048;
constexpr size_t kMaxProgramBytes = 64 << 20;  // compiled
constexpr size_t kMoreOut = 64 << 10;          // than the right output: a program that writes more is wrong

CodeVerdict verdict(std::string status, float accuracy = 0) {
  return {.status = std::move(status), .why = {}, .valid = true, .accuracy = accuracy};
}

CodeVerdict broken(const SandboxResult& result) {
  return {.status = "sandbox_error", .why = result.why, .valid = false};
}

bool out_of_memory(const SandboxResult& result) {
  return result.err.find("\nMemoryError") != std::string::npos || result.err.starts_with("MemoryError") ||
         result.err.find("std::bad_alloc") != std::string::npos;
}

// Nothing when the program ended by itself and well.
std::optional<CodeVerdict> failed_run(const SandboxResult& result) {
  switch (result.end) {
    case End::kTimeout:
      return verdict("timeout");
    case End::kMemory:
      return verdict("memory");
    case End::kOutputLimit:
      return verdict("output_limit");
    case End::kBroken:
      return broken(result);
    case End::kStopped:
      return {};
    case End::kExited:
      break;
  }
  if (result.exit_code == 0) return {};
  return verdict(out_of_memory(result) ? "memory" : "runtime_error");
}

// g++'s output, or the verdict on a program that has none.
std::optional<CodeVerdict> compile(const std::string& source, std::string* program) {
  SandboxJob job;
  job.world = SandboxWorld::kCompiler;
  // Static: it then runs where there is no file but itself.
  job.command = {
      "/usr/bin/sh", "-c",
      "g++ -std=gnu++20 -O2 -w -pipe -static -s -o /tmp/program /program.cpp && exec cat /tmp/program >&3"};
  job.files = {{"/program.cpp", source}};
  job.seconds = kCompileSeconds;
  job.memory_mib = kCompileMemoryMib;
  job.max_out_bytes = kMaxProgramBytes;
  job.on_result = [&](std::string* received) {
    program->append(*received);
    received->clear();
    return program->size() > kMaxProgramBytes ? AfterResult::kStop : AfterResult::kWait;
  };
  const SandboxResult result = run_in_sandbox(job);
  if (result.end == End::kBroken) return broken(result);
  if (result.end != End::kExited || result.exit_code != 0) return verdict("compile_error");
  return {};
}

SandboxJob python_job(const RewardConfig& config, const std::string& source, const char* driver) {
  SandboxJob job;
  job.world = SandboxWorld::kPython;
  job.command = {"/usr/bin/python3", "-s", "-P", "-S", "-B", "-X", "utf8", "-c", driver};
  job.files = {{"/program.py", source}};
  job.seconds = config.code_seconds;
  job.memory_mib = config.code_memory_mib;
  return job;
}

CodeVerdict check_runs(const RewardConfig& config, const CodeProgram& program, const CodeTests& tests) {
  std::string binary;
  SandboxJob job = python_job(config, program.source, kPythonMain);
  if (program.language == "cpp") {
    if (auto failure = compile(program.source, &binary)) return *failure;
    job.world = SandboxWorld::kBinary;
    job.command = {"/program"};
    job.files = {{"/program", binary, true}};
  }
  for (const StdinTest& test : tests.runs) {
    job.input = test.input;
    job.max_out_bytes = test.output.size() + kMoreOut;
    const SandboxResult result = run_in_sandbox(job);
    if (auto failure = failed_run(result)) return *failure;
    if (!same_output(test.output, result.out)) return verdict("wrong_answer");
  }
  return verdict("ok", 1);
}

std::string random_word() {
  uint64_t bits[2] = {};
  CHECK(::getrandom(bits, sizeof bits, 0) == sizeof bits);
  return fmt::format("{:016x}{:016x}", bits[0], bits[1]);
}

CodeVerdict check_calls(const RewardConfig& config, const CodeProgram& program, const CodeTests& tests) {
  const std::string nonce = random_word();
  std::string calls;
  size_t max_bytes = kMoreOut;
  for (const FunctionTest& test : tests.calls) {
    calls += (calls.empty() ? "" : ",") + test.arguments;
    max_bytes = std::max(max_bytes, test.expected.size() + kMoreOut);
  }
  const std::string input =
      fmt::format("{{\"function\":\"{}\",\"nonce\":\"{}\",\"calls\":[{}]}}", tests.function, nonce, calls);

  SandboxJob job = python_job(config, program.source, kPythonCalls);
  job.input = input;
  job.processor_seconds = config.code_seconds * static_cast<double>(tests.calls.size()) + 1;
  job.max_out_bytes = max_bytes;
  size_t passed = 0;
  bool wrong = false;
  job.on_result = [&](std::string* received) {
    AfterResult after = AfterResult::kWait;
    for (size_t end = received->find('\n'); end != received->npos; end = received->find('\n')) {
      const std::string prefix = fmt::format("{} {} ", nonce, passed);
      const std::string_view line = std::string_view(*received).substr(0, end);
      wrong =
          !line.starts_with(prefix) || !same_value(tests.calls[passed].expected, line.substr(prefix.size()));
      if (wrong || ++passed == tests.calls.size()) return AfterResult::kStop;
      received->erase(0, end + 1);
      after = AfterResult::kProgress;
    }
    return after;
  };
  const SandboxResult result = run_in_sandbox(job);
  if (wrong) return verdict("wrong_answer");
  if (passed == tests.calls.size() && result.end != End::kBroken) return verdict("ok", 1);
  if (auto failure = failed_run(result)) return *failure;
  return verdict("wrong_answer");  // it ended before its last call
}

}  // namespace

CodeVerdict check_code(const RewardConfig& config, std::string_view prompt, std::string_view completion,
                       std::string_view tests_text) {
  CodeTests tests;
  try {
    tests = parse_code_tests(tests_text);
  } catch (const std::runtime_error& reason) {
    return {.status = "bad_tests", .why = reason.what(), .valid = false};
  }
  const std::optional<CodeProgram> program = find_program(prompt, completion, tests.language);
  if (!program) return verdict("no_program");
  if (tests.calls.empty()) return check_runs(config, *program, tests);
  return program->language == "python" ? check_calls(config, *program, tests) : verdict("no_program");
}

}  // namespace contender
