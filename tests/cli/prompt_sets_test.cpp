#include "cli/prompt_sets.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace contender {
namespace {

class PromptSets : public testing::Test {
 protected:
  PromptSets()
      : folder_(std::filesystem::temp_directory_path() / fmt::format("contender_sets_{}", ::getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~PromptSets() override { std::filesystem::remove_all(folder_); }
  std::string write(const char* name, const std::string& content) {
    std::ofstream(folder_ / name) << content;
    return folder_ / name;
  }
  std::filesystem::path folder_;
};

TEST_F(PromptSets, PromptsTasksLengthsAndOverlap) {
  std::string lines;
  for (int i = 1; i <= 10; ++i)
    lines += fmt::format("{{\"prompt\": \"{}\", \"answer\": {}, \"task\": \"{}\"}}\n", std::string(i, 'x'), i,
                         i < 4 ? "math" : "sort");
  DataOptions options{.files = {write("a.jsonl", lines)}};
  const std::string text = prompt_sets_text(options);
  EXPECT_NE(text.find("math 3, sort 7"), text.npos) << text;
  // <user>, i bytes, <assistant>
  for (const char* cell : {" 10 ", " 7 ", " 11 ", " 12 "}) EXPECT_NE(text.find(cell), text.npos) << text;
  options.eval_files = {write("b.jsonl", "{\"prompt\": \"y\", \"answer\": 1}\n")};
  EXPECT_TRUE(
      prompt_sets_text(options).ends_with("no prompt shares 10 words in a row with a held-out one\n"));
  options.eval_files = {write("b.jsonl", "{\"prompt\": \"XXX\", \"answer\": 1}\n")};
  EXPECT_NE(prompt_sets_text(options).find("1 of 10 training prompts"), std::string::npos);
  options.files.push_back(write("c.jsonl", lines + "{\n"));
  try {
    prompt_sets_text(options);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(error.what()).find("c.jsonl:11: "), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace contender
