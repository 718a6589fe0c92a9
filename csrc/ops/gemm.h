// Products of block-scaled FP8 operands (DeepSeek-V3, arXiv 2412.19437, section 3.3): y = x w^T, dx = dy w
// (w quantised again, transposed) and the weight gradient; dense and by expert.
//
// Contract (all backends): an element of the result is one chain over the blocks b of 128 along the
// contracted index, ascending, from +0:
//   d = fma(part_b, sa_b * sb_b, d)
// part_b is the sum of the products of a block in steps of 32, as Hopper's tensor core adds FP8: the 32 exact
// products and the sum so far are cut, towards zero, 13 bits below the largest exponent among them, added
// exactly, and the sum is cut to 13 fraction bits (Xie, Wang, Yang, Yang 2025, "MMA-Sim"). It does not depend
// on M, on the row's place, or on its neighbours. A scale that is not finite makes the elements it belongs to
// NaN or infinite.
//
// Limits (exit 1 with the numbers): N and K multiples of 16, below 2^31. On CUDA also: codes begin, and their
// rows follow each other, at multiples of 16 bytes, so do rows of d; at most kMaxFp8Groups groups. Nothing
// here needs workspace.
#pragma once

#include "ops/exec.h"
#include "ops/quantize.h"

namespace contender {

inline constexpr int64_t kFp8Block = 128;
inline constexpr int64_t kMaxFp8Groups = 512;

struct Fp8GemmArgs {
  QTensor a;  // [M, K], k1x128
  QTensor b;  // [N, K], k128x128
  Tensor d;   // [M, N] BF16 or F32. With q its data may be null; its dtype then says what q is made from
  bool accumulate = false;  // F32 d += result (one rounding) instead of d = result; not with q
  QTensor q;                // [M, N], k1x128 of d as it is stored; or empty
};

// The rows of group g are multiplied with group g of b. Either
//   offsets: rows [offsets[g], offsets[g + 1]), sorted by group, any sizes; offsets[0] = 0, offsets[G] <= M;
//   counts:  rows [g * C, g * C + counts[g]), C = M / G the capacity of a group, 0 <= counts[g] <= C.
// Other rows may hold anything; their results are not written. Offsets or counts that break these rules end
// the job from the device.
struct Fp8GroupedGemmArgs {
  QTensor a;  // [M, K], k1x128
  QTensor b;  // [G * N, K], k128x128 of each group: scale [G * ceil(N / 128), ceil(K / 128)]
  Tensor d;   // [M, N]
  QTensor q;  // as above
  int64_t num_groups = 1;
  const int32_t* offsets = nullptr;  // [G + 1], device memory, or null
  const int32_t* counts = nullptr;   // [G], device memory, or null
};

// dw[g] = sum over the tokens t of group g of dy[:, t] x[:, t]^T. Tokens [offsets[g], offsets[g + 1]) are one
// chain; or those of segments, a chain of blocks for each leaf, summed over leaves in the tree of ops/exec.h,
// which no layout changes; with neither, all M are one chain. A group without tokens adds 0.
struct Fp8WgradArgs {
  QTransposed dy;  // [N, M], blocks of 128 tokens of a group
  QTransposed x;   // [K, M]
  Tensor dw;       // [G * N, K] F32
  bool accumulate = true;
  int64_t num_groups = 1;
  const int32_t* offsets = nullptr;  // [G + 1], device memory; offsets[0] = 0, offsets[G] <= M
  RowSegments segments;              // with places, and tokens placed as they say; or empty
};

// Blocks of 128 tokens that so many groups, or chains, of M tokens in all may have.
inline int64_t fp8_wgrad_blocks(int64_t m, int64_t chains) { return max_row_blocks(m, chains); }

// Shapes, dtypes and limits above that the host can see.
void check_fp8_gemm(const Fp8GemmArgs& args);
void check_fp8_grouped_gemm(const Fp8GroupedGemmArgs& args);
void check_fp8_wgrad(const Fp8WgradArgs& args);

// `m` rows in all. Bytes: operands with their scales once, d once (read too where it is added to).
Cost fp8_gemm_cost(int64_t m, int64_t n, int64_t k, DType d = DType::kBF16, int64_t num_groups = 1);
Cost fp8_wgrad_cost(int64_t m, int64_t n, int64_t k, int64_t num_groups = 1, bool accumulate = true);

}  // namespace contender
