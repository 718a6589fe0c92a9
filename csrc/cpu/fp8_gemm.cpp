#include "cpu/fp8_gemm.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "cpu/cpu_ops.h"

namespace contender::cpu {
namespace {

constexpr int64_t kLanes = 16;     // columns of a panel, summed side by side
constexpr int64_t kTileRows = 64;  // rows that share a decoded panel
constexpr int64_t kStep = 32;      // products that the tensor core adds at once
constexpr int kFractionBits = 13;
constexpr int32_t kKeptBits = ~((1 << (23 - kFractionBits)) - 1);
constexpr int kZeroExponent = -1000;  // of a zero: never the largest
constexpr int kLeastExponent = -60;   // below every exponent that a product or a sum of them has
constexpr uint32_t kTensorCoreNan = 0x7FFFFFFF;

// One register of AVX-512, or two of AVX2; conversions to integers cut towards zero.
using Floats [[gnu::vector_size(4 * kLanes)]] = float;
using Ints [[gnu::vector_size(4 * kLanes)]] = int32_t;

struct Code {
  float value;
  int32_t exponent;  // value = significand * 2^exponent, the significand in [1, 2), or less if subnormal
};
const std::array<Code, 256>& codes() {
  static const std::array<Code, 256> table = [] {
    std::array<Code, 256> t;
    for (int i = 0; i < 256; ++i) {
      const int magnitude = i & 0x7F;
      t[static_cast<size_t>(i)] = {
          .value = e4m3_to_float(static_cast<uint8_t>(i)),
          .exponent = magnitude == 0 ? kZeroExponent : std::max(magnitude >> 3, 1) - 7};
    }
    return t;
  }();
  return table;
}
bool is_nan(uint8_t code) { return (code & 0x7F) == 0x7F; }

const uint8_t* code_row(const Tensor& t, int64_t r) { return static_cast<const uint8_t*>(t.data) + r * t.ld; }

// A block of one row.
struct Row {
  std::array<Code, kFp8Block> k;
  float scale;
  bool nan;
};
void decode(const uint8_t* from, int64_t count, Row& row) {
  row.nan = false;
  for (int64_t k = 0; k < count; ++k) {
    row.k[static_cast<size_t>(k)] = codes()[from[k]];
    row.nan |= is_nan(from[k]);
  }
}

// A block of kLanes rows of b.
struct Panel {
  alignas(Floats) float value[kFp8Block][kLanes];
  alignas(Ints) int32_t exponent[kFp8Block][kLanes];
  bool nan[kLanes];
};
void decode(const Tensor& b, int64_t first, int64_t lanes, int64_t begin, int64_t count, Panel& panel) {
  for (int64_t l = 0; l < kLanes; ++l) {
    const uint8_t* row = l < lanes ? code_row(b, first + l) + begin : nullptr;
    panel.nan[l] = false;
    for (int64_t k = 0; k < count; ++k) {
      const uint8_t code = row ? row[k] : 0;
      panel.value[k][l] = codes()[code].value;
      panel.exponent[k][l] = codes()[code].exponent;
      panel.nan[l] |= is_nan(code);
    }
  }
}

template <class Vector, class T>
Vector load(const T (&lanes)[kLanes]) {
  Vector v;
  std::memcpy(&v, lanes, sizeof v);
  return v;
}
Ints larger(Ints a, Ints b) { return a > b ? a : b; }
Floats power_of_two(Ints e) { return std::bit_cast<Floats>((e + 127) << 23); }

// One addition of the tensor core: `count` products to each of the sums in `part`. Everything but the two
// cuts is exact in FP32: a product has 8 significant bits, a sum of cut ones fewer than 21.
void add_step(const Code* a, const float (*value)[kLanes], const int32_t (*exponent)[kLanes], int64_t count,
              Floats& part) {
  Ints largest = larger((std::bit_cast<Ints>(part) >> 23 & 255) - 127, Ints{} + kLeastExponent);
  for (int64_t k = 0; k < count; ++k) largest = larger(largest, a[k].exponent + load<Ints>(exponent[k]));
  const Floats up = power_of_two(kFractionBits - largest);
  Ints sum = __builtin_convertvector(part * up, Ints);
  for (int64_t k = 0; k < count; ++k)
    sum += __builtin_convertvector(a[k].value * load<Floats>(value[k]) * up, Ints);
  const Floats exact = __builtin_convertvector(sum, Floats) * power_of_two(largest - kFractionBits);
  part = std::bit_cast<Floats>(std::bit_cast<Ints>(exact) & kKeptBits);
}

// part_b of a row and the columns of a panel.
void block_sums(const Row& a, const Panel& b, int64_t count, Floats& part) {
  part = Floats{};
  if (a.nan || std::any_of(b.nan, b.nan + kLanes, [](bool n) { return n; })) {
    Row numbers = a;
    Panel rest = b;
    for (int64_t k = 0; k < count; ++k) {
      if (std::isnan(a.k[static_cast<size_t>(k)].value)) numbers.k[static_cast<size_t>(k)] = codes()[0];
      for (int64_t l = 0; l < kLanes; ++l)
        if (std::isnan(b.value[k][l])) rest.value[k][l] = 0, rest.exponent[k][l] = kZeroExponent;
    }
    numbers.nan = false;
    std::fill_n(rest.nan, kLanes, false);
    block_sums(numbers, rest, count, part);
    for (int64_t l = 0; l < kLanes; ++l)
      if (a.nan || b.nan[l]) part[l] = std::bit_cast<float>(kTensorCoreNan);
    return;
  }
  for (int64_t k = 0; k < count; k += kStep)
    add_step(&a.k[static_cast<size_t>(k)], b.value + k, b.exponent + k, std::min(kStep, count - k), part);
}

struct Tile {
  float d[kTileRows][kFp8Block];
};

// Columns [begin, end) of both operands, whose blocks have scales from `block` on.
struct Chain {
  int64_t begin, end, block;
};

// tile = a b^T over a chain, rows from r0 and columns from c0 on. scale_a(row, block), scale_b(column,
// block).
template <class ScaleA, class ScaleB>
void chain_tile(const Tensor& a, const Tensor& b, const Chain& chain, int64_t r0, int64_t c0,
                const ScaleA& scale_a, const ScaleB& scale_b, Tile& tile) {
  Panel panel;
  Row rows_of_a[kTileRows];
  const int64_t rows = std::min(kTileRows, a.rows - r0), cols = std::min(kFp8Block, b.rows - c0);
  std::fill_n(&tile.d[0][0], sizeof(tile) / sizeof(float), 0.0f);
  for (int64_t block = chain.block, k = chain.begin; k < chain.end; ++block, k += kFp8Block) {
    const int64_t count = std::min(kFp8Block, chain.end - k);
    for (int64_t r = 0; r < rows; ++r) {
      decode(code_row(a, r0 + r) + k, count, rows_of_a[r]);
      rows_of_a[r].scale = scale_a(r0 + r, block);
    }
    for (int64_t c = 0; c < cols; c += kLanes) {
      const int64_t lanes = std::min(kLanes, cols - c);
      decode(b, c0 + c, lanes, k, count, panel);
      float sb[kLanes] = {};
      for (int64_t l = 0; l < lanes; ++l) sb[l] = scale_b(c0 + c + l, block);
      for (int64_t r = 0; r < rows; ++r) {
        Floats part;
        block_sums(rows_of_a[r], panel, count, part);
        for (int64_t l = 0; l < kLanes; ++l)
          tile.d[r][c + l] = std::fma(part[l], rows_of_a[r].scale * sb[l], tile.d[r][c + l]);
      }
    }
  }
}

// d[M, N], tile by tile: sum(first row, first column, tile), then finish(first row, first column, rows,
// columns, tile).
template <class Sum, class Finish>
void for_each_tile(int64_t m, int64_t n, const Sum& sum, const Finish& finish) {
  Tile tile;
  for (int64_t r0 = 0; r0 < m; r0 += kTileRows) {
    for (int64_t c0 = 0; c0 < n; c0 += kFp8Block) {
      sum(r0, c0, tile);
      finish(r0, c0, std::min(kTileRows, m - r0), std::min(kFp8Block, n - c0), tile);
    }
  }
}

// The tree over leaves that arrive in order: one tile waits for each set bit of their number so far.
class TileTree {
 public:
  void push(Tile& tile) {
    size_t level = 0;
    for (int64_t rest = terms_++; rest & 1; rest >>= 1, ++level) {
      const float* left = &waiting_[level].d[0][0];
      float* right = &tile.d[0][0];
      for (int64_t i = 0; i < kTileRows * kFp8Block; ++i) right[i] = left[i] + right[i];
    }
    waiting_[level] = tile;
  }

