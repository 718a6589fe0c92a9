// The engine without a model: scheduler, KV cache and sampling over a policy of one virtual function. Tests
// put a fake one behind it.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "rollout/scheduler.h"

namespace contender {

class RolloutPolicy {
 public:
  virtual ~RolloutPolicy() = default;
  // Takes the batch to the device. May fill batch.counts. All three live until `forward`.
  virtual void send(TokenBatch& batch, const KvCache& cache, const std::vector<int32_t>& rows) = 0;
  // Logits [rows.size(), V] of the given rows of that batch, allocated in the arena. Writes the cache rows of
  // the batch.
  virtual Tensor forward() = 0;
  // Whether `forward` is work of this rank's device alone: then it may become a graph.
  virtual bool alone() const { return true; }
  // True when any rank that must call forward_logits together with this one has work.
  virtual bool any_rank_has_work(bool mine) = 0;
};

class EngineCore {
 public:
  EngineCore(const RunConfig& config, int tp, const Runtime& runtime, RolloutPolicy* policy, uint64_t seed,
             int64_t vocab_limit, int64_t version);
  ~EngineCore();

  bool step();
  void set_weights(int64_t version);
  Scheduler& scheduler() { return scheduler_; }
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  void copy_pages(const std::vector<PageCopy>& copies);
  void list_draws(const StepPlan& plan);
  void draw(const StepPlan& plan, const Tensor& logits);
  SampleArgs send_keys(int64_t rows, int64_t first);
  void sample(const Tensor& logits, SampleArgs args);
  void take_results();
  // decode_graph.cpp
  bool decode_by_graph(StepPlan& plan);  // false: the plan is more than decoding, or there are no graphs
  void pad_batch(TokenBatch& batch, int64_t count) const;

  const Runtime runtime_;
  RolloutPolicy* policy_;
  const uint64_t seed_;
  const int64_t vocab_limit_;
  const int32_t slices_;
  int64_t version_;
  Scheduler scheduler_;
  KvCache cache_;
  int64_t num_layers_;
  int64_t
      shared_rows_;  // copies of prompts' logits that exist at a time; beside max_sequences rows of logits
  // One entry per draw of the plan, reused.
  std::vector<int32_t> logits_row_;
  std::vector<SampleParams> params_;
  std::vector<SampleKey> keys_;
  std::vector<int32_t> token_;
  std::vector<float> logp_, logp_sampled_;
  struct Drawn {
    int64_t first;
    Readback::Place<int32_t> token;
    Readback::Place<float> logp, logp_sampled;
  };
  std::vector<Drawn> drawn_;
  // A graph holds addresses: it is good as long as a batch of its size has its memory where it had it then.
  struct DecodeGraph {
    Graph* graph = nullptr;
    const int32_t* token = nullptr;
  };
  const bool use_graphs_;
  const int64_t table_pages_;              // of one sequence; a longer one is computed without a graph
  std::map<int64_t, DecodeGraph> graphs_;  // by number of sequences
  Readback results_;
};

}  // namespace contender
