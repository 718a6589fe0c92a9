#include "mpi/mesh.h"

#include <dlfcn.h>

#include <set>

#include "base/log.h"
#include "mpi/flight.h"

namespace contender {
namespace {

void check_shape(const MeshShape& shape, int np) {
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
}

// Collective: the same answer on every rank.
bool every_rank_has_its_gpu(Group& world, const Device& device) {
  const std::vector<std::string> ids = world.all_gather_bytes("mesh", device.id());
  const std::set<std::string> distinct(ids.begin(), ids.end());
  return distinct.size() == ids.size() && !distinct.contains("");
}

// NCCL's GPUs are the driver's, which a simulated one does not have.
bool every_rank_has_nccl(Group& world) {
  const bool driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr;
  double problems = driver && nccl_problem().empty() ? 0 : 1;
  world.all_reduce_max("mesh", &problems, 1);
  return problems == 0;
}

Transport automatic_transport(Group& world, const Device* device) {
  if (!device || device->host_memory()) return Transport::kHost;
  if (world.size() == 1) return Transport::kStaged;  // nothing is sent
  if (!every_rank_has_its_gpu(world, *device)) {
    if (world.rank() == 0) log_info("collectives: staged through host memory (ranks share a GPU)");
    return Transport::kStaged;
  }
  if (!every_rank_has_nccl(world)) {
    if (world.rank() == 0)
      log_info("collectives: staged through host memory (no NCCL or no driver on some rank)");
    return Transport::kStaged;
  }
  if (world.rank() == 0) log_info("collectives: NCCL");
  return Transport::kNccl;
}

Transport choose_transport(Group& world, const Device* device, const std::string& name) {
  if (name == "auto") return automatic_transport(world, device);
  const bool host_memory = !device || device->host_memory();
  if (name == "host") {
    if (!host_memory)
      fail(ExitCode::kConfig, "transport \"host\": MPI cannot read the memory of {}", device->name());
    return Transport::kHost;
  }
  if (name == "staged") {
    if (!device) fail(ExitCode::kConfig, "transport \"staged\": there is no device to stage for");
    return Transport::kStaged;
  }
  if (name != "nccl") fail(ExitCode::kConfig, "transport \"{}\": known are auto, host, staged, nccl", name);
  if (host_memory) fail(ExitCode::kConfig, "transport \"nccl\": there is no GPU");
  if (!nccl_problem().empty()) fail(ExitCode::kConfig, "transport \"nccl\": {}", nccl_problem());
  return Transport::kNccl;
}

}  // namespace

Mesh::Mesh(const MeshShape& shape, Device* device, const std::string& transport) : shape_(shape) {
  const std::unique_ptr<Group> all = make_group(0);
  const int rank = all->rank();
  check_shape(shape, all->size());
  const TransportChoice via{choose_transport(*all, device, transport), device};
  world_ = make_group(0, via);
  tp_ = make_group(rank / shape.tp, via);
  dp_ = make_group(rank % shape.tp, via);
  ep_ = make_group(rank / shape.ep, via);
  edp_ = make_group(rank % shape.ep, via);
}

void Mesh::finish_collectives() const {
  for (Group* group : {world_.get(), tp_.get(), dp_.get(), ep_.get(), edp_.get()})
    group->finish_collectives();
}

}  // namespace contender
