#include "grpo/algorithm.h"

#include <cmath>
#include <numeric>

#include "base/error.h"

namespace contender {
namespace {

KlEstimator kl_by_name(const std::string& name) {
  if (name == "k1") return KlEstimator::kK1;
  if (name == "k2") return KlEstimator::kK2;
  if (name == "k3") return KlEstimator::kK3;
  fail(ExitCode::kConfig, "rl.kl_estimator: unknown \"{}\" (k1, k2, k3)", name);
}

}  // namespace

Algorithm make_algorithm(const RlConfig& c) {
  Algorithm a;
  if (c.algorithm == "grpo") {
  } else if (c.algorithm == "dr_grpo") {
    a.advantage = AdvantageKind::kCentered;
    a.aggregation = Aggregation::kConstant;
  } else if (c.algorithm == "dapo") {
    a.aggregation = Aggregation::kToken;
  } else if (c.algorithm == "gspo") {
    a.ratio_level = RatioLevel::kSequence;
  } else if (c.algorithm == "rloo") {
    a.advantage = AdvantageKind::kLeaveOneOut;
    a.aggregation = Aggregation::kToken;
  } else if (c.algorithm == "cispo") {
    a.aggregation = Aggregation::kToken;
    a.objective = PolicyObjective::kCispo;
  } else {
    fail(ExitCode::kConfig, "rl.algorithm: unknown \"{}\" (grpo, dr_grpo, dapo, gspo, rloo, cispo)",
         c.algorithm);
  }
  if (c.aggregation == "token") a.aggregation = Aggregation::kToken;
  if (c.aggregation == "sequence") a.aggregation = Aggregation::kSequence;
  if (c.aggregation == "constant") a.aggregation = Aggregation::kConstant;
  if (c.kl_beta > 0) (c.kl_placement == "reward" ? a.kl_reward : a.kl_loss) = kl_by_name(c.kl_estimator);
  return a;
}

std::vector<float> group_advantages(AdvantageKind kind, const std::vector<float>& rewards) {
  const double n = static_cast<double>(rewards.size());
  std::vector<float> advantages(rewards.size(), 0.0f);
  if (rewards.size() < 2) return advantages;
  const double mean = std::accumulate(rewards.begin(), rewards.end(), 0.0) / n;
  double variance = 0;
  for (float r : rewards) variance += (r - mean) * (r - mean) / n;
  if (variance < 1e-12) return advantages;
  for (size_t i = 0; i < rewards.size(); ++i) {
    const double centered = rewards[i] - mean;
    switch (kind) {
      case AdvantageKind::kStandardized:
        advantages[i] = static_cast<float>(centered / std::sqrt(variance));
        break;
      case AdvantageKind::kCentered:
        advantages[i] = static_cast<float>(centered);
        break;
      case AdvantageKind::kLeaveOneOut:
        advantages[i] = static_cast<float>(centered * n / (n - 1));
        break;
    }
  }
  return advantages;
}

std::vector<float> token_weights(Aggregation aggregation, const std::vector<int64_t>& lengths,
                                 int64_t max_new_tokens) {
  const double n = static_cast<double>(lengths.size());
  const double tokens = static_cast<double>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0}));
  std::vector<float> weights;
  for (int64_t length : lengths) {
    double w = 0;
    switch (aggregation) {
      case Aggregation::kToken:
        w = 1 / tokens;
        break;
      case Aggregation::kSequence:
        w = 1 / (n * static_cast<double>(length));
        break;
      case Aggregation::kConstant:
        w = 1 / (n * static_cast<double>(max_new_tokens));
        break;
    }
    weights.push_back(length > 0 ? static_cast<float>(w) : 0.0f);
  }
  return weights;
}

double kl_estimate(KlEstimator kind, float logp, float logp_ref) {
  const double d = static_cast<double>(logp) - logp_ref;
  switch (kind) {
    case KlEstimator::kNone:
      return 0;
    case KlEstimator::kK1:
      return d;
    case KlEstimator::kK2:
      return d * d / 2;
    case KlEstimator::kK3:
      return std::expm1(-d) + d;
  }
  fail(ExitCode::kInternal, "KL estimator {}", static_cast<int>(kind));
}

}  // namespace contender
