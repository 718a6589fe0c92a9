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

// Rows of b fetched ahead: about the L3 cache's latency at M = 8.
inline constexpr int64_t kPrefetchRows = 16;

// Holds a value in a register: for few rows GCC would rather read b again for every row, and loads would be
// the limit.
HWY_INLINE FloatVec in_register(FloatVec v) {
  __asm__("" : "+v"(v.raw));
  return v;
}

// GCC keeps `acc` in registers because every loop over it has constant bounds and is unrolled whole.
template <int R, int V, ALayout kLayout>
void tile_kernel(const Tile& t) {
  const FloatTag d;
  const auto tail = hn::FirstN(d, static_cast<size_t>(t.cols - (V - 1) * kFloatLanes));
  const bool full = t.cols == V * kFloatLanes;
  float* c = t.c;
  const int64_t ldc = t.ldc;
  FloatVec acc[R][V];
  const auto for_each = [&](const auto& f) HWY_ATTR {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) f(acc[r][v], c + r * ldc + v * kFloatLanes, v);
    }
  };
  const auto load = [&](const float* p, int v)
                        HWY_ATTR { return v + 1 < V ? hn::LoadU(d, p) : hn::MaskedLoad(tail, d, p); };
  if (t.resume) {
    for_each([&](FloatVec& x, const float* p, int v) HWY_ATTR { x = load(p, v); });
  } else {
    for_each([&](FloatVec& x, const float*, int) HWY_ATTR { x = hn::Zero(d); });
  }

  const float* a = t.a;
  const float* b = t.b;
  const int64_t lda = t.lda;
  const int64_t k = t.k;
  for (int64_t i = 0; i < k; ++i, b += kWeightPanel) {
    FloatVec bv[V];
    for (int v = 0; v < V; ++v) {
      bv[v] = in_register(hn::Load(d, b + v * kFloatLanes));
      if (R > 2) hwy::Prefetch(b + kPrefetchRows * kWeightPanel + v * kFloatLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const FloatVec av = hn::Set(d, kLayout == ALayout::kRows ? a[r * lda + i] : a[i * kTileRows + r]);
      for (int v = 0; v < V; ++v) acc[r][v] = hn::MulAdd(av, bv[v], acc[r][v]);
    }
  }

  if (t.bias) {
    FloatVec bias[V];
    for (int v = 0; v < V; ++v) bias[v] = load(t.bias + v * kFloatLanes, v);
    for_each([&](FloatVec& x, const float*, int v) HWY_ATTR { x = hn::Add(x, bias[v]); });
  }
  if (t.accumulate)
    for_each([&](FloatVec& x, const float* p, int v) HWY_ATTR { x = hn::Add(load(p, v), x); });
  if (full) {
    for_each([&](FloatVec& x, float* p, int) HWY_ATTR { hn::StoreU(x, d, p); });
  } else {
    for_each([&](FloatVec& x, float* p, int v) HWY_ATTR {
      if (v + 1 < V) {
        hn::StoreU(x, d, p);
      } else {
        hn::BlendedStore(x, tail, d, p);
      }
    });
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
