// Procedural tasks: a problem is drawn from a random sequence; which split it belongs to is a property of the
// problem alone.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/philox.h"
#include "data/prompts.h"

namespace contender {

struct Problem {
  std::string question;   // between <user> and <assistant>
  std::string answer;     // Prompt::answer
  std::string thought;    // of a worked solution
  std::string result;     // its answer part
  std::string canonical;  // Prompt::canonical
};

struct Task {
  const char* name;
  const char* unit;  // what difficulty counts
  int64_t min_difficulty, max_difficulty;
  Problem (*draw)(int64_t difficulty, PhiloxSequence& random);
  int64_t (*max_question_bytes)(int64_t difficulty);
};

// word_problems, level 1 to 6 (word_problems.cpp).
inline constexpr int64_t kMaxWordProblemLevel = 6;
Problem draw_word_problem(int64_t level, PhiloxSequence& random);
int64_t max_word_problem_bytes(int64_t level);

const Task* find_task(std::string_view name);  // nullptr when there is none of that name
std::string task_names();                      // "addition, countdown, ..."

// One problem in five, by a hash of its canonical form: the same for every seed, so no seed trains on
// another's held-out problems.
Split split_of(const Task& task, const Problem& problem);

// Throws Error(kConfig) for an unknown task, a difficulty out of range, prompts longer than
// task.max_prompt_tokens, or more held-out problems than the difficulty has.
std::unique_ptr<PromptSource> make_procedural_source(const TaskConfig& config, Split split, uint64_t seed,
                                                     const Tokenizer& tokenizer);

}  // namespace contender
