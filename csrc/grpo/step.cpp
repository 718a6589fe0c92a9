// The GRPO step, numbered as in the paper (DeepSeek-R1, arXiv 2501.12948, section 2.2; GRPO: arXiv
// 2402.03300).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/philox.h"
#include "base/timer.h"
#include "grpo/rl_batch.h"
#include "grpo/token_columns.h"

namespace contender {

namespace {

// Whether one of the steps [first, first + count) is due, every `every` steps.
bool due(int64_t every, int64_t first, int64_t count) {
  return every > 0 && (first + every - 1) / every * every < first + count;
}

// A permutation of [0, n).
std::vector<int32_t> shuffled(int64_t n, PhiloxSequence random) {
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[random.below(static_cast<uint32_t>(i))]);
  return order;
}

}  // namespace

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
    if (rl.reference_replace_every > 0 &&
        state_.step - state_.reference_version >= rl.reference_replace_every) {
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
  // 6. Samples that another policy drew, older or truncated, are corrected.
  const int64_t updates = rl.steps_per_rollout * rl.inner_epochs;
  const bool verify = due(rl.verify_logp_every, state_.step, updates);
  correct_samples(batch, verify);
  // 7. Minibatches: forward, clipped loss with KL, backward, reduce, clip norm, AdamW.
  std::vector<UpdateStats> stats;
  for (int64_t epoch = 0; epoch < rl.inner_epochs; ++epoch) {
    const int64_t n = static_cast<int64_t>(batch.samples.size());
    const std::vector<int32_t> order =
        shuffled(n, {config_.seed, RandomStream::kShuffle, static_cast<uint64_t>(state_.global_step)});
    for (int64_t k = 0; k < rl.steps_per_rollout; ++k) {
      std::vector<int32_t> minibatch(order.begin() + n * k / rl.steps_per_rollout,
                                     order.begin() + n * (k + 1) / rl.steps_per_rollout);
      std::sort(minibatch.begin(), minibatch.end());
      stats.push_back(update(batch, minibatch, verify && stats.empty()));
      ++state_.step, ++state_.global_step;
    }
  }
  // 8. Log.
  log_rl_step(batch, stats, verify);
  last_batch_ = std::move(batch.groups);
}

Trainer::RlBatch Trainer::prepare(std::vector<SampleGroup> groups) {
  RlBatch b;
  b.groups = std::move(groups);
  b.version = policy_weights_->version();
  for (size_t g = 0; g < b.groups.size(); ++g) {
    for (const Sample& s : b.groups[g].samples) {
      if (!s.score.valid) continue;
      TrainSequence seq{.tokens = b.groups[g].prompt.tokens,
                        .first_target = static_cast<int32_t>(b.groups[g].prompt.tokens.size()),
                        .id = static_cast<int32_t>(b.sequences.size())};
      seq.tokens.insert(seq.tokens.end(), s.completion.tokens.begin(), s.completion.tokens.end());
      b.sequences.push_back(std::move(seq));
      b.samples.push_back(&s);
      b.group_of.push_back(static_cast<int64_t>(g));
      b.logp_old.push_back(s.completion.logp);
    }
  }
  return b;
}

void Trainer::set_advantages(RlBatch& b) {
  b.advantage.assign(b.samples.size(), 0.0f);
  for (size_t begin = 0, end; begin < b.samples.size(); begin = end) {
    std::vector<float> rewards;
    for (end = begin; end < b.samples.size() && b.group_of[end] == b.group_of[begin]; ++end) {
      double kl = 0;
      if (algorithm_.kl_reward != KlEstimator::kNone)
        for (size_t t = 0; t < b.logp_old[end].size(); ++t)
          kl += kl_estimate(algorithm_.kl_reward, b.logp_old[end][t], b.logp_ref[end][t]);
      rewards.push_back(static_cast<float>(b.samples[end]->score.reward - stage_.rl.kl_beta * kl));
    }
    const std::vector<float> a = group_advantages(algorithm_.advantage, rewards);
    std::copy(a.begin(), a.end(), b.advantage.begin() + static_cast<int64_t>(begin));
  }
}

// The ratio of the loss is taken to the policy as it is before the first update. Where the sampler's
// distribution differed from it (older weights; cut by top-k, top-p, min-p; attention in another form) a
// truncated importance weight corrects each token. Verifies the sampler's log-probs on the way.
void Trainer::correct_samples(RlBatch& b, bool verify) {
  const RlConfig& rl = stage_.rl;
  const bool truncated = rl.top_k > 0 || rl.top_p < 1 || rl.min_p > 0,
             expanded = config_.model.mla() && config_.model.mla_form == "expanded";
  const bool off_policy = rl.max_staleness > 0 || truncated || expanded;
  if (!off_policy && !(verify && rl.steps_per_rollout > 1))
    return;  // the only update of the batch verifies by itself
  TimerScope scope("old_logp");
  std::vector<std::vector<float>> current = log_probs(*policy_, b);
  for (size_t i = 0; i < current.size(); ++i) {
    const Completion& c = b.samples[i]->completion;
    for (size_t t = 0; verify && t < current[i].size(); ++t)
      if (c.version[t] == b.version)
        state_.max_logp_diff = std::max(state_.max_logp_diff, std::abs(static_cast<double>(current[i][t]) -
                                                                       static_cast<double>(c.logp[t])));
    if (!off_policy) continue;
    std::vector<float>& tis = b.tis.emplace_back();
    for (size_t t = 0; t < current[i].size(); ++t)
      tis.push_back(std::min(static_cast<float>(rl.tis_cap), std::exp(current[i][t] - c.logp_sampled[t])));
  }
  if (off_policy) b.logp_old = std::move(current);
}

