// The token loss of GRPO and of GSPO, a million tokens in sequences of 8,192.
#include <algorithm>
#include <cmath>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/loss.h"

namespace contender::bench {
namespace {

struct Shape {
  int64_t seqs, length;
  std::string text() const { return fmt::format("{}x{}", seqs, length); }
  int64_t tokens() const { return seqs * length; }
};

void token_loss(const Shape& s, RatioLevel level) {
  const int64_t n = s.tokens();
  std::vector<int32_t> begins;
  for (int64_t i = 0; i <= s.seqs; ++i) begins.push_back(narrow<int32_t>(i * s.length));
  const DeviceData offsets = DeviceData::of(begins);
  const auto column = [&](uint64_t seed) { return DeviceData::random(DType::kF32, 1, n, seed); };
  const DeviceData logp = column(1), logp_old = column(2), logp_ref = column(3), advantage = column(4),
                   weight = column(5), tis = column(6);
  const DeviceData dlogp(DType::kF32, 1, n), loss(DType::kF32, 1, n), kl(DType::kF32, 1, n),
      clipped(DType::kF32, 1, n);
  constexpr float kBeta = 0.04f;
  const TokenLossArgs args = {.num_tokens = n,
                              .seq_offsets = offsets.as<int32_t>(),
                              .num_seqs = s.seqs,
                              .logp = logp.as<float>(),
                              .logp_old = logp_old.as<float>(),
                              .logp_ref = logp_ref.as<float>(),
                              .advantage = advantage.as<float>(),
                              .weight = weight.as<float>(),
                              .tis = tis.as<float>(),
                              .kl_beta = kBeta,
                              .ratio_level = level,
                              .kl = KlEstimator::kK3,
                              .dlogp = dlogp.as<float>(),
                              .loss = loss.as<float>(),
                              .kl_value = kl.as<float>(),
                              .clipped = clipped.as<float>()};
  measure(
      {.cost = token_loss_cost(n),
       .call = [&] { cuda::token_loss({}, args); },
       .check =
           [&](Check& check) {
             for (const int64_t i : samples(s.seqs, 2)) {
               double mean = 0;
               for (int64_t t = i * s.length; t < (i + 1) * s.length && level == RatioLevel::kSequence; ++t)
                 mean += (logp.at(0, t) - logp_old.at(0, t)) / static_cast<double>(s.length);
               for (const int64_t t : samples(s.length, 16)) {
                 const int64_t at = i * s.length + t;
                 const double d = level == RatioLevel::kSequence ? mean : logp.at(0, at) - logp_old.at(0, at),
                              ratio = std::exp(d), a = advantage.at(0, at),
                              policy = -std::min(ratio * a, std::clamp(ratio, 0.8, 1.2) * a),
                              from_ref = logp.at(0, at) - logp_ref.at(0, at),
                              k3 = std::exp(-from_ref) - 1 + from_ref,
                              want = weight.at(0, at) * tis.at(0, at) * (policy + kBeta * k3);
                 check.near(loss.at(0, at), want, 1e-5 + 5e-4 * std::abs(want));
                 check.near(kl.at(0, at), k3, 1e-5 + 5e-4 * k3);
               }
             }
           }});
}

const Family family("loss", [] {
  const std::vector<Shape> shapes = {{128, 8192}, {128, 512}};
  constexpr Shape kSmall = {4, 1024};
  rows("token_loss_grpo", shapes, {kSmall}, [](const Shape& s) { token_loss(s, RatioLevel::kToken); });
  rows("token_loss_gspo", shapes, {kSmall}, [](const Shape& s) { token_loss(s, RatioLevel::kSequence); });
});

}  // namespace
}  // namespace contender::bench
