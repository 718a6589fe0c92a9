// What: y = x w^T and dx = dy w in BF16 on wgmma; plain, by expert, by head (ops/linear.h).
// Math: both are C = A B^T on rows of contracted values: of w the forward form [N, K] for y, the backward
//   form [K, N] for dx.
// Shapes: any M and N >= 0, any groups, empty ones too; K and a slice of it multiples of 8. Rows of x behind
//   the last group are not used, those of y not written.
// Layouts: x, dy BF16, row-major; y, dx BF16 or F32. Packed forms as linear/pack.cu writes them.
// Precision: BF16 operands, FP32 accumulators: one chain per slice in steps of 16 from the slice's start,
//   zeros behind its end; slices summed in the fixed tree; bias and old value added in FP32; one rounding. No
//   tile, place, side or cluster enters, so all rows of the table give the same bits, and M none. Mode fast
//   splits the chain as M and N suggest, and has no slices.
// Schedule: persistent; a warp feeds a ring of stages by TMA, one or two consumer warpgroups multiply and
//   store: the ring runs ahead into the next unit while results leave. Two consumers share a unit, or take
//   turns: one multiplies 128 rows while the other stores its own. Clusters of 2 fetch a tile of w once.
//   Bands of the raster keep what runs at once nearly square. Groups are found on the device. One group of
//   wgmma is in flight behind the one that is waited for. Small M: w takes the 64 rows of wgmma and x its N.
//   Where tiles are few, parts of K (mode fast), or its slices, are layers of a product into the workspace:
//   split.cu sums.
// Registers: 40 for the producer's warpgroup and 232 for each of two consumers; 52 to 161 with one consumer.
// Shared memory: 4 to 20 stages and staging, 208 to 224 KB.
// Roofline: 2 M N K flops; 2 (M K + N K + M N) bytes. Memory-bound below M = 206 (H200) and 295 (H800).
// Limits: the multiples above, rows and bases of operands in pieces of 16 bytes, 4 slices, M and N below
//   2^31.
// Source: PTX ISA 9.0: wgmma, cp.async.bulk.tensor, mbarrier, setmaxnreg.
#include <array>
#include <utility>

#include "cuda/common/tensor_map.h"
#include "cuda/gemm/bf16_gemm.h"
#include "cuda/gemm/bf16_gemm_device.cuh"
#include "cuda/gemm/split.h"

