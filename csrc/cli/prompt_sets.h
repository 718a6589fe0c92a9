// `contender data`: prompt files before a run.
#pragma once

#include <string>
#include <vector>

namespace contender {

struct DataOptions {
  std::vector<std::string> files, eval_files;  // or the config of a run, *.toml, alone in `files`
  std::string tokenizer;  // model directory, tokenizer.json or GGUF file; "": the byte tokenizer
};

// Of each file its prompts, tasks, lengths in tokens and the XXH3-128 of its text, and how many prompts no
// rule can score; with held-out files, how many overlap with theirs (data/contamination.h). Of a config the
// same for the files of its stages, as its run reads them. Error(kConfig), `file:line: what`, for the first
// bad line; where the config's reward is by rules, one that none can score is bad.
std::string prompt_sets_text(const DataOptions& options);

}  // namespace contender
