// The prompt files of a stage, opened as the stage uses them.
#pragma once

#include <memory>

#include "data/prompts.h"

namespace contender {

// Every line is checked before the run: SFT learns from the training prompts, so each needs a solution that
// fits the context; rules score the prompts of other stages and the held-out ones, so each needs a rule that
// can read its answer. Throws what make_prompt_source does.
std::unique_ptr<PromptSource> open_stage_prompts(const RunConfig& config, const StageConfig& stage,
                                                 Split split, const Tokenizer& tokenizer);

}  // namespace contender
