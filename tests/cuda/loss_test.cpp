#include "ops/loss.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"
#include "tests/ref/loss_ref.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::same_bits;

struct Outputs {
  std::vector<float> dlogp, loss, kl, clipped;
};
bool same(const Outputs& a, const Outputs& b) {
  return same_bits(a.dlogp, b.dlogp) && same_bits(a.loss, b.loss) && same_bits(a.kl, b.kl) &&
         same_bits(a.clipped, b.clipped);
}

struct Inputs {
  std::vector<int32_t> offsets = {0, 7,  7,
                                  8, 21, 1321};  // an empty completion, one of a single token, a long one
  std::vector<float> logp, logp_old, logp_ref, advantage, weight, tis;

  explicit Inputs(uint64_t seed) {
    const int64_t n = offsets.back();
    logp = test::random_values(n, seed, 1.0);
    logp_old = logp_ref = logp;
    const auto a = test::random_values(n, seed + 1, 1.0, 0.2), b = test::random_values(n, seed + 2, 1.0);
    for (int64_t t = 0; t < n; ++t) {
      const float shift = t < 7 ? 0.5f : t >= 21 ? -0.5f : 0.0f;  // sequence ratios outside the clip range
      logp[t] -= 3;
      logp_old[t] += a[t] - 3 + shift;
      logp_ref[t] += b[t] - 3;
    }
    advantage = test::random_values(n, seed + 3, 1.0);
    advantage[2] = 0;
    weight = test::random_values(n, seed + 4, 2.0);
    tis = test::random_values(n, seed + 5, 1.0);
  }
  int64_t tokens() const { return offsets.back(); }

  // Every array starts `offset` elements into its memory: 0 takes the vector path.
  Outputs run(TokenLossArgs a, int64_t offset = 0) const {
    const auto upload = [&](const std::vector<float>& v) {
      std::vector<float> shifted(static_cast<size_t>(offset), std::nanf(""));
      shifted.insert(shifted.end(), v.begin(), v.end());
      return DeviceArray<float>(shifted);
    };
    const DeviceArray<int32_t> device_offsets(offsets);
    const DeviceArray<float> p = upload(logp), old = upload(logp_old), ref = upload(logp_ref),
                             adv = upload(advantage), w = upload(weight), s = upload(tis);
    const DeviceArray<float> out[4] = {
        DeviceArray<float>(tokens() + offset), DeviceArray<float>(tokens() + offset),
        DeviceArray<float>(tokens() + offset), DeviceArray<float>(tokens() + offset)};
    a.num_tokens = tokens();
    a.seq_offsets = device_offsets.data();
    a.num_seqs = static_cast<int64_t>(offsets.size()) - 1;
    a.logp = p.data() + offset;
    a.logp_old = old.data() + offset;
    a.logp_ref = a.kl == KlEstimator::kNone ? nullptr : ref.data() + offset;
    a.advantage = adv.data() + offset;
    a.weight = w.data() + offset;
    a.tis = tis.empty() ? nullptr : s.data() + offset;
    a.dlogp = out[0].data() + offset;
    a.loss = out[1].data() + offset;
    a.kl_value = out[2].data() + offset;
    a.clipped = out[3].data() + offset;
    cuda::token_loss({}, a);
    const auto download = [&](const DeviceArray<float>& array) {
      std::vector<float> v = array.download();
      v.erase(v.begin(), v.begin() + offset);
      return v;
    };
    return {download(out[0]), download(out[1]), download(out[2]), download(out[3])};
  }
  Outputs run_on_cpu(TokenLossArgs a) const {
    Outputs out = {test::poisoned(tokens()), test::poisoned(tokens()), test::poisoned(tokens()),
                   test::poisoned(tokens())};
    a.num_tokens = tokens();
    a.seq_offsets = offsets.data();
    a.num_seqs = static_cast<int64_t>(offsets.size()) - 1;
    a.logp = logp.data();
    a.logp_old = logp_old.data();
    a.logp_ref = a.kl == KlEstimator::kNone ? nullptr : logp_ref.data();
    a.advantage = advantage.data();
    a.weight = weight.data();
    a.tis = tis.empty() ? nullptr : tis.data();
    a.dlogp = out.dlogp.data();
    a.loss = out.loss.data();
    a.kl_value = out.kl.data();
    a.clipped = out.clipped.data();
    cpu::token_loss({}, a);
    return out;
  }
};

