#include "data/prompts.h"

#include "data/jsonl.h"
#include "data/task.h"

namespace contender {

int64_t PromptSource::index_at(uint64_t seed, int64_t position) const {
  return shuffled_index(seed, size(), position);
}

std::unique_ptr<PromptSource> make_prompt_source(const TaskConfig& task, Split split, uint64_t seed,
                                                 const Tokenizer& tokenizer, int64_t max_solved_tokens,
                                                 PromptCheck check) {
  if (task.name == "jsonl") return make_jsonl_source(task, split, tokenizer, max_solved_tokens, check);
  return make_procedural_source(task, split, seed, tokenizer);
}

}  // namespace contender
