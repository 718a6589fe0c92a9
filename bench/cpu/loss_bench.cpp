// Token losses: GRPO's clip with k3, and GSPO's ratio of a whole completion.
#include <cmath>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"
#include "ops/loss.h"

namespace contender::bench {
namespace {

void token_loss(benchmark::State& state, RatioLevel level) {
  const int64_t tokens = state.range(0), length = 64;
  std::vector<int32_t> offsets;
  for (int64_t t = 0; t <= tokens; t += length) offsets.push_back(static_cast<int32_t>(t));
  const std::vector<float> logp = random_values(tokens, 1), old = random_values(tokens, 2),
                           ref = random_values(tokens, 3), advantage = random_values(tokens, 4),
                           weight = random_values(tokens, 5);
  std::vector<float> out(static_cast<size_t>(4 * tokens));
  const TokenLossArgs args = {.num_tokens = tokens,
                              .seq_offsets = offsets.data(),
                              .num_seqs = static_cast<int64_t>(offsets.size()) - 1,
                              .logp = logp.data(),
                              .logp_old = old.data(),
                              .logp_ref = ref.data(),
                              .advantage = advantage.data(),
                              .weight = weight.data(),
                              .kl_beta = 0.001f,
                              .ratio_level = level,
                              .kl = KlEstimator::kK3,
                              .dlogp = out.data(),
                              .loss = out.data() + tokens,
                              .kl_value = out.data() + 2 * tokens,
                              .clipped = out.data() + 3 * tokens};
  cpu::token_loss({}, args);
  const double d = static_cast<double>(logp[0]) - ref[0];
  if (!(std::abs(args.kl_value[0] - (std::exp(-d) - 1 + d)) < 1e-6))
    return state.SkipWithError("wrong result");
  time_calls(state, token_loss_cost(tokens), [&] { cpu::token_loss({}, args); });
}

void token_loss_grpo(benchmark::State& state) { token_loss(state, RatioLevel::kToken); }
void token_loss_gspo(benchmark::State& state) { token_loss(state, RatioLevel::kSequence); }
BENCHMARK(token_loss_grpo)->Arg(1024)->Arg(16384);
BENCHMARK(token_loss_gspo)->Arg(1024)->Arg(16384);

}  // namespace
}  // namespace contender::bench
