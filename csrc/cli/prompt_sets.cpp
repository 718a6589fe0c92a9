#include "cli/prompt_sets.h"

#include <algorithm>
#include <limits>
#include <map>

#include "base/error.h"
#include "data/jsonl_file.h"
#include "report/metrics.h"
#include "report/text.h"

namespace contender {
namespace {

struct SetFacts {
  std::vector<int64_t> tokens;  // of each prompt, in ascending order
  std::map<std::string, int64_t> tasks;
  int64_t solutions = 0;
  std::string hash;

  std::string quantile(int64_t percent) const {
    return std::to_string(tokens[(std::ssize(tokens) - 1) * percent / 100]);
  }
};

SetFacts facts_of(const std::string& path, const Tokenizer& tokenizer) {
  SetFacts facts;
  JsonlFile file(path);
  file.scan(tokenizer, [&](int64_t, PromptLine&& parsed) {
    facts.tokens.push_back(std::ssize(parsed.prompt.tokens));
    facts.solutions += !parsed.prompt.solution.empty();
    ++facts.tasks[parsed.prompt.task];
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

}  // namespace

std::string prompt_sets_text(const DataOptions& options) {
  const auto tokenizer = open_tokenizer(options.tokenizer);
  std::vector<std::vector<std::string>> table = {
      {"file", "prompts", "solutions", "tokens 50%", "90%", "99%", "most", "tasks", "hash"}};
  for (const auto* files : {&options.files, &options.eval_files}) {
    for (const std::string& path : *files) {
      const SetFacts f = facts_of(path, *tokenizer);
      table.push_back({path, std::to_string(f.tokens.size()), std::to_string(f.solutions), f.quantile(50),
                       f.quantile(90), f.quantile(99), f.quantile(100), tasks_text(f), f.hash});
    }
  }
  const std::string text = format_table(table);
  if (options.eval_files.empty()) return text;
  const TaskConfig task = {.name = "jsonl",
                           .train_files = options.files,
                           .eval_files = options.eval_files,
                           .contamination = "drop",
                           .max_prompt_tokens = std::numeric_limits<int64_t>::max()};
  std::string note;
  try {
    note = make_prompt_source(task, Split::kTrain, 0, *tokenizer)->note();
  } catch (const Error& leaves_none) {  // the files themselves have been read above
    note = leaves_none.what();
  }
  return text + (note.empty() ? "no prompt shares 10 words in a row with a held-out one" : note) + "\n";
}

}  // namespace contender
