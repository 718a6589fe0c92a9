#include "cli/prompt_sets.h"

#include <algorithm>
#include <limits>
#include <map>

#include "base/config_schema.h"
#include "base/error.h"
#include "data/jsonl_file.h"
#include "grpo/stage_prompts.h"
#include "hub/model_config.h"
#include "report/metrics.h"
#include "report/text.h"
#include "reward/reward.h"

namespace contender {
namespace {

struct SetFacts {
  std::vector<int64_t> tokens;  // of each prompt, in ascending order
  std::map<std::string, int64_t> tasks;
  int64_t solutions = 0;
  int64_t unscored = 0;        // prompts that no rule can score
  std::string first_unscored;  // where and why
  int64_t told = 0;            // prompts that say where the answer has to stand, and those of programs
  std::string hash;

  std::string quantile(int64_t percent) const {
    return std::to_string(tokens[(std::ssize(tokens) - 1) * percent / 100]);
  }
};

SetFacts facts_of(const std::string& path, const std::string& form, const Tokenizer& tokenizer) {
  SetFacts facts;
  JsonlFile file(path, form);
  file.scan(tokenizer, [&](int64_t line, PromptLine&& parsed) {
    const std::string problem = verifier_problem(parsed.prompt);
    if (!problem.empty() && facts.unscored++ == 0)
      facts.first_unscored = fmt::format("{}:{}: {}", path, line, printable_line(problem));
    facts.tokens.push_back(std::ssize(parsed.prompt.tokens));
    facts.solutions += !parsed.prompt.solution.empty();
    ++facts.tasks[parsed.prompt.task];
    const auto says = [&](const char* what) { return parsed.prompt.text.find(what) != std::string::npos; };
    facts.told += parsed.prompt.task == "code" || says("\\boxed") || says("<answer>");
    return false;
  });
  if (facts.tokens.empty()) fail(ExitCode::kConfig, "{}: no prompts", path);
  std::sort(facts.tokens.begin(), facts.tokens.end());
  facts.hash = file.hash();
  return facts;
}

std::string tasks_text(const SetFacts& facts) {
  std::string text;
  for (const auto& [task, count] : facts.tasks)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", printable_line(task), count);
  return text;
}

using Table = std::vector<std::vector<std::string>>;

Table new_table() {
  return {{"file", "prompts", "solutions", "tokens 50%", "90%", "99%", "most", "tasks", "hash"}};
}

void add_row(const std::string& path, const SetFacts& f, Table* table) {
  table->push_back({path, std::to_string(f.tokens.size()), std::to_string(f.solutions), f.quantile(50),
                    f.quantile(90), f.quantile(99), f.quantile(100), tasks_text(f), f.hash});
}

std::string overlap_text(const std::string& note) {
  return (note.empty() ? "no prompt shares 10 words in a row with a held-out one" : note) + "\n";
}

std::string files_alone_text(const DataOptions& options) {
  const auto tokenizer = open_tokenizer(options.tokenizer);
  Table table = new_table();
  std::string unscored;
  for (const auto* files : {&options.files, &options.eval_files}) {
    for (const std::string& path : *files) {
      const SetFacts f = facts_of(path, kPromptPlace, *tokenizer);
      add_row(path, f, &table);
      if (f.unscored > 0)
        unscored += fmt::format("no rule scores {} of {} prompts: {}\n", f.unscored, f.tokens.size(),
                                f.first_unscored);
    }
  }
  const std::string text = format_table(table) + unscored;
  if (options.eval_files.empty()) return text;
  const TaskConfig task = {.name = "jsonl",
                           .train_files = options.files,
                           .eval_files = options.eval_files,
                           .contamination = "drop",
                           .max_prompt_tokens = std::numeric_limits<int64_t>::max()};
  try {
    return text + overlap_text(make_prompt_source(task, Split::kTrain, 0, *tokenizer)->note());
  } catch (const Error& leaves_none) {  // the files themselves have been read above
    return text + leaves_none.what() + "\n";
  }
}

// The prompts of a run: by its tokenizer, in its form, with what its stages ask of every line.
std::string config_text(const std::string& path) {
  std::vector<MissingInput> missing;
  const RunConfig config = load_config_before_files(path, {}, 0, read_model_config, missing);
  for (const MissingInput& m : missing) {
    if (m.key == "model.path" && !config.tokenizer.path.empty()) continue;
    fail(ExitCode::kConfig,
         "{}: {} = \"{}\" is not here yet; `contender doctor --config {}` says how it gets here", path, m.key,
         m.path, path);
  }
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(config);
  Table table = new_table();
  std::string notes;
  bool learns_form = false;  // from worked solutions
  for (const StageConfig& stage : config.stages) {
    learns_form |= stage.kind == "sft";
    if (stage.task.name != "jsonl") continue;
    int64_t told = 0;
    for (const auto* files : {&stage.task.train_files, &stage.task.eval_files}) {
      for (const std::string& file : *files) {
        const SetFacts f = facts_of(file, stage.task.prompt_form, *tokenizer);
        add_row(file, f, &table);
        told += f.told;
      }
    }
    const auto train = open_stage_prompts(config, stage, Split::kTrain, *tokenizer);
    const auto held_out = open_stage_prompts(config, stage, Split::kHeldOut, *tokenizer);
    notes += fmt::format("stage {}: {} prompts, {} held out; {}", stage.name, train->size(), held_out->size(),
                         overlap_text(train->note()));
    if (told == 0 && stage.reward.type == "rule" && !learns_form)
      notes += fmt::format(
          "stage {}: no prompt asks for \\boxed{{}} or <answer></answer>, where the reward looks for the "
          "answer: "
          "task.prompt_form can\n",
          stage.name);
  }
  if (notes.empty())
    fail(ExitCode::kConfig, "{}: no stage has the task jsonl, which reads prompt files", path);
  return format_table(table) + notes;
}

}  // namespace

std::string prompt_sets_text(const DataOptions& options) {
  const auto is_config = [](const std::string& path) { return path.ends_with(".toml"); };
  if (std::none_of(options.files.begin(), options.files.end(), is_config)) return files_alone_text(options);
  if (options.files.size() > 1 || !options.eval_files.empty() || !options.tokenizer.empty())
    fail(ExitCode::kConfig, "{}: a config names its own prompt files, held-out files and tokenizer",
         *std::find_if(options.files.begin(), options.files.end(), is_config));
  return config_text(options.files[0]);
}

}  // namespace contender
