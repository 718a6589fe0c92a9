// The completions of one rollout that count, group after group, with what the loss needs of each token.
#pragma once

#include <algorithm>
#include <vector>

#include "grpo/trainer.h"

namespace contender {

struct Trainer::RlBatch {
  std::vector<SampleGroup> groups;
  std::vector<const Sample*> samples;  // valid ones, in (group, sample) order
  std::vector<int64_t> group_of;
  std::vector<TrainSequence> sequences;      // prompt + completion
  std::vector<float> advantage;              // per sample
  std::vector<std::vector<float>> logp_old;  // per sample, per completion token
  std::vector<std::vector<float>> logp_ref;  // empty without KL
  std::vector<std::vector<float>> tis;  // truncated importance weights; empty when on-policy and untruncated
  int64_t version = 0;                  // of the weights before the first update

  double mean_importance() const {
    double sum = 0, tokens = 0;
    for (const std::vector<float>& sample : tis)
      for (float w : sample) sum += w, tokens += 1;
    return sum / std::max(1.0, tokens);
  }
  // Largest lag of a token's weights.
  int64_t staleness() const {
    int64_t lag = 0;
    for (const Sample* s : samples)
      for (int64_t v : s->completion.version) lag = std::max(lag, version - v);
    return lag;
  }
};

}  // namespace contender