 private:
  static_assert(kMaxLeaves == 1 << 9);
  Tile waiting_[10];
  int64_t terms_ = 0;
};

uint16_t bf16_bits(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  if (std::isnan(v)) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// A tile as d keeps it; `tile` is left with those values.
void store(const Tensor& d, bool accumulate, int64_t r0, int64_t c0, int64_t rows, int64_t cols, Tile& tile) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      float& v = tile.d[r][c];
      const int64_t at = (r0 + r) * d.ld + c0 + c;
      if (d.dtype == DType::kBF16) {
        const uint16_t half = bf16_bits(v);
        v = std::bit_cast<float>(uint32_t{half} << 16);
        if (d) static_cast<uint16_t*>(d.data)[at] = half;
      } else {
        if (accumulate) v = d.f32()[at] + v;
        if (d) d.f32()[at] = v;
      }
    }
  }
}

// Plain, or one group; q may be empty.
void gemm(const Exec& exec, const Fp8GemmArgs& args) {
  const auto scale_a = [&](int64_t r, int64_t block) { return args.a.scale.row(r)[block]; };
  const auto scale_b = [&](int64_t c, int64_t block) { return args.b.scale.row(c / kFp8Block)[block]; };
  for_each_tile(
      args.a.data.rows, args.b.data.rows,
      [&](int64_t r0, int64_t c0, Tile& tile) {
        chain_tile(args.a.data, args.b.data, {0, args.a.data.cols, 0}, r0, c0, scale_a, scale_b, tile);
      },
      [&](int64_t r0, int64_t c0, int64_t rows, int64_t cols, Tile& tile) {
        store(args.d, args.accumulate, r0, c0, rows, cols, tile);
        if (!args.q.data) return;
        const int64_t block = c0 / kFp8Block;
        quantize(exec, {.x = {&tile.d[0][0], DType::kF32, rows, cols, kFp8Block},
                        .q = {.data = args.q.data.row_range(r0, r0 + rows).col_range(c0, c0 + cols),
                              .scale = args.q.scale.row_range(r0, r0 + rows).col_range(block, block + 1),
                              .layout = QLayout::k1x128}});
      });
}

