// Paged key/value cache of one rank: one matrix of rows per layer; pages are handed out by the rollout
// engine.
#pragma once

#include <vector>

#include "base/config.h"
#include "device/device.h"
#include "ops/attention.h"
#include "ops/rope.h"

namespace contender {

// Cache row of one token in one layer. MLA: [latent kv_lora | rope]; GQA: [k of local kv heads | v of local
// kv heads].
RopeConfig rope_config(const ModelConfig& model);
AttentionShape attention_shape(const ModelConfig& model, int tp, int64_t page_size);

class KvCache {
 public:
  // One page more than num_pages: page number num_pages holds zeros, for rows of a batch that are padding.
  KvCache(Device* device, const ModelConfig& model, int tp, int64_t num_pages, int64_t page_size,
          DType dtype);
  const Tensor& layer(int64_t l) const { return layers_[l]; }
  int64_t num_pages() const { return num_pages_; }
  int64_t page_size() const { return page_size_; }
  static int64_t bytes(const ModelConfig& model, int tp, int64_t num_pages, int64_t page_size, DType dtype);

 private:
  Buffer buffer_;
  std::vector<Tensor> layers_;
  int64_t num_pages_, page_size_;
};

}  // namespace contender
