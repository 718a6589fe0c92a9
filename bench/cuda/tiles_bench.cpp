// Every tile of the two tables of cuda/gemm on the same product, beside the one that the launcher chooses by
// its score: `x baseline` above 1 is a tile that would have been faster. All must give the same bits.
#include "bench/cuda/gemm_rows.h"
#include "bench/cuda/weight.h"
#include "cuda/common/dispatch.h"
#include "cuda/gemm/bf16_gemm.h"
#include "cuda/gemm/fp8_gemm.h"
#include "cuda/ops.h"
#include "ops/gemm.h"

namespace contender::bench {
namespace {

// A product that a tile of the table makes; -1: the one that the launcher chooses.
using Product = std::function<void(int tile, const Tensor& y)>;

void time_tile(const GemmRow& r, const Cost& cost, int tensor_rate, int tile, const Product& product) {
  const DeviceData ours(kActivation, r.m, r.shape.n), chosen(kActivation, r.m, r.shape.n);
  measure({.cost = cost,
           .call = [&] { product(tile, ours.tensor()); },
           .check =
               [&](Check& check) {
                 product(-1, chosen.tensor());
                 for (const int64_t row : samples(r.m, 8)) {
                   const std::vector<double> got = ours.row(row), want = chosen.row(row);
                   for (size_t c = 0; c < got.size(); ++c) check.equal(got[c], want[c]);
                 }
               },
           .baseline = [&] { product(-1, chosen.tensor()); },
           .tensor_rate = tensor_rate});
}

void bf16_tile(const GemmRow& r, int tile) {
  const Weight w(r.shape.n, r.shape.k, r.shape.groups);
  const DeviceData x = DeviceData::random(kActivation, r.m, r.shape.k, 1),
                   offsets = DeviceData::of(r.offsets);
  Cost cost = linear_cost(r.m, r.shape.n, r.shape.k, kActivation, DType::kBF16);
  cost.bytes += static_cast<double>((r.busy_groups() - 1) * r.shape.n * r.shape.k * 2);
  time_tile(r, cost, 1, tile, [&](int t, const Tensor& y) {
    if (r.grouped()) {
      cuda::bf16_gemm(
          {}, GroupedLinearArgs{.x = x.tensor(), .w = w.view(), .y = y, .offsets = offsets.as<int32_t>()}, t);
    } else {
      cuda::bf16_gemm({}, LinearArgs{.x = x.tensor(), .w = w.view(), .y = y}, t);
    }
  });
}

void fp8_tile(const GemmRow& r, int tile) {
  const auto [name, n, k, groups] = r.shape;
  const DeviceData a(DType::kE4M3, r.m, k), a_scale(DType::kF32, r.m, ceil_div(k, kFp8Block));
  const DeviceData b(DType::kE4M3, groups * n, k);
  const DeviceData b_scale(DType::kF32, groups * ceil_div(n, kFp8Block), ceil_div(k, kFp8Block));
  const DeviceData offsets = DeviceData::of(r.offsets);
  const QTensor qa = {.data = a.tensor(), .scale = a_scale.tensor()};
  const QTensor qb = {.data = b.tensor(), .scale = b_scale.tensor(), .layout = QLayout::k128x128};
  if (values_wanted()) {
    cuda::quantize({}, {.x = DeviceData::random(kActivation, r.m, k, 1).tensor(), .q = qa});
    cuda::quantize_weight(
        {}, {.x = DeviceData::random(DType::kF32, groups * n, k, 2).tensor(), .num_groups = groups, .q = qb});
  }
  time_tile(r, fp8_gemm_cost(r.m, n, k, kActivation, r.busy_groups()), 2, tile, [&](int t, const Tensor& y) {
    const Fp8GemmArgs dense = {.a = qa, .b = qb, .d = y};
    const Fp8GroupedGemmArgs grouped = {
        .a = qa, .b = qb, .d = y, .num_groups = groups, .offsets = offsets.as<int32_t>()};
    const int64_t blocks = cuda::sm_count();
    if (r.grouped()) {
      t < 0 ? cuda::fp8_grouped_gemm({}, grouped)
            : cuda::fp8_grouped_gemm({}, grouped, cuda::kFp8Tiles[t], blocks);
    } else {
      t < 0 ? cuda::fp8_gemm({}, dense) : cuda::fp8_gemm({}, dense, cuda::kFp8Tiles[t], blocks);
    }
  });
}

std::string name_of(const cuda::TileShape& t) {
  return fmt::format("{}x{}{}_c{}", t.tile_m(), t.tile_n(), t.turns == cuda::Turns::kInTurns ? "_turns" : "",
                     t.cluster);
}
std::string name_of(const cuda::Fp8Tile& t) {
  return fmt::format("{}x{}_c{}", t.block_m(), t.block_n, t.cluster);
}

// Decode, a small batch, training; wide, deep, and by expert.
std::vector<GemmRow> usual_rows() {
  if (small_shapes()) return {{{"small", 144, 208, 1}, 96, false}};
  std::vector<GemmRow> rows;
  for (const cuda::GemmShape& s : cuda::kModelShapes) {
    const std::string name = s.name;
    if (name == "v3.experts_up") rows.emplace_back(s, 16384, false);
    if (name != "v3.q_b" && name != "v3.o" && name != "v2lite.ffn_up") continue;
    for (const int64_t m : {16, 128, 4096}) rows.emplace_back(s, m, false);
  }
  return rows;
}

const Family family("tiles", [] {
  const auto add = [](const char* family, const GemmRow& r, int tile, const std::string& name,
                      void (*run)(const GemmRow&, int)) {
    register_row(fmt::format("{}/{}/{}", family, r.text(), name), [r, tile, run] { run(r, tile); });
  };
  for (const GemmRow& r : usual_rows()) {
    for (int t = 0; const cuda::Fp8Tile& tile : cuda::kFp8Tiles)
      add("fp8_tiles", r, t++, name_of(tile), fp8_tile);
    for (int t = 0; const cuda::TileShape& tile : cuda::bf16_gemm_tiles()) {
      add("bf16_tiles", r, t++, name_of(tile), bf16_tile);
    }
  }
});

}  // namespace
}  // namespace contender::bench
