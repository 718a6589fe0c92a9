#include "grpo/trainer.h"

#include <algorithm>

#include "base/log.h"
#include "base/timer.h"
#include "grpo/rl_batch.h"
#include "model/sizes.h"

namespace contender {

Trainer::Trainer(const RunConfig& config, Machine& machine)
    : config_(config), machine_(machine), results_(machine.device.get(), machine.device->compute_stream()) {
  const Runtime rt = machine.runtime();
  tokenizer_ = open_tokenizer(config_);
  policy_weights_ =
      std::make_unique<WeightStore>(config_, rt.device, rt.ops, rt.exec, rt.mesh, StoreRole::kTrain);
  if (config_.model.path.empty()) policy_weights_->initialize(config_.seed);  // else they are loaded
  policy_ = std::make_unique<Model>(config_, rt, policy_weights_.get());
  engine_ = std::make_unique<RolloutEngine>(config_, policy_.get(), config_.seed, tokenizer_->vocab_size());
}

Trainer::~Trainer() = default;

void Trainer::begin_stage(const StageConfig& stage) {
  drop_in_flight();  // with max_staleness > 0 the last stage has begun more groups than it used
  stage_ = stage;
  algorithm_ = make_algorithm(stage.rl);
  train_prompts_ = make_prompt_source(stage.task, Split::kTrain, config_.seed, *tokenizer_,
                                      stage.kind == "sft" ? config_.model.max_position_embeddings : 0);
  eval_prompts_ = make_prompt_source(stage.task, Split::kHeldOut, config_.seed, *tokenizer_);
  rewarder_ = make_rewarder(stage.reward, stage.rl.max_new_tokens, stage.rl.overlong_buffer);
  rejection_set_.clear();
  if (stage.kind == "rl" && stage.rl.kl_beta > 0) {
    if (!reference_weights_) {
      const Runtime rt = machine_.runtime();
      reference_weights_ =
          std::make_unique<WeightStore>(config_, rt.device, rt.ops, rt.exec, rt.mesh, StoreRole::kReference);
      reference_ = std::make_unique<Model>(config_, rt, reference_weights_.get());
    }
    reference_weights_->copy_from(*policy_weights_);
  }
}

void RolloutMeans::add(const std::vector<Sample>& group) {
  for (const Sample& s : group) {
    if (!s.score.valid) continue;
    samples += 1;
    reward += s.score.reward;
    accuracy += s.score.accuracy;
    format += s.score.format;
    language += s.score.language;
    tokens += static_cast<double>(s.completion.tokens.size());
    cut += !s.completion.finished;
  }
}

void Trainer::log_rl_step(const RlBatch& batch, const std::vector<UpdateStats>& updates, bool verified) {
  auto mean = [&](double UpdateStats::*field) {
    double sum = 0;
    for (const UpdateStats& u : updates) sum += u.*field;
    return sum / static_cast<double>(updates.size());
  };
  MetricRecord& r = record_ = {};
  r.set("reward", rollout_(&RolloutMeans::reward));
  r.set("accuracy", rollout_(&RolloutMeans::accuracy));
  r.set("format", rollout_(&RolloutMeans::format));
  if (stage_.reward.language_weight > 0) r.set("language", rollout_(&RolloutMeans::language));
  r.set("response_length", rollout_(&RolloutMeans::tokens));
  r.set("truncated", rollout_(&RolloutMeans::cut));
  r.set("samples", static_cast<int64_t>(rollout_.samples));
  r.set("kl", mean(&UpdateStats::kl));
  r.set("clip_fraction", mean(&UpdateStats::clip_fraction));
  r.set("entropy", mean(&UpdateStats::entropy));
  r.set("loss", mean(&UpdateStats::loss));
  if (stage_.rl.mtp_loss_weight > 0) r.set("mtp_loss", mean(&UpdateStats::mtp_loss));
  if (!batch.tis.empty()) {
    r.set("importance", batch.mean_importance());
    r.set("staleness", batch.staleness());
  }
  r.set("grad_norm", mean(&UpdateStats::grad_norm));
  r.set("lr", updates.back().lr);
  r.set("balance", mean(&UpdateStats::balance));
  r.set("skipped", static_cast<int64_t>(std::count_if(updates.begin(), updates.end(),
                                                      [](const UpdateStats& u) { return u.skipped; })));
  if (verified) r.set("logp_diff", state_.max_logp_diff);
  r.set("tokens_generated", state_.tokens_generated);
  r.set("tokens_trained", state_.tokens_trained);
}

void Trainer::log_sft_step(const UpdateStats& u, int64_t tokens) {
  MetricRecord& r = record_ = {};
  r.set("loss", u.loss);
  if (config_.model.num_nextn_predict_layers > 0 && stage_.sft.mtp_loss_weight > 0)
    r.set("mtp_loss", u.mtp_loss);
  r.set("entropy", u.entropy);
  r.set("grad_norm", u.grad_norm);
  r.set("lr", u.lr);
  r.set("balance", u.balance);
  r.set("skipped", int64_t{u.skipped});
  r.set("tokens", tokens);
  r.set("tokens_trained", state_.tokens_trained);
}

}  // namespace contender
