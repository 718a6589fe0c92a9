// A completion's program, the tests of a prompt, and values that a program printed: the input is taken for
// each of them.
#include "data/code_tests.h"
#include "reward/code_compare.h"
#include "reward/code_program.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace contender;
  using namespace contender::fuzz;
  const std::string_view text = text_of(data, size);
  if (const auto program = find_program("", text, "python")) {
    require(program->language == "python" || program->language == "cpp");
    require(text.find(program->source) != text.npos);
  }
  require(same_output(text, text));
  const size_t half = size / 2;
  same_value(text.substr(0, half), text.substr(half));
  may_refuse_with_reason([&] {
    const CodeTests tests = parse_code_tests(text);
    require(tests.runs.empty() != tests.calls.empty());
    // What is handed to a program is JSON that means what the file said.
    for (const FunctionTest& call : tests.calls)
      require(same_value(call.arguments, call.arguments) && same_value(call.expected, call.expected));
  });
  return 0;
}
