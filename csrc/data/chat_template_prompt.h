// A conversation as the policy sees it.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "data/prompts.h"

namespace contender {

// Sets text and tokens of `prompt` from messages: objects with role and content; an optional system message,
// then user and assistant in turn, user last. By the tokenizer's chat template; the byte tokenizer's is
// <user>...<assistant>, a system text stands before the first user's, on a line of its own. Without a
// template: the text of the one user message, behind the tokenizer's first tokens. Special tokens are never
// made of what the messages say. Throws std::runtime_error with a short reason.
void set_prompt(const Tokenizer& tokenizer, const nlohmann::ordered_json& messages, Prompt& prompt);

// One message of the user, behind the system's where that is not empty.
void set_question(const Tokenizer& tokenizer, const std::string& question, Prompt& prompt,
                  const std::string& system = {});

}  // namespace contender
