// Every tile of the two tables of cuda/gemm on the same product, beside the one that the launcher chooses by
// its score: `x baseline` above 1 is a tile that would have been faster. All must give the same bits. Where M
// is small, the best tile of each number of parts of K too, beside the choice of mode fast.
#include <algorithm>
#include <cmath>

#include "bench/cuda/gemm_rows.h"
#include "bench/cuda/weight.h"
#include "cuda/common/dispatch.h"
#include "cuda/gemm/bf16_gemm.h"
#include "cuda/gemm/fp8_gemm.h"
#include "cuda/ops.h"
#include "ops/gemm.h"

namespace contender::bench {
namespace {

using cuda::Mode;

// A tile of the table, -1 for the launcher's choice in its mode; and parts of K.
struct Candidate {
  Mode mode = Mode::kExact;
  int tile = -1, splits = 1;
};
using Product = std::function<void(const Exec& exec, const Candidate& by, const Tensor& y)>;

void time_candidate(const GemmRow& r, const Cost& cost, int tensor_rate, const Candidate& by,
                    const Product& product) {
  const int64_t n = r.shape.n;
  const DeviceData ours(kActivation, r.m, n), chosen(kActivation, r.m, n);
  const Scratch scratch(split_space(by.mode, r.m, n));
  const Candidate choice = {.mode = by.mode};
  // Sums of other parts have other roundings, and of FP8 other cuts below the largest term.
  const double terms = static_cast<double>(r.shape.k);
  const double slack = tensor_rate == 2 ? terms / 16384 : 0;
  measure({.cost = cost,
           .call = [&] { product(scratch.exec(), by, ours.tensor()); },
           .check =
               [&](Check& check) {
                 product(scratch.exec(), choice, chosen.tensor());
                 for (const int64_t row : samples(r.m, 8)) {
                   const std::vector<double> got = ours.row(row), want = chosen.row(row);
                   for (size_t c = 0; c < got.size(); ++c) {
                     const double fast =
                         2 * tolerance_of(kActivation, want[c], 100 * std::sqrt(terms)) + slack;
                     check.near(got[c], want[c], by.mode == Mode::kExact ? 0 : fast);
                   }
                 }
               },
           .baseline = [&] { product(scratch.exec(), choice, chosen.tensor()); },
           .tensor_rate = tensor_rate});
}

void bf16_candidate(const GemmRow& r, const Candidate& candidate) {
  const Weight w(r.shape.n, r.shape.k, r.shape.groups);
  const DeviceData x = DeviceData::random(kActivation, r.m, r.shape.k, 1),
                   offsets = DeviceData::of(r.offsets);
  Cost cost = linear_cost(r.m, r.shape.n, r.shape.k, kActivation, DType::kBF16);
  cost.bytes += static_cast<double>((r.busy_groups() - 1) * r.shape.n * r.shape.k * 2);
  time_candidate(r, cost, 1, candidate, [&](const Exec& exec, const Candidate& by, const Tensor& y) {
    const cuda::Bf16Choice choice = {by.tile, by.mode, by.splits};
    if (r.grouped()) {
      cuda::bf16_gemm(
          exec, GroupedLinearArgs{.x = x.tensor(), .w = w.view(), .y = y, .offsets = offsets.as<int32_t>()},
          choice);
    } else {
      cuda::bf16_gemm(exec, LinearArgs{.x = x.tensor(), .w = w.view(), .y = y}, choice);
    }
  });
}

void fp8_candidate(const GemmRow& r, const Candidate& candidate) {
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
  time_candidate(r, fp8_gemm_cost(r.m, n, k, kActivation, r.busy_groups()), 2, candidate,
                 [&](const Exec& exec, const Candidate& by, const Tensor& y) {
                   const Fp8GemmArgs dense = {.a = qa, .b = qb, .d = y};
                   const Fp8GroupedGemmArgs grouped = {
                       .a = qa, .b = qb, .d = y, .num_groups = groups, .offsets = offsets.as<int32_t>()};
                   const int64_t blocks = cuda::sm_count();
                   if (r.grouped()) {
                     by.tile < 0 ? cuda::fp8_grouped_gemm(exec, grouped)
                                 : cuda::fp8_grouped_gemm(exec, grouped, cuda::kFp8Tiles[by.tile], blocks);
                   } else {
                     by.tile < 0 ? cuda::fp8_gemm(exec, dense, by.mode)
                                 : cuda::fp8_gemm(exec, dense, cuda::kFp8Tiles[by.tile], blocks, by.splits);
                   }
                 });
}

// The best tile of each number of parts of K, from scores that are sorted.
template <class Scores, class Index>
std::vector<Candidate> splits_of(const Scores& scores, const Index& index) {
  std::vector<Candidate> list;
  for (int parts = 1; parts <= cuda::kMaxSplits; parts *= 2) {
    const auto best = std::find_if(scores.begin(), scores.end(),
                                   [&](const auto& s) { return s.splits == parts && index(s) >= 0; });
    if (best != scores.end()) list.push_back({Mode::kFast, index(*best), parts});
  }
  return list;
}
std::vector<Candidate> bf16_splits(const GemmRow& r) {
  const auto scores = cuda::score_tiles(cuda::bf16_gemm_tiles(),
                                        {.m = r.m,
                                         .n = r.shape.n,
                                         .k = r.shape.k,
                                         .mode = Mode::kFast,
                                         .workspace_bytes = split_space(Mode::kFast, r.m, r.shape.n)},
                                        cuda::sm_count());
  return splits_of(scores, [](const cuda::TileScore& s) { return s.reason.empty() ? s.index : -1; });
}
std::vector<Candidate> fp8_splits(const GemmRow& r) {
  const auto scores = cuda::score_fp8_tiles({.m = r.m,
                                             .n = r.shape.n,
                                             .k = r.shape.k,
                                             .num_sms = cuda::sm_count(),
                                             .mode = Mode::kFast,
                                             .workspace_bytes = split_space(Mode::kFast, r.m, r.shape.n)});
  return splits_of(scores, [](const cuda::Fp8TileScore& s) {
    return s.cycles == 0 ? -1
                         : static_cast<int>(std::ranges::find(cuda::kFp8Tiles, s.tile) - cuda::kFp8Tiles);
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
// Those whose K blocks may share with gain.
std::vector<GemmRow> narrow_rows() {
  if (small_shapes()) return {{{"small", 144, 208, 1}, 96, false}};
  std::vector<GemmRow> rows;
  for (const cuda::GemmShape& s : cuda::kModelShapes) {
    const std::string name = s.name;
    if (name != "v3.q_a_kv_a" && name != "v3.router" && name != "v3.o" && name != "v2lite.ffn_down") continue;
    for (const int64_t m : {16, 128, 512}) rows.emplace_back(s, m, false);
  }
  return rows;
}

template <class Table>
void add_row(const std::string& name, const Table& table, const GemmRow& r, const Candidate& by,
             void (*run)(const GemmRow&, const Candidate&)) {
  const std::string tile = name_of(table[static_cast<size_t>(by.tile)]),
                    parts = by.mode == Mode::kFast ? fmt::format("_split{}", by.splits) : "";
  register_row(fmt::format("{}/{}/{}{}", name, r.text(), tile, parts), [r, by, run] { run(r, by); });
}

const Family family("tiles", [] {
  const auto add_tiles = [](const char* name, const auto& table, const GemmRow& r, const auto& run) {
    for (int t = 0; t < static_cast<int>(std::size(table)); ++t) add_row(name, table, r, {.tile = t}, run);
  };
  for (const GemmRow& r : usual_rows()) {
    add_tiles("fp8_tiles", cuda::kFp8Tiles, r, fp8_candidate);
    add_tiles("bf16_tiles", cuda::bf16_gemm_tiles(), r, bf16_candidate);
  }
  for (const GemmRow& r : narrow_rows()) {
    for (const Candidate& by : fp8_splits(r))
      add_row("fp8_fast_tiles", cuda::kFp8Tiles, r, by, fp8_candidate);
    for (const Candidate& by : bf16_splits(r))
      add_row("bf16_fast_tiles", cuda::bf16_gemm_tiles(), r, by, bf16_candidate);
  }
});

}  // namespace
}  // namespace contender::bench
