// What: the GRPO family of token losses with gradients, KL and clip statistics in one pass.
// Math: token loss = weight * tis * (policy + kl_beta * KL). With d = logp - logp_ref:
//       k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d; their derivatives are 1, d, 1 - exp(-d).
//       kSequence: ratio = exp(mean over the sequence of logp - logp_old), so each token's logp has 1/n of
//       the derivative of every token's loss: the policy gradients of a sequence are summed, then dealt out
//       evenly.
// Precision: double inside, rounded to FP32 at the end; sums over a sequence are chains in token order.
#include "ops/loss.h"

#include <algorithm>
#include <cmath>

#include "cpu/cpu_ops.h"

namespace contender::cpu {
namespace {

struct PolicyTerm {
  double loss;
  double dlog_ratio;  // through the ratio
  double dlogp;       // straight to this token's logp
  bool clipped;
};

PolicyTerm policy_term(const TokenLossArgs& a, double ratio, double advantage, double logp) {
  const double clipped = std::clamp(ratio, 1.0 - a.clip_eps_low, 1.0 + a.clip_eps_high);
  if (a.objective == PolicyObjective::kCispo) {
    return {-clipped * advantage * logp, 0.0, -clipped * advantage, clipped != ratio};
  }
  if (clipped * advantage < ratio * advantage) return {-clipped * advantage, 0.0, 0.0, true};
  return {-ratio * advantage, -ratio * advantage, 0.0, false};
}

struct KlTerm {
  double value;
  double dlogp;
};

KlTerm kl_term(KlEstimator kl, double d) {
  switch (kl) {
    case KlEstimator::kNone:
      return {0, 0};
    case KlEstimator::kK1:
      return {d, 1};
    case KlEstimator::kK2:
      return {d * d / 2, d};
    case KlEstimator::kK3:
      return {std::expm1(-d) + d, -std::expm1(-d)};
  }
  fail(ExitCode::kInternal, "KL estimator {}", static_cast<int>(kl));
}

// Tokens [begin, end) are one completion.
void sequence_loss(const TokenLossArgs& a, int64_t begin, int64_t end) {
  const bool per_sequence = a.ratio_level == RatioLevel::kSequence;
  const double count = static_cast<double>(end - begin);
  auto log_ratio = [&](int64_t t) { return static_cast<double>(a.logp[t]) - a.logp_old[t]; };
  double sequence_ratio = 0;
  if (per_sequence) {
    for (int64_t t = begin; t < end; ++t) sequence_ratio += log_ratio(t);
    sequence_ratio = std::exp(sequence_ratio / count);
  }
  double shared = 0;  // d(sum of the sequence's policy losses) / d(mean log ratio)
  for (int64_t t = begin; t < end; ++t) {
    const double scale = static_cast<double>(a.weight[t]) * (a.tis ? a.tis[t] : 1.0f);
    const double ratio = per_sequence ? sequence_ratio : std::exp(log_ratio(t));
    const PolicyTerm policy = policy_term(a, ratio, a.advantage[t], a.logp[t]);
    const KlTerm kl = a.kl == KlEstimator::kNone
                          ? KlTerm{0, 0}
                          : kl_term(a.kl, static_cast<double>(a.logp[t]) - a.logp_ref[t]);
    const double own = policy.dlogp + (per_sequence ? 0.0 : policy.dlog_ratio) + a.kl_beta * kl.dlogp;
    shared += scale * policy.dlog_ratio;
    a.dlogp[t] = static_cast<float>(scale * own);
    a.loss[t] = static_cast<float>(scale * (policy.loss + a.kl_beta * kl.value));
    a.kl_value[t] = static_cast<float>(kl.value);
    a.clipped[t] = policy.clipped ? 1.0f : 0.0f;
  }
  for (int64_t t = begin; per_sequence && t < end; ++t)
    a.dlogp[t] = static_cast<float>(a.dlogp[t] + shared / count);
}

}  // namespace

void token_loss(const Exec&, const TokenLossArgs& a) {
  CHECK(a.num_tokens == 0 || (a.dlogp && a.loss && a.kl_value && a.clipped), "an output is missing");
  CHECK(a.kl == KlEstimator::kNone || a.logp_ref || a.num_tokens == 0, "a KL estimator without logp_ref");
  CHECK(a.num_seqs == 0 ? a.num_tokens == 0
                        : a.seq_offsets[0] == 0 && a.seq_offsets[a.num_seqs] == a.num_tokens,
        "{} sequences do not cover {} tokens", a.num_seqs, a.num_tokens);
  for (int64_t s = 0; s < a.num_seqs; ++s) {
    CHECK(a.seq_offsets[s] <= a.seq_offsets[s + 1], "sequence {}: tokens [{}, {})", s, a.seq_offsets[s],
          a.seq_offsets[s + 1]);
    sequence_loss(a, a.seq_offsets[s], a.seq_offsets[s + 1]);
  }
}

}  // namespace contender::cpu
