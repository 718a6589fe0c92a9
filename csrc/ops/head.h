// Linear + log-prob + entropy without the logits: the output projection, its softmax statistics at the
// targets, and gradients. No more logits exist at a time than the workspace holds: those of a chunk of rows
// on the CPU; on CUDA none, and for the gradients some columns of all rows. More workspace than asked for
// makes larger chunks, and no other bits.
//
// Vocabulary-parallel: each rank makes partial statistics for its virtual slices of the vocabulary (`slices`
// local ones); the partials of all slices, in slice order, are finished by one function, the same the sampler
// uses: so rollout and training, and every tensor-parallel layout, give the same bits.
#pragma once

#include "ops/exec.h"
#include "ops/linear.h"

namespace contender {

inline constexpr int64_t kHeadChunkRows = 128;  // of the CPU

// Softmax statistics of one slice of one row of z = logits * inv_temperature.
struct HeadPartial {
  float max = 0;        // max z
  float sum_exp = 0;    // sum exp(z - max)
  float sum_exp_z = 0;  // sum exp(z - max) * z
  float target_z = 0;   // z[target] if the target is in the slice, else 0
};
// Combined, slices in a fixed binary tree.
struct HeadStats {
  float lse = 0;      // log sum exp z over the vocabulary
  float logp = 0;     // z[target] - lse
  float entropy = 0;  // lse - sum p z
};

struct HeadPartialArgs {
  Tensor h;      // [M, H]
  WeightView w;  // [V_local, H]
  int64_t vocab_begin = 0;
  const int32_t* targets = nullptr;  // [M] global ids
  float inv_temperature = 1.0f;
  int32_t slices = 1;               // local virtual slices; V_local % slices == 0
  HeadPartial* partials = nullptr;  // [M, slices]
};
struct HeadFinishArgs {
  const HeadPartial* partials = nullptr;  // [M, slices], all slices of the vocabulary in order
  int64_t rows = 0;
  int32_t slices = 1;
  HeadStats* stats = nullptr;  // [M]
};
// Given dL/dlogp and dL/dentropy per row: dz = dlogp (onehot - p) + dentropy * (-p (z - lse + entropy));
// dlogits = dz * inv_temperature. dh = dlogits w (local slices tree-summed), dw canonical by segments. Logits
// are recomputed. A row with dlogp = dentropy = 0 contributes exact zeros.
struct HeadBwdArgs {
  Tensor h;      // [M, H]
  WeightView w;  // [V_local, H]
  int64_t vocab_begin = 0;
  const int32_t* targets = nullptr;  // [M]
  float inv_temperature = 1.0f;
  int32_t slices = 1;
  const HeadStats* stats = nullptr;  // [M]
  const float* dlogp = nullptr;      // [M]
  const float* dentropy = nullptr;   // [M] or null
  Tensor dh;                         // [M, H] overwritten
  Tensor dw;                         // [V_local, H] overwritten
  RowSegments segments;              // group 0
};
int64_t head_workspace_bytes(int64_t h, int64_t vocab_local, int32_t slices);
int64_t head_bwd_workspace_bytes(int64_t m, int64_t h, int64_t vocab_local, int32_t slices,
                                 int32_t num_leaves);
Cost head_cost(int64_t m, int64_t h, int64_t vocab_local, DType activation = DType::kF32,
               DType weight = DType::kF32);
// With the recomputed product; dw is F32.
Cost head_bwd_cost(int64_t m, int64_t h, int64_t vocab_local, DType activation = DType::kF32,
                   DType weight = DType::kF32);

}  // namespace contender
