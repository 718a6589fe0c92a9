#include <xxhash.h>

#include <unordered_set>

#include "base/error.h"
#include "data/chat_template_prompt.h"
#include "data/task.h"

namespace contender {
namespace {

constexpr int64_t kTrainSize = int64_t{1} << 31;
constexpr const char* kInstruction =
    "Think in <think></think>, then give the answer alone in <answer></answer>.";
constexpr int64_t kFingerprinted = 64;  // problems that stand for the generator in the fingerprint

// Words of the draw of problem `index`; train and held-out draws use different keys.
PhiloxSequence draw_words(uint64_t seed, Split split, int64_t index) {
  return PhiloxSequence(seed, RandomStream::kTask, static_cast<uint64_t>(index),
                        split == Split::kTrain ? 0 : 1);
}

// A problem of the split: drawn again, from the same words, until it falls there.
Problem draw_problem(const Task& task, int64_t difficulty, Split split, uint64_t seed, int64_t index) {
  constexpr int kMaxDraws = 10000;  // a small difficulty may have no held-out problem at all
  PhiloxSequence random = draw_words(seed, split, index);
  for (int i = 0; i < kMaxDraws; ++i) {
    Problem problem = task.draw(difficulty, random);
    if (split_of(task, problem) == split) return problem;
  }
  fail(ExitCode::kConfig, "task {} of {} {} has no {} problems: raise task.difficulty", task.name, difficulty,
       task.unit, split == Split::kTrain ? "training" : "held-out");
}

class ProceduralSource final : public PromptSource {
 public:
  ProceduralSource(const Task& task, const TaskConfig& config, Split split, uint64_t seed,
                   const Tokenizer& tokenizer)
      : task_(task),
        difficulty_(config.difficulty),
        max_prompt_tokens_(config.max_prompt_tokens),
        split_(split),
        seed_(seed),
        tokenizer_(tokenizer) {
    if (split_ == Split::kHeldOut) draw_held_out(config.eval_problems);
  }

  int64_t size() const override {
    return split_ == Split::kTrain ? kTrainSize : static_cast<int64_t>(held_out_.size());
  }

  Prompt at(int64_t index) const override {
    CHECK(0 <= index && index < size(), "index {} size {}", index, size());
    const Problem problem =
        split_ == Split::kTrain ? draw_problem(task_, difficulty_, split_, seed_, index) : held_out_[index];
    Prompt prompt;
    prompt.index = static_cast<uint32_t>(index);
    prompt.task = task_.name;
    prompt.answer = problem.answer;
    prompt.solution = "<think>" + problem.thought + "</think><answer>" + problem.result + "</answer>";
    prompt.canonical = problem.canonical;
    // A model with a chat template has to be told the form; the byte tokenizer's models learn it from
    // solutions.
    set_question(tokenizer_, problem.question, prompt, tokenizer_.chat_template() ? kInstruction : "");
    if (std::ssize(prompt.tokens) > max_prompt_tokens_)
      fail(ExitCode::kConfig, "task.max_prompt_tokens = {}: a prompt of {} has {} tokens", max_prompt_tokens_,
           task_.name, prompt.tokens.size());
    return prompt;
  }

  std::string fingerprint() const override {
    std::string content;
    for (int64_t i = 0; i < std::min(kFingerprinted, size()); ++i) {
      const Prompt prompt = at(i);
      content += prompt.text + prompt.answer + prompt.solution;
    }
    return fmt::format("{}:{}:{}:{}:{}:{:016x}", task_.name, difficulty_,
                       split_ == Split::kTrain ? "train" : "held-out", seed_, size(),
                       XXH3_64bits(content.data(), content.size()));
  }

 private:
  // The first `count` distinct problems in the order of the draws.
  void draw_held_out(int64_t count) {
    constexpr int64_t kMaxRepeats = 20000;  // draws in a row without a new problem: there are no more
    if (count < 1) fail(ExitCode::kConfig, "task.eval_problems = {}: at least 1", count);
    std::unordered_set<std::string> seen;
    for (int64_t index = 0, repeats = 0; std::ssize(held_out_) < count; ++index) {
      Problem problem = draw_problem(task_, difficulty_, split_, seed_, index);
      if (seen.insert(problem.canonical).second) {
        held_out_.push_back(std::move(problem));
        repeats = 0;
      } else if (++repeats == kMaxRepeats) {
        fail(ExitCode::kConfig, "task.eval_problems = {}: {} of {} {} has only {} held-out problems", count,
             task_.name, difficulty_, task_.unit, held_out_.size());
      }
    }
  }

  const Task& task_;
  const int64_t difficulty_, max_prompt_tokens_;
  const Split split_;
  const uint64_t seed_;
  const Tokenizer& tokenizer_;
  std::vector<Problem> held_out_;
};

}  // namespace

std::unique_ptr<PromptSource> make_procedural_source(const TaskConfig& config, Split split, uint64_t seed,
                                                     const Tokenizer& tokenizer) {
  const Task* task = find_task(config.name);
  if (!task) fail(ExitCode::kConfig, "task.name = \"{}\": known are {}, jsonl", config.name, task_names());
  if (config.difficulty < task->min_difficulty || config.difficulty > task->max_difficulty) {
    fail(ExitCode::kConfig, "task.difficulty = {}: {} takes {} to {} {}", config.difficulty, task->name,
         task->min_difficulty, task->max_difficulty, task->unit);
  }
  const int64_t longest = task->max_question_bytes(config.difficulty) + 2;  // <user>, <assistant>
  if (tokenizer.speaks_in_tags() && longest > config.max_prompt_tokens) {
    fail(ExitCode::kConfig, "task.max_prompt_tokens = {}: prompts of {} with {} {} have up to {} tokens",
         config.max_prompt_tokens, task->name, config.difficulty, task->unit, longest);
  }
  return std::make_unique<ProceduralSource>(*task, config, split, seed, tokenizer);
}

}  // namespace contender
