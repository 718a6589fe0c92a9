// Which device runs the job: run.device = "auto" | "cpu" | "cuda" becomes "cpu" or "cuda".
#pragma once

#include <string>

#include "cuda/backend.h"
#include "grpo/app.h"

namespace contender {

// What one process finds, before MPI starts.
struct DeviceChoice {
  std::string device;                      // "cpu" or "cuda"
  std::string why_not_cuda;                // a few words; "" when CUDA can be used, or was not looked for
  const cuda::Library* library = nullptr;  // loaded; also where it finds no GPU that it can use
  cuda::Gpus found;                        // by the library
};

// "auto": a GPU where the library, its runtime, a driver and only suitable GPUs are there. Exit 10, naming
// what is missing, for "cuda" without them.
DeviceChoice choose_device(const std::string& asked);

// Collective over MPI_COMM_WORLD once MPI has started: every rank has to have made the same choice (exit 10
// naming the first that differs and why). Ranks take the GPUs they see in turn, by their rank on the machine;
// those that meet on one share its memory.
Backend make_backend(const DeviceChoice& choice, const std::string& asked);

// Rank among those of this machine as the launcher says it; 0 without one.
int local_rank();

}  // namespace contender
