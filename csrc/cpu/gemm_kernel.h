// The register tile of the matrix products: R rows x V vectors of results, each lane one chain over the
// contracted index.
#pragma once

#include <array>
#include <cstdint>

#include "cpu/vec_math.h"
#include "ops/linear.h"

namespace contender::cpu {

// 12 x 2 accumulators, 2 vectors of b and 1 broadcast of a fill 27 of AVX-512's 32 registers; 6 x 2 fill 15
// of AVX2's 16.
inline constexpr int64_t kTileRows = kFloatLanes == 16 ? 12 : 6;
inline constexpr int64_t kTileVecs = 2;
inline constexpr int64_t kTileCols = kTileVecs * kFloatLanes;
static_assert(kWeightPanel % kTileCols == 0);

struct Tile {
  const float* a = nullptr;
  int64_t lda = 0;           // kRows only
  const float* b = nullptr;  // [k][kWeightPanel], from the tile's first column on, vector-aligned
  int64_t k = 0;
  float* c = nullptr;
  int64_t ldc = 0;
  int64_t cols = 0;  // valid columns, <= V vectors and > V - 1
  const float* bias = nullptr;
  bool resume = false;      // chains start from c instead of +0
  bool accumulate = false;  // c += the finished chains
};

enum class ALayout {
  kRows,   // a[r * lda + k]
  kTiles,  // a[k * kTileRows + r]
};

// GCC keeps `acc` in registers because every loop over it has constant bounds and is unrolled whole.
template <int R, int V, ALayout kLayout>
void tile_kernel(const Tile& t) {
  const FloatTag d;
  const auto tail = hn::FirstN(d, static_cast<size_t>(t.cols - (V - 1) * kFloatLanes));
  FloatVec acc[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      if (!t.resume) {
        acc[r][v] = hn::Zero(d);
      } else {
        const float* c = t.c + r * t.ldc + v * kFloatLanes;
        acc[r][v] = v + 1 < V ? hn::LoadU(d, c) : hn::MaskedLoad(tail, d, c);
      }
    }
  }

  const float* a = t.a;
  const float* b = t.b;
  const int64_t lda = t.lda;
  const int64_t k = t.k;
  for (int64_t i = 0; i < k; ++i, b += kWeightPanel) {
    FloatVec bv[V];
    for (int v = 0; v < V; ++v) bv[v] = hn::Load(d, b + v * kFloatLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const FloatVec av = hn::Set(d, kLayout == ALayout::kRows ? a[r * lda + i] : a[i * kTileRows + r]);
      for (int v = 0; v < V; ++v) acc[r][v] = hn::MulAdd(av, bv[v], acc[r][v]);
    }
  }

  for (int v = 0; v < V; ++v) {
    const bool full = v + 1 < V || t.cols == V * kFloatLanes;
    const auto mask = v + 1 < V ? hn::FirstN(d, kFloatLanes) : tail;
    const FloatVec bias = t.bias ? hn::MaskedLoad(mask, d, t.bias + v * kFloatLanes) : hn::Zero(d);
    for (int r = 0; r < R; ++r) {
      float* c = t.c + r * t.ldc + v * kFloatLanes;
      FloatVec result = acc[r][v];
      if (t.bias) result = hn::Add(result, bias);
      if (t.accumulate) result = hn::Add(hn::MaskedLoad(mask, d, c), result);
      if (full) {
        hn::StoreU(result, d, c);
      } else {
        hn::BlendedStore(result, mask, d, c);
      }
    }
  }
}

using TileKernel = void (*)(const Tile&);

template <ALayout kLayout, int V, int... R>
constexpr std::array<TileKernel, sizeof...(R)> tile_kernels_by_rows(std::integer_sequence<int, R...>) {
  return {tile_kernel<R + 1, V, kLayout>...};
}

// The kernel for `rows` x ceil(cols / lanes) vectors.
template <ALayout kLayout>
TileKernel tile_kernel_for(int64_t rows, int64_t cols) {
  using Rows = std::make_integer_sequence<int, static_cast<int>(kTileRows)>;
  static constexpr auto kNarrow = tile_kernels_by_rows<kLayout, 1>(Rows{});
  static constexpr auto kWide = tile_kernels_by_rows<kLayout, 2>(Rows{});
  return (cols <= kFloatLanes ? kNarrow : kWide)[static_cast<size_t>(rows - 1)];
}

}  // namespace contender::cpu
