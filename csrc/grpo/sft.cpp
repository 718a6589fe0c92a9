// Supervised fine-tuning on worked solutions (cold start), or on completions that the policy got right (rejection sampling).
#include <algorithm>

#include "base/exact_sum.h"
#include "base/timer.h"
#include "grpo/trainer.h"

namespace contender {
namespace {

TrainSequence solution_sequence(const Prompt& prompt, const Tokenizer& tokenizer) {
  if (prompt.solution.empty())
    fail(ExitCode::kConfig, "prompt {} of task {} has no worked solution to learn from", prompt.index, prompt.task);
  TrainSequence s{.tokens = prompt.tokens, .first_target = static_cast<int32_t>(prompt.tokens.size())};
  const std::vector<int32_t> solution = tokenizer.encode(prompt.solution);
  s.tokens.insert(s.tokens.end(), solution.begin(), solution.end());
  s.tokens.push_back(tokenizer.eos());
  return s;
}

}  // namespace

void Trainer::sft_step() {
  const SftConfig& sft = stage_.sft;
  std::vector<TrainSequence> sequences;
  int64_t targets = 0, tokens = 0;
  for (int64_t i = 0; i < sft.batch_size; ++i) {
    const int64_t at = state_.prompt_cursor++;
    sequences.push_back(rejection_set_.empty()
                            ? solution_sequence(train_prompt(static_cast<uint64_t>(at)), *tokenizer_)
                            : rejection_set_[shuffled_index(config_.seed, static_cast<int64_t>(rejection_set_.size()), at)]);
    sequences.back().id = static_cast<int32_t>(i);
    targets += static_cast<int64_t>(sequences.back().tokens.size()) - sequences.back().first_target;
    tokens += static_cast<int64_t>(sequences.back().tokens.size());
  }
  state_.group_cursor = state_.prompt_cursor;
  std::vector<const TrainSequence*> pointers;
  for (const TrainSequence& s : sequences) pointers.push_back(&s);

  // Mean cross-entropy over the batch's target tokens: dL/dlogp = -1 / targets.
  ExactSum loss, entropy;
  MtpLoss mtp{.weight = static_cast<float>(sft.mtp_loss_weight)};
  UpdateStats stats;
  {
    TimerScope scope("update");
    policy_weights_->begin_step();
    for (const PackedBatch& b : pack(pointers)) {
      const std::vector<HeadStats>& head = policy_->forward_train(b, 1.0f);
      if (machine_.mesh->tp().rank() == 0)
        for (const HeadStats& h : head) loss.add(-h.logp), entropy.add(h.entropy);
      policy_weights_->begin_round();
      policy_->backward(std::vector<float>(head.size(), -1.0f / static_cast<float>(targets)), {}, &mtp, targets);
      policy_weights_->finish_reduce();
    }
  }
  machine_.mesh->world().all_reduce_sum("stats", loss);
  machine_.mesh->world().all_reduce_sum("stats", entropy);
  if (machine_.mesh->tp().rank() != 0) mtp.sum = {}, mtp.count = 0;
  machine_.mesh->world().all_reduce_sum("stats", mtp.sum);
  machine_.mesh->world().all_reduce_sum("stats", &mtp.count, 1);
  stats.loss = loss.value() / static_cast<double>(targets);
  stats.entropy = entropy.value() / static_cast<double>(targets);
  state_.tokens_trained += tokens;
  apply_update(scheduled_lr(sft.lr, sft.lr_min, sft.warmup_steps, sft.steps), stats);
  ++state_.step, ++state_.global_step;
  log_sft_step(stats, mtp, tokens);
}

void Trainer::collect_rejection_set() {
  const SampleParams params{static_cast<float>(stage_.rl.temperature), 0, 1.0f, 0.0f};
  rejection_set_.clear();
  for (const SampleGroup& g : generate_all(*train_prompts_, stage_.sft.num_prompts, stage_.sft.samples_per_prompt, params, uint64_t{1} << 30,
                                           static_cast<uint32_t>(state_.stage))) {
    for (const Sample& s : g.samples) {
      if (!s.score.valid || s.score.accuracy < 1 || s.score.format < 1) continue;
      TrainSequence seq{.tokens = g.prompt.tokens, .first_target = static_cast<int32_t>(g.prompt.tokens.size())};
      seq.tokens.insert(seq.tokens.end(), s.completion.tokens.begin(), s.completion.tokens.end());
      rejection_set_.push_back(std::move(seq));
    }
  }
  if (rejection_set_.empty())
    fail(ExitCode::kConfig, "rejection sampling: none of {} x {} completions was right; start from a better policy or raise sft.num_prompts",
         stage_.sft.num_prompts, stage_.sft.samples_per_prompt);
}

}  // namespace contender
