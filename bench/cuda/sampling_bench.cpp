// One token from each row of logits.
#include <cmath>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/sampling.h"

namespace contender::bench {
namespace {

void sample(const RowsShape& s, const SampleParams& params) {
  const DeviceData logits = DeviceData::random(DType::kF32, s.rows, s.cols, 1, 12);
  std::vector<SampleKey> all_keys;
  for (int64_t r = 0; r < s.rows; ++r) all_keys.push_back({.seed = 1, .sample = static_cast<uint32_t>(r)});
  const DeviceData all_params =
                       DeviceData::of(std::vector<SampleParams>(static_cast<size_t>(s.rows), params)),
                   keys = DeviceData::of(all_keys), token(DType::kI32, 1, s.rows),
                   logp(DType::kF32, 1, s.rows), logp_sampled(DType::kF32, 1, s.rows);
  const Scratch scratch(sample_workspace_bytes(s.cols));
  const SampleArgs args = {.logits = logits.tensor(),
                           .params = all_params.as<SampleParams>(),
                           .keys = keys.as<SampleKey>(),
                           .token = token.as<int32_t>(),
                           .logp = logp.as<float>(),
                           .logp_sampled = logp_sampled.as<float>()};
  measure({.cost = sample_cost(s.rows, s.cols),
           .call = [&] { cuda::sample(scratch.exec(), args); },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 4)) {
                   const std::vector<double> z = logits.row(r);
                   const auto id = static_cast<size_t>(token.at(0, r));
                   double sum = 0, better = 0;
                   for (const double v : z) sum += std::exp(v);
                   for (const double v : z) better += v > z[id] ? std::exp(v) / sum : 0;
                   int64_t rank = 0;
                   for (const double v : z) rank += v > z[id];
                   check.near(logp.at(0, r), z[id] - std::log(sum), 1e-4);
                   check.equal(better < params.top_p, true);
                   check.equal(params.top_k == 0 || rank < params.top_k, true);
                   check.equal(params.temperature > 0 || rank == 0, true);
                 }
               }});
}

const Family family("sampling", [] {
  // The bar's, DeepSeek-V3, Qwen-7B; one row.
  const std::vector<RowsShape> shapes = {{128, 131072}, {128, 129280}, {128, 152064}, {1, 129280}};
  constexpr RowsShape kSmall = {2, 8192};
  const auto with = [&](const char* name, const SampleParams& params) {
    rows(name, shapes, {kSmall}, [params](const RowsShape& s) { sample(s, params); });
  };
  with("sample", {});
  with("sample_greedy", {.temperature = 0});
  with("sample_top_k", {.top_k = 50});
  with("sample_top_p", {.top_p = 0.95f});
  with("sample_top_k_top_p_min_p", {.top_k = 50, .top_p = 0.95f, .min_p = 0.01f});
});

}  // namespace
}  // namespace contender::bench
