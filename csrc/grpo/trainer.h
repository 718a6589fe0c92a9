// The trainer: everything one run holds, and its verbs. step.cpp is the GRPO step as in the paper; the other
// files fill in its words.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/prompts.h"
#include "data/tokenizer.h"
#include "grpo/algorithm.h"
#include "grpo/packing.h"
#include "grpo/sample.h"
#include "grpo/spike.h"
#include "model/model.h"
#include "report/metrics.h"
#include "reward/reward.h"
#include "rollout/engine.h"

namespace contender {

// Device, backend, ranks and scratch memory, made once per process.
struct Machine {
  // `ops` is the backend the command line has chosen; collective.
  Machine(const RunConfig& config, const Ops& ops, std::unique_ptr<Device> device);
  std::unique_ptr<Device> device;
  const Ops* ops = nullptr;
  std::unique_ptr<Mesh> mesh;
  Buffer workspace;
  Arena arena, temp;
  Runtime runtime();
};

// What training remembers between steps, besides weights and optimizer: all of it is in every checkpoint.
struct TrainState {
  int64_t stage = 0;          // index of the stage in progress
  int64_t step = 0;           // steps done in this stage
  int64_t global_step = 0;    // steps done in the run
  int64_t updates = 0;        // AdamW updates done (bias correction)
  int64_t prompt_cursor = 0;  // next prompt of the stage's stream that is submitted
  int64_t group_cursor = 0;   // next group that is trained on (<= prompt_cursor: the rest is in flight)
  int64_t skipped = 0;        // skipped updates in a row
  // Size of metrics.jsonl and completions.jsonl: what came later is cut off on resume.
  int64_t metric_lines = 0, completion_bytes = 0;
  int64_t tokens_generated = 0, tokens_trained = 0;
  double seconds = 0;
  double max_logp_diff = 0;  // largest |logp_rollout - logp_train| seen
  int64_t reference_version = 0;
  RecentValues norms, losses, kls;  // of this stage
};

// What one update reports: means over its tokens.
struct UpdateStats {
  double loss = 0, kl = 0, clip_fraction = 0, entropy = 0, mtp_loss = 0, grad_norm = 0, lr = 0, balance = 1;
  bool skipped = false;
};

// Means over every valid sample of one rollout, those of groups that dynamic sampling dropped included.
struct RolloutMeans {
  double samples = 0, reward = 0, accuracy = 0, format = 0, language = 0, tokens = 0,
         cut = 0;  // sums; divided by samples when read
  void add(const std::vector<Sample>& group);
  double operator()(double RolloutMeans::*field) const { return samples > 0 ? this->*field / samples : 0; }
};

struct TokenResults;  // token_columns.h

// A sequence of an update, as a dump of the batch shows it.
struct BatchLine {
  const TrainSequence* sequence;
  const Sample* sample = nullptr;  // RL
  float advantage = 0;
};

struct EvalResult {
  double accuracy = 0, format = 0, reward = 0, mean_tokens = 0;  // means over all samples
  std::map<int64_t, double> pass_at;  // k -> pass@k, for k = 1, 2, 4, ... and all samples of a problem
  double maj_at_k = 0;                // share of problems whose majority answer, of all samples, is right
  std::vector<SampleGroup> groups;    // on every rank
};

class Trainer {
 public:
  Trainer(const RunConfig& config, Machine& machine);
  ~Trainer();

  // Stages.
  void begin_stage(const StageConfig& stage);
  void rl_step();
  void sft_step();
  // Samples the current policy on the stage's training prompts and keeps the correct completions as the SFT
  // set (rejection sampling).
  void collect_rejection_set();
  // Completions of the given prompts, or of held-out problems when there are none, sampled as in evaluations.
  std::vector<SampleGroup> generate(const std::vector<std::string>& prompts, int64_t samples);
  EvalResult evaluate(int64_t problems, int64_t samples, float temperature, float top_p);

