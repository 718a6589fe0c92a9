// Prompt sets of the user: one JSON object a line, {"prompt" | "messages", "answer", "task", "solution"}.
// Other keys are ignored.
//
//   prompt    text: one message of the user
//   messages  [{"role": "system" | "user" | "assistant", "content": text}, ...]: a system message first or
//             not at all, then user and assistant in turn, user last. The model sees them by its chat
//             template (chat_template_prompt.h)
//   answer    text or a whole number: what the verifier compares with
//   task      the verifier; "exact" when missing
//   solution  <think>...</think><answer>...</answer>: the completion that SFT learns; RL does not need it
//
// The file is checked from end to end before the run begins; only the place and the hash of each line are
// kept in memory.
#pragma once

#include <memory>

#include "data/prompts.h"

namespace contender {

// The prompts of task.train_files or task.eval_files. Throws Error(kConfig), `file:line: what`, for the first
// bad line; for a file without prompts; and, for the train split, for a prompt that is also in
// task.eval_files. max_solved_tokens as in prompts.h.
std::unique_ptr<PromptSource> make_jsonl_source(const TaskConfig& task, Split split,
                                                const Tokenizer& tokenizer, int64_t max_solved_tokens);

}  // namespace contender
