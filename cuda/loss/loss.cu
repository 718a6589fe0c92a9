// What: the GRPO family of token losses with gradients, KL and clip statistics in one pass.
// Math: token loss = weight * tis * (policy + kl_beta * KL). With d = logp - logp_ref:
//       k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d; their derivatives are 1, d, 1 - exp(-d).
//       kSequence: ratio = exp(mean over the sequence of logp - logp_old); the policy gradients of a
//       sequence are summed, then dealt out evenly.
// Shapes: flat arrays of T; seq_offsets [num_seqs + 1] is read where the ratio is that of the sequence.
// Layouts: kToken: four tokens at a time where every array is aligned to 16 bytes, else one; kSequence:
//   one.
// Precision: FP32 per token; k3 near 0 by its series, because exp(-d) - 1 + d has no digits left there.
//   Sums over a sequence in FP64: a chain per thread (tokens in steps of the block), then a fixed tree;
//   so a sequence's bits do not depend on what else is in the call.
// Schedule: kToken: elementwise. kSequence: a block a sequence: the mean ratio, then the shared
//   gradient, then the outputs; the second and third look at a token comes from L2.
// Roofline: 40 bytes and about 60 flops a token: memory-bound on H800 and H200.
// Limits: sequences of fewer than 2^31 tokens; offsets that leave the tokens trap.
// Source: ops/loss.h; Schulman, "Approximating KL divergence", 2020; GSPO, arXiv 2507.18071.
#include "cuda/common/device_check.cuh"
#include "cuda/common/exp.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/rows.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/loss.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSequenceThreads = 512;

struct PolicyTerm {
  float loss;
  float dlog_ratio;  // through the ratio
  float dlogp;       // straight to this token's logp
  bool clipped;
};

// Rounded products throughout: what the compiler fuses could differ between the kernels, and a token's bits
// with it.
__device__ PolicyTerm policy_term(const TokenLossArgs& a, float ratio, float advantage, float logp) {
  const float clipped = fminf(fmaxf(ratio, 1.0f - a.clip_eps_low), 1.0f + a.clip_eps_high);
  const float free = __fmul_rn(ratio, advantage), cut = __fmul_rn(clipped, advantage);
  if (a.objective == PolicyObjective::kCispo) return {-__fmul_rn(cut, logp), 0.0f, -cut, clipped != ratio};
  if (cut < free) return {-cut, 0.0f, 0.0f, true};
  return {-free, -free, 0.0f, false};
}

struct KlTerm {
  float value, dlogp;
};

// exp(-d) - 1 + d. The series to d^9 / 9! is exact to rounding for |d| <= 1/2.
__device__ float k3_of(float d) {
  if (!(fabsf(d) <= 0.5f)) return __fadd_rn(__fsub_rn(exp_f32(-d), 1.0f), d);
  float q = -1.0f / 362880;
  q = fmaf(q, d, 1.0f / 40320);
  q = fmaf(q, d, -1.0f / 5040);
  q = fmaf(q, d, 1.0f / 720);
  q = fmaf(q, d, -1.0f / 120);
  q = fmaf(q, d, 1.0f / 24);
  q = fmaf(q, d, -1.0f / 6);
  q = fmaf(q, d, 0.5f);
  return __fmul_rn(__fmul_rn(q, d), d);
}

__device__ KlTerm kl_term(KlEstimator kl, float d) {
  switch (kl) {
    case KlEstimator::kNone:
      return {0, 0};
    case KlEstimator::kK1:
      return {d, 1};
    case KlEstimator::kK2:
      return {__fmul_rn(__fmul_rn(d, d), 0.5f), d};
    case KlEstimator::kK3:
      const float k3 = k3_of(d);
      return {k3, __fsub_rn(d, k3)};  // 1 - exp(-d)
  }
  return {NAN, NAN};
}

struct Token {
  float logp, logp_old, logp_ref, advantage, scale;  // scale = weight * tis
};
struct TokenOut {
  float dlogp, loss, kl, clipped;
};

__device__ float scale_of(const TokenLossArgs& a, int64_t t) {
  return a.tis ? __fmul_rn(a.weight[t], a.tis[t]) : a.weight[t];
}

__device__ Token load_token(const TokenLossArgs& a, int64_t t) {
  return {.logp = a.logp[t],
          .logp_old = a.logp_old[t],
          .logp_ref = a.kl == KlEstimator::kNone ? 0.0f : a.logp_ref[t],
          .advantage = a.advantage[t],
          .scale = scale_of(a, t)};
}

__device__ TokenOut token_out(const TokenLossArgs& a, const Token& x, float ratio) {
  const PolicyTerm policy = policy_term(a, ratio, x.advantage, x.logp);
  const KlTerm kl = kl_term(a.kl, x.logp - x.logp_ref);
  const float direct =
      a.ratio_level == RatioLevel::kSequence ? policy.dlogp : policy.dlogp + policy.dlog_ratio;
  return {.dlogp = __fmul_rn(x.scale, fmaf(a.kl_beta, kl.dlogp, direct)),
          .loss = __fmul_rn(x.scale, fmaf(a.kl_beta, kl.value, policy.loss)),
          .kl = kl.value,
          .clipped = policy.clipped ? 1.0f : 0.0f};
}

__device__ TokenOut own_ratio_out(const TokenLossArgs& a, const Token& x) {
  return token_out(a, x, exp_f32(x.logp - x.logp_old));
}

