// `contender data`: prompt files before a run.
#pragma once

#include <string>
#include <vector>

namespace contender {

struct DataOptions {
  std::vector<std::string> files, eval_files;
  std::string tokenizer;  // model directory, tokenizer.json or GGUF file; "": the byte tokenizer
};

// Of each file its prompts, tasks, lengths in tokens and the XXH3-128 of its text; with held-out files, how
// many prompts overlap with theirs (data/contamination.h). Error(kConfig), `file:line: what`, for the first
// bad line.
std::string prompt_sets_text(const DataOptions& options);

}  // namespace contender
