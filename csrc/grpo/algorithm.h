// What distinguishes GRPO and its relatives, as data chosen by name when the trainer is built.
//
//            paper                              advantage           mean over                 besides
//   grpo     DeepSeekMath, arXiv 2402.03300     (r - mean) / std    tokens, completions
//   dr_grpo  Liu et al., arXiv 2503.20783       r - mean            completions (*)
//   dapo     Yu et al., arXiv 2503.14476        (r - mean) / std    all tokens
//   gspo     Zheng et al., arXiv 2507.18071     (r - mean) / std    tokens, completions       sequence ratio
//   rloo     Ahmadian et al., arXiv 2402.14740  r - mean of others  all tokens
//   cispo    MiniMax-M1, arXiv 2506.13585       (r - mean) / std    all tokens                clipped weight
//
// (*) of the sum of its tokens over max_new_tokens, a constant. The std is of the group as it is (divided by
// G). Sequence ratio: one per completion instead of one per token. Clipped weight: a clipped ratio that only
// weighs log p and lets no gradient through. DAPO's clip-higher, dynamic sampling and overlong penalty are
// keys of their own, for every algorithm.
#pragma once

#include <string>
#include <vector>

#include "base/config.h"
#include "ops/loss.h"

namespace contender {

enum class AdvantageKind : uint8_t { kStandardized, kCentered, kLeaveOneOut };
enum class Aggregation : uint8_t { kToken, kSequence, kConstant };

struct Algorithm {
  AdvantageKind advantage = AdvantageKind::kStandardized;
  Aggregation aggregation = Aggregation::kSequence;
  RatioLevel ratio_level = RatioLevel::kToken;
  PolicyObjective objective = PolicyObjective::kClip;
  KlEstimator kl_loss = KlEstimator::kNone;    // KL term of the loss
  KlEstimator kl_reward = KlEstimator::kNone;  // KL taken off the reward
};

// Throws Error(kConfig) for an unknown name.
Algorithm make_algorithm(const RlConfig& config);

// Advantages of one group from its rewards. A group without variance, or of one sample, gives zeros.
std::vector<float> group_advantages(AdvantageKind kind, const std::vector<float>& rewards);

// Weight of each completion's tokens in the loss, so that weights sum to the mean that the aggregation names.
std::vector<float> token_weights(Aggregation aggregation, const std::vector<int64_t>& lengths,
                                 int64_t max_new_tokens);

// KL(policy, reference) from one token that the policy drew: k1, k2, k3 (Schulman, "Approximating KL
// divergence", 2020).
double kl_estimate(KlEstimator kind, float logp, float logp_ref);

}  // namespace contender
