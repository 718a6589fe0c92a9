// BF16 products on wgmma (bf16_gemm.cu), with the Args of ops/linear.h. Each has the bits of the same product
// at any other M, in any other batch.
#pragma once

#include <span>
#include <string>

#include "cuda/gemm/schedule.h"
#include "ops/linear.h"

namespace contender::cuda {

// What TMA and 16-byte stores ask for: the contracted dimension and the output features multiples of 8 (a
// slice of the former too), rows and bases in pieces of 16 bytes, at most 4 slices. An empty string, or what
// is missing. It never depends on M or on the contents, so whoever falls back on another product does so for
// all batches of a layer.
std::string bf16_gemm_refuses(const LinearArgs& args);
std::string bf16_gemm_refuses(const LinearDgradArgs& args);
std::string bf16_gemm_refuses(const GroupedLinearArgs& args);
std::string bf16_gemm_refuses(const GroupedLinearDgradArgs& args);
std::string bf16_gemm_refuses(const HeadsLinearArgs& args);

// `tile`: an index into bf16_gemm_tiles(), or -1 for the chooser's.
void bf16_gemm(const Exec& exec, const LinearArgs& args, int tile = -1);
void bf16_gemm(const Exec& exec, const LinearDgradArgs& args, int tile = -1);
void bf16_gemm(const Exec& exec, const GroupedLinearArgs& args, int tile = -1);
void bf16_gemm(const Exec& exec, const GroupedLinearDgradArgs& args, int tile = -1);
void bf16_gemm(const Exec& exec, const HeadsLinearArgs& args, int tile = -1);

// Weight gradients (bf16_wgrad.cu): N and K multiples of 8, in pieces of 16 bytes, at most 64 leaves.
std::string bf16_wgrad_refuses(const LinearWgradArgs& args);
std::string bf16_wgrad_refuses(const HeadsWgradArgs& args);
// `tile`: 0 (128 x 256, one leaf), 1 (128 x 128, up to 4), 2 (128 x 128, up to 8), 3 (64 x 128, up to 64), or
// -1: the first that can.
inline constexpr int kBf16WgradTiles = 4;
void bf16_wgrad(const Exec& exec, const LinearWgradArgs& args, int tile = -1);
void bf16_wgrad(const Exec& exec, const HeadsWgradArgs& args, int tile = -1);

// The table of instantiations of bf16_gemm.
std::span<const TileShape> bf16_gemm_tiles();
std::string bf16_gemm_explain(const ProductShape& shape);

}  // namespace contender::cuda