QTensor row_range(const QTensor& q, int64_t begin, int64_t end) {
  if (!q.data) return {};
  return {.data = q.data.row_range(begin, end), .scale = q.scale.row_range(begin, end), .layout = q.layout};
}

}  // namespace

void fp8_gemm(const Exec& exec, const Fp8GemmArgs& args) {
  check_fp8_gemm(args);
  gemm(exec, args);
}

void fp8_grouped_gemm(const Exec& exec, const Fp8GroupedGemmArgs& args) {
  check_fp8_grouped_gemm(args);
  const int64_t groups = args.num_groups, m = args.a.data.rows, capacity = m / groups;
  const int64_t n = args.b.data.rows / groups, scale_rows = args.b.scale.rows / groups;
  if (args.offsets) CHECK(args.offsets[0] == 0, "offsets[0] = {}", args.offsets[0]);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = args.offsets ? args.offsets[g] : g * capacity;
    const int64_t end = args.offsets ? args.offsets[g + 1] : begin + args.counts[g];
    CHECK(begin <= end && end <= (args.offsets ? m : begin + capacity), "group {}: rows [{}, {}) of {}", g,
          begin, end, m);
    gemm(exec, {.a = row_range(args.a, begin, end),
                .b = {.data = args.b.data.row_range(g * n, (g + 1) * n),
                      .scale = args.b.scale.row_range(g * scale_rows, (g + 1) * scale_rows),
                      .layout = QLayout::k128x128},
                .d = args.d ? args.d.row_range(begin, end) : args.d,
                .q = row_range(args.q, begin, end)});
  }
}

void fp8_wgrad(const Exec&, const Fp8WgradArgs& args) {
  check_fp8_wgrad(args);
  const int64_t m = args.dy.data.cols, n = args.dy.data.rows, leaves = args.segments.num_leaves;
  if (args.offsets) CHECK(args.offsets[0] == 0, "offsets[0] = {}", args.offsets[0]);
  int64_t first_block = 0;
  // Of a leaf of a group.
  const auto chain_of = [&](int64_t g, int64_t leaf) -> Chain {
    if (args.segments.data) {
      const RowPlace* place = args.segments.places + g * leaves + leaf;
      return {place[0].row, place[1].row, place[0].block};
    }
    return {args.offsets ? args.offsets[g] : 0, args.offsets ? args.offsets[g + 1] : m, first_block};
  };
  for (int64_t g = 0; g < args.num_groups; ++g) {
    const int64_t begin = chain_of(g, 0).begin, end = chain_of(g, leaves - 1).end;
    CHECK(begin <= end && end <= m, "group {}: tokens [{}, {}) of {}", g, begin, end, m);
    const Tensor dw = args.dw.row_range(g * n, (g + 1) * n);
    for_each_tile(
        n, args.x.data.rows,
        [&](int64_t r0, int64_t c0, Tile& tile) {
          TileTree tree;
          for (int64_t leaf = 0; leaf < leaves; ++leaf) {
            chain_tile(
                args.dy.data, args.x.data, chain_of(g, leaf), r0, c0,
                [&](int64_t r, int64_t block) { return args.dy.scale.row(block)[r]; },
                [&](int64_t c, int64_t block) { return args.x.scale.row(block)[c]; }, tile);
            tree.push(tile);
          }
        },
        [&](int64_t r0, int64_t c0, int64_t rows, int64_t cols, Tile& tile) {
          store(dw, args.accumulate, r0, c0, rows, cols, tile);
        });
    if (!args.segments.data) first_block += ceil_div(end - begin, kFp8Block);
  }
}

}  // namespace contender::cpu
