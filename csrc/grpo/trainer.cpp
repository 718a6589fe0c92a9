#include "grpo/trainer.h"

#include <algorithm>

#include "base/log.h"
#include "base/timer.h"
#include "model/sizes.h"

namespace contender {

Trainer::Trainer(const RunConfig& config, Machine& machine) : config_(config), machine_(machine) {
  const Runtime rt = machine.runtime();
  tokenizer_ = make_byte_tokenizer();
  policy_weights_ = std::make_unique<WeightStore>(config_, rt.device, rt.ops, rt.exec, rt.mesh, StoreRole::kTrain);
  policy_weights_->initialize(config_.seed);
  policy_ = std::make_unique<Model>(config_, rt, policy_weights_.get());
  engine_ = std::make_unique<RolloutEngine>(config_, policy_.get(), config_.seed, tokenizer_->vocab_size());
}

Trainer::~Trainer() = default;

void Trainer::begin_stage(const StageConfig& stage) {
  stage_ = stage;
  algorithm_ = make_algorithm(stage.rl);
  train_prompts_ = make_prompt_source(stage.task, Split::kTrain, config_.seed, *tokenizer_);
  eval_prompts_ = make_prompt_source(stage.task, Split::kHeldOut, config_.seed, *tokenizer_);
  rewarder_ = make_rewarder(stage.reward, stage.rl.max_new_tokens, stage.rl.overlong_buffer);
  rejection_set_.clear();
  if (stage.kind == "rl" && stage.rl.kl_beta > 0) {
    if (!reference_weights_) {
      const Runtime rt = machine_.runtime();
      reference_weights_ = std::make_unique<WeightStore>(config_, rt.device, rt.ops, rt.exec, rt.mesh, StoreRole::kReference);
      reference_ = std::make_unique<Model>(config_, rt, reference_weights_.get());
    }
    reference_weights_->copy_from(*policy_weights_);
  }
}

namespace {

double mean_of(const std::vector<SampleGroup>& groups, float Score::* field) {
  double sum = 0, n = 0;
  for (const SampleGroup& g : groups)
    for (const Sample& s : g.samples)
      if (s.score.valid) sum += s.score.*field, n += 1;
  return sum / std::max(1.0, n);
}

}  // namespace

void Trainer::log_rl_step(const std::vector<SampleGroup>& groups, const UpdateStats& u, bool verified) {
  double tokens = 0, samples = 0, cut = 0;
  for (const SampleGroup& g : groups)
    for (const Sample& s : g.samples) {
      tokens += static_cast<double>(s.completion.tokens.size());
      samples += 1;
      cut += !s.completion.finished;
    }
  MetricRecord& r = record_ = {};
  r.set("reward", mean_of(groups, &Score::reward));
  r.set("accuracy", mean_of(groups, &Score::accuracy));
  r.set("format", mean_of(groups, &Score::format));
  if (stage_.reward.language_weight > 0) r.set("language", mean_of(groups, &Score::language));
  r.set("response_length", tokens / std::max(1.0, samples));
  r.set("truncated", cut / std::max(1.0, samples));
  r.set("kl", u.kl);
  r.set("clip_fraction", u.clip_fraction);
  r.set("entropy", u.entropy);
  r.set("loss", u.loss);
  r.set("grad_norm", u.grad_norm);
  r.set("lr", u.lr);
  r.set("balance", u.balance);
  r.set("skipped", int64_t{u.skipped});
  if (verified) r.set("logp_diff", state_.max_logp_diff);
  r.set("tokens_generated", state_.tokens_generated);
  r.set("tokens_trained", state_.tokens_trained);
}

void Trainer::log_sft_step(const UpdateStats& u, const MtpLoss& mtp, int64_t tokens) {
  MetricRecord& r = record_ = {};
  r.set("loss", u.loss);
  if (mtp.count > 0) r.set("mtp_loss", mtp.sum.value() / static_cast<double>(mtp.count));
  r.set("entropy", u.entropy);
  r.set("grad_norm", u.grad_norm);
  r.set("lr", u.lr);
  r.set("balance", u.balance);
  r.set("skipped", int64_t{u.skipped});
  r.set("tokens", tokens);
  r.set("tokens_trained", state_.tokens_trained);
}

}  // namespace contender
