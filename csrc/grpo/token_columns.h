// The columns the token loss reads and writes, for the head rows of one packed batch: completions in the
// order of its sequences. And the sums over an update's tokens that its metrics come from.
#pragma once

#include <vector>

#include "base/config.h"
#include "base/exact_sum.h"
#include "device/transfer.h"
#include "grpo/algorithm.h"
#include "model/model.h"
#include "ops/head.h"
#include "ops/loss.h"

namespace contender {

struct TokenColumns {
  std::vector<int32_t> offsets = {0};
  std::vector<float> logp_old, logp_ref, tis, advantage, weight;

  void append(const std::vector<float>& old, const std::vector<float>* ref,
              const std::vector<float>* importance, float a, float w) {
    logp_old.insert(logp_old.end(), old.begin(), old.end());
    if (ref) logp_ref.insert(logp_ref.end(), ref->begin(), ref->end());
    if (importance) tis.insert(tis.end(), importance->begin(), importance->end());
    advantage.insert(advantage.end(), old.size(), a);
    weight.insert(weight.end(), old.size(), w);
    offsets.push_back(static_cast<int32_t>(logp_old.size()));
  }
  // Sends them to the device, beside the policy's log-probs (`head`, device memory, a row per token), with
  // room in the arena for the results. A KL that is charged to the reward is measured here all the same, at
  // no weight.
  TokenLossArgs send(const Runtime& rt, const HeadStats* head, const Algorithm& a, const RlConfig& rl) const {
    const int64_t n = std::ssize(logp_old);
    const bool in_loss = a.kl_loss != KlEstimator::kNone;
    Upload up;
    const auto seqs = up.add(offsets);
    const auto old = up.add(logp_old), ref = up.add(logp_ref), importance = up.add(tis),
               advantages = up.add(advantage), weights = up.add(weight);
    up.send(*rt.device, rt.exec.stream, *rt.arena);
    constexpr int64_t kWords = sizeof(HeadStats) / sizeof(float);
    const Tensor stats = f32_tensor(const_cast<float*>(&head->lse), n, kWords), logp = rt.arena->f32(n, 1);
    rt.ops->gather_rows(rt.exec, {.x = stats.col_range(1, 2), .y = logp});
    return {.num_tokens = n,
            .seq_offsets = up.at(seqs),
            .num_seqs = std::ssize(offsets) - 1,
            .logp = logp.f32(),
            .logp_old = up.at(old),
            .logp_ref = logp_ref.empty() ? nullptr : up.at(ref),
            .advantage = up.at(advantages),
            .weight = up.at(weights),
            .tis = tis.empty() ? nullptr : up.at(importance),
            .clip_eps_low = static_cast<float>(rl.clip_eps_low),
            .clip_eps_high = static_cast<float>(rl.clip_eps_high),
            .kl_beta = in_loss ? static_cast<float>(rl.kl_beta) : 0.0f,
            .ratio_level = a.ratio_level,
            .objective = a.objective,
            .kl = in_loss ? a.kl_loss : a.kl_reward,
            .dlogp = rt.arena->f32(n, 1).f32(),
            .loss = rt.arena->f32(n, 1).f32(),
            .kl_value = rt.arena->f32(n, 1).f32(),
            .clipped = rt.arena->f32(n, 1).f32()};
  }
};

// Where the results of one packed batch wait for the end of the update.
struct TokenResults {
  std::vector<int32_t> sequence_ids;
  Readback::Place<HeadStats> head;
  Readback::Place<float> loss, kl, clipped;  // RL only
  void add_loss(const TokenLossArgs& a, Readback& results) {
    loss = results.add(a.loss, a.num_tokens);
    kl = results.add(a.kl_value, a.num_tokens);
    clipped = results.add(a.clipped, a.num_tokens);
  }
};

// Each rank adds the tokens of its tp group; after `reduce` every rank has the sums over all. Exact, so the
// same in every layout.
struct TokenSums {
  ExactSum loss, kl, clipped, entropy, mtp;
  int64_t mtp_count = 0;

  void add(const TokenResults& t, const Readback& results) {
    for (int64_t row = 0; row < t.head.count; ++row) {
      loss.add(results.at(t.loss)[row]), kl.add(results.at(t.kl)[row]);
      clipped.add(results.at(t.clipped)[row]), entropy.add(results.at(t.head)[row].entropy);
    }
  }
  void add_cross_entropy(const TokenResults& t, const Readback& results) {
    for (const HeadStats& h : results.all(t.head)) loss.add(-h.logp), entropy.add(h.entropy);
  }
  void add_mtp(const MtpLoss& m, const Readback& results) {
    for (const auto& place : m.places)
      for (const HeadStats& h : results.all(place)) mtp.add(-h.logp), ++mtp_count;
  }
  void reduce(Mesh& mesh) {
    if (mesh.tp().rank() != 0) *this = {};  // the group's first rank speaks for it
    for (ExactSum* sum : {&loss, &kl, &clipped, &entropy, &mtp}) mesh.world().all_reduce_sum("stats", *sum);
    mesh.world().all_reduce_sum("stats", &mtp_count, 1);
  }
  double mtp_mean() const { return mtp_count > 0 ? mtp.value() / static_cast<double>(mtp_count) : 0; }
};

}  // namespace contender
