// reward.type = "command": the user's own program scores, as `reward.workers` persistent processes that read
// requests from stdin and write replies to stdout, one JSON object a line, one request at a time:
//
//   {"id": 17, "task": "addition", "prompt": "<user>37+85=<assistant>", "completion": "<think>...", "answer":
//   "122"}
//   {"id": 17, "score": 0.5, "accuracy": 0}
//
// `id` comes back as it was, `score` is any finite number and stands where a rule would give its accuracy:
//   reward = accuracy_weight * score + format_weight * format + language_weight * language + overlong.
// `accuracy`, for the metrics, defaults to the score; "status", a word for the log, to ok; "valid": false
// says that there is no score: the sample leaves the batch. "tests" is in the request when the prompt has
// them. Bytes of a completion that are not UTF-8 arrive as U+FFFD. stderr goes to the log.
//
// A worker that dies, takes longer than reward.timeout_seconds (its own start included) or answers anything
// else is killed with all its descendants and started again for the next request; the sample leaves the
// batch: valid = false, status "died", "timeout" or "garbage", or "unavailable" when no worker could be
// started. All are killed when the rewarder or the rank ends.
#pragma once

#include "reward/reward.h"

namespace contender {

// Starts the workers. Throws Error(kConfig) when reward.command is empty or cannot be run.
std::unique_ptr<Rewarder> make_command_rewarder(const RewardConfig& config, int64_t max_new_tokens,
                                                int64_t overlong_buffer);

}  // namespace contender
