// Sizes of everything a run allocates: the run sizes its arenas with these functions, and the planner adds them up.
#pragma once

#include <cstdint>

#include "base/config.h"
#include "mpi/mesh.h"

namespace contender {

struct MemorySizes {
  int64_t weights = 0;       // masters and packed forms (policy, and reference when there is a KL)
  int64_t gradients = 0;     // planes and shards
  int64_t optimizer = 0;
  int64_t activations = 0;   // arena: what the backward needs
  int64_t scratch = 0;       // temp arena: one sublayer
  int64_t kv_cache = 0;
  int64_t workspace = 0;     // of operators
  int64_t total() const { return weights + gradients + optimizer + activations + scratch + kv_cache + workspace; }
};

// Tokens one rank may own in a forward, and rows its tp group may see.
int64_t max_own_tokens(const RunConfig& config, int np);
int64_t max_group_rows(const RunConfig& config, const MeshShape& mesh);

int64_t activation_bytes(const RunConfig& config, const MeshShape& mesh);
int64_t scratch_bytes(const RunConfig& config, const MeshShape& mesh);
int64_t workspace_bytes(const RunConfig& config, const MeshShape& mesh);
MemorySizes memory_sizes(const RunConfig& config, const MeshShape& mesh);
// The mesh of a run on np ranks: dp = 0 becomes np / tp.
MeshShape mesh_shape(const RunConfig& config, int np);

}  // namespace contender
