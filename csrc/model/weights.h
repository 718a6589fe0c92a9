// WeightStore: the one owner of a model's parameters on a rank: FP32 master, packed forms for products,
// gradients, and the ZeRO-2 sharded optimizer. Rollout, training, reference and checkpoints read the same
// views; `version` counts the updates.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/config.h"
#include "device/device.h"
#include "device/transfer.h"
#include "model/params.h"
#include "mpi/mesh.h"
#include "ops/ops.h"

namespace contender {

// Parameters of one (layer, kind, uses), contiguous in the flat buffers: the unit of reduction and of the
// all-gather.
struct Bucket {
  int64_t layer = 0;
  ParamKind kind = ParamKind::kTokenWise;
  int64_t uses = 1;
  int64_t offset = 0;        // first element in the master buffer
  int64_t n = 0;             // elements
  int64_t grad_offset = 0;   // first element in the gradient buffer: uses planes of n
  int64_t shard_offset = 0;  // first element in the shard buffers
  int64_t shard_n = 0;       // this rank's shard
  int64_t shard_begin = 0;   // its place in [0, n)
  std::vector<int> params;
};

// A weight in 128 x 128 blocks of FP8: [groups * n, k] for y = x w^T, and [groups * k, n] for dx = dy w.
struct Fp8Forms {
  QTensor forward, backward;  // backward is empty in a reference
};

// Bytes of one of them, codes and scales.
int64_t fp8_form_bytes(const ParamSpec& spec);

// Virtual slices of a contracted dimension that FP8 products make apart, of `wanted`: whole blocks of 128.
constexpr int64_t fp8_slices(int64_t k, int64_t wanted) {
  while (wanted > 1 && k % (wanted * kQuantizeBlock) != 0) wanted /= 2;
  return wanted;
}

enum class StoreRole : uint8_t { kTrain, kReference };  // a reference has masters and forward forms only

class WeightStore {
 public:
  WeightStore(const RunConfig& config, Device* device, const Ops* ops, const Exec& exec, Mesh* mesh,
              StoreRole role);

  const std::vector<ParamSpec>& specs() const { return specs_; }
  int find(const std::string& name) const;  // index, or Error
  Tensor master(int param) const;           // [groups * n, k]
  WeightView view(int param) const;         // packed forms
  // With train.precision = "fp8" the linear layers have FP8 forms instead.
  bool fp8(int param) const { return fp8_ && specs_[param].fp8; }
  const Fp8Forms& fp8_forms(int param) const { return fp8_forms_.at(param); }
  Tensor grad(int param, int use = 0) const;  // [groups * n, k], written by the backward
  const std::vector<Bucket>& buckets() const { return buckets_; }
  Group& group_of(ParamKind kind) const;

  void initialize(uint64_t seed);  // layout-independent random weights
  void repack();                   // packed forms from the masters; every change of a master ends with it
  void repack(int param);
  void copy_from(const WeightStore& other);  // masters, then repack (reference := policy)
  int64_t version() const { return version_; }
  void set_version(int64_t v) { version_ = v; }

  // Training. begin_step; then per round: begin_round, the backward fills the gradient planes and starts the
  // reduction of each layer as soon as it is complete, finish_reduce adds the reduced planes to the shards.
  // Then the norm, and AdamW on the shards, all-gather of the masters, repack; what the rank has whole is
  // packed by AdamW.
  void begin_step();                 // gradient shards := 0
  void begin_round();                // gradient planes := 0
  void reduce_layer(int64_t layer);  // starts the reduction of the layer's buckets
  void finish_reduce();
  // Sum of the squares of this rank's gradient shards, each parameter once over all ranks.
  Readback::Place<ExactSum> grad_square_sum(Readback& results);
  struct AdamwStep {
    float lr, beta1, beta2, eps, weight_decay, grad_scale;
    int64_t t;  // 1-based count of updates, for bias correction
  };
  void adamw_step(const AdamwStep& step);  // version() + 1
  float* grad_shard() { return grad_shard_.f32(); }
  int64_t shard_numel() const { return shard_numel_; }

  // Moments of this rank's shard: elements [at, at + rows * cols) of the shard buffers as a matrix, and back
  // from FP32.
  Tensor moment_m(int64_t at, int64_t rows, int64_t cols) const { return moment(moment_m_, at, rows, cols); }
  Tensor moment_v(int64_t at, int64_t rows, int64_t cols) const { return moment(moment_v_, at, rows, cols); }
  void set_moments(bool first, int64_t at, const std::vector<float>& values);
  // Elements of a parameter, from host memory: rows [row, ...) of its master. `repack` comes later.
  void set_master(int param, int64_t row, const std::vector<float>& values);
  // Any of the tensors above where the host can read it: itself, or a copy in `memory` (waits).
  Tensor host_view(const Tensor& t, std::vector<char>& memory) const;

  // A hash of every weight that does not depend on the layout. Collective.
  uint64_t fingerprint() const;

  static int64_t bytes(const std::vector<ParamSpec>& specs, const RunConfig& config, StoreRole role,
                       const MeshShape& mesh);

 private:
  Tensor moment(const Buffer& b, int64_t at, int64_t rows, int64_t cols) const {
    return {static_cast<char*>(b.data()) + at * dtype_size(moment_dtype_), moment_dtype_, rows, cols};
  }
  void layout_buckets();
  void place_fp8_forms();
  WeightCopies copies(int param) const;  // the forms that products read
  void reduce_bucket(int bucket);
  const RunConfig* config_;
  Device* device_;
  const Ops* ops_;
  Exec exec_;
  Mesh* mesh_;
  StoreRole role_;
  std::vector<ParamSpec> specs_;
  std::vector<Bucket> buckets_;
  std::vector<int64_t> param_offset_, param_bucket_,
      param_place_;  // element offsets in master; bucket; place in the bucket
  std::vector<int64_t> forward_offset_, backward_offset_;  // bytes in packed_, -1 when not packed
  std::vector<Fp8Forms> fp8_forms_;                        // by parameter, empty where it has none
  bool fp8_ = false;
  Buffer master_, grad_, grad_shard_, moment_m_, moment_v_, packed_, scratch_, scalars_;
  int64_t master_numel_ = 0, grad_numel_ = 0, shard_numel_ = 0;
  int64_t version_ = 0;
  DType moment_dtype_ = DType::kF32;
  struct InFlight {
    int bucket;
    std::vector<Pending> planes;
  };
  std::vector<InFlight> in_flight_;
};

}  // namespace contender
