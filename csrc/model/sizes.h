// Sizes of the scratch memory of a run, from the same list of tensors that the layers make: the run sizes its
// arenas
#pragma once

#include <cstdint>

#include "base/config.h"
#include "mpi/mesh.h"

namespace contender {

// Tokens one rank may own in a forward, and rows its tp group may see.
int64_t max_own_tokens(const RunConfig& config, int np);
int64_t max_group_rows(const RunConfig& config, const MeshShape& mesh);

int64_t activation_bytes(const RunConfig& config, const MeshShape& mesh);
int64_t scratch_bytes(const RunConfig& config, const MeshShape& mesh);
int64_t workspace_bytes(const RunConfig& config, const MeshShape& mesh);
// The mesh of a run on np ranks: dp = 0 becomes np / tp.
MeshShape mesh_shape(const RunConfig& config, int np);

}  // namespace contender
