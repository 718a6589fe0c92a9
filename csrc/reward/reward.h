// Rule rewards (R1: accuracy + format, equal weight; language consistency), and the user's own program as a
// reward.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"
#include "data/prompts.h"

namespace contender {

struct ScoreRequest {
  uint64_t id = 0;                 // returned with the score; any order
  const Prompt* prompt = nullptr;  // outlives the score
  std::string completion;          // decoded text
  int64_t num_tokens = 0;
  bool finished = true;  // stop token seen (false: cut at max_new_tokens)
};

struct Score {
  uint64_t id = 0;
  float reward = 0;           // the weighted sum that training sees
  float accuracy = 0;         // 0 or 1 (command: what it returned)
  float format = 0;           // 0 or 1
  float language = 0;         // share of words of the target language in the thought
  float overlong = 0;         // soft penalty, <= 0
  bool valid = true;          // false: infrastructure error, the sample leaves the batch
  std::string status = "ok";  // ok; of workers: timeout, died, garbage, unavailable, or another word
};

// Exact verifiers, one per task (addition, countdown, reverse, sort; exact: the same text; math and code have
// workers of their own): 1 when the only
// <answer>...</answer> behind the only </think> is right, else 0. Never throw on model output; Error(kConfig)
// for an unknown task or a malformed countdown answer.
float verify_accuracy(const std::string& task, const std::string& completion, const std::string& answer);
// Why no completion of the prompt could be scored by rules: what verify_accuracy would throw; "" when they
// can be.
std::string verifier_problem(const Prompt& prompt);
// Exactly <think>thought</think><answer>answer</answer>, each tag once, in order, both parts non-empty,
// nothing else but white space. A thought that the end of `prompt` opened, as some templates do, is opened.
float verify_format(const std::string& completion, std::string_view prompt = {});
// Share of the thought's words that are of the target language: en Latin letters, zh Han (each character a
// word), digits whole numbers. Numbers and punctuation are no words of en and zh. 1 for a thought without
// words, 0 without </think>.
float language_share(const std::string& completion, const std::string& target_language);
// DAPO (arXiv 2503.14476) eq. 13: 0 up to max - buffer, linear to -1 at max, -1 when cut.
float overlong_penalty(int64_t num_tokens, int64_t max_new_tokens, int64_t buffer);

// Asynchronous: submit while others still generate, poll without blocking.
class Rewarder {
 public:
  virtual ~Rewarder() = default;
  virtual void submit(ScoreRequest request) = 0;
  virtual std::vector<Score> poll() = 0;   // finished since the last poll
  virtual std::vector<Score> drain() = 0;  // waits for everything submitted
};

// Reward workers must descend from a process forked before MPI starts: call first thing in main when
// reward.type may be "command" or a prompt's task math or code.
void start_worker_server();

std::unique_ptr<Rewarder> make_rewarder(const RewardConfig& config, int64_t max_new_tokens,
                                        int64_t overlong_buffer);

}  // namespace contender
