// What a run needs on a mesh, before it is started: memory of a rank, collectives of a step, work, time and
// cost. Sizes come from the functions with which the run allocates, flops from those of ops/; no weights are
// made and no ranks are started.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"
#include "mpi/mesh.h"

namespace contender {

struct PlanOptions {
  int np = 0;                    // ranks; 0: the fewest that the config's mesh allows
  std::string hardware = "cpu";  // one of hardware_names()
  double peak_share = 0.4;       // of the peak rate that products reach
  int64_t mean_new_tokens = 0;   // mean completion; 0: rl.max_new_tokens
};

// One rank's machine.
struct Hardware {
  std::string name;
  double flops_per_s = 0;  // peak; GPUs: dense BF16, datasheet
  double bytes_per_s = 0;  // memory
  int64_t memory_bytes = 0;
};
std::vector<std::string> hardware_names();  // "cpu" (measured by the caller), "h800", "h100", "h200"
Hardware gpu_hardware(const std::string& name);

// Parameters without the MTP module: all of them, and those a token passes (num_experts_per_tok of the routed
// experts, the head, but of the embedding one row).
struct ModelSize {
  double total = 0;
  double active = 0;
};
ModelSize model_size(const ModelConfig& model);

struct MemoryItem {
  std::string name;
  int64_t bytes = 0;
  std::string lowered_by;  // the setting
};

// Messages of one kind that a rank sends in one optimizer step, mean over ranks.
struct TrafficItem {
  std::string phase;  // gen, ref, update, ...: the timer scopes of the step
  std::string name;   // as in the trace
  std::string group;
  int ranks = 1;
  double count = 0;  // collectives
  double bytes = 0;  // sent
};

// One optimizer step of a stage, all ranks together.
struct StagePlan {
  std::string name;
  int64_t steps = 0;
  double generated_tokens = 0;
  double trained_tokens = 0;  // forward and backward
  double gen_flops = 0, ref_flops = 0, update_flops = 0;
  double gen_seconds = 0, ref_seconds = 0, update_seconds = 0;  // without communication
  std::vector<TrafficItem> traffic;
  double flops() const { return gen_flops + ref_flops + update_flops; }
  double seconds() const { return gen_seconds + ref_seconds + update_seconds; }
};

struct Plan {
  MeshShape mesh;
  Hardware hardware;
  ModelSize size;
  std::vector<MemoryItem> memory;  // of the rank with the most
  std::vector<StagePlan> stages;
  double forward_flops_per_token = 0;  // at full context, averaged over positions
  double dollars_per_hour = 0;         // all ranks
  int64_t memory_bytes() const;
  double hours() const;
};

// Ranks of options.np, or the fewest of the config's mesh.
int plan_ranks(const RunConfig& config, const PlanOptions& options);
Plan make_plan(const RunConfig& config, const PlanOptions& options, const Hardware& hardware);

struct PlanTable {
  std::string title;
  std::vector<std::vector<std::string>> rows;  // the first is the header; may be empty
};
PlanTable memory_table(const Plan& plan);
// Exit 19 when the memory does not fit the hardware: how much is missing, the largest items, and the settings
// that lower them. Hardware of 0 bytes is not known and has room for all.
void require_memory(const Plan& plan);
std::vector<PlanTable> plan_tables(const RunConfig& config, const PlanOptions& options, const Plan& plan);

}  // namespace contender
