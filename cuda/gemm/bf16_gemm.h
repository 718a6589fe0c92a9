// BF16 products on wgmma (bf16_gemm.cu), with the Args of ops/linear.h. In mode exact, which is the default,
// each has the bits of the same product at any other M, in any other batch.
#pragma once

#include <span>
#include <string>

#include "cuda/gemm/bf16_product.h"
#include "cuda/gemm/schedule.h"

namespace contender::cuda {

// What TMA asks for: contracted values (of a slice too) in multiples of 8, rows and bases of operands in
// pieces of 16 bytes, at most 4 slices. An empty string, or what is missing. It never depends on M or on the
// contents, so whoever falls back on another product does so for all batches of a layer.
std::string bf16_gemm_refuses(const Product& product);
template <class Args>
std::string bf16_gemm_refuses(const Args& args) {
  return bf16_gemm_refuses(product_of(args));
}

// How a product is made; what is left out is the chooser's.
struct Bf16Choice {
  constexpr Bf16Choice(int tile = -1, Mode mode = Mode::kExact, int splits = 0)
      : tile(tile), mode(mode), splits(splits) {}
  int tile;  // an index into bf16_gemm_tiles()
  Mode mode;
  int splits;  // of the contracted dimension, over blocks; as many partial products in the workspace
};
void bf16_gemm(const Exec& exec, const Product& product, Bf16Choice choice = {});
template <class Args>
void bf16_gemm(const Exec& exec, const Args& args, Bf16Choice choice = {}) {
  bf16_gemm(exec, product_of(args), choice);
}

// Weight gradients (bf16_wgrad.cu): rows and bases of dy and x in pieces of 16 bytes. The chains go over the
// rows of a leaf in any mode: exact is the only one.
std::string bf16_wgrad_refuses(const WgradProduct& product);
// `tile`: 0 (128 x 256, one leaf), 1 (128 x 128, up to 4), 2 (128 x 128, up to 8), 3 (64 x 128, up to 64),
// 4 (64 x 64, any number), or -1: the first that can.
inline constexpr int kBf16WgradTiles = 5;
void bf16_wgrad(const Exec& exec, const WgradProduct& product, int tile = -1);
template <class Args>
std::string bf16_wgrad_refuses(const Args& args) {
  return bf16_wgrad_refuses(product_of(args));
}
template <class Args>
void bf16_wgrad(const Exec& exec, const Args& args, int tile = -1) {
  bf16_wgrad(exec, product_of(args), tile);
}

// The table of instantiations of bf16_gemm.
std::span<const TileShape> bf16_gemm_tiles();
std::string bf16_gemm_explain(const ProductShape& shape);

}  // namespace contender::cuda
