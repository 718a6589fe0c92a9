// The columns the token loss reads and writes, for the head rows of one packed batch: completions in the order of its sequences.
#pragma once

#include <vector>

#include "base/config.h"
#include "grpo/algorithm.h"
#include "ops/head.h"
#include "ops/loss.h"

namespace contender {

struct TokenColumns {
  std::vector<int32_t> offsets = {0};
  std::vector<float> logp, logp_old, logp_ref, tis, advantage, weight;
  std::vector<float> dlogp, loss, kl, clipped;

  void append(const std::vector<float>& old, const std::vector<float>* ref, const std::vector<float>* importance, float a, float w) {
    logp_old.insert(logp_old.end(), old.begin(), old.end());
    if (ref) logp_ref.insert(logp_ref.end(), ref->begin(), ref->end());
    if (importance) tis.insert(tis.end(), importance->begin(), importance->end());
    advantage.insert(advantage.end(), old.size(), a);
    weight.insert(weight.end(), old.size(), w);
    offsets.push_back(static_cast<int32_t>(logp_old.size()));
  }
  // The policy's log-probs, and room for the results.
  void finish(const std::vector<HeadStats>& head) {
    CHECK(head.size() == logp_old.size(), "{} head rows, {} completion tokens", head.size(), logp_old.size());
    for (const HeadStats& h : head) logp.push_back(h.logp);
    for (std::vector<float>* v : {&dlogp, &loss, &kl, &clipped}) v->resize(logp.size());
  }
  TokenLossArgs args(const Algorithm& a, const RlConfig& rl) {
    return {.num_tokens = static_cast<int64_t>(logp.size()),
            .seq_offsets = offsets.data(),
            .num_seqs = static_cast<int64_t>(offsets.size()) - 1,
            .logp = logp.data(),
            .logp_old = logp_old.data(),
            .logp_ref = a.kl_loss == KlEstimator::kNone ? nullptr : logp_ref.data(),
            .advantage = advantage.data(),
            .weight = weight.data(),
            .tis = tis.empty() ? nullptr : tis.data(),
            .clip_eps_low = static_cast<float>(rl.clip_eps_low),
            .clip_eps_high = static_cast<float>(rl.clip_eps_high),
            .kl_beta = static_cast<float>(rl.kl_beta),
            .ratio_level = a.ratio_level,
            .objective = a.objective,
            .kl = a.kl_loss,
            .dlogp = dlogp.data(),
            .loss = loss.data(),
            .kl_value = kl.data(),
            .clipped = clipped.data()};
  }
};

}  // namespace contender
