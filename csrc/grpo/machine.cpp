#include "base/log.h"
#include "grpo/trainer.h"
#include "model/sizes.h"

namespace contender {

Machine::Machine(const RunConfig& config, const Ops& backend, std::unique_ptr<Device> dev)
    : device(std::move(dev)), ops(&backend) {
  const MeshShape shape = mesh_shape(config, launcher_info().size);
  mesh = std::make_unique<Mesh>(shape, device.get(), config.mesh.transport);
  set_watchdog(config.train.watchdog_seconds);
  workspace = Buffer(device.get(), workspace_bytes(config, shape), "operator workspace");
  arena = Arena(device.get(), activation_bytes(config, shape), "activation arena", "train.token_budget");
  temp = Arena(device.get(), scratch_bytes(config, shape), "scratch arena", "train.token_budget");
}

Runtime Machine::runtime() {
  return {.device = device.get(),
          .ops = ops,
          .mesh = mesh.get(),
          .arena = &arena,
          .temp = &temp,
          .exec = {.stream = device->compute_stream(),
                   .workspace = workspace.data(),
                   .workspace_bytes = workspace.bytes()}};
}

}  // namespace contender