namespace contender::cuda {
namespace {

// --- the instantiation table ---
constexpr TileShape kTiles[] = {
    {Side::kRows, 2, 256, 4, 2, 0},
    {Side::kRows, 2, 256, 4, 1, 0},
    {Side::kRows, 2, 192, 5, 1, 0},
    {Side::kRows, 2, 128, 5, 2, 2},
    {Side::kRows, 2, 128, 5, 1, 2},
    {Side::kRows, 2, 128, 6, 2, 0, Turns::kInTurns},
    {Side::kRows, 2, 128, 6, 1, 0, Turns::kInTurns},
    {Side::kColumns, 1, 128, 8, 1, 2},
    {Side::kColumns, 1, 64, 12, 1, 2},
    {Side::kColumns, 1, 32, 16, 1, 2},
    {Side::kColumns, 1, 16, 20, 1, 2},
};

extern __shared__ __align__(1024) uint8_t gemm_smem[];

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) bf16_gemm_kernel(const __grid_constant__ GemmParams p) {
  auto& s = *reinterpret_cast<GemmSmem<T>*>(gemm_smem);
  run_roles<T>(
      s, [&] { produce<T>(p, s); },
      [&](int warpgroup) {
        if constexpr (T::kInTurns) {
          consume_in_turns<T>(p, s, warpgroup);
        } else {
          consume<T>(p, s, warpgroup);
        }
      });
}

template <TileShape kShape>
void launch(const Exec& exec, const GemmParams& p, int64_t units) {
  launch_roles<bf16_gemm_kernel<Tile<kShape>>, Tile<kShape>>(exec, p, units);
}

using Launch = void (*)(const Exec&, const GemmParams&, int64_t);
template <size_t... kIndex>
constexpr auto launches(std::index_sequence<kIndex...>) {
  return std::array<Launch, sizeof...(kIndex)>{launch<kTiles[kIndex]>...};
}
constexpr auto kLaunches = launches(std::make_index_sequence<std::size(kTiles)>());

bool in_16(const void* p, std::initializer_list<int64_t> strides_bytes) {
  for (int64_t s : strides_bytes)
    if (s % 16 != 0) return false;
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

ProductShape shape_of(const Exec& exec, const Product& p, Mode mode) {
  return {.m = p.m,
          .n = p.n,
          .k = p.k,
          .layers = p.layers,
          .grouped = p.grouped,
          .slices = mode == Mode::kFast ? 1 : p.slices,
          .out_bytes = dtype_size(p.c_type),
          .mode = mode,
          .workspace_bytes = exec.workspace_bytes};
}

// Rows of contracted values in boxes of `box_rows`; slices are layers that lie beside each other.
CUtensorMap operand_map(const void* base, int64_t rows, int64_t ld, int64_t layers, int64_t layer_stride,
                        const Product& p, int box_rows) {
  const int64_t length = p.k / p.slices;
  return make_tensor_map_3d({.base = base,
                             .cols = length,
                             .rows = rows,
                             .layers = p.slices > 1 ? p.slices : layers,
                             .row_stride = ld,
                             .layer_stride = p.slices > 1 ? length : layer_stride,
                             .box_cols = kGemmDepth,
                             .box_rows = box_rows});
}

void launch_tile(const Exec& exec, const Product& p, int tile) {
  CHECK(0 <= tile && tile < static_cast<int>(std::size(kTiles)), "tile {} of {}", tile, std::size(kTiles));
  const TileShape& t = kTiles[tile];
  CHECK((1 << t.levels) >= p.slices, "tile {} sums {} slices, not {}", tile, 1 << t.levels, p.slices);
  CHECK(p.slices == 1 || p.layers == 1, "{} slices of {} layers", p.slices, p.layers);
  const int box_p = 64 * t.consumers, box_q = t.wgmma_n / t.cluster;
  const bool swapped = t.side == Side::kColumns;
  GemmParams g;
  g.x = operand_map(p.a, p.m, p.lda, p.grouped ? 1 : p.layers, p.a_layer, p, swapped ? box_q : box_p);
  g.w = operand_map(p.b, p.n, p.ldb, p.layers, p.b_layer, p, swapped ? box_p : box_q);
  g.out = {.y = p.c,
           .ldy = p.ldc,
           .y_layer = p.c_layer,
           .bias = p.bias,
           .n = narrow<int>(p.n),
           .y_type = p.c_type,
           .accumulate = p.accumulate,
           .store = store_of(p.c, p.c_type, p.n, p.ldc, p.layers > 1 ? p.c_layer : 0, p.bias, p.accumulate)};
  g.offsets = p.offsets;
  g.one_x = p.grouped;
  g.stall = stall_record();
  g.m = narrow<int>(p.m);
  g.layers = narrow<int>(p.layers);
  g.slices = p.slices;
  g.k_blocks = narrow<int>(ceil_div(p.k / p.slices, kGemmDepth));
  g.band = raster_band(t, sm_count());
  // Each group may end in a tile of its own.
  const int64_t tiles_m = ceil_div(p.m, t.tile_m()) + (p.grouped ? p.layers : 0);
  const int64_t units = tiles_m * ceil_div(p.n, t.tile_n()) * (p.grouped ? 1 : p.layers);
  narrow<int>(units);
  kLaunches[tile](exec, g, units);
}

// Parts of k as layers of a product of their own, and their sum.
void launch_split(const Exec& exec, const Product& p, int tile, int splits) {
  CHECK(split_bytes(splits, p.m, p.n) <= exec.workspace_bytes,
        "workspace of {} bytes, {} for {} partial products", exec.workspace_bytes,
        split_bytes(splits, p.m, p.n), splits);
  Product parts = p;
  parts.k = p.k / splits;
  parts.a_layer = parts.b_layer = parts.k;
  parts.c = exec.workspace;
  parts.c_type = DType::kF32;
  parts.ldc = split_row(p.n);
  parts.c_layer = p.m * parts.ldc;
  parts.layers = splits;
  parts.slices = 1;
  parts.bias = nullptr;
  parts.accumulate = false;
  launch_tile(exec, parts, tile);
  sum_splits(exec, {.partials = static_cast<const float*>(exec.workspace),
                    .splits = splits,
                    .y = {p.c, p.c_type, p.m, p.n, p.ldc},
                    .bias = p.bias,
                    .accumulate = p.accumulate});
}

}  // namespace

std::span<const TileShape> bf16_gemm_tiles() { return kTiles; }
std::string bf16_gemm_explain(const ProductShape& shape) { return explain_tiles(kTiles, shape, sm_count()); }

std::string bf16_gemm_refuses(const Product& p) {
  if (p.slices > 4) return fmt::format("{} slices, not 1, 2 or 4", p.slices);
  if (p.k == 0 || p.k % (8 * p.slices) != 0)
    return fmt::format("K {} in {} slices: not a multiple of 8", p.k, p.slices);
  if (!in_16(p.a, {2 * p.lda, 2 * p.a_layer}) || !in_16(p.b, {2 * p.ldb, 2 * p.b_layer}))
    return fmt::format(
        "operands at {} and {}, rows of {} and {} elements, layers {} and {} apart: not in pieces of 16 "
        "bytes",
        p.a, p.b, p.lda, p.ldb, p.a_layer, p.b_layer);
  return "";
}

void bf16_gemm(const Exec& exec, const Product& product, Bf16Choice choice) {
  const std::string reason = bf16_gemm_refuses(product);
  CHECK(reason.empty(), "bf16_gemm: {}", reason);
  if (product.m == 0 || product.n == 0 || product.layers == 0) return;
  Product p = product;
  if (choice.mode == Mode::kFast) p.slices = 1;
  const ProductShape shape = shape_of(exec, p, choice.mode);
  if (choice.tile < 0) {
    const TileScore best = choose_tile(kTiles, shape, sm_count());
    choice.tile = best.index;
    choice.splits = best.splits;
  }
  if (choice.splits <= 1) return launch_tile(exec, p, choice.tile);
  CHECK(may_split(shape, choice.splits), "K {} in {} slices is not split in {}", p.k, p.slices,
        choice.splits);
  launch_split(exec, p, choice.tile, choice.splits);
}

}  // namespace contender::cuda
