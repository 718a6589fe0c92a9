// Rollout engine: submit / poll / cancel / set_weights. Continuous batching over a paged KV cache, on the
// trainer's own weights and operators. One engine per rank; the ranks of a tp group hold the same sequences
// and stay in step.
//
// A token depends on (seed, step, prompt, sample, position) and the weights only: not on batch, rank, order
// of completion or preemption.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "ops/sampling.h"

namespace contender {

// Prompts of training are numbered from 0, those of evaluations and those that somebody types from here on:
// no two have the same draws.
inline constexpr uint32_t kEvaluationPrompts = uint32_t{1} << 31, kGivenPrompts = uint32_t{3} << 30;
std::string prompt_name(uint32_t index);  // for messages: "prompt 7", "prompt 7 of the evaluation", ...

struct RolloutRequest {
  uint64_t id = 0;              // of the group; samples come back as (id, sample)
  uint32_t prompt_index = 0;    // Philox key
  uint32_t step = 0;            // Philox key
  std::vector<int32_t> prompt;  // >= 1 tokens
  int32_t num_samples = 1;      // G completions share one prefill of the prompt
  int32_t first_sample = 0;     // Philox key of the first one
  SampleParams params;
  int32_t max_new_tokens = 64;
  std::vector<int32_t> stop_tokens;
};

struct Completion {
  uint64_t id = 0;
  int32_t sample = 0;
  std::vector<int32_t> tokens;      // with the stop token, if one was drawn
  std::vector<float> logp;          // under softmax(logits / T), untruncated
  std::vector<float> logp_sampled;  // under the truncated distribution
  std::vector<int64_t> version;     // weight version each token was drawn at
  bool finished = false;            // a stop token was drawn (false: cut at max_new_tokens)
  bool cancelled = false;
};

struct RolloutStats {
  int64_t tokens_generated = 0, tokens_prefilled = 0, forwards = 0, preemptions = 0, peak_pages = 0;
};

// Pages of one rank's KV cache: rollout.kv_pages, or enough for max_sequences of the longest prompt and
// completion of any stage.
int64_t rollout_kv_pages(const RunConfig& config);

class RolloutEngine {
 public:
  // Ids from vocab_limit on (padding of the vocabulary) are never drawn; 0: no limit.
  RolloutEngine(const RunConfig& config, Model* model, uint64_t seed, int64_t vocab_limit = 0);
  ~RolloutEngine();

  // Error(kConfig) when prompt + max_new_tokens exceed model.max_position_embeddings; Error(kOutOfMemory)
  // when they exceed the KV cache.
  void submit(RolloutRequest request);
  // The samples of this id that are not finished come back as they are, cancelled. An unknown id is fine: it
  // may just have finished.
  void cancel(uint64_t id);
  // One forward for everything that is active (prefill chunks and decode tokens together), then sampling.
  // Collective: every rank of an ep group calls it equally often. Returns false when no rank of the group has
  // anything left to do.
  bool step();
  // Completions finished since the last call, in no particular order.
  std::vector<Completion> poll();
  // The first sample of a request as far as it is; null when it is finished, or not known. Until the next
  // call of anything.
  const Completion* peek(uint64_t id) const;
  // The weights have changed: cached keys and values are of the old version and are dropped; sequences in
  // flight continue under the new weights after their prefix is computed again.
  void set_weights(int64_t version);
  bool idle() const;
  // Sequences in flight and completions not yet polled, for checkpoints; load adds those whose id is `mine`
  // (null: all). Their tokens so far are kept. States of several ranks may be concatenated, and dealt out
  // anew by id.
  std::string save_state() const;
  void load_state(const std::string& state, const std::function<bool(uint64_t)>& mine = nullptr);
  RolloutStats take_stats();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace contender