std::vector<double> wide(const std::vector<float>& v) { return {v.begin(), v.end()}; }

class CudaTokenLoss : public testing::TestWithParam<std::tuple<RatioLevel, PolicyObjective, KlEstimator>> {};

// Against double: each term is a product of a few roundings (the exponential's 1.1 ulp and the difference of
// log-probs among them), so its error is some 16 halves of an ulp of the term; terms may cancel.
TEST_P(CudaTokenLoss, ValuesAndGradients) {
  const auto [level, objective, kl] = GetParam();
  const Inputs in(static_cast<uint64_t>(kl) * 100 + 1);
  const TokenLossArgs args = {.clip_eps_low = 0.1f,
                              .clip_eps_high = 0.25f,
                              .kl_beta = 0.3f,
                              .ratio_level = level,
                              .objective = objective,
                              .kl = kl};
  const Outputs out = in.run(args), want = in.run_on_cpu(args);
  const ref::LossProblem problem = {in.offsets,        wide(in.logp_old),
                                    wide(in.logp_ref), wide(in.advantage),
                                    wide(in.weight),   wide(in.tis),
                                    args.clip_eps_low, args.clip_eps_high,
                                    args.kl_beta,      level,
                                    objective,         kl};
  const std::vector<double> logp = wide(in.logp);
  const auto policy_size = [&](int64_t t) {
    const double ratio = std::max(problem.ratio(logp, t), 1 - problem.eps_low);
    return std::abs(in.weight[t] * in.tis[t] * in.advantage[t] * ratio);
  };
  std::vector<double> shared(in.offsets.size(), 0.0);  // mean size of a sequence's gradients
  for (int64_t t = 0; t < in.tokens() && level == RatioLevel::kSequence; ++t) {
    const int64_t s = problem.sequence_of(t);
    shared[s] += policy_size(t) / (in.offsets[s + 1] - in.offsets[s]);
  }
  int clipped = 0;
  for (int64_t t = 0; t < in.tokens(); ++t) {
    const double ratio = problem.ratio(logp, t);
    ASSERT_GT(std::min(std::abs(ratio - 1 + problem.eps_low), std::abs(ratio - 1 - problem.eps_high)), 1e-6)
        << t;
    const double d = logp[t] - in.logp_ref[t], size = policy_size(t),
                 scale = std::abs(in.weight[t] * in.tis[t]);
    const double kl_size = kl == KlEstimator::kNone ? 0 : args.kl_beta * std::abs(problem.kl_of(logp, t));
    const double kl_slope = kl == KlEstimator::kNone ? 0 : args.kl_beta * (1 + std::abs(d) + std::exp(-d));
    constexpr double kTolerance = 16 * test::kEps;
    test::expect_close(out.loss[t], want.loss[t], size * (1 + std::abs(logp[t])) + scale * kl_size,
                       kTolerance, "loss", t);
    test::expect_close(out.kl[t], want.kl[t], std::abs(want.kl[t]), kTolerance, "kl", t);
    test::expect_close(out.dlogp[t], want.dlogp[t], size + shared[problem.sequence_of(t)] + scale * kl_slope,
                       kTolerance, "dlogp", t);
    EXPECT_EQ(out.clipped[t], want.clipped[t]) << t;
    clipped += want.clipped[t] != 0;
  }
  EXPECT_GT(clipped, 3);  // both branches are in the sample
  EXPECT_LT(clipped, in.tokens() - 3);
}

