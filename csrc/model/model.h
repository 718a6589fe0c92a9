// The policy: one forward for rollout, one forward and backward for training, over the same operators and
// weights.
//
// A forward works on the tokens of a whole tp group: attention and dense products see all of them with this
// rank's heads or columns; token-wise work (norms, latent down-projections, router, experts' dispatch,
// residual stream) is done for the rows this rank owns: counts[tp_rank] rows, contiguous, in tp-rank order
// (sequence parallelism between blocks).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/config.h"
#include "base/exact_sum.h"
#include "device/device.h"
#include "device/transfer.h"
#include "model/kv_cache.h"
#include "model/weights.h"
#include "mpi/mesh.h"
#include "ops/ops.h"

namespace contender {

// What a model runs on. Owned by the application, shared by policy, reference and rollout.
struct Runtime {
  Device* device = nullptr;
  const Ops* ops = nullptr;
  Mesh* mesh = nullptr;
  Arena* arena = nullptr;  // activations kept for the backward, and results
  Arena* temp = nullptr;   // scratch of one sublayer
  Exec exec;               // stream and workspace
};

// Tokens of one forward, the same on every rank of the tp group. Zero tokens are allowed (a rank that only
// takes part in exchanges).
struct TokenBatch {
  std::vector<int32_t> tokens;      // [T]
  std::vector<int32_t> positions;   // [T] position in the sequence
  std::vector<int32_t> cache_rows;  // [T] row of the KV cache the token's key/value is written to: page_id *
                                    // page_size + offset
  std::vector<AttentionSeq> seqs;   // q_begin ascending, covering all T rows
  std::vector<int32_t> page_ids;    // page tables of all sequences, AttentionSeq::page_table indexes into it
  std::vector<int64_t> counts;      // [tp] rows owned by each tp rank, sum T
  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
};
// counts = T cut evenly over tp ranks (rollout).
void split_rows_evenly(TokenBatch& batch, int tp);

// Training tokens: the packs of the tp group's data slots, one after the other. Sequences whole, each in its
// own cache pages.
struct PackedBatch {
  TokenBatch tokens;
  std::vector<int32_t> slot_offsets;  // [slots of the tp group + 1] rows
  std::vector<int32_t> head_rows;     // rows whose next token is scored, ascending
  std::vector<int32_t> targets;       // [head_rows] that token
  std::vector<int32_t> sequence_ids;  // [seqs] the caller's number of each sequence
};

// A sequence to be packed: prompt and completion; the tokens from `first_target` on are scored.
struct TrainSequence {
  std::vector<int32_t> tokens;
  int32_t first_target = 1;
  int32_t id = 0;
};
// Packs of the slots of one tp group (slots[i] lists sequences), ready for a forward; `tp` ranks own equal
// numbers of slots.
PackedBatch make_packed_batch(const std::vector<std::vector<const TrainSequence*>>& slots, int tp);

// The MTP module's loss in SFT and RL: weight of its mean cross-entropy.
struct MtpLoss {
  float weight = 0;
  Readback* results = nullptr;                     // takes the statistics at its targets
  std::vector<Readback::Place<HeadStats>> places;  // out: one more for each backward
};

class Model {
 public:
  Model(const RunConfig& config, const Runtime& runtime, WeightStore* weights);
  ~Model();

  // Rollout, in two parts: the batch goes to the device; then, by work on the device alone, the blocks run,
  // write the cache, and the result is the logits [rows.size(), V] of the given rows of the batch, on every
  // rank of the tp group. It lives in the arena until the caller releases it. Collective over the tp and ep
  // groups: every rank of an ep group must call both the same number of times (with an empty batch when it
  // has nothing to do). The batch and the cache live until then.
  void send_rollout(const TokenBatch& batch, const KvCache& cache, const std::vector<int32_t>& rows);
  Tensor run_rollout();

  // log p(target), entropy of every head row, by a full-sequence forward that keeps nothing. The same on
  // every rank of the tp group.
  Readback::Place<HeadStats> forward_logp(const PackedBatch& batch, float inv_temperature, Readback& results);
  std::vector<HeadStats> forward_logp(const PackedBatch& batch, float inv_temperature);  // waits
  // The same, keeping what `backward` needs: [head rows] in device memory, until then. The batch must live
  // until then.
  const HeadStats* forward_train(const PackedBatch& batch, float inv_temperature);
  // Fills the gradient planes from dL/dlogp and dL/dentropy (or null) of the head rows, in device memory, and
  // starts the reduction of each layer as it is complete (WeightStore::finish_reduce ends it). `mtp`: adds
  // the MTP loss, `mtp->weight / total_targets` per target.
  void backward(const float* dlogp, const float* dentropy, MtpLoss* mtp = nullptr, int64_t total_targets = 0);
  void backward(const std::vector<float>& dlogp, const std::vector<float>& dentropy, MtpLoss* mtp = nullptr,
                int64_t total_targets = 0);

  // The counts of the passes since the last update of the bias: `results` takes them; after its download the
  // expert exchange is checked (exit 1 where a rank had no room for its rows), and the bias can be updated.
  void read_counts(Readback& results);
  void check_counts(const Readback& results) const;
  // Aux-loss-free balancing: moves the selection bias of every MoE layer by the sign of (mean load - load)
  // over all ranks' tokens since the last call. Returns max load / mean load of the worst layer.
  double update_router_bias(const Readback& results, double speed);

  // What the last forward_train keeps for its backward, by name ("layers.1.attn.q"), in device memory: for
  // tests. Without recomputation only.
  std::vector<std::pair<std::string, Tensor>> kept_tensors() const;

  const ModelConfig& config() const;
  const Runtime& runtime() const;
  WeightStore& weights() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace contender
