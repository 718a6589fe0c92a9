// The GRPO step, numbered as in the paper (DeepSeek-R1, arXiv 2501.12948, section 2.2; GRPO: arXiv 2402.03300).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/exact_sum.h"
#include "base/job.h"
#include "base/philox.h"
#include "base/timer.h"
#include "grpo/token_columns.h"
#include "grpo/trainer.h"

namespace contender {

// The completions of one rollout that count, group after group, with what the loss needs of each token.
struct Trainer::RlBatch {
  std::vector<SampleGroup> groups;
  std::vector<const Sample*> samples;         // valid ones, in (group, sample) order
  std::vector<int64_t> group_of;
  std::vector<TrainSequence> sequences;       // prompt + completion
  std::vector<float> advantage;               // per sample
  std::vector<std::vector<float>> logp_old;   // per sample, per completion token
  std::vector<std::vector<float>> logp_ref;   // empty without KL
  std::vector<std::vector<float>> tis;        // empty when on-policy and untruncated
};

void Trainer::rl_step() {
  const RlConfig& rl = stage_.rl;
  // 1-2. Choose prompts and roll out G completions of each; 3. score them, while others still generate.
  std::vector<SampleGroup> groups;
  {
    TimerScope scope("gen");
    groups = collect_groups();
  }
  RlBatch batch = prepare(std::move(groups));
  // 4. Log-probs under the reference, for the KL.
  if (rl.kl_beta > 0) {
    TimerScope scope("ref");
    if (rl.reference_replace_every > 0 && state_.step - state_.reference_version >= rl.reference_replace_every) {
      reference_weights_->copy_from(*policy_weights_);
      state_.reference_version = state_.step;
    }
    batch.logp_ref = log_probs(*reference_, batch);
  }
  // 5. Group advantages.
  {
    TimerScope scope("adv");
    set_advantages(batch);
  }
  // 6. Log-probs of the policy that will be updated: the sampler's own, unless samples are stale or truncated.
  const bool truncated = rl.top_k > 0 || rl.top_p < 1 || rl.min_p > 0;
  const bool verify = rl.verify_logp_every > 0 && state_.step % rl.verify_logp_every == 0;
  const bool one_update = rl.steps_per_rollout == 1;
  if (rl.max_staleness > 0 || truncated || (verify && !one_update)) {
    TimerScope scope("old_logp");
    std::vector<std::vector<float>> current = log_probs(*policy_, batch);
    for (size_t i = 0; i < current.size(); ++i) {
      const Completion& c = batch.samples[i]->completion;
      for (size_t t = 0; t < current[i].size(); ++t)
        if (verify && c.version[t] == policy_weights_->version())
          state_.max_logp_diff = std::max(state_.max_logp_diff, std::abs(double(current[i][t]) - double(c.logp[t])));
      if (rl.max_staleness == 0 && !truncated) continue;
      std::vector<float>& tis = batch.tis.emplace_back();
      for (size_t t = 0; t < current[i].size(); ++t) tis.push_back(std::min(static_cast<float>(rl.tis_cap), std::exp(current[i][t] - c.logp_sampled[t])));
    }
    if (rl.max_staleness > 0) batch.logp_old = std::move(current);
  }
  // 7. Minibatches: forward, clipped loss with KL, backward, reduce, clip norm, AdamW.
  std::vector<int32_t> order(batch.samples.size());
  std::iota(order.begin(), order.end(), 0);
  UpdateStats sum;
  for (int64_t epoch = 0; epoch < rl.inner_epochs; ++epoch) {
    if (!one_update || rl.inner_epochs > 1) {
      PhiloxSequence random(config_.seed, RandomStream::kShuffle, static_cast<uint64_t>(state_.global_step), static_cast<uint32_t>(epoch));
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(static_cast<uint32_t>(i))]);
    }
    for (int64_t k = 0; k < rl.steps_per_rollout; ++k) {
      const int64_t n = static_cast<int64_t>(order.size());
      std::vector<int32_t> minibatch(order.begin() + n * k / rl.steps_per_rollout, order.begin() + n * (k + 1) / rl.steps_per_rollout);
      std::sort(minibatch.begin(), minibatch.end());
      sum = update(batch, minibatch, verify && one_update && epoch == 0);
      if (k + 1 < rl.steps_per_rollout || epoch + 1 < rl.inner_epochs) ++state_.step, ++state_.global_step;
    }
  }
  ++state_.step, ++state_.global_step;
  // 8. Log.
  log_rl_step(sum, verify);
  last_batch_ = std::move(batch.groups);
}

