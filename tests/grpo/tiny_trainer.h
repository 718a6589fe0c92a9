// A trainer small enough to run many whole steps in a test, alone on one rank: one-digit sums, hidden
// size 32; on the CPU unless said otherwise.
#pragma once

#include "grpo/algorithm.h"
#include "tests/model/tiny_model.h"

namespace contender::testing_trainer {

inline RunConfig tiny_run(const std::string& form = "mla") {
  RunConfig c = testing_model::tiny_config(form);
  c.dir = ::testing::TempDir();
  c.model.initializer_range = 0.1;
  c.mesh.data_slots = 2;
  c.train.weight_decay = 0;
  c.train.spike_factor = 0;
  c.task = {.name = "addition", .difficulty = 1, .max_prompt_tokens = 12, .eval_problems = 8};
  c.sft = {.steps = 1000, .batch_size = 32, .lr = 1e-2, .lr_min = 1e-2};
  c.rl = {.steps = 1000,
          .prompts_per_step = 4,
          .group_size = 4,
          .lr = 1e-3,
          .lr_min = 1e-3,
          .kl_beta = 0,
          .max_new_tokens = 20,
          .verify_logp_every = 1};
  return c;
}

// Holds what a process holds, and begins one stage of the configuration's [sft], [rl], [task], [reward].
struct TinyTrainer {
  explicit TinyTrainer(const RunConfig& c, const std::string& kind = "rl", const WeightStore* start = nullptr,
                       const Ops& ops = cpu_ops(), std::unique_ptr<Device> device = make_cpu_device())
      : config(c), machine(config, ops, std::move(device)), trainer(config, machine) {
    if (start) {
      trainer.policy_weights().copy_from(*start);
      trainer.engine().set_weights(trainer.policy_weights().version());
    }
    trainer.begin_stage(stage(kind));
  }
  StageConfig stage(const std::string& kind) const {
    return {kind, kind, config.sft, config.rl, config.task, config.reward};
  }
  double metric(const std::string& key) { return trainer.record().number(key, NAN); }
  Trainer* operator->() { return &trainer; }

  const RunConfig config;
  Machine machine;
  Trainer trainer;
};

// Weights after a cold start: right now and then, in format mostly. Made once.
inline const WeightStore& warm_weights() {
  static TinyTrainer* warm = [] {
    auto* t = new TinyTrainer(tiny_run(), "sft");
    for (int i = 0; i < 60; ++i) t->trainer.sft_step();
    return t;
  }();
  return warm->trainer.policy_weights();
}

// Hands groups to a trainer as if a checkpoint had held them: its next steps train on them, in order, instead
// of sampling.
inline void plant(Trainer& trainer, const std::vector<SampleGroup>& groups) {
  std::string bytes;
  for (const SampleGroup& g : groups) bytes += pack_samples(g.id, g.samples);
  trainer.load_memory({{"ready", bytes}});
  trainer.state().group_cursor = static_cast<int64_t>(groups.front().id);
  trainer.state().prompt_cursor = static_cast<int64_t>(groups.back().id) + 1;
}

// The groups that a trainer of this configuration samples first, with rewards of 0 to 2 that differ within
// every group.
inline std::vector<SampleGroup> first_groups(const RunConfig& config, const WeightStore* start = nullptr) {
  TinyTrainer t(config, "rl", start);
  t->rl_step();
  std::vector<SampleGroup> groups = t->last_batch();
  for (SampleGroup& g : groups)
    for (size_t i = 0; i < g.samples.size(); ++i)
      g.samples[i].score.reward = static_cast<float>((i + g.id) % 3);
  return groups;
}

// log p of every completion token under the trainer's present weights.
inline std::vector<std::vector<float>> logps(Trainer& trainer, const std::vector<SampleGroup>& groups) {
  std::vector<std::vector<float>> out;
  for (const SampleGroup& g : groups) {
    for (const Sample& s : g.samples) {
      TrainSequence sequence{.tokens = g.prompt.tokens,
                             .first_target = static_cast<int32_t>(g.prompt.tokens.size())};
      sequence.tokens.insert(sequence.tokens.end(), s.completion.tokens.begin(), s.completion.tokens.end());
      const PackedBatch batch = make_packed_batch({{&sequence}, {}}, 1);
      std::vector<float>& logp = out.emplace_back();
      for (const HeadStats& h :
           trainer.policy().forward_logp(batch, static_cast<float>(1.0 / trainer.stage().rl.temperature)))
        logp.push_back(h.logp);
    }
  }
  return out;
}

}  // namespace contender::testing_trainer
