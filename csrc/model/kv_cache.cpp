#include "model/kv_cache.h"

#include <cmath>

#include "ops/rope.h"

namespace contender {

RopeConfig rope_config(const ModelConfig& m) {
  return {.dim = m.mla() ? m.qk_rope_head_dim : m.head_dim,
          .theta = m.rope_theta,
          .yarn_factor = m.rope_factor,
          .original_max_position = static_cast<double>(m.rope_original_max_position),
          .beta_fast = m.rope_beta_fast,
          .beta_slow = m.rope_beta_slow,
          .mscale = m.rope_mscale,
          .mscale_all_dim = m.rope_mscale_all_dim,
          .scaling = m.rope_scaling == "llama3" ? RopeScaling::kLlama3 : RopeScaling::kYarn};
}

AttentionShape attention_shape(const ModelConfig& m, int tp, int64_t page_size) {
  const int64_t heads = div_exact(m.num_attention_heads, tp);
  AttentionShape s{.num_heads = heads, .page_size = page_size};
  if (m.mla()) {  // absorbed: the value is the latent part of the key
    s.num_kv_heads = 1;
    s.d_qk = m.kv_lora_rank + m.qk_rope_head_dim;
    s.d_v = m.kv_lora_rank;
    s.row_width = s.k_stride = s.d_qk;
    s.scale = static_cast<float>(yarn_softmax_scale(rope_config(m)) /
                                 std::sqrt(double(m.qk_nope_head_dim + m.qk_rope_head_dim)));
  } else {
    s.num_kv_heads = div_exact(m.num_key_value_heads, tp);
    s.d_qk = s.d_v = s.k_stride = s.v_stride = m.head_dim;
    s.v_offset = s.num_kv_heads * m.head_dim;
    s.row_width = 2 * s.num_kv_heads * m.head_dim;
    s.scale = static_cast<float>(yarn_softmax_scale(rope_config(m)) / std::sqrt(double(m.head_dim)));
  }
  return s;
}

int64_t KvCache::bytes(const ModelConfig& m, int tp, int64_t num_pages, int64_t page_size, DType dtype) {
  return m.num_hidden_layers * (num_pages + 1) * page_size * attention_shape(m, tp, page_size).row_width *
         dtype_size(dtype);
}

KvCache::KvCache(Device* device, const ModelConfig& m, int tp, int64_t num_pages, int64_t page_size,
                 DType dtype)
    : buffer_(device, bytes(m, tp, num_pages, page_size, dtype), "KV cache"),
      num_pages_(num_pages),
      page_size_(page_size) {
  const int64_t rows = (num_pages + 1) * page_size, width = attention_shape(m, tp, page_size).row_width;
  for (int64_t l = 0; l < m.num_hidden_layers; ++l)
    layers_.push_back(
        {static_cast<char*>(buffer_.data()) + l * rows * width * dtype_size(dtype), dtype, rows, width});
  for (const Tensor& layer : layers_) {
    const Tensor padding = layer.row_range(num_pages * page_size, rows);
    device->zero(device->compute_stream(), padding.data, padding.numel() * dtype_size(dtype));
  }
}

}  // namespace contender