Trainer::RlBatch Trainer::prepare(std::vector<SampleGroup> groups) {
  RlBatch b;
  b.groups = std::move(groups);
  int64_t lost = 0, total = 0;
  std::string reason;
  for (size_t g = 0; g < b.groups.size(); ++g) {
    for (const Sample& s : b.groups[g].samples) {
      ++total;
      if (!s.score.valid) {
        ++lost;
        reason = s.score.status;
        continue;
      }
      TrainSequence seq{.tokens = b.groups[g].prompt.tokens, .first_target = static_cast<int32_t>(b.groups[g].prompt.tokens.size()),
                        .id = static_cast<int32_t>(b.sequences.size())};
      seq.tokens.insert(seq.tokens.end(), s.completion.tokens.begin(), s.completion.tokens.end());
      b.sequences.push_back(std::move(seq));
      b.samples.push_back(&s);
      b.group_of.push_back(static_cast<int64_t>(g));
      b.logp_old.push_back(s.completion.logp);
    }
  }
  if (static_cast<double>(lost) > stage_.reward.max_infra_errors * static_cast<double>(total))
    fail(ExitCode::kSandbox, "{} of {} samples have no score (reward.max_infra_errors = {}): {}", lost, total, stage_.reward.max_infra_errors,
         reason);
  return b;
}

void Trainer::set_advantages(RlBatch& b) {
  b.advantage.assign(b.samples.size(), 0.0f);
  for (size_t begin = 0, end; begin < b.samples.size(); begin = end) {
    std::vector<float> rewards;
    for (end = begin; end < b.samples.size() && b.group_of[end] == b.group_of[begin]; ++end) {
      float reward = b.samples[end]->score.reward;
      if (algorithm_.kl_reward != KlEstimator::kNone)
        for (size_t t = 0; t < b.logp_old[end].size(); ++t)
          reward -= static_cast<float>(stage_.rl.kl_beta) * kl_estimate(algorithm_.kl_reward, b.logp_old[end][t], b.logp_ref[end][t]);
      rewards.push_back(reward);
    }
    const std::vector<float> a = group_advantages(algorithm_.advantage, rewards);
    std::copy(a.begin(), a.end(), b.advantage.begin() + static_cast<int64_t>(begin));
  }
}

// log p of every completion token of every sample under `model`, on every rank.
std::vector<std::vector<float>> Trainer::log_probs(Model& model, const RlBatch& batch) {
  std::vector<const TrainSequence*> sequences;
  for (const TrainSequence& s : batch.sequences) sequences.push_back(&s);
  std::vector<std::vector<float>> logp(sequences.size());
  for (const PackedBatch& b : pack(sequences)) {
    const std::vector<HeadStats> stats = model.forward_logp(b, static_cast<float>(1.0 / stage_.rl.temperature));
    size_t row = 0;
    for (int32_t id : b.sequence_ids)
      for (size_t t = 0; t < batch.samples[id]->completion.tokens.size(); ++t) logp[id].push_back(stats.at(row++).logp);
  }
  // Each tp group has its own sequences; all ranks need all of them.
  std::string mine;
  for (size_t i = 0; i < logp.size() && machine_.mesh->tp().rank() == 0; ++i) {
    if (logp[i].empty()) continue;
    const int32_t id = static_cast<int32_t>(i);
    mine.append(reinterpret_cast<const char*>(&id), 4);
    mine.append(reinterpret_cast<const char*>(logp[i].data()), logp[i].size() * 4);
  }
  for (const std::string& bytes : machine_.mesh->world().all_gather_bytes("logp", mine)) {
    for (size_t at = 0; at < bytes.size();) {
      int32_t id;
      std::copy_n(bytes.data() + at, 4, reinterpret_cast<char*>(&id));
      logp[id].resize(batch.samples[id]->completion.tokens.size());
      std::copy_n(bytes.data() + at + 4, logp[id].size() * 4, reinterpret_cast<char*>(logp[id].data()));
      at += 4 + logp[id].size() * 4;
    }
  }
  return logp;
}

