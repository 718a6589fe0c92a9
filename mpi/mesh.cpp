#include "mpi/mesh.h"

#include "mpi/flight.h"

namespace contender {

Mesh::Mesh(const MeshShape& shape) : shape_(shape) {
  world_ = make_group(0);
  const int rank = world_->rank(), np = world_->size();
  if (np != shape.np() || np != shape.etp * shape.ep * shape.edp) {
    fail(ExitCode::kConfig,
         "the job has {} ranks, but the mesh asks for {} (pp {} x cp {} x tp {} x dp {}) and, for experts, "
         "{} (etp {} x ep {} x "
         "edp {})",
         np, shape.np(), shape.pp, shape.cp, shape.tp, shape.dp, shape.etp * shape.ep * shape.edp, shape.etp,
         shape.ep, shape.edp);
  }
  if (shape.pp != 1 || shape.cp != 1 || shape.etp != 1) {
    fail(ExitCode::kConfig, "pp {}, cp {}, etp {}: these axes must be 1 today", shape.pp, shape.cp,
         shape.etp);
  }
  tp_ = make_group(rank / shape.tp);
  dp_ = make_group(rank % shape.tp);
  ep_ = make_group(rank / shape.ep);
  edp_ = make_group(rank % shape.ep);
}

}  // namespace contender
