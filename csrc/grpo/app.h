// The commands that train and sample, as functions. cli/ parses the arguments, loads the backend and starts
// MPI; the application does the rest and returns an exit code (base/error.h). All are collective over
// MPI_COMM_WORLD.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "device/device.h"
#include "ops/ops.h"

namespace contender {

// What only cli/ may name: the kernels, their device, and how fast it is.
struct Backend {
  const Ops* ops = nullptr;
  std::function<std::unique_ptr<Device>()> make_device;
  std::function<double()> matrix_gflops;  // of one rank: the denominator of "% of the matrix rate"
  std::string asked = "auto";             // run.device as the user wrote it
  std::string why_not_cuda;               // where "auto" came to the CPU
};

enum class ResumeMode : uint8_t {
  kIfPresent,  // continue the run in run.dir if there is one, else start
  kRequired,   // --resume: continue it; exit 11 when there is nothing to continue
  kNever,      // --no-resume: start over; what an earlier run left in run.dir is replaced
};

struct RunOptions {
  Backend backend;
  ResumeMode resume = ResumeMode::kIfPresent;
  std::string checkpoint;            // eval, generate: a checkpoint directory; "": the newest of run.dir
  std::vector<std::string> prompts;  // generate; empty: held-out problems of the task
  int64_t samples = 1;               // generate: completions per prompt
};

int run_sft(const RunConfig& config, const RunOptions& options);    // the stages of kind sft
int run_train(const RunConfig& config, const RunOptions& options);  // every stage
int run_eval(const RunConfig& config, const RunOptions& options);
int run_generate(const RunConfig& config, const RunOptions& options);
int run_demo(const RunConfig& config,
             const RunOptions& options);  // run_train, the closing table, report and summary

}  // namespace contender
