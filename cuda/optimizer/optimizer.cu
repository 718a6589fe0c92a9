// What: AdamW on a flat shard, with the copies of a whole weight that products read, and the order-free sum
//   of squares behind the global gradient norm.
// Math: g = grad * scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//       w -= lr * weight_decay * w;  w -= lr * (m / bias_correction1) / (sqrt(v / bias_correction2) + eps)
//       square_sum: sum += x^2, exactly, into the digits of an ExactSum.
// Shapes: flat arrays of n; n = 0 is legal. The clip factor and the skip flag are read from device memory.
//   With copies: n = groups * N * K, and of each group BF16 [N, K] and [K, N], E4M3 the same in 128x128
//   blocks.
// Layouts: four elements at a time where every array is aligned to 16 bytes, single elements elsewhere.
// Precision: AdamW in FP32, each operation rounded once as on the CPU, so both give the same bits; BF16
//   moments are rounded to nearest even after their use; copies have the bits of pack_weight and
//   quantize_weight. square_sum rounds nothing: a float is mantissa * 2^(e - 150), its square an integer of
//   48 bits; a lane adds 96-bit integers whose unit is set by a window of 16 exponents that the warp shares,
//   and what lies outside the window goes straight to the digits. Integer sums do not depend on their order,
//   so neither grid nor sharding shows in the result.
// Schedule: AdamW: a thread owns four elements. With copies a block of threads updates a square of 128 x 128,
//   two rows of a warp at a time, keeps it in shared memory and writes all forms from there. square_sum: a
//   warp takes runs of 512 values, 16 a lane; lanes meet in shuffles, warps in shared digits, blocks in
//   global ones.
// Roofline: AdamW 28 bytes (BF16 moments: 20) and 17 flops an element, 2 bytes more for a BF16 copy, 1 for
//   E4M3: memory-bound everywhere. square_sum 4 bytes and about 15 integer instructions an element: near the
//   balance of 64 integer lanes per SM on both H800 and H200.
// Limits: square_sum: at most 2^30 terms in all. Copies: fewer than 2^31 squares; N and K below 2^31.
// Source: Loshchilov & Hutter, arXiv 1711.05101; Kulisch accumulator (base/exact_sum.h).
#include <cstddef>

#include "cuda/common/grid.h"
#include "cuda/common/rows.cuh"
#include "cuda/common/shared_memory.h"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "cuda/quantize/weight_tile.cuh"
#include "ops/optimizer.h"

