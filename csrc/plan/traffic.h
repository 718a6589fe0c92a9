// The collectives of one optimizer step: what each rank sends, by the names of the trace.
#pragma once

#include <vector>

#include "plan/plan.h"

namespace contender {

// Tokens of one phase and how they are cut: all numbers are for one rank and one optimizer step.
struct PhaseTokens {
  double own = 0;        // tokens whose token-wise work the rank does
  double passes = 0;     // forwards
  double head_rows = 0;  // rows of the rank's tp group that reach the head
};

class Traffic {
 public:
  Traffic(const RunConfig& config, const MeshShape& mesh) : c_(config), m_(config.model), mesh_(mesh) {}

  void forward(const char* phase, const PhaseTokens& t, bool sampling);
  void backward(const char* phase, const PhaseTokens& t);
  void optimizer(const char* phase, double rounds);
  // Per-token results that every rank needs: `total_bytes` over all ranks.
  void share(const char* phase, const char* name, double total_bytes);
  std::vector<TrafficItem> take() { return std::move(items_); }

 private:
  void add(const char* phase, const char* name, const char* group, int ranks, double count, double bytes);
  void gather(const char* phase, const PhaseTokens& t, double times, double cols);  // over tp
  void reduce(const char* phase, const PhaseTokens& t, double times, double cols);
  void blocks(const char* phase, const PhaseTokens& t);
  void experts(const char* phase, const char* there, const char* back, const PhaseTokens& t,
               double there_cols);
  double read_cols(int64_t cols) const;
  double qkv_cols() const;
  double moe_layers() const;
  double dense_layers() const { return static_cast<double>(m_.num_hidden_layers) - moe_layers(); }

  const RunConfig& c_;
  const ModelConfig& m_;
  const MeshShape mesh_;
  std::vector<TrafficItem> items_;
};

}  // namespace contender