__device__ void store_token(const TokenLossArgs& a, int64_t t, const TokenOut& out) {
  a.dlogp[t] = out.dlogp;
  a.loss[t] = out.loss;
  a.kl_value[t] = out.kl;
  a.clipped[t] = out.clipped;
}

__device__ void four_tokens(const TokenLossArgs& a, int64_t t) {
  const Vec<float> logp = load_vec(a.logp + t), old = load_vec(a.logp_old + t),
                   adv = load_vec(a.advantage + t), weight = load_vec(a.weight + t);
  Vec<float> ref = {}, tis = {}, dlogp, loss, kl, clipped;
  if (a.kl != KlEstimator::kNone) ref = load_vec(a.logp_ref + t);
  if (a.tis) tis = load_vec(a.tis + t);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const TokenOut out = own_ratio_out(a, {.logp = logp.v[k],
                                           .logp_old = old.v[k],
                                           .logp_ref = ref.v[k],
                                           .advantage = adv.v[k],
                                           .scale = a.tis ? __fmul_rn(weight.v[k], tis.v[k]) : weight.v[k]});
    dlogp.v[k] = out.dlogp;
    loss.v[k] = out.loss;
    kl.v[k] = out.kl;
    clipped.v[k] = out.clipped;
  }
  store_vec(a.dlogp + t, dlogp);
  store_vec(a.loss + t, loss);
  store_vec(a.kl_value + t, kl);
  store_vec(a.clipped + t, clipped);
}

template <Access kAccess>
__global__ __launch_bounds__(kThreads) void token_loss_kernel(const __grid_constant__ TokenLossArgs a) {
  constexpr int kStep = kAccess == Access::kVector ? 4 : 1;
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kStep;
  if (kAccess == Access::kVector && begin + kStep <= a.num_tokens) return four_tokens(a, begin);
  for (int64_t t = begin; t < min(begin + kStep, a.num_tokens); ++t)
    store_token(a, t, own_ratio_out(a, load_token(a, t)));
}

struct SequenceSmem {
  double warp_sum[kSequenceThreads / 32];
};

// The sum over the block, in every thread, in a fixed tree.
__device__ double block_sum(SequenceSmem& smem, double x) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, o);
  __syncthreads();  // nobody reads the sum before this one any more
  if (threadIdx.x % 32 == 0) smem.warp_sum[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
#pragma unroll
  for (double partial : smem.warp_sum) x += partial;
  return x;
}

__global__ __launch_bounds__(kSequenceThreads) void sequence_loss_kernel(
    const __grid_constant__ TokenLossArgs a) {
  __shared__ SequenceSmem smem;
  const int64_t begin = a.seq_offsets[blockIdx.x], end = a.seq_offsets[blockIdx.x + 1];
  DEVICE_CHECK(0 <= begin && begin <= end && end <= a.num_tokens,
               "token_loss: sequence %d: tokens [%lld, %lld) of %lld", static_cast<int>(blockIdx.x),
               static_cast<long long>(begin), static_cast<long long>(end),
               static_cast<long long>(a.num_tokens));
  const double count = static_cast<double>(end - begin);
  double sum = 0;
  for (int64_t t = begin + threadIdx.x; t < end; t += kSequenceThreads)
    sum += static_cast<double>(a.logp[t]) - static_cast<double>(a.logp_old[t]);
  const float ratio = exp_f32(static_cast<float>(block_sum(smem, sum) / count));
  double shared = 0;
  for (int64_t t = begin + threadIdx.x; t < end; t += kSequenceThreads) {
    const PolicyTerm policy = policy_term(a, ratio, a.advantage[t], a.logp[t]);
    shared += static_cast<double>(__fmul_rn(scale_of(a, t), policy.dlog_ratio));
  }
  const float each = static_cast<float>(block_sum(smem, shared) / count);
  for (int64_t t = begin + threadIdx.x; t < end; t += kSequenceThreads) {
    TokenOut out = token_out(a, load_token(a, t), ratio);
    out.dlogp = __fadd_rn(out.dlogp, each);
    store_token(a, t, out);
  }
}

bool all_aligned(const TokenLossArgs& a) {
  const void* arrays[] = {a.logp,   a.logp_old, a.kl == KlEstimator::kNone ? nullptr : a.logp_ref,
                          a.weight, a.tis,      a.advantage,
                          a.dlogp,  a.loss,     a.kl_value,
                          a.clipped};
  return std::all_of(std::begin(arrays), std::end(arrays), aligned16);
}

}  // namespace

void token_loss(const Exec& exec, const TokenLossArgs& a) {
  CHECK(a.num_tokens == 0 || (a.dlogp && a.loss && a.kl_value && a.clipped), "an output is missing");
  CHECK(a.kl == KlEstimator::kNone || a.logp_ref || a.num_tokens == 0, "a KL estimator without logp_ref");
  CHECK(a.num_seqs > 0 || a.num_tokens == 0, "no sequence covers {} tokens", a.num_tokens);
  if (a.num_tokens == 0) return;
  if (a.ratio_level == RatioLevel::kSequence) {
    sequence_loss_kernel<<<grid_size(a.num_seqs, 1), kSequenceThreads, 0, stream_of(exec)>>>(a);
  } else {
    with_access(all_aligned(a), [&](auto access) {
      const unsigned grid = grid_size(a.num_tokens, kThreads * (access() == Access::kVector ? 4 : 1));
      token_loss_kernel<access()><<<grid, kThreads, 0, stream_of(exec)>>>(a);
    });
  }
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::cuda