// The vector path, the single path, and all again: the same bits.
TEST_P(CudaTokenLoss, AlignmentDoesNotMatter) {
  const auto [level, objective, kl] = GetParam();
  const Inputs in(7);
  const TokenLossArgs args = {.kl_beta = 0.1f, .ratio_level = level, .objective = objective, .kl = kl};
  const Outputs out = in.run(args);
  EXPECT_TRUE(same(out, in.run(args)));
  EXPECT_TRUE(same(out, in.run(args, 1)));
}
INSTANTIATE_TEST_SUITE_P(Variants, CudaTokenLoss,
                         testing::Combine(testing::Values(RatioLevel::kToken, RatioLevel::kSequence),
                                          testing::Values(PolicyObjective::kClip, PolicyObjective::kCispo),
                                          testing::Values(KlEstimator::kNone, KlEstimator::kK1,
                                                          KlEstimator::kK2, KlEstimator::kK3)));

// A sequence alone has the bits that it has among others.
TEST(CudaTokenLossInvariance, OtherSequencesDoNotMatter) {
  const Inputs in(80);
  for (RatioLevel level : {RatioLevel::kToken, RatioLevel::kSequence}) {
    const TokenLossArgs args = {.kl_beta = 0.1f, .ratio_level = level, .kl = KlEstimator::kK3};
    const Outputs all = in.run(args);
    for (size_t s = 0; s + 1 < in.offsets.size(); ++s) {
      Inputs one = in;
      const int32_t begin = in.offsets[s], end = in.offsets[s + 1];
      one.offsets = {0, end - begin};
      for (auto* v : {&one.logp, &one.logp_old, &one.logp_ref, &one.advantage, &one.weight, &one.tis})
        *v = std::vector<float>(v->begin() + begin, v->begin() + end);
      const Outputs alone = one.run(args);
      for (int32_t t = begin; t < end; ++t) {
        ASSERT_TRUE(same_bits(alone.dlogp[t - begin], all.dlogp[t]) &&
                    same_bits(alone.loss[t - begin], all.loss[t]) &&
                    same_bits(alone.kl[t - begin], all.kl[t]) && alone.clipped[t - begin] == all.clipped[t])
            << "token " << t;
      }
    }
  }
}

// On-policy: ratio 1, so the gradient is -advantage * weight, nothing is clipped and the KL is 0.
TEST(CudaTokenLossValues, OnPolicy) {
  Inputs in(50);
  in.logp_old = in.logp_ref = in.logp;
  in.tis.clear();
  const Outputs out = in.run({.kl_beta = 1.0f, .kl = KlEstimator::kK3});
  for (size_t t = 0; t < in.logp.size(); ++t) {
    ASSERT_EQ(out.dlogp[t], -in.advantage[t] * in.weight[t]);
    ASSERT_EQ(out.kl[t], 0.0f);
    ASSERT_EQ(out.clipped[t], 0.0f);
  }
}

// k3 near 0 is d^2 / 2, far below the rounding of exp(-d) - 1 + d in FP32.
TEST(CudaTokenLossValues, SmallKlKeepsItsDigits) {
  Inputs in(60);
  for (size_t t = 0; t < in.logp.size(); ++t) in.logp_ref[t] = in.logp[t] + (t % 2 ? 0x1p-12f : -0x1p-12f);
  const Outputs out = in.run({.kl_beta = 1.0f, .kl = KlEstimator::kK3});
  for (size_t t = 0; t < in.logp.size(); ++t) {
    const double d = static_cast<double>(in.logp[t]) - in.logp_ref[t];
    ASSERT_NEAR(out.kl[t], d * d / 2 - d * d * d / 6, 1e-6 * d * d);
  }
}

TEST(CudaTokenLossValues, NoTokensAndMissingOperands) {
  cuda::token_loss({}, {});
  EXPECT_THROW(cuda::token_loss({}, {.num_tokens = 3, .num_seqs = 1}), Error);
  Inputs none(1);
  none.offsets = {0, 0};
  EXPECT_TRUE(none.run({.ratio_level = RatioLevel::kSequence}).loss.empty());
}

}  // namespace
}  // namespace contender
