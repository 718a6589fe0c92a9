// MoE router: scores, selection, weights. DeepSeek-V3 (sigmoid scores, aux-loss-free selection bias, group
// limit by the sum of the top two, renormalised, scaled) and V2 (softmax, group limit by the maximum) forms.
//
// Ties: the lower expert index wins, everywhere. The bias is added for selection only; weights come from the
// unbiased scores.
#pragma once

#include "ops/exec.h"

namespace contender {

enum class ScoreFunc : uint8_t { kSoftmax, kSigmoid };
enum class GroupScore : uint8_t { kTop2Sum, kMax };

struct RouterShape {
  int64_t num_experts = 0;
  int64_t top_k = 0;
  int64_t n_group = 1;     // experts in equal groups
  int64_t topk_group = 1;  // groups kept
  ScoreFunc score_func = ScoreFunc::kSigmoid;
  GroupScore group_score = GroupScore::kTop2Sum;
  bool norm_topk_prob = true;  // weights / (sum + 1e-20)
  float scale = 1.0f;          // routed_scaling_factor
};

struct RouterArgs {
  RouterShape shape;
  Tensor logits;                // [T, E]
  const float* bias = nullptr;  // [E] or null
  Tensor scores;                // [T, E] out: softmax or sigmoid of logits, saved for the backward
  Tensor expert;                // [T, top_k] I32 out, ordered by descending biased score
  Tensor weight;                // [T, top_k] out
};
struct RouterBwdArgs {
  RouterShape shape;
  Tensor scores;   // [T, E]
  Tensor expert;   // [T, top_k]
  Tensor dweight;  // [T, top_k]
  Tensor dlogits;  // [T, E] overwritten
};
Cost router_cost(int64_t tokens, const RouterShape& shape);

}  // namespace contender
