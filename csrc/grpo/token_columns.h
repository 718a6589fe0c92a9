// The columns the token loss reads and writes, for the head rows of one packed batch: completions in the
// order of its sequences. And the sums over an update's tokens that its metrics come from.
#pragma once

#include <vector>

#include "base/config.h"
#include "base/exact_sum.h"
#include "grpo/algorithm.h"
#include "model/model.h"
#include "ops/head.h"
#include "ops/loss.h"

namespace contender {

struct TokenColumns {
  std::vector<int32_t> offsets = {0};
  std::vector<float> logp, logp_old, logp_ref, tis, advantage, weight;
  std::vector<float> dlogp, loss, kl, clipped;

  void append(const std::vector<float>& old, const std::vector<float>* ref,
              const std::vector<float>* importance, float a, float w) {
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
  // A KL that is charged to the reward is measured here all the same, at no weight.
  TokenLossArgs args(const Algorithm& a, const RlConfig& rl) {
    const bool in_loss = a.kl_loss != KlEstimator::kNone;
    return {.num_tokens = static_cast<int64_t>(logp.size()),
            .seq_offsets = offsets.data(),
            .num_seqs = static_cast<int64_t>(offsets.size()) - 1,
            .logp = logp.data(),
            .logp_old = logp_old.data(),
            .logp_ref = logp_ref.empty() ? nullptr : logp_ref.data(),
            .advantage = advantage.data(),
            .weight = weight.data(),
            .tis = tis.empty() ? nullptr : tis.data(),
            .clip_eps_low = static_cast<float>(rl.clip_eps_low),
            .clip_eps_high = static_cast<float>(rl.clip_eps_high),
            .kl_beta = in_loss ? static_cast<float>(rl.kl_beta) : 0.0f,
            .ratio_level = a.ratio_level,
            .objective = a.objective,
            .kl = in_loss ? a.kl_loss : a.kl_reward,
            .dlogp = dlogp.data(),
            .loss = loss.data(),
            .kl_value = kl.data(),
            .clipped = clipped.data()};
  }
};

// Each rank adds the tokens of its tp group; after `reduce` every rank has the sums over all. Exact, so the
// same in every layout.
struct TokenSums {
  ExactSum loss, kl, clipped, entropy;
  MtpLoss mtp;

  void add(const TokenColumns& c, const std::vector<HeadStats>& head) {
    for (size_t row = 0; row < head.size(); ++row)
      loss.add(c.loss[row]), kl.add(c.kl[row]), clipped.add(c.clipped[row]), entropy.add(head[row].entropy);
  }
  void reduce(Mesh& mesh) {
    if (mesh.tp().rank() != 0) *this = {};  // the group's first rank speaks for it
    for (ExactSum* sum : {&loss, &kl, &clipped, &entropy, &mtp.sum})
      mesh.world().all_reduce_sum("stats", *sum);
    mesh.world().all_reduce_sum("stats", &mtp.count, 1);
  }
  double mtp_mean() const { return mtp.count > 0 ? mtp.sum.value() / static_cast<double>(mtp.count) : 0; }
};

}  // namespace contender
