// One optimizer update: packs, global norm, the decision to skip (the same on every rank), AdamW.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/job.h"
#include "base/log.h"
#include "base/timer.h"
#include "grpo/trainer.h"

namespace contender {

// Packs made globally, then dealt: this tp group gets its slots of every round.
std::vector<PackedBatch> Trainer::pack(const std::vector<const TrainSequence*>& sequences) const {
  const Mesh& mesh = *machine_.mesh;
  std::vector<int64_t> lengths;
  for (const TrainSequence* s : sequences) lengths.push_back(static_cast<int64_t>(s->tokens.size()));
  const Packs packs = pack_sequences(lengths, config_.mesh.data_slots, config_.train.token_budget);
  const int64_t group_slots = config_.mesh.data_slots / mesh.shape().dp,
                first = mesh.dp().rank() * group_slots;
  std::vector<PackedBatch> rounds;
  for (const auto& round : packs) {
    std::vector<std::vector<const TrainSequence*>> slots(group_slots);
    for (int64_t s = 0; s < group_slots; ++s)
      for (int32_t i : round[first + s]) slots[s].push_back(sequences[i]);
    rounds.push_back(make_packed_batch(slots, mesh.shape().tp));
  }
  return rounds;
}

double Trainer::scheduled_lr(double lr, double lr_min, int64_t warmup, int64_t steps) const {
  const double step = static_cast<double>(state_.step);
  if (state_.step < warmup) return lr * (step + 1) / static_cast<double>(warmup);
  const double progress =
      (step - static_cast<double>(warmup)) / std::max(1.0, static_cast<double>(steps - warmup));
  return lr_min + 0.5 * (lr - lr_min) * (1 + std::cos(std::numbers::pi * std::min(1.0, progress)));
}

// bad_batch_<step>.jsonl in run.dir: what the update was made of, for a person to look at. Rank 0.
void Trainer::dump_batch(const std::vector<BatchLine>& batch, const std::string& why) const {
  const std::string path = fmt::format("{}/bad_batch_{}.jsonl", config_.dir, state_.global_step);
  std::ofstream out(path, std::ios::binary);
  for (const BatchLine& line : batch) {
    const std::vector<int32_t>& tokens = line.sequence->tokens;
    const auto split = tokens.begin() + line.sequence->first_target;
    nlohmann::ordered_json j = {{"step", state_.global_step},
                                {"why", why},
                                {"prompt", tokenizer_->decode({tokens.begin(), split})},
                                {"completion", tokenizer_->decode({split, tokens.end()})}};
    if (line.sample) {  // a number that is not finite becomes null
      j["reward"] = line.sample->score.reward;
      j["status"] = line.sample->score.status;
      j["advantage"] = line.advantage;
    }
    out << j.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
  }
  if (!out.flush())
    log_error("cannot write {}", path);  // the update is lost already: that is no reason to lose the run
}

// What clipping leaves alone is no spike of the norm, and a nat per token none of loss or KL.
std::string Trainer::reason_to_skip(const UpdateStats& u) const {
  const double factor = config_.train.spike_factor, clip = config_.train.max_grad_norm;
  const char* what = nullptr;
  if (!std::isfinite(u.grad_norm) || !std::isfinite(u.loss) || !std::isfinite(u.kl)) {
    what = "non-finite values";
  } else if (state_.norms.spike(u.grad_norm, factor, clip > 0 ? clip : 1.0)) {
    what = "spike of the gradient norm";
  } else if (state_.losses.spike(u.loss, factor, 1.0)) {
    what = "spike of the loss";
  } else if (state_.kls.spike(u.kl, factor, 1.0)) {
    what = "spike of the KL";
  } else {
    return "";
  }
  return fmt::format("{} (gradient norm {:.3g}, loss {:.3g}, KL {:.3g})", what, u.grad_norm, u.loss, u.kl);
}

void Trainer::skip_update(const std::vector<BatchLine>& batch, const std::string& reason) {
  ++state_.skipped;
  if (machine_.mesh->rank() == 0) {
    dump_batch(batch, reason);
    log_warn("step {}: update skipped: {}; {} in a row; its batch is in bad_batch_{}.jsonl",
             state_.global_step, reason, state_.skipped, state_.global_step);
  }
  if (state_.skipped >= config_.train.max_skipped)
    fail(ExitCode::kNonFinite, "{} updates in a row skipped (train.max_skipped), the last one for {}",
         state_.skipped, reason);
}

double Trainer::finish_gradients() {
  job_position().step = state_.global_step;  // several updates of one rollout
  const Runtime rt = machine_.runtime();
  WeightStore& w = *policy_weights_;
  TimerScope scope("reduce");
  w.finish_reduce();
  const bool poison = fault_fires("nan", rt.mesh->rank()), raise = fault_fires("spike", rt.mesh->rank());
  if (poison || raise) {
    std::vector<float> grad(w.shard_numel());
    rt.device->download(rt.exec.stream, grad.data(), w.grad_shard(), w.shard_numel() * 4);
    for (float& g : grad) g *= poison ? std::nanf("") : 1e6f;
    rt.device->upload(rt.exec.stream, w.grad_shard(), grad.data(), w.shard_numel() * 4);
  }
  const auto norm = w.grad_square_sum(results_);
  policy_->read_counts(results_);
  rt.mesh->finish_collectives();
  results_.download();
  policy_->check_counts(results_);
  ExactSum sum = *results_.at(norm);
  rt.mesh->world().all_reduce_sum("grad_norm", sum);
  return std::sqrt(sum.value());
}

void Trainer::apply_update(double lr, const std::vector<BatchLine>& batch, UpdateStats& stats) {
  TimerScope scope("optim");
  WeightStore& w = *policy_weights_;
  const double norm = stats.grad_norm;
  stats.lr = lr;
  // Every rank sees the same numbers, so every rank takes the same decision.
  if (const std::string reason = reason_to_skip(stats); !reason.empty()) {
    stats.skipped = true;
    skip_update(batch, reason);
    return;
  }
  state_.skipped = 0;
  state_.norms.add(norm);
  state_.losses.add(stats.loss);
  state_.kls.add(stats.kl);
  const TrainConfig& t = config_.train;
  const double clip = t.max_grad_norm > 0 && norm > t.max_grad_norm ? t.max_grad_norm / norm : 1.0;
  w.adamw_step({.lr = static_cast<float>(lr),
                .beta1 = static_cast<float>(t.adam_beta1),
                .beta2 = static_cast<float>(t.adam_beta2),
                .eps = static_cast<float>(t.adam_eps),
                .weight_decay = static_cast<float>(t.weight_decay),
                .grad_scale = static_cast<float>(clip),
                .t = ++state_.updates});
  stats.balance = policy_->update_router_bias(results_, config_.model.bias_update_speed);
  engine_->set_weights(w.version());
}

}  // namespace contender
