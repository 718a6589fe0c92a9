// Prompt sets of the user: files of one JSON object a line (jsonl_line.h), plain or compressed by zstd.
//
// How several files become one order of training is in mixture.h; what is done with training prompts that are
// like held-out ones, in contamination.h. Of several held-out files each has its part among the first
// prompts.
#pragma once

#include <memory>

#include "data/prompts.h"

namespace contender {

// The prompts of task.train_files or task.eval_files. Throws Error(kConfig), `file:line: what`, for the first
// bad line; for a file without prompts; and, for the train split, for a prompt that is also in
// task.eval_files (left out instead with task.contamination = "drop"). max_solved_tokens and check as in
// prompts.h.
std::unique_ptr<PromptSource> make_jsonl_source(const TaskConfig& task, Split split,
                                                const Tokenizer& tokenizer, int64_t max_solved_tokens,
                                                PromptCheck check);

}  // namespace contender