namespace contender::cuda {
namespace {

static_assert(sizeof(ExactSum) == (ExactSum::kDigits + 1) * sizeof(int64_t));
static_assert(offsetof(ExactSum, non_finite) == ExactSum::kDigits * sizeof(int64_t));

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// --- AdamW ---

struct AdamwElement {
  float w, m, v;
};

__device__ AdamwElement adamw_element(const AdamwArgs& a, float grad_scale, float grad, AdamwElement old) {
  const float g = __fmul_rn(grad, grad_scale);
  const float m = fmaf(a.beta1, old.m, __fmul_rn(__fsub_rn(1.0f, a.beta1), g));
  const float v = fmaf(a.beta2, old.v, __fmul_rn(__fmul_rn(__fsub_rn(1.0f, a.beta2), g), g));
  const float decayed = fmaf(-__fmul_rn(a.lr, a.weight_decay), old.w, old.w);
  const float root = __fadd_rn(__fsqrt_rn(__fdiv_rn(v, a.bias_correction2)), a.eps);
  const float update = __fdiv_rn(__fdiv_rn(m, a.bias_correction1), root);
  return {fmaf(-a.lr, update, decayed), m, v};
}

template <class Moment>
__device__ void adamw_one(const AdamwArgs& a, float grad_scale, int64_t i) {
  Moment* m = static_cast<Moment*>(a.m) + i;
  Moment* v = static_cast<Moment*>(a.v) + i;
  const AdamwElement x = adamw_element(a, grad_scale, a.grad[i], {a.master[i], load_one(m), load_one(v)});
  a.master[i] = x.w;
  store_one(m, x.m);
  store_one(v, x.v);
}

// Four neighbouring elements: 16 bytes of the F32 arrays, so that neighbouring lanes touch neighbouring
// bytes. Those from `count` on are zero and not written.
struct AdamwQuad {
  float4 g, w, m, v;
};
template <class Moment, Access access>
__device__ AdamwQuad load_adamw(const AdamwArgs& a, int64_t i, int count) {
  return {load_quad_piece<access>(a.grad + i, 0, count), load_quad_piece<access>(a.master + i, 0, count),
          load_quad_piece<access>(static_cast<const Moment*>(a.m) + i, 0, count),
          load_quad_piece<access>(static_cast<const Moment*>(a.v) + i, 0, count)};
}
template <class Moment, Access access>
__device__ void store_adamw(const AdamwArgs& a, int64_t i, int count, const AdamwQuad& x) {
  store_quad_piece<access>(a.master + i, 0, count, x.w);
  store_quad_piece<access>(static_cast<Moment*>(a.m) + i, 0, count, x.m);
  store_quad_piece<access>(static_cast<Moment*>(a.v) + i, 0, count, x.v);
}
__device__ void update_adamw(const AdamwArgs& a, float grad_scale, AdamwQuad& x) {
  const auto update = [&](float grad, float& weight, float& first, float& second) {
    const AdamwElement e = adamw_element(a, grad_scale, grad, {weight, first, second});
    weight = e.w;
    first = e.m;
    second = e.v;
  };
  update(x.g.x, x.w.x, x.m.x, x.v.x);
  update(x.g.y, x.w.y, x.m.y, x.v.y);
  update(x.g.z, x.w.z, x.m.z, x.v.z);
  update(x.g.w, x.w.w, x.m.w, x.v.w);
}

template <class Moment, Access access>
__global__ __launch_bounds__(kThreads) void adamw_kernel(const __grid_constant__ AdamwArgs a) {
  if (a.skip && *a.skip != 0) return;
  const float grad_scale = a.grad_scale ? *a.grad_scale : 1.0f;
  constexpr int kStep = access == Access::kVector ? 4 : 1;
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kStep;
  if (access == Access::kVector && begin + kStep <= a.n) {
    AdamwQuad x = load_adamw<Moment, access>(a, begin, kStep);
    update_adamw(a, grad_scale, x);
    store_adamw<Moment, access>(a, begin, kStep, x);
  } else {
    for (int64_t i = begin; i < min(begin + kStep, a.n); ++i) adamw_one<Moment>(a, grad_scale, i);
  }
}

template <class Moment, Access access>
__global__ __launch_bounds__(kWeightThreads) void adamw_copies_kernel(
    const __grid_constant__ AdamwArgs a, const __grid_constant__ WeightStrides strides) {
  extern __shared__ float4 shared[];
  if (a.skip && *a.skip != 0) return;
  WeightTile& tile = *reinterpret_cast<WeightTile*>(shared);
  const float grad_scale = a.grad_scale ? *a.grad_scale : 1.0f;
  const WeightPlace at = weight_place(a.copies);
  constexpr int kAtOnce = 2;  // rows whose loads are under way together
  const int lane = threadIdx.x % 32, col = at.col0 + lane * 4, count = min(4, at.k - col);
  float amax = 0;
  for (int step = 0; step < kWeightRows; step += kAtOnce) {
    AdamwQuad x[kAtOnce] = {};
    int64_t first[kAtOnce];
    bool inside[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int row = at.row0 + threadIdx.x / 32 + (step + i) * kWeightWarps;
      first[i] = (int64_t{at.group} * at.n + row) * at.k + col;
      inside[i] = row < at.n && count > 0;
      if (inside[i]) x[i] = load_adamw<Moment, access>(a, first[i], count);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (inside[i]) {
        update_adamw(a, grad_scale, x[i]);
        store_adamw<Moment, access>(a, first[i], count, x[i]);
      }
      // Columns past the end were updated too: out of the square with them.
      const float w[4] = {x[i].w.x, count > 1 ? x[i].w.y : 0, count > 2 ? x[i].w.z : 0,
                          count > 3 ? x[i].w.w : 0};
      amax = abs_max<4>(w, amax);
      tile.quads[weight_quad(threadIdx.x / 32 + (step + i) * kWeightWarps, lane)] =
          make_float4(w[0], w[1], w[2], w[3]);
    }
  }
  write_weight_copies<access>(a.copies, strides, at, tile, amax);
}

bool shard_aligned(const AdamwArgs& a) {
  return aligned16(a.master) && aligned16(a.grad) && aligned16(a.m) && aligned16(a.v);
}

template <class Moment>
void launch_adamw_copies(cudaStream_t stream, const AdamwArgs& a) {
  with_access(shard_aligned(a) && copies_in_pieces(a.copies), [&](auto access) {
    allow_shared_memory<adamw_copies_kernel<Moment, access()>>();
    adamw_copies_kernel<Moment, access()>
        <<<weight_tiles(a.copies), kWeightThreads, sizeof(WeightTile), stream>>>(a, weight_strides(a.copies));
  });
  CUDA_CHECK_LAUNCH();
}

template <class Moment>
void launch_adamw(cudaStream_t stream, const AdamwArgs& a) {
  with_access(shard_aligned(a), [&](auto access) {
    const unsigned grid = grid_size(a.n, kThreads * (access() == Access::kVector ? 4 : 1));
    adamw_kernel<Moment, access()><<<grid, kThreads, 0, stream>>>(a);
  });
  CUDA_CHECK_LAUNCH();
}

// --- square_sum ---

constexpr int kVectorsPerLane = 4;
constexpr int kPerLane = 4 * kVectorsPerLane;
constexpr int64_t kRun = 32 * kPerLane;  // values of one warp at a time
constexpr int kWindow = 16;         // exponents that fit a lane's 96 bits: 48 + 2 * 15 + 17 for the terms
constexpr int kWindowHeadroom = 4;  // above the largest exponent that the window was opened for
constexpr int kMaxRuns = 1 << 12;   // before a lane's 96 bits could overflow
constexpr int kMinRuns = 4;         // of a warp, so that its end is a small part of its work

using Digit = unsigned long long;
struct SquareSumSmem {
  Digit digits[ExactSum::kDigits + 1];  // the last counts terms that are not finite
};

__device__ void add_scaled(Digit* digits, uint64_t value, int exponent) {
  const int shift = exponent - ExactSum::kLowestBit, digit = shift >> 5, bit = shift & 31;
  const uint64_t low = value << bit, high = bit == 0 ? 0 : value >> (64 - bit);
  if (static_cast<uint32_t>(low) != 0) atomicAdd(digits + digit, low & 0xFFFFFFFFu);
  if (low >> 32 != 0) atomicAdd(digits + digit + 1, low >> 32);
  if (high != 0) atomicAdd(digits + digit + 2, high);
}

// One value, straight to the digits. `magnitude`: its bits without the sign.
__device__ void add_square(Digit* digits, uint32_t magnitude) {
  const int e = static_cast<int>(magnitude >> 23);
  if (e == 0xFF) {
    atomicAdd(digits + ExactSum::kDigits, 1);
    return;
  }
  const uint64_t mantissa = (magnitude & 0x7FFFFF) | (e != 0 ? 0x800000u : 0u);
  add_scaled(digits, mantissa * mantissa, 2 * (max(e, 1) - 150));
}

__device__ uint64_t warp_sum(uint64_t v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xFFFFFFFFu, v, o);
  return v;
}

// Sum of one lane: (w2 w1 w0) * 2^(2 (lowest - 150)). The window is the same in all lanes of a warp.
struct WindowSum {
  int lowest = 1;  // of the exponents e in [lowest, lowest + kWindow)
  int runs = 0;
  uint32_t w0 = 0, w1 = 0, w2 = 0;

