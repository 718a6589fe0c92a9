#include "reward/code_program.h"

#include <gtest/gtest.h>

namespace contender {
namespace {

// "language|source", "" for none.
std::string found(const std::string& completion, const std::string& language = "python",
                  const std::string& prompt = "<think>") {
  const auto program = find_program(prompt, completion, language);
  return program ? program->language + "|" + program->source : "";
}

TEST(CodeProgram, LastNamedBlockBehindTheThought) {
  EXPECT_EQ(found("<think>x</think>Here:\n```python\nprint(1)\n```\nDone."), "python|print(1)\n");
  EXPECT_EQ(found("x</think>\n```py\na\n```\nand\n``` Python3 \nb\n\nc\n```"), "python|b\n\nc\n");
  EXPECT_EQ(found("</think>```c++\nint main() {}\n```"), "cpp|int main() {}\n");
  for (const char* name : {"cpp", "CPP", "cc", "cxx", "c++17", "cpp title=\"x\"", "cpp{1}"})
    EXPECT_EQ(found("</think>\n```" + std::string(name) + "\nx\n```"), "cpp|x\n") << name;
  EXPECT_EQ(found("</think>1. Run\n   ```python\n   x\n   ```"), "python|   x\n");
  EXPECT_EQ(found("</think>````python\ns = '''\n```\n'''\n````"), "python|s = '''\n```\n'''\n");
}

TEST(CodeProgram, OtherBlocksAreNotPrograms) {
  const std::string program = "</think>\n```python\nprint(1)\n```\n";
  EXPECT_EQ(found(program + "```\n1\n```"), "python|print(1)\n");
  EXPECT_EQ(found(program + "```text\n1\n```\n```bash\nrun\n```"), "python|print(1)\n");
  EXPECT_EQ(found("</think>\n```\nx\n```", "python"), "python|x\n");
  EXPECT_EQ(found("</think>\n```\nx\n```", "cpp"), "cpp|x\n");
  EXPECT_EQ(found("</think>\n```java\nx\n```"), "");
  EXPECT_EQ(found("</think>print(1)"), "");
  EXPECT_EQ(found("</think>`print(1)` and ```print(1)```"), "");
  EXPECT_EQ(found(""), "");
}

TEST(CodeProgram, ThoughtsAndHalfAnswersDoNotCount) {
  const std::string block = "```python\nx\n```\n";
  EXPECT_EQ(found(block), "");
  EXPECT_EQ(found("<think>\n" + block), "");
  EXPECT_EQ(found("<think>\n" + block + "</think>"), "");
  EXPECT_EQ(found("</think>\n" + block + "</think>"), "");
  EXPECT_EQ(found("<think>\n" + block, "python", "<user>"), "");
  EXPECT_EQ(found("<think>\n" + block + "</think>", "python", "<user>"), "");
  EXPECT_EQ(found(block, "python", "<user>"), "python|x\n");  // a model that does not think
  EXPECT_EQ(found("</think>\n```python\nx"), "");
  EXPECT_EQ(found("</think>\n```python\nx\n``"), "");
  EXPECT_EQ(found("</think>\n```python"), "");
  EXPECT_EQ(found("</think>\n" + block + "Better:\n```python\nprint("), "");  // a draft is not the answer
  EXPECT_EQ(found("</think>\n" + block + "Prints:\n```text\n1"), "");
}

TEST(CodeProgram, InsideTheOneAnswer) {
  const std::string block = "```python\nx\n```\n", other = "```python\ny\n```\n";
  EXPECT_EQ(found("</think><answer>\n" + block + "</answer>\n" + other), "python|x\n");
  EXPECT_EQ(found("</think>\n" + other + "<answer>none</answer>"), "");
  EXPECT_EQ(found("</think><answer>\n" + block + "</answer><answer>\n" + other + "</answer>"), "");
  EXPECT_EQ(found("</think><answer>\n" + block), "");
}

TEST(CodeProgram, LinearTime) {
  std::string fences, ticks = "</think>" + std::string(4'000'000, '`');
  for (int i = 0; i < 500'000; ++i) fences += "```python\n";
  EXPECT_EQ(found("</think>\n" + fences), "");
  EXPECT_EQ(found(ticks), "");
}

}  // namespace
}  // namespace contender
