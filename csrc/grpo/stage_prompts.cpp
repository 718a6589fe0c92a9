#include "grpo/stage_prompts.h"

#include "reward/reward.h"

namespace contender {

std::unique_ptr<PromptSource> open_stage_prompts(const RunConfig& config, const StageConfig& stage,
                                                 Split split, const Tokenizer& tokenizer) {
  const bool sft = stage.kind == "sft", train = split == Split::kTrain;
  const bool scored = !sft || (!train && stage.sft.eval_every > 0);
  return make_prompt_source(stage.task, split, config.seed, tokenizer,
                            sft && train ? config.model.max_position_embeddings : 0,
                            scored && stage.reward.type == "rule" ? verifier_problem : nullptr);
}

}  // namespace contender