  __device__ void add(uint32_t magnitude, int above_lowest) {
    const uint32_t mantissa = (magnitude & 0x7FFFFF) | 0x800000;
    const uint64_t square = static_cast<uint64_t>(mantissa) * mantissa;
    const uint32_t low = static_cast<uint32_t>(square), high = static_cast<uint32_t>(square >> 32);
    const uint32_t s0 = low << (2 * above_lowest), s1 = __funnelshift_l(low, high, 2 * above_lowest),
                   s2 = __funnelshift_l(high, 0, 2 * above_lowest);
    asm("add.cc.u32 %0, %0, %3;\n\taddc.cc.u32 %1, %1, %4;\n\taddc.u32 %2, %2, %5;"
        : "+r"(w0), "+r"(w1), "+r"(w2)
        : "r"(s0), "r"(s1), "r"(s2));
  }
  __device__ void flush(Digit* digits) {
    const uint64_t s0 = warp_sum(w0), s1 = warp_sum(w1), s2 = warp_sum(w2);
    if (threadIdx.x % 32 == 0) {
      const int exponent = 2 * (lowest - 150);
      add_scaled(digits, s0, exponent);
      add_scaled(digits, s1, exponent + 32);
      add_scaled(digits, s2, exponent + 64);
    }
    w0 = w1 = w2 = 0;
    runs = 0;
  }
  // Makes room for a run whose largest exponent is `top`.
  __device__ void prepare(Digit* digits, int top) {
    const bool fits = lowest + kWindow / 2 <= top && top < lowest + kWindow;
    if (top == 0 || (fits && runs < kMaxRuns)) return;
    flush(digits);
    if (!fits) lowest = min(max(top + kWindowHeadroom - kWindow, 1), 0xFF - kWindow);  // 0xFF: not finite
  }
};

// The lane's 16 values of a run, without their signs. `count` values exist.
__device__ void load_run(const float* x, int64_t count, uint32_t (&magnitude)[kPerLane]) {
  const int lane = threadIdx.x % 32;
  if (count >= kRun && reinterpret_cast<uintptr_t>(x) % 16 == 0) {
#pragma unroll
    for (int k = 0; k < kVectorsPerLane; ++k) {
      const uint4 v = reinterpret_cast<const uint4*>(x)[32 * k + lane];
      magnitude[4 * k] = v.x & 0x7FFFFFFF;
      magnitude[4 * k + 1] = v.y & 0x7FFFFFFF;
      magnitude[4 * k + 2] = v.z & 0x7FFFFFFF;
      magnitude[4 * k + 3] = v.w & 0x7FFFFFFF;
    }
    return;
  }
#pragma unroll
  for (int k = 0; k < kPerLane; ++k)
    magnitude[k] = 32 * k + lane < count ? __float_as_uint(x[32 * k + lane]) & 0x7FFFFFFF : 0;
}

__device__ void add_run(WindowSum& sum, Digit* digits, const uint32_t (&magnitude)[kPerLane]) {
  uint32_t largest = 0;
#pragma unroll
  for (int k = 0; k < kPerLane; ++k) largest = max(largest, magnitude[k]);
  sum.prepare(digits, min(static_cast<int>(__reduce_max_sync(0xFFFFFFFFu, largest) >> 23), 0xFE));
  ++sum.runs;
  uint32_t outside = 0;
#pragma unroll
  for (int k = 0; k < kPerLane; ++k) {
    const uint32_t above = (magnitude[k] >> 23) - sum.lowest;
    if (above < kWindow) {
      sum.add(magnitude[k], static_cast<int>(above));
    } else if (magnitude[k] != 0) {
      outside |= 1u << k;
    }
  }
  for (; outside != 0; outside &= outside - 1) {
    uint32_t value = 0;
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) value = outside << (31 - k) == 1u << 31 ? magnitude[k] : value;
    add_square(digits, value);
  }
}

