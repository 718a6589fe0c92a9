#include "grpo/stage_prompts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace contender {
namespace {

class StagePrompts : public testing::Test {
 protected:
  StagePrompts()
      : folder_(std::filesystem::temp_directory_path() / fmt::format("contender_stage_{}", ::getpid())) {
    std::filesystem::create_directories(folder_);
    config_.model.max_position_embeddings = 1000;
    stage_.kind = "rl";
    stage_.task = {.name = "jsonl",
                   .train_files = {write("train.jsonl", "")},
                   .eval_files = {write("eval.jsonl", line("1", "exact", "1"))},
                   .max_prompt_tokens = 100};
  }
  ~StagePrompts() override { std::filesystem::remove_all(folder_); }
  std::string write(const char* name, const std::string& content) {
    std::ofstream(folder_ / name) << content;
    return folder_ / name;
  }
  static std::string line(const char* prompt, const char* task, const char* answer) {
    return fmt::format("{{\"prompt\": \"{}\", \"task\": \"{}\", \"answer\": \"{}\", \"solution\": \"s\"}}\n",
                       prompt, task, answer);
  }
  std::string error_of(Split split) {
    try {
      open_stage_prompts(config_, stage_, split, *make_byte_tokenizer());
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
      const std::string what = e.what();
      return what.substr(std::min(what.size(), folder_.string().size() + 1));
    }
    return "";
  }

  std::filesystem::path folder_;
  RunConfig config_;
  StageConfig stage_;
};

TEST_F(StagePrompts, ALineThatNoRuleCanScoreIsNamed) {
  const std::string fine = line("2", "math", "2") + line("3", "countdown", "25: 3 7 4");
  write("train.jsonl", fine);
  EXPECT_EQ(error_of(Split::kTrain), "");
  write("train.jsonl", fine + "\n" + line("4", "additon", "4"));
  EXPECT_TRUE(error_of(Split::kTrain).starts_with("train.jsonl:4: task \"additon\" has no rule (known: "))
      << error_of(Split::kTrain);
  write("eval.jsonl", line("1", "countdown", "25 3 7"));
  EXPECT_EQ(error_of(Split::kHeldOut),
            "eval.jsonl:1: countdown answer \"25 3 7\": expected \"target: n1 n2 ...\"");
}

TEST_F(StagePrompts, WhatIsNotScoredByRulesNeedsNone) {
  write("train.jsonl", line("4", "chess", "e4"));
  write("eval.jsonl", line("1", "chess", "e5"));
  EXPECT_NE(error_of(Split::kTrain), "");
  stage_.reward.type = "command";
  EXPECT_EQ(error_of(Split::kTrain), "");
  EXPECT_EQ(error_of(Split::kHeldOut), "");
  stage_.reward.type = "rule";
  stage_.kind = "sft";
  stage_.sft.eval_every = 0;
  EXPECT_EQ(error_of(Split::kTrain), "");
  EXPECT_EQ(error_of(Split::kHeldOut), "");
  stage_.sft.eval_every = 5;  // scores held-out prompts, and only those
  EXPECT_EQ(error_of(Split::kTrain), "");
  EXPECT_NE(error_of(Split::kHeldOut), "");
}

}  // namespace
}  // namespace contender
