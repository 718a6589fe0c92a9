// One line of a prompt set: {"prompt" | "messages", "answer", "task", "tests", "solution"}. Other keys are
// ignored.
//
//   prompt    text: one message of the user, which task.prompt_form may put into words of its own
//   messages  [{"role": "system" | "user" | "assistant", "content": text}, ...]: a system message first or
//             not at all, then user and assistant in turn, user last. The model sees them by its chat
//             template (chat_template_prompt.h)
//   answer    text or a whole number: what the verifier compares with; not needed where tests are
//   task      the verifier; "exact" when missing
//   tests     an object, or the JSON of one as text: what a program is run on (csrc/reward/README.md); the
//             task "code" needs it
//   solution  <think>...</think><answer>...</answer>: the completion that SFT learns; RL does not need it
#pragma once

#include <string>
#include <string_view>

#include "data/prompts.h"

namespace contender {

struct PromptLine {
  Prompt prompt;
  std::string question;  // what the user says in it, without template and system message
};

// `form` is task.prompt_form. Throws std::runtime_error with a short reason.
PromptLine parse_prompt_line(std::string_view line, const Tokenizer& tokenizer,
                             std::string_view form = kPromptPlace);

}  // namespace contender