// Run 0 is what lies before a 16-byte boundary, `head` values.
__global__ __launch_bounds__(kThreads) void square_sum_kernel(const float* x, int64_t n, int64_t head,
                                                              Digit* total) {
  __shared__ SquareSumSmem smem;
  if (threadIdx.x <= ExactSum::kDigits) smem.digits[threadIdx.x] = 0;
  __syncthreads();
  WindowSum sum;
  uint32_t magnitude[kPerLane];
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  for (int64_t run = warp + (head == 0);; run += gridDim.x * kWarps) {
    const int64_t begin = run == 0 ? 0 : head + (run - 1) * kRun;
    if (begin >= n) break;
    load_run(x + begin, run == 0 ? head : n - begin, magnitude);
    add_run(sum, smem.digits, magnitude);
  }
  sum.flush(smem.digits);
  __syncthreads();
  if (threadIdx.x <= ExactSum::kDigits && smem.digits[threadIdx.x] != 0)
    atomicAdd(total + threadIdx.x, smem.digits[threadIdx.x]);
}

}  // namespace

void adamw(const Exec& exec, const AdamwArgs& a) {
  CHECK(a.moment_dtype == DType::kF32 || a.moment_dtype == DType::kBF16,
        "adamw: moments of type {}: only F32 and BF16 are known", dtype_name(a.moment_dtype));
  if (a.copies.any()) check_adamw_copies(a);
  if (a.n == 0) return;
  const auto launch = [&]<class Moment>(std::type_identity<Moment>) {
    if (a.copies.any()) return launch_adamw_copies<Moment>(stream_of(exec), a);
    launch_adamw<Moment>(stream_of(exec), a);
  };
  with_float_type(a.moment_dtype, launch);
}

void square_sum(const Exec& exec, const SquareSumArgs& a) {
  if (a.n == 0) return;
  const int64_t past_boundary = static_cast<int64_t>(reinterpret_cast<uintptr_t>(a.x) % 16 / sizeof(float));
  const int64_t head = past_boundary == 0 ? 0 : std::min<int64_t>(4 - past_boundary, a.n);
  square_sum_kernel<<<grid_size(a.n - head, kWarps * kRun * kMinRuns, 8), kThreads, 0, stream_of(exec)>>>(
      a.x, a.n, head, reinterpret_cast<Digit*>(a.sum));
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::cuda
