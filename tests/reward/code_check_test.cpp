#include "reward/code_check.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "reward/code_worker.h"
#include "reward/reward.h"
#include "reward/sandbox.h"

namespace contender {
namespace {

constexpr const char* kSum =
    R"({"stdin": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 7\n", "output": "12"}]})";
constexpr const char* kAdd =
    R"({"function": "add", "cases": [{"args": [1, 2], "expected": 3}, {"args": ["a", "b"], "expected": "ab"}]})";

std::string python(const std::string& program) { return "<think>x</think>\n```python\n" + program + "\n```"; }
std::string cpp(const std::string& program) { return "<think>x</think>\n```cpp\n" + program + "\n```"; }

// Where programs cannot be run these tests fail, with the reason.
class CodeCheckTest : public testing::Test {
 protected:
  void SetUp() override {
    static const std::string problem = sandbox_problem();
    ASSERT_EQ(problem, "");
    config_.code_seconds = 2;
    config_.code_memory_mib = 512;
  }

  // The status; "+" with a full score.
  std::string check(const std::string& completion, const char* tests) const {
    const CodeVerdict verdict = check_code(config_, "", completion, tests);
    EXPECT_TRUE(verdict.valid) << verdict.why;
    EXPECT_EQ(verdict.accuracy, verdict.status == "ok" ? 1 : 0);
    return verdict.status;
  }

  RewardConfig config_;
};

TEST_F(CodeCheckTest, RightPrograms) {
  EXPECT_EQ(check(python("a, b = map(int, input().split())\nprint(a + b)\nexit()"), kSum), "ok");
  EXPECT_EQ(check(python("import sys\ndef main():\n    print(sum(map(int, sys.stdin.read().split())))\n"
                         "if __name__ == '__main__':\n    main()"),
                  kSum),
            "ok");
  EXPECT_EQ(
      check(cpp("#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"),
            kSum),
      "ok");
  EXPECT_EQ(check(python("def add(a, b):\n    print('noise')\n    return a + b"), kAdd), "ok");
  EXPECT_EQ(check(python("class Solution:\n    def add(self, a, b): return a + b"), kAdd), "ok");
  // Deep recursion in a thread with a large stack, as contestants write it.
  EXPECT_EQ(
      check(python("import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
                   "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\n"
                   "def main():\n    depth(20000)\n    print(sum(map(int, input().split())))\n"
                   "t = threading.Thread(target=main)\nt.start()\nt.join()"),
            kSum),
      "ok");
}

// Every kind of JSON goes in and comes out as it is; what is none is an error.
TEST_F(CodeCheckTest, ValuesOfFunctions) {
  const char* const tests = R"({"function": "same", "cases": [
      {"args": [null], "expected": null}, {"args": [[true, false]], "expected": [true, false]},
      {"args": [123456789012345678901234567890], "expected": 123456789012345678901234567890},
      {"args": [-0.1], "expected": -0.1}, {"args": [1e300], "expected": 1e300},
      {"args": ["\u00e9\ud83d\ude00\n\"\\"], "expected": "\u00e9\ud83d\ude00\n\"\\"},
      {"args": [{"a": [{}, [], ""], "b": {"c": 1}}], "expected": {"b": {"c": 1}, "a": [{}, [], ""]}}]})";
  EXPECT_EQ(check(python("def same(x): return x"), tests), "ok");
  EXPECT_EQ(check(python("import json\ndef same(x): return json.loads(json.dumps(x))"), tests), "ok");
  for (const char* none : {"{1, 2}", "object()", "float('inf')", "b'3'", "{(1, 2): 3}", "lambda: 3"})
    EXPECT_EQ(check(python("def add(a, b): return " + std::string(none)), kAdd), "runtime_error") << none;
}

TEST_F(CodeCheckTest, EachFailureHasItsStatus) {
  EXPECT_EQ(check("<think>x</think>The answer is 3.", kSum), "no_program");
  EXPECT_EQ(check("<think>x</think>\n```cpp\nint add(int a, int b);\n```", kAdd), "no_program");
  EXPECT_EQ(check(python("print(3)"), kSum), "wrong_answer");
  EXPECT_EQ(check(python("a, b = map(int, input().split())\nprint(a - b)"), kSum), "wrong_answer");
  EXPECT_EQ(check(python("def add(a, b): return [a, b]"), kAdd), "wrong_answer");
  EXPECT_EQ(check(python("print("), kSum), "runtime_error");
  EXPECT_EQ(check(python("print(3)\nraise ValueError"), kSum), "runtime_error");
  EXPECT_EQ(check(python("def sum(a, b): return a + b"), kAdd), "runtime_error");
  EXPECT_EQ(check(cpp("int main() { return x; }"), kSum), "compile_error");
  EXPECT_EQ(check(cpp("#include \"/etc/passwd\"\nint main() {}"), kSum), "compile_error");
  EXPECT_EQ(check(cpp("int f(int n) { volatile char x[999]; x[0] = n; return f(n + 1) + x[0]; }\n"
                      "int main() { return f(0); }"),
                  kSum),
            "runtime_error");
  EXPECT_EQ(check(python("x = bytearray(1 << 30)"), kSum), "memory");
  EXPECT_EQ(
      check(cpp("#include <vector>\nint main() { for (std::vector<char> v;;) v.resize(2 * v.size() + 1); }"),
            kSum),
      "memory");
  EXPECT_EQ(check(python("while True: print('x' * 1000)"), kSum), "output_limit");
  EXPECT_EQ(check(python("import os\nos.fork()"), kSum), "runtime_error");
  config_.code_seconds = 0.5;
  EXPECT_EQ(check(python("while True: pass"), kSum), "timeout");
  EXPECT_EQ(check(python("def add(a, b):\n    while True: pass"), kAdd), "timeout");
}

