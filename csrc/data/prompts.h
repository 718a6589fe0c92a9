// Prompts: what the policy is asked, what the verifier knows, and (procedural tasks) a worked solution for
// SFT.
//
// A source is a pure function of an index: resuming is remembering a number, and any rank can make any
// prompt.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/tokenizer.h"

namespace contender {

struct Prompt {
  uint32_t index = 0;    // in its source; the `prompt` of sampling keys
  std::string task;      // verifier: addition, countdown, reverse, sort, ...
  std::string text;      // the prompt as the model sees it, template applied
  std::string answer;    // what the verifier compares with (for countdown: "target: n1 n2 n3")
  std::string tests;     // of a program: JSON as csrc/reward/README.md describes it; empty without
  std::string solution;  // completion for SFT: <think>...</think><answer>...</answer>; empty when unknown
  std::string
      canonical;  // problem up to symmetry (37+85 == 85+37); train and held-out sets are disjoint by it
  std::vector<int32_t> tokens;
};

class PromptSource {
 public:
  virtual ~PromptSource() = default;
  virtual int64_t size() const = 0;             // number of prompts; procedural train sets: a large number
  virtual Prompt at(int64_t index) const = 0;   // 0 <= index < size()
  virtual std::string fingerprint() const = 0;  // of the content, recorded in checkpoints
  // The prompt at a position >= 0 of training. Pure function; by default epoch-wise shuffled.
  virtual int64_t index_at(uint64_t seed, int64_t position) const;
  // What the user should hear before the run, one line; empty: nothing.
  virtual std::string note() const { return ""; }
  // Is there a prompt of task "code"? Then a sandbox has to be there too.
  virtual bool asks_for_programs() const { return false; }
};

enum class Split { kTrain, kHeldOut };

// What is wrong with a prompt, in a few words; empty: nothing.
using PromptCheck = std::string (*)(const Prompt&);

// Throws Error(kConfig) naming file and line for malformed JSONL (bad UTF-8, duplicate keys, missing prompt
// or answer, a line over 8 MiB), an empty set, or a prompt longer than task.max_prompt_tokens. For SFT
// `max_solved_tokens` is not 0: then a line without a worked solution is an error too, and one that has more
// tokens with it. A line that `check` finds something wrong with is an error too.
std::unique_ptr<PromptSource> make_prompt_source(const TaskConfig& task, Split split, uint64_t seed,
                                                 const Tokenizer& tokenizer, int64_t max_solved_tokens = 0,
                                                 PromptCheck check = nullptr);

// The order of prompts: epoch-wise Philox shuffle of [0, size), position -> index. Pure function.
int64_t shuffled_index(uint64_t seed, int64_t size, int64_t position);

}  // namespace contender
