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

// The table of instantiations.
std::span<const TileShape> bf16_gemm_tiles();
std::string bf16_gemm_explain(const ProductShape& shape);

}  // namespace contender::cuda
