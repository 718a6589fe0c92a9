// Which warp runs next, and what to do when none can.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "exec/warp.h"
#include "exec/worker.h"

namespace ptxsim {

enum class Slice { kFinished, kProgress, kStalled };

// Gives every warp of the cluster one turn. kStalled: warps looked at what others may change, and nothing
// happened (they spin on something outside). Throws Fault; a deadlock inside the cluster is one.
Slice run_slice(Cluster& c);

// A cluster with its storage, made for one shape of launch and used again for its next blocks and launches.
struct ClusterSlot {
  Cluster cluster;
  uint64_t program = 0;  // serial
  Dim3 block, size;
  std::unique_ptr<std::byte[], void (*)(std::byte*)> registers{nullptr, [](std::byte*) {}},
      shared{nullptr, [](std::byte*) {}}, local{nullptr, [](std::byte*) {}};
  size_t register_bytes = 0, shared_bytes = 0, local_bytes = 0;
};

// Makes the slot ready to run cluster `index` of the launch.
void start_cluster(ClusterSlot& slot, Launch& launch, Worker& worker, uint64_t index);

}  // namespace ptxsim
