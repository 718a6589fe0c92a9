// The parts of a score that are rules about the text alone, shared by both rewarders.
#pragma once

#include "reward/reward.h"

namespace contender {

// format, language and overlong; accuracy and reward are left 0.
Score score_text(const RewardConfig& config, int64_t max_new_tokens, int64_t overlong_buffer,
                 const ScoreRequest& request);
// Sets reward: accuracy_weight * `correctness` + format_weight * format + language_weight * language +
// overlong.
void weigh(const RewardConfig& config, float correctness, Score* score);

std::unique_ptr<Rewarder> make_rule_rewarder(const RewardConfig& config, int64_t max_new_tokens,
                                             int64_t overlong_buffer);

}  // namespace contender
