// Sizes of the scratch memory of a run, from the same list of tensors that the layers make: the run sizes its
// arenas
#pragma once

#include <cstdint>

#include "base/config.h"
#include "mpi/mesh.h"
#include "ops/dispatch.h"
#include "ops/linear.h"

namespace contender {

// What the run's device (run.device, decided) holds activations and packed weights in.
DType activation_dtype(const RunConfig& config);
WeightFormat weight_format(const RunConfig& config);

// Tokens one rank may own in a forward, and rows its tp group may see.
int64_t max_own_tokens(const RunConfig& config, int np);
int64_t max_group_rows(const RunConfig& config, const MeshShape& mesh);

// How the rows of one forward travel to the experts of `ep` ranks: `own` tokens here, at most `max_own`
// anywhere, and the rows of a chunk that its sorted buffers have room for (at most twice the balanced load).
DispatchShape dispatch_shape(const ModelConfig& model, const MeshConfig& mesh, int64_t ep, int64_t own,
                             int64_t max_own, int64_t slots);
int64_t dispatch_room(const DispatchShape& shape, int64_t own, int64_t max_own);
void check_dispatch_overflow(int32_t wanted_rows);  // of a plan, 0 when all had a place; exit 1 otherwise

int64_t activation_bytes(const RunConfig& config, const MeshShape& mesh);
int64_t scratch_bytes(const RunConfig& config, const MeshShape& mesh);
int64_t workspace_bytes(const RunConfig& config, const MeshShape& mesh);
// The mesh of a run on np ranks: dp = 0 becomes np / tp.
MeshShape mesh_shape(const RunConfig& config, int np);

}  // namespace contender
