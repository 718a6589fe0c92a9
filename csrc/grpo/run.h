// One run in its directory: stages in order, metrics, evaluation, checkpoints, signals and faults between
// steps.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "grpo/app.h"
#include "grpo/trainer.h"
#include "hub/model_files.h"
#include "report/metrics.h"

namespace contender {

// What a finished stage leaves for the summary.
struct StageResult {
  std::string kind, task;
  std::optional<EvalResult> before, after;  // at config.eval.temperature
  double greedy_before = 0, greedy_after = 0;
  int64_t steps = 0;
  double seconds = 0;
};

class Run {
 public:
  enum class Purpose : uint8_t { kTrain, kSample };
  // kTrain opens run.dir (exit 10 when it holds a run of another configuration) and loads the newest
  // checkpoint when there is one and options.resume allows it. kSample takes the weights alone, of
  // options.checkpoint or of the newest in run.dir, and writes nothing.
  Run(const RunConfig& config, const RunOptions& options, Purpose purpose);
  ~Run();

  // All stages for which `wanted` is true. Throws Error(kStopped) after SIGUSR1, with everything saved.
  void execute(bool (*wanted)(const StageConfig&));
  Trainer& trainer() { return *trainer_; }
  const std::vector<StageResult>& results() const { return results_; }
  const RunConfig& config() const { return config_; }
  bool leader() const { return machine_->mesh->rank() == 0; }
  const std::map<std::string, double>& phase_seconds() const { return phase_total_; }
  double dollars() const;

 private:
  void open_directory(ResumeMode resume);
  bool another_job_writes();
  void run_stage(const StageConfig& stage);
  bool stage_done(const StageConfig& stage) const;
  void one_step(const StageConfig& stage);
  void evaluate_on_the_way();
  void keep_trained(const std::function<void()>& work);
  void finish_step(const StageConfig& stage, double seconds);
  double evaluate_into(StageResult& result, bool before);
  void write_completions(const StageConfig& stage);
  bool stop_requested();
  bool due(int64_t every, int64_t before, int64_t now) const {
    return every > 0 && now / every > before / every;
  }
  void cut_completions();
  // resume.cpp
  void begin();
  void save();
  void tell_last_words(bool publishing) const;
  std::string newest_checkpoint();  // of run.dir, the same on every rank; "" when there is none
  void load_weights(const Checkpoint& checkpoint);
  void load_start();  // of model.path, if there is one; checked before memory is taken
  void load(const std::string& path);

  const RunConfig config_;
  const RunOptions& options_;
  std::unique_ptr<Machine> machine_;
  std::optional<ModelFiles> start_;  // the weights of model.path, while they are needed
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<MetricWriter> metrics_;  // rank 0
  std::unique_ptr<Console> console_;       // rank 0
  std::vector<StageResult> results_;
  std::map<std::string, double> phase_total_;
  std::vector<double> step_seconds_;
  double matrix_gflops_ = 0;  // measured, all ranks together
  std::string run_id_;
  int lock_ = -1;  // run.dir/lock, held by rank 0 while the run lasts
  int64_t failed_saves_ = 0;
  std::string last_checkpoint_;  // path; "": none yet
  std::string stage_before_;     // evaluation before the RL stage in progress, as JSON, for the summary
  double last_accuracy_ = 0;     // of the last evaluation at T = 1 in an SFT stage
};

// The weights of a checkpoint into the shards of this rank, on any layout. Error(kConfig) when they are of
// another model.
void load_weights(const Checkpoint& checkpoint, const ModelConfig& model, WeightStore& weights);

// How a command that trains ends: says so when there was nothing left to train; writes the report, says
// where.
void close_run(Run& run);

}  // namespace contender
