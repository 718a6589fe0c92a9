#include "data/prompts.h"

#include "data/jsonl.h"
#include "data/task.h"

namespace contender {

std::unique_ptr<PromptSource> make_prompt_source(const TaskConfig& task, Split split, uint64_t seed,
                                                 const Tokenizer& tokenizer) {
  if (task.name == "jsonl") return make_jsonl_source(task, split, tokenizer);
  return make_procedural_source(task, split, seed, tokenizer);
}

}  // namespace contender
