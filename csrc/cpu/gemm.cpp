// lint: no test: tests/cpu/linear_test.cpp and head_test.cpp compare every product with the naive loop, bit
// by bit
#include "cpu/gemm.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "cpu/gemm_kernel.h"

namespace contender::cpu {
namespace {

constexpr int64_t kPackRows = 8;

// Where piece i begins when `total` is cut into `parts` nearly equal ones.
int64_t cut(int64_t total, int64_t i, int64_t parts) { return total * i / parts; }

// dst += src, tiles of the stack in sliced_tile.
void add_tiles(float* dst, const float* src, int64_t rows) {
  for (int64_t i = 0; i < rows * kTileCols; ++i) dst[i] = dst[i] + src[i];
}

// One tile of a product whose contracted dimension is in slices: each slice a chain, then the binary tree,
// then the epilogue.
void sliced_tile(const Tile& whole, int64_t rows, int32_t slices, TileKernel kernel) {
  constexpr int kMaxLevels = 7;
  CHECK(tree_levels(slices) <= kMaxLevels, "slices {}", slices);
  alignas(64) float level[kMaxLevels][kTileRows * kTileCols];
  Tile t = whole;
  t.k = whole.k / slices;
  t.ldc = kTileCols;
  t.bias = nullptr;
  t.accumulate = false;
  int depth = 0;  // tiles on the stack: one per set bit of the number of finished slices
  for (int32_t s = 0; s < slices; ++s) {
    t.a = whole.a + s * t.k;
    t.b = whole.b + s * t.k * kWeightPanel;
    t.c = level[depth++];
    kernel(t);
    for (int32_t done = s + 1; done % 2 == 0; done /= 2, --depth)
      add_tiles(level[depth - 2], level[depth - 1], rows);
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* c = whole.c + r * whole.ldc;
    for (int64_t j = 0; j < whole.cols; ++j) {
      float v = level[0][r * kTileCols + j];
      if (whole.bias) v = v + whole.bias[j];
      c[j] = whole.accumulate ? c[j] + v : v;
    }
  }
}

// Rows [begin, end) of the product, at most kRowBlock.
void product_rows(const Product& p, int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  const float* a = p.a + begin * p.lda;
  int64_t lda = p.lda;
  if (rows > 8 && p.k > 0 && rows_share_a_cache_set(lda)) {
    lda = spread_stride(p.k);
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(p.scratch + r * lda, a + r * p.lda, static_cast<size_t>(p.k) * sizeof(float));
    a = p.scratch;
  }
  const int64_t tiles = ceil_div(rows, kTileRows);
  for (int64_t col = 0; col < p.n; col += kTileCols) {
    const float* b = p.panels + col / kWeightPanel * kWeightPanel * p.k + col % kWeightPanel;
    const int64_t cols = std::min(kTileCols, p.n - col);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t r = cut(rows, i, tiles);
      const int64_t tile_rows = cut(rows, i + 1, tiles) - r;
      const TileKernel kernel = tile_kernel_for<ALayout::kRows>(tile_rows, cols);
      const Tile tile = {.a = a + r * lda,
                         .lda = lda,
                         .b = b,
                         .k = p.k,
                         .c = p.c + (begin + r) * p.ldc + col,
                         .ldc = p.ldc,
                         .cols = cols,
                         .bias = p.bias ? p.bias + col : nullptr,
                         .accumulate = p.accumulate};
      if (p.slices == 1) {
        kernel(tile);
      } else {
        sliced_tile(tile, tile_rows, p.slices, kernel);
      }
    }
  }
}

}  // namespace

void product(const Product& p) {
  CHECK(std::has_single_bit(static_cast<uint32_t>(p.slices)) && p.k % p.slices == 0, "k {} slices {}", p.k,
        p.slices);
  const int64_t blocks = ceil_div(p.m, kRowBlock);
  for (int64_t i = 0; i < blocks; ++i) product_rows(p, cut(p.m, i, blocks), cut(p.m, i + 1, blocks));
}

void outer_product(const OuterProduct& p) {
  const int64_t tiles = ceil_div(p.n, kTileRows);
  for (int64_t col = 0; col < p.k; col += kTileCols) {
    const float* right = p.right + col / kWeightPanel * kWeightPanel * p.capacity + col % kWeightPanel;
    const int64_t cols = std::min(kTileCols, p.k - col);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t n = cut(p.n, i, tiles);
      const int64_t tile_rows = cut(p.n, i + 1, tiles) - n;
      tile_kernel_for<ALayout::kTiles>(tile_rows, cols)({.a = p.left + i * p.capacity * kTileRows,
                                                         .b = right,
                                                         .k = p.rows,
                                                         .c = p.c + n * p.ldc + col,
                                                         .ldc = p.ldc,
                                                         .cols = cols,
                                                         .resume = p.resume});
    }
  }
}

// Both packers take a few rows at a time: they stay in the L1 cache while their columns go to places far
// apart.
void pack_outer_left(const float* src, int64_t ld, int64_t rows, int64_t n, int64_t at, int64_t capacity,
                     float* packed) {
  const FloatTag d;
  const int64_t tiles = ceil_div(n, kTileRows);
  for (int64_t r0 = 0; r0 < rows; r0 += kPackRows) {
    const int64_t r1 = std::min(rows, r0 + kPackRows);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t begin = cut(n, i, tiles);
      const auto mask = hn::FirstN(d, static_cast<size_t>(cut(n, i + 1, tiles) - begin));
      for (int64_t r = r0; r < r1; ++r) {
        float* dst = packed + (i * capacity + at + r) * kTileRows;
        const FloatVec v = hn::MaskedLoad(mask, d, src + r * ld + begin);
        // A whole vector writes beyond its kTileRows floats into the place of the next row, which is packed
        // later; behind the last row of a full buffer lies another tile.
        if (at + r + 1 < capacity) {
          hn::StoreU(v, d, dst);
        } else {
          hn::BlendedStore(v, hn::FirstN(d, kTileRows), d, dst);
        }
      }
    }
  }
}

void pack_outer_right(const float* src, int64_t ld, int64_t rows, int64_t k, int64_t at, int64_t capacity,
                      float* packed) {
  for (int64_t r0 = 0; r0 < rows; r0 += kPackRows) {
    const int64_t r1 = std::min(rows, r0 + kPackRows);
    for (int64_t col = 0; col < k; col += kWeightPanel) {
      const int64_t cols = std::min(kWeightPanel, k - col);
      for (int64_t r = r0; r < r1; ++r) {
        float* dst = packed + col * capacity + (at + r) * kWeightPanel;
        const float* s = src + r * ld + col;
        if (cols == kWeightPanel) {
          std::memcpy(dst, s, kWeightPanel * sizeof(float));
        } else {
          std::memcpy(dst, s, static_cast<size_t>(cols) * sizeof(float));
          std::fill(dst + cols, dst + kWeightPanel, 0.0f);
        }
      }
    }
  }
}

}  // namespace contender::cpu
