// Sampling: temperature, then top-k, top-p, min-p, then one draw by inverse CDF in ascending token order;
// Philox keyed by (seed, step, prompt, sample, position), so a token does not depend on batch, rank or time.
#pragma once

#include "ops/exec.h"

namespace contender {

struct SampleParams {
  float temperature = 1.0f;  // 0: greedy (lowest id wins ties); logp is then of softmax(logits)
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;        // smallest set of most probable tokens with mass >= top_p of what top-k left
  float min_p = 0.0f;        // keep p >= min_p * max p
};
struct SampleKey {
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t prompt = 0;
  uint32_t sample = 0;
  uint32_t position = 0;  // index of the token in the completion
};
struct SampleArgs {
  Tensor logits;                         // [B, V]
  const SampleParams* params = nullptr;  // [B]
  const SampleKey* keys = nullptr;       // [B]
  int32_t slices = 1;                    // virtual vocabulary slices, as in the head; V % slices == 0
  int64_t vocab_limit =
      0;  // ids >= limit (padding of the table) are never drawn; they stay in the softmax. 0: V
  int32_t* token = nullptr;  // [B] out
  float* logp =
      nullptr;  // [B] out: log softmax(logits / T)[token], untruncated; bit-equal to the head's logp
  // [B] out: log-prob after truncation; equal to logp, bit for bit, when nothing is cut (vocab_limit < V
  // cuts), 0 when greedy
  float* logp_sampled = nullptr;
};
int64_t sample_workspace_bytes(int64_t vocab);
Cost sample_cost(int64_t batch, int64_t vocab);

}  // namespace contender
