// The GRPO family of token losses with gradients, KL and clip statistics in one pass.
//
// ratio = exp(logp - logp_old) per token (kToken) or, for GSPO (arXiv 2507.18071), exp(mean over the
// completion) (kSequence).
//   kClip (GRPO, Dr.GRPO, DAPO, GSPO, RLOO): -min(ratio A, clip(ratio, 1-eps_low, 1+eps_high) A)
//   kCispo (arXiv 2506.13585):               -sg(clip(ratio, 1-eps_low, 1+eps_high)) A logp
// plus kl_beta * KL(logp, logp_ref) where KL is k1, k2 or k3 (Schulman 2020). Each token is multiplied by
// weight[t] (the aggregation: token / sequence / constant mean, computed by the caller) and by tis[t]
// (truncated importance weight, 1 when on-policy).
#pragma once

#include "ops/exec.h"

namespace contender {

enum class RatioLevel : uint8_t { kToken, kSequence };
enum class PolicyObjective : uint8_t { kClip, kCispo };
enum class KlEstimator : uint8_t { kNone, kK1, kK2, kK3 };

struct TokenLossArgs {
  int64_t num_tokens = 0;
  const int32_t* seq_offsets = nullptr;  // [num_seqs + 1] completion tokens of each sample
  int64_t num_seqs = 0;
  const float* logp = nullptr;       // [T] current policy
  const float* logp_old = nullptr;   // [T] behaviour at the start of the update
  const float* logp_ref = nullptr;   // [T] reference, or null when kl == kNone
  const float* advantage = nullptr;  // [T]
  const float* weight = nullptr;     // [T]
  const float* tis = nullptr;        // [T] or null
  float clip_eps_low = 0.2f;
  float clip_eps_high = 0.2f;
  float kl_beta = 0.0f;
  RatioLevel ratio_level = RatioLevel::kToken;
  PolicyObjective objective = PolicyObjective::kClip;
  KlEstimator kl = KlEstimator::kNone;
  float* dlogp = nullptr;     // [T] out: d(sum of token losses)/d logp
  float* loss = nullptr;      // [T] out: weighted token loss
  float* kl_value = nullptr;  // [T] out: unweighted KL estimate (0 when none)
  float* clipped = nullptr;   // [T] out: 1 where the clip cut the gradient, else 0
};
Cost token_loss_cost(int64_t tokens);

}  // namespace contender