// One minibatch: its samples' indices in the batch.
UpdateStats Trainer::update(RlBatch& batch, const std::vector<int32_t>& minibatch, bool verify) {
  const RlConfig& rl = stage_.rl;
  UpdateStats stats;
  std::vector<const TrainSequence*> sequences;
  std::vector<int64_t> lengths;
  for (int32_t i : minibatch) {
    sequences.push_back(&batch.sequences[i]);
    lengths.push_back(static_cast<int64_t>(batch.samples[i]->completion.tokens.size()));
  }
  std::vector<float> weight_of(batch.samples.size(), 0.0f);
  const std::vector<float> weights = token_weights(algorithm_.aggregation, lengths, rl.max_new_tokens);
  for (size_t i = 0; i < minibatch.size(); ++i) weight_of[minibatch[i]] = weights[i];

  ExactSum loss, kl, clipped, entropy;
  double diff = 0;
  {
    TimerScope scope("update");
    policy_weights_->begin_step();
    for (const PackedBatch& b : pack(sequences)) {
      const std::vector<HeadStats>& head = policy_->forward_train(b, static_cast<float>(1.0 / rl.temperature));
      TokenColumns c;
      for (int32_t id : b.sequence_ids)
        c.append(batch.logp_old[id], batch.logp_ref.empty() ? nullptr : &batch.logp_ref[id], batch.tis.empty() ? nullptr : &batch.tis[id],
                 batch.advantage[id], weight_of[id]);
      c.finish(head);
      machine_.ops->token_loss(machine_.runtime().exec, c.args(algorithm_, rl));
      if (verify)  // the first update of a rollout: an independent full-sequence forward at the sampler's weights
        for (size_t row = 0, s = 0; s < b.sequence_ids.size(); ++s) {
          const Completion& done = batch.samples[b.sequence_ids[s]]->completion;
          for (size_t t = 0; t < done.tokens.size(); ++t, ++row)
            if (done.version[t] == policy_weights_->version()) diff = std::max(diff, std::abs(double(head[row].logp) - double(done.logp[t])));
        }
      if (machine_.mesh->tp().rank() == 0)
        for (size_t row = 0; row < head.size(); ++row) loss.add(c.loss[row]), kl.add(c.kl[row]), clipped.add(c.clipped[row]), entropy.add(head[row].entropy);
      policy_weights_->begin_round();
      policy_->backward(c.dlogp, {});
      policy_weights_->finish_reduce();
    }
  }
  Group& world = machine_.mesh->world();
  for (ExactSum* sum : {&loss, &kl, &clipped, &entropy}) world.all_reduce_sum("stats", *sum);
  world.all_reduce_max("stats", &diff, 1);
  if (verify) state_.max_logp_diff = std::max(state_.max_logp_diff, diff);
  const double tokens = std::max<double>(1, static_cast<double>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0})));
  for (const TrainSequence* s : sequences) state_.tokens_trained += static_cast<int64_t>(s->tokens.size());
  stats.loss = loss.value();
  stats.kl = kl.value() / tokens;
  stats.clip_fraction = clipped.value() / tokens;
  stats.entropy = entropy.value() / tokens;
  stats.logp_diff = diff;
  apply_update(scheduled_lr(rl.lr, rl.lr_min, rl.warmup_steps, rl.steps), stats);
  return stats;
}

}  // namespace contender
