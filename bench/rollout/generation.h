// What the benches of generation share: a model on one rank, and what a token costs at least.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/cpu_ops.h"
#include "model/model.h"
#include "rollout/engine.h"

namespace contender::bench {

inline RolloutRequest request(uint64_t id, int32_t prompt_len, int32_t num_samples, int32_t max_new_tokens) {
  return {.id = id,
          .prompt_index = static_cast<uint32_t>(id),
          .prompt = std::vector<int32_t>(static_cast<size_t>(prompt_len), 3),
          .num_samples = num_samples,
          .max_new_tokens = max_new_tokens,
          .stop_tokens = {256}};
}

// What one token costs at least: products with the weights it meets, and attention over `context` keys.
inline double flops_per_token(const RunConfig& config, const std::vector<ParamSpec>& specs, int64_t context) {
  const ModelConfig& m = config.model;
  double flops = 0;
  for (const ParamSpec& s : specs) {
    if (!s.packed || s.layer > m.num_hidden_layers) continue;
    const double share =
        s.kind == ParamKind::kExpert ? double(m.num_experts_per_tok) / double(m.n_routed_experts) : 1;
    flops += 2 * share * static_cast<double>(s.numel());
  }
  const AttentionSeq seq{.q_len = 1, .kv_len = static_cast<int32_t>(context)};
  const AttentionShape shape = attention_shape(m, 1, config.rollout.page_size);
  return flops + static_cast<double>(m.num_hidden_layers) * attention_cost(shape, &seq, 1).flops;
}

inline double weight_bytes(const std::vector<ParamSpec>& specs) {
  double bytes = 0;
  for (const ParamSpec& s : specs) bytes += s.packed ? 4.0 * static_cast<double>(s.numel()) : 0;
  return bytes;
}

// One model and what it runs on; a process has one rank.
struct Generation {
  RunConfig config;
  std::unique_ptr<Device> device = make_cpu_device();
  Mesh mesh{MeshShape{}};
  Arena arena{device.get(), 256 << 20, "bench arena", "nothing"};
  Arena temp{device.get(), 256 << 20, "bench arena", "nothing"};
  Buffer workspace{device.get(), 64 << 20, "bench workspace"};
  Runtime runtime{.device = device.get(),
                  .ops = &cpu_ops(),
                  .mesh = &mesh,
                  .arena = &arena,
                  .temp = &temp,
                  .exec = {device->compute_stream(), workspace.data(), workspace.bytes()}};
  WeightStore weights;
  Model model;
  explicit Generation(const RunConfig& c)
      : config(c),
        weights(config, device.get(), &cpu_ops(), runtime.exec, &mesh, StoreRole::kReference),
        model(config, runtime, &weights) {
    weights.initialize(1);
  }
};

}  // namespace contender::bench
