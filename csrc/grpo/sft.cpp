// Supervised fine-tuning on worked solutions (cold start), or on completions that the policy got right
// (rejection sampling).
#include <algorithm>

#include "base/timer.h"
#include "grpo/token_columns.h"
#include "grpo/trainer.h"

namespace contender {
namespace {

TrainSequence solution_sequence(const Prompt& prompt, const Tokenizer& tokenizer, int64_t max_positions) {
  if (prompt.solution.empty())
    fail(ExitCode::kConfig, "prompt {} of task {} has no worked solution to learn from", prompt.index,
         prompt.task);
  TrainSequence s{.tokens = prompt.tokens, .first_target = static_cast<int32_t>(prompt.tokens.size())};
  const std::vector<int32_t> solution = tokenizer.encode(prompt.solution);
  s.tokens.insert(s.tokens.end(), solution.begin(), solution.end());
  s.tokens.push_back(tokenizer.eos());
  if (std::ssize(s.tokens) > max_positions)
    fail(ExitCode::kConfig,
         "prompt {} of task {} has {} tokens with its worked solution, model.max_position_embeddings is {}",
         prompt.index, prompt.task, s.tokens.size(), max_positions);
  return s;
}

}  // namespace

void Trainer::sft_step() {
  const SftConfig& sft = stage_.sft;
  std::vector<TrainSequence> sequences;
  int64_t targets = 0, tokens = 0;
  for (int64_t i = 0; i < sft.batch_size; ++i) {
    const int64_t at = state_.prompt_cursor++;
    sequences.push_back(
        rejection_set_.empty()
            ? solution_sequence(train_prompt(static_cast<uint64_t>(at)), *tokenizer_,
                                config_.model.max_position_embeddings)
            : rejection_set_[shuffled_index(config_.seed, static_cast<int64_t>(rejection_set_.size()), at)]);
    sequences.back().id = static_cast<int32_t>(i);
    targets += static_cast<int64_t>(sequences.back().tokens.size()) - sequences.back().first_target;
    tokens += static_cast<int64_t>(sequences.back().tokens.size());
  }
  state_.group_cursor = state_.prompt_cursor;
  std::vector<const TrainSequence*> pointers;
  for (const TrainSequence& s : sequences) pointers.push_back(&s);

  // Mean cross-entropy over the batch's target tokens: dL/dlogp = -1 / targets.
  MtpLoss mtp{.weight = static_cast<float>(sft.mtp_loss_weight), .results = &results_};
  std::vector<TokenResults> rounds;
  UpdateStats stats;
  {
    TimerScope scope("update");
    results_.clear();
    policy_weights_->begin_step();
    for (const PackedBatch& b : pack(pointers)) {
      const HeadStats* head = policy_->forward_train(b, 1.0f);
      rounds.push_back({.head = results_.add(head, std::ssize(b.head_rows))});
      policy_weights_->begin_round();
      policy_->backward(std::vector<float>(b.head_rows.size(), -1.0f / static_cast<float>(targets)), {}, &mtp,
                        targets);
      policy_weights_->finish_reduce();
    }
  }
  stats.grad_norm = finish_gradients();
  TokenSums sums;
  for (const TokenResults& round : rounds) sums.add_cross_entropy(round, results_);
  sums.add_mtp(mtp, results_);
  sums.reduce(*machine_.mesh);
  stats.loss = sums.loss.value() / static_cast<double>(targets);
  stats.entropy = sums.entropy.value() / static_cast<double>(targets);
  stats.mtp_loss = sums.mtp_mean();
  state_.tokens_trained += tokens;
  std::vector<BatchLine> lines;
  for (const TrainSequence* s : pointers) lines.push_back({s});
  apply_update(scheduled_lr(sft.lr, sft.lr_min, sft.warmup_steps, sft.steps), lines, stats);
  ++state_.step, ++state_.global_step;
  log_sft_step(stats, tokens);
}

void Trainer::collect_rejection_set() {
  const RlConfig& rl = stage_.rl;
  const SampleParams params{static_cast<float>(rl.temperature), static_cast<int32_t>(rl.top_k),
                            static_cast<float>(rl.top_p), static_cast<float>(rl.min_p)};
  const float format = stage_.reward.format_weight > 0 ? 1 : 0;  // what is not paid for is not asked for
  const int64_t prompts = std::min(stage_.sft.num_prompts, train_prompts_->size());
  rejection_set_.clear();
  for (const SampleGroup& g : generate_all(*train_prompts_, prompts, stage_.sft.samples_per_prompt, params,
                                           uint64_t{1} << 30, static_cast<uint32_t>(state_.stage))) {
    for (const Sample& s : g.samples) {
      state_.tokens_generated += static_cast<int64_t>(s.completion.tokens.size());
      if (!s.score.valid || s.score.accuracy < 1 || s.score.format < format || !s.completion.finished)
        continue;
      TrainSequence seq{.tokens = g.prompt.tokens,
                        .first_target = static_cast<int32_t>(g.prompt.tokens.size())};
      seq.tokens.insert(seq.tokens.end(), s.completion.tokens.begin(), s.completion.tokens.end());
      rejection_set_.push_back(std::move(seq));
    }
  }
  if (rejection_set_.empty())
    fail(ExitCode::kConfig,
         "rejection sampling: none of {} x {} completions was right; start from a better policy or raise "
         "sft.num_prompts",
         prompts, stage_.sft.samples_per_prompt);
}

}  // namespace contender