// What a program can do instead of solving the problem. It never sees what is expected.
TEST_F(CodeCheckTest, HacksScoreNothing) {
  for (const char* program : {
           "exit(0)",
           "import os\nos._exit(0)",
           "class E:\n    def __eq__(self, other): return True\ndef add(a, b): return E()",
           "class E(int):\n    def __eq__(self, other): return True\n    def __repr__(self): return '3'\n"
           "def add(a, b): return E(0)",
           "print('ok')\nprint('PASSED')\nprint('0 3')\nexit(0)",
           "import os\nos.write(3, b'ok 0 3\\nok 1 \"ab\"\\n')\nos._exit(0)",
           "import sys\nsys.stdout.write('3')\ndef add(a, b): return None",
           "def add(a, b): return float('nan')",
           "def add(a, b): return 1e999",
           "def add(a, b): return '\xD9\xA3'",
           "def add(a, b): return ''",
           "def add(a, b): exit(0)",
           "import json\njson.dumps = lambda *a, **k: '3'\ndef add(a, b): return 1",
           "import sys\nsys._getframe(1).f_globals['encode'] = lambda *a: '3'\ndef add(a, b): return 1",
           // It finds the driver's words, and answers in its name: with what?
           "import sys, os\n"
           "request = sys._getframe(1).f_globals.get('request') or sys.modules['__main__'].request\n"
           "for i in range(2): os.write(3, f\"{request['nonce']} {i} true\\n\".encode())\n",
           "def add(a, b): return a",
       }) {
    EXPECT_NE(check(python(program), kAdd), "ok") << program;
  }
  for (const char* program : {
           "exit(0)",
           "",
           "print('')",
           "print(open(0).read())",
           "print('\xD9\xA3')",
           "print('3\\n12')",
           "print('3 or 12')",
           "import os\nfor d in os.listdir('/'):\n    print(d)",
           "import os\nos.environ['EXPECTED']",
           "import gc\nprint([o for o in gc.get_objects() if isinstance(o, str) and '12' in o])",
       }) {
    EXPECT_NE(check(python(program), kSum), "ok") << program;
  }
}

// One failing test of many is as good as none, and one call cannot answer for another.
TEST_F(CodeCheckTest, EveryTestHasToPass) {
  EXPECT_EQ(check(python("a, b = map(int, input().split())\nprint(3 if a == 1 else 0)"), kSum),
            "wrong_answer");
  EXPECT_EQ(check(python("def add(a, b):\n    if a == 'a': exit(0)\n    return a + b"), kAdd),
            "wrong_answer");
  EXPECT_EQ(check(python("n = 0\ndef add(a, b):\n    global n\n    n += 1\n    return 3 if n == 1 else 'ba'"),
                  kAdd),
            "wrong_answer");
}

// Order in sets and dictionaries of texts does not change from run to run: nor does the score.
TEST_F(CodeCheckTest, HashesAreTheSameInEveryRun) {
  const char* const program = "print(hash('a') == hash('a'), list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}))";
  SandboxJob job;
  job.command = {"/usr/bin/python3", "-s", "-P", "-S", "-B", "-c", program};
  const std::string first = run_in_sandbox(job).out;
  EXPECT_NE(first, "");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run_in_sandbox(job).out, first);
}

TEST_F(CodeCheckTest, TestsThatAreNoneGiveNoScore) {
  for (const char* tests : {"", "{}", "[1]", R"({"stdin": []})"}) {
    const CodeVerdict verdict = check_code(config_, "", python("print(1)"), tests);
    EXPECT_EQ(verdict.status, "bad_tests");
    EXPECT_FALSE(verdict.valid);
    EXPECT_NE(verdict.why, "");
  }
}

// Not the program's fault: no score, instead of a zero. Here for want of descriptors.
TEST_F(CodeCheckTest, BrokenSandboxesGiveNoScore) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit few = {8, 8};
    ::setrlimit(RLIMIT_NOFILE, &few);
    for (const std::string& completion : {python("print(3)"), cpp("int main() {}")}) {
      const CodeVerdict verdict = check_code(config_, "", completion, kSum);
      if (verdict.status != "sandbox_error" || verdict.valid || verdict.accuracy != 0 || verdict.why.empty())
        ::_exit(1);
    }
    ::_exit(0);
  }
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(CodeCheckTest, WorkersScoreProgramsForTheRuleRewarder) {
  start_worker_server();
  EXPECT_EQ(code_worker_problem(), "");
  config_.workers = 2;
  config_.accuracy_weight = 2;
  config_.format_weight = 0;
  const auto rewarder = make_rewarder(config_, 1000, 0);
  Prompt prompt;
  prompt.task = "code";
  prompt.tests = kSum;
  for (uint64_t id = 0; id < 20; ++id) {
    ScoreRequest request;
    request.id = id;
    request.prompt = &prompt;
    request.completion = python(id % 2 ? "print(sum(map(int, input().split())))" : "print(3)");
    rewarder->submit(std::move(request));
  }
  const std::vector<Score> scores = rewarder->drain();
  ASSERT_EQ(scores.size(), 20u);
  for (const Score& score : scores) {
    EXPECT_TRUE(score.valid);
    EXPECT_EQ(score.status, score.id % 2 ? "ok" : "wrong_answer");
    EXPECT_EQ(score.reward, score.id % 2 ? 2 : 0);
  }
}

}  // namespace
}  // namespace contender