  const RunConfig& config() const { return config_; }
  const StageConfig& stage() const { return stage_; }
  Machine& machine() { return machine_; }
  WeightStore& policy_weights() { return *policy_weights_; }
  WeightStore* reference_weights() { return reference_weights_.get(); }
  Model& policy() { return *policy_; }
  RolloutEngine& engine() { return *engine_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  std::string prompts_fingerprint() const { return train_prompts_ ? train_prompts_->fingerprint() : ""; }
  TrainState& state() { return state_; }
  MetricRecord& record() { return record_; }
  // What is between steps besides `state` and weights: sequences in the engine, groups not yet trained on,
  // the rejection set. Each rank has its part; load takes the parts of all ranks that saved, one after the
  // other, and keeps what this rank should have.
  std::map<std::string, std::string> save_memory() const;
  void load_memory(const std::map<std::string, std::string>& memory);
  void drop_in_flight();  // begun and finished groups that no step has used
  const std::vector<SampleGroup>& last_batch() const { return last_batch_; }

 private:
  // rollout.cpp: groups on their way through engine and verifiers.
  struct InFlight {
    SampleGroup group;
    int64_t completed = 0;
  };
  void submit_group(uint64_t id, const Prompt& prompt, const SampleParams& params, int64_t num_samples,
                    uint32_t step_key);
  bool pump();  // one engine step; takes in completions and scores
  void take_scores(const std::vector<Score>& scores);
  void exchange_finished();  // finished groups of every rank into ready_, on every rank
  Prompt train_prompt(uint64_t id) const;
  std::vector<SampleGroup> collect_groups();
  std::vector<SampleGroup> generate_all(const PromptSource& source, int64_t count, int64_t num_samples,
                                        const SampleParams& params, uint64_t first_id, uint32_t step_key);
  void require_scores(const std::vector<SampleGroup>& groups) const;

  // update.cpp
  std::vector<PackedBatch> pack(const std::vector<const TrainSequence*>& sequences) const;
  // Ends the reduction, and brings to the host what the update left in `results_`, with the norm, which it
  // returns: the one wait for the device in an update.
  double finish_gradients();
  // Clip, skip, AdamW. The batch is what the gradient comes from: it is written to a file when the
  // update is skipped.
  void apply_update(double lr, const std::vector<BatchLine>& batch, UpdateStats& stats);
  std::string reason_to_skip(const UpdateStats& stats) const;  // "": none
  void skip_update(const std::vector<BatchLine>& batch, const std::string& reason);
  void dump_batch(const std::vector<BatchLine>& batch, const std::string& why) const;
  double scheduled_lr(double lr, double lr_min, int64_t warmup, int64_t steps) const;

  // step.cpp
  struct RlBatch;  // rl_batch.h
  RlBatch prepare(std::vector<SampleGroup> groups);
  std::vector<std::vector<float>> log_probs(Model& model, const RlBatch& batch);
  void set_advantages(RlBatch& batch);
  void correct_samples(RlBatch& batch, bool verify);
  UpdateStats update(RlBatch& batch, const std::vector<int32_t>& minibatch, bool verify);
  double largest_logp_difference(const RlBatch& batch, const TokenResults& round) const;
  void log_rl_step(const RlBatch& batch, const std::vector<UpdateStats>& updates, bool verified);
  void log_sft_step(const UpdateStats& stats, int64_t tokens);

  const RunConfig config_;
  Machine& machine_;
  StageConfig stage_;
  Algorithm algorithm_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<WeightStore> policy_weights_, reference_weights_;
  std::unique_ptr<Model> policy_, reference_;
  std::unique_ptr<RolloutEngine> engine_;
  std::unique_ptr<PromptSource> train_prompts_, eval_prompts_;
  std::unique_ptr<Rewarder> rewarder_;
  TrainState state_;
  Readback results_;  // of the update, or the forward, in progress
  MetricRecord record_;
  std::map<uint64_t, InFlight> in_flight_;         // submitted to this rank's engine
  std::map<uint64_t, std::vector<Sample>> ready_;  // scored, waiting for their turn; the same on every rank
  RolloutMeans rollout_;                           // of the last collect_groups
  std::vector<SampleGroup> last_batch_;
  std::vector<TrainSequence> rejection_set_;  // SFT sequences of a rejection stage
};

}  // namespace contender
