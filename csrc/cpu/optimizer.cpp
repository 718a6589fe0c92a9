// What: AdamW on a flat shard, and the order-free sum of squares behind the global gradient norm.
// Math: g = grad * scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//       w -= lr * weight_decay * w;  w -= lr * (m / bias_correction1) / (sqrt(v / bias_correction2) + eps)
// Precision: FP32 arithmetic, element by element; BF16 moments are rounded to nearest even after their use.
#include "ops/optimizer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "cpu/cpu_ops.h"

namespace contender::cpu {
namespace {

struct Bf16 {
  uint16_t bits;
};

float load_moment(float v) { return v; }
float load_moment(Bf16 v) { return std::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }
void store_moment(float v, float& to) { to = v; }
// Round to nearest even; a NaN stays one (rounding its bits could carry into the sign).
void store_moment(float v, Bf16& to) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
}

template <class Moment>
void adamw_moments(const AdamwArgs& a, float grad_scale) {
  float* __restrict w = a.master;
  const float* __restrict grad = a.grad;
  Moment* __restrict m = static_cast<Moment*>(a.m);
  Moment* __restrict v = static_cast<Moment*>(a.v);
  const float beta1 = a.beta1, beta2 = a.beta2, rest1 = 1.0f - a.beta1, rest2 = 1.0f - a.beta2, eps = a.eps;
  const float correction1 = a.bias_correction1, correction2 = a.bias_correction2;
  const float minus_lr = -a.lr, minus_decay = -(a.lr * a.weight_decay);
  for (int64_t i = 0; i < a.n; ++i) {
    const float g = grad[i] * grad_scale;
    const float m_new = std::fma(beta1, load_moment(m[i]), rest1 * g);
    const float v_new = std::fma(beta2, load_moment(v[i]), (rest2 * g) * g);
    const float decayed = std::fma(minus_decay, w[i], w[i]);
    const float update = (m_new / correction1) / (std::sqrt(v_new / correction2) + eps);
    w[i] = std::fma(minus_lr, update, decayed);
    store_moment(m_new, m[i]);
    store_moment(v_new, v[i]);
  }
}

void write_copies(const Exec& exec, const AdamwArgs& a) {
  const WeightCopies& c = a.copies;
  const Tensor w = f32_tensor(a.master, c.num_groups * c.n, c.k);
  if (c.forward || c.backward)
    pack_weight(exec, {.master = w,
                       .forward = c.forward,
                       .backward = c.backward,
                       .n = c.n,
                       .k = c.k,
                       .num_groups = c.num_groups});
  if (c.q.data || c.transposed.data)
    quantize_weight(exec, {.x = w, .num_groups = c.num_groups, .q = c.q, .transposed = c.transposed});
}

}  // namespace

void adamw(const Exec& exec, const AdamwArgs& a) {
  if (a.copies.any()) check_adamw_copies(a);
  if (a.skip && *a.skip != 0) return;
  const float grad_scale = a.grad_scale ? *a.grad_scale : 1.0f;
  switch (a.moment_dtype) {
    case DType::kF32:
      adamw_moments<float>(a, grad_scale);
      break;
    case DType::kBF16:
      adamw_moments<Bf16>(a, grad_scale);
      break;
    default:
      fail(ExitCode::kInternal, "adamw: moments of type {}: only F32 and BF16 are known",
           dtype_name(a.moment_dtype));
  }
  write_copies(exec, a);
}

// A float is mantissa * 2^(exponent - 150), so squares of one biased exponent are integers of 48 bits on one
// scale: they are added in 64-bit buckets, exactly, 2^16 at a time.
void square_sum(const Exec&, const SquareSumArgs& a) {
  constexpr int64_t kRun = 1 << 16;
  for (int64_t begin = 0; begin < a.n; begin += kRun) {
    const int64_t end = std::min(begin + kRun, a.n);
    uint64_t bucket[2][256] = {};  // two, so that neighbours of equal exponent do not wait for each other
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t bits = std::bit_cast<uint32_t>(a.x[i]);
      const uint32_t exponent = (bits >> 23) & 0xFF;
      const uint64_t mantissa = (bits & 0x7FFFFF) | (uint32_t{exponent != 0} << 23);
      bucket[i & 1][exponent] += exponent == 0xFF ? 1 : mantissa * mantissa;
    }
    for (int e = 0; e < 0xFF; ++e) {
      for (const auto& half : bucket) {
        if (half[e] != 0) a.sum->add_scaled(half[e], 2 * (std::max(e, 1) - 150));
      }
    }
    a.sum->non_finite += static_cast<int64_t>(bucket[0][0xFF] + bucket[1][0xFF]);
  }
}

}  // namespace contender::cpu
