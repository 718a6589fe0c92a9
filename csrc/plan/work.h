// Floating-point operations of a model, from its parameter list and the cost functions of ops/.
#pragma once

#include <cstdint>

#include "base/config.h"

namespace contender {

// Whole model, all ranks together.
class ModelWork {
 public:
  explicit ModelWork(const ModelConfig& model);

  // Products of the blocks for one token, forward. The backward takes twice as much.
  double block_flops() const { return block_flops_; }
  double mtp_block_flops() const { return mtp_block_flops_; }
  // Attention of queries [begin, end) of a sequence over all keys before them, all layers.
  double attention_flops(double begin, double end) const;
  double attention_backward_flops(double length) const;
  double head_flops() const { return head_flops_; }  // of one row, forward
  double head_backward_flops() const { return head_backward_flops_; }

 private:
  const ModelConfig& m_;
  double block_flops_ = 0, mtp_block_flops_ = 0, head_flops_ = 0, head_backward_flops_ = 0;
};

}  // namespace contender
