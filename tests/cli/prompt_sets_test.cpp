#include "cli/prompt_sets.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/config_schema.h"
#include "base/error.h"
#include "hub/model_config.h"

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

// With a config, what its reward cannot score is an error, named; without one, it is said.
TEST_F(PromptSets, LinesThatNoRuleScores) {
  const std::string good = "{\"prompt\": \"x\", \"answer\": 1}\n";
  const std::string train =
      write("train.jsonl", good + "{\"prompt\": \"y\", \"answer\": 1, \"task\": \"chess\"}\n");
  const std::string alone = prompt_sets_text({.files = {train}});
  EXPECT_NE(alone.find("no rule scores 1 of 2 prompts: " + train + ":2: task \"chess\" has no rule"),
            alone.npos)
      << alone;
  const auto config = [&](const std::string& files, const std::string& reward) {
    return write("run.toml",
                 fmt::format("[task]\nname = \"jsonl\"\ntrain_files = \"{}\"\neval_files = \"{}\"\n"
                             "prompt_form = \"{{prompt}} Answer:\"\n[rl]\nsteps = 1\n{}",
                             files, write("held_out.jsonl", "{\"prompt\": \"z\", \"answer\": 1}\n"), reward));
  };
  try {
    prompt_sets_text({.files = {config(train, "")}});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kConfig);
    EXPECT_TRUE(std::string(error.what()).starts_with(train + ":2: task \"chess\" has no rule"))
        << error.what();
  }
  const std::string command = "[reward]\ntype = \"command\"\ncommand = [\"score\"]\n";
  const std::string text = prompt_sets_text({.files = {config(train, command)}});
  EXPECT_NE(text.find("stage rl: 2 prompts, 1 held out; no prompt shares"), text.npos) << text;
  EXPECT_NE(text.find(" 11 "), text.npos) << text;  // <user>x Answer:<assistant>
  const std::string run = config(write("good.jsonl", good), "");
  EXPECT_NE(prompt_sets_text({.files = {run}}).find("stage rl: 1 prompts, 1 held out"), std::string::npos);
  EXPECT_THROW(prompt_sets_text({.files = {run, train}}), Error);
  EXPECT_THROW(prompt_sets_text({.files = {run}, .eval_files = {train}}), Error);
  std::filesystem::remove(train);
  try {
    prompt_sets_text({.files = {config(train, command)}});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("train.jsonl\" is not here yet"), std::string::npos)
        << error.what();
  }
}

// A model that is not asked for the form that the reward reads earns nothing.
TEST_F(PromptSets, PromptsThatDoNotAskForTheForm) {
  const std::string good = write("good.jsonl", "{\"prompt\": \"x\", \"answer\": 1}\n");
  const std::string held_out = write("held_out.jsonl", "{\"prompt\": \"z\", \"answer\": 1}\n");
  const auto asks = [&](const std::string& form, const std::string& more) {
    const std::string run =
        write("run.toml", fmt::format("[task]\nname = \"jsonl\"\ntrain_files = \"{}\"\neval_files = \"{}\"\n"
                                      "prompt_form = '{{prompt}}{}'\n[rl]\nsteps = 1\n{}",
                                      good, held_out, form, more));
    const std::string text = prompt_sets_text({.files = {run}});
    return text.find("no prompt asks for \\boxed{} or <answer></answer>") == text.npos;
  };
  EXPECT_FALSE(asks("", ""));
  EXPECT_TRUE(asks(" In \\boxed{}.", ""));
  EXPECT_TRUE(asks(" In <answer></answer>.", ""));
  EXPECT_TRUE(asks("", "[reward]\ntype = \"command\"\ncommand = [\"score\"]\n"));
}

TEST(ReleasedConfigs, AskForTheFormThatTheirRewardReads) {
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator("configs")) {
    if (entry.path().extension() != ".toml") continue;
    std::vector<MissingInput> missing;
    const RunConfig config = load_config_before_files(entry.path(), {}, 0, read_model_config, missing);
    for (const StageConfig& stage : config.stages) {
      if (stage.task.name != "jsonl") continue;
      const std::string& form = stage.task.prompt_form;
      const bool tags =
          form.find("<think></think>") != form.npos && form.find("<answer></answer>") != form.npos;
      EXPECT_TRUE(tags || form.find("\\boxed{}") != form.npos) << entry.path();
      EXPECT_EQ(tags, stage.reward.format_weight > 0) << entry.path();
      ++seen;
    }
  }
  EXPECT_GE(seen, 4);
}

}  // namespace
}  // namespace contender