// log p of every completion token of every sample under `model`, on every rank.
std::vector<std::vector<float>> Trainer::log_probs(Model& model, const RlBatch& batch) {
  std::vector<const TrainSequence*> sequences;
  for (const TrainSequence& s : batch.sequences) sequences.push_back(&s);
  std::vector<std::vector<float>> logp(sequences.size());
  results_.clear();
  std::vector<TokenResults> rounds;
  for (const PackedBatch& b : pack(sequences))
    rounds.push_back(
        {.sequence_ids = b.sequence_ids,
         .head = model.forward_logp(b, static_cast<float>(1.0 / stage_.rl.temperature), results_)});
  machine_.mesh->finish_collectives();
  results_.download();
  for (const TokenResults& round : rounds) {
    const HeadStats* row = results_.at(round.head);
    for (int32_t id : round.sequence_ids)
      for (size_t t = 0; t < batch.samples[id]->completion.tokens.size(); ++t)
        logp[id].push_back((row++)->logp);
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

// Between the sampler and an independent full-sequence forward at the sampler's weights.
double Trainer::largest_logp_difference(const RlBatch& batch, const TokenResults& round) const {
  double diff = 0;
  const HeadStats* row = results_.at(round.head);
  for (int32_t id : round.sequence_ids) {
    const Completion& done = batch.samples[id]->completion;
    for (size_t t = 0; t < done.tokens.size(); ++t, ++row)
      if (done.version[t] == policy_weights_->version())
        diff = std::max(diff, std::abs(double(row->logp) - double(done.logp[t])));
  }
  return diff;
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

  MtpLoss mtp{.weight = static_cast<float>(rl.mtp_loss_weight), .results = &results_};
  const int64_t num_tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  const Runtime rt = machine_.runtime();
  std::vector<TokenResults> rounds;
  {
    TimerScope scope("update");
    results_.clear();
    policy_weights_->begin_step();
    for (const PackedBatch& b : pack(sequences)) {
      const HeadStats* head = policy_->forward_train(b, static_cast<float>(1.0 / rl.temperature));
      TokenColumns c;
      for (int32_t id : b.sequence_ids)
        c.append(batch.logp_old[id], batch.logp_ref.empty() ? nullptr : &batch.logp_ref[id],
                 batch.tis.empty() ? nullptr : &batch.tis[id], batch.advantage[id], weight_of[id]);
      CHECK(c.logp_old.size() == b.head_rows.size(), "{} head rows, {} completion tokens", b.head_rows.size(),
            c.logp_old.size());
      const TokenLossArgs loss = c.send(rt, head, algorithm_, rl);
      rt.ops->token_loss(rt.exec, loss);
      rounds.push_back({.sequence_ids = b.sequence_ids, .head = results_.add(head, loss.num_tokens)});
      rounds.back().add_loss(loss, results_);
      policy_weights_->begin_round();
      policy_->backward(loss.dlogp, nullptr, &mtp, num_tokens);
      policy_weights_->finish_reduce();
    }
  }
  stats.grad_norm = finish_gradients();
  TokenSums sums;
  double diff = 0;
  for (const TokenResults& round : rounds) {
    sums.add(round, results_);
    if (verify) diff = std::max(diff, largest_logp_difference(batch, round));
  }
  sums.add_mtp(mtp, results_);
  sums.reduce(*machine_.mesh);
  machine_.mesh->world().all_reduce_max("stats", &diff, 1);
  if (verify) state_.max_logp_diff = std::max(state_.max_logp_diff, diff);
  const double tokens = std::max(1.0, static_cast<double>(num_tokens));
  for (const TrainSequence* s : sequences) state_.tokens_trained += static_cast<int64_t>(s->tokens.size());
  stats.loss = sums.loss.value();
  stats.kl = sums.kl.value() / tokens;
  stats.clip_fraction = sums.clipped.value() / tokens;
  stats.entropy = sums.entropy.value() / tokens;
  stats.mtp_loss = sums.mtp_mean();
  std::vector<BatchLine> lines;
  for (int32_t i : minibatch) lines.push_back({&batch.sequences[i], batch.samples[i], batch.advantage[i]});
  apply_update(scheduled_lr(rl.lr, rl.lr_min, rl.warmup_steps, rl.steps), lines, stats);
  return stats;
}

}  // namespace contender
