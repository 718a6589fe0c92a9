// The tile of an FP8 product: a model of the cycles that each tile of the table would take, and its reasons.
#include <algorithm>
#include <cmath>

#include "cuda/gemm/fp8_gemm.h"

namespace contender::cuda {
namespace {

// Of one SM, in bytes a cycle; datasheet numbers of Hopper at its boost clock.
constexpr double kSharedBytes = 128;   // wgmma reads its operands from shared memory
constexpr double kCacheBytes = 50;     // that an SM draws from L2
constexpr double kMemoryBytes = 18.6;  // its share of HBM3e, H200
constexpr double kTileCycles = 1500;   // prologue of the ring, epilogue of the last tile
constexpr double kPromoteLatency = 60;
constexpr double kBlockLatency = 110;   // wait, start and promotion of a block, however small
constexpr double kClusterLatency = 10;  // of a block, what waiting for the other one costs

// Of a consumer's wgmma over 128 of k: the tensor cores, or the bytes of shared memory that feed them.
double wgmma_cycles(const Fp8Tile& t) {
  return 4 * std::max(t.block_n / 2.0, (64 + t.block_n) * 32 / kSharedBytes);
}

struct Estimate {
  double cycles = 0;  // 0: not possible
  int64_t tiles = 0, waves = 0;
  const char* bound = "";
};

Estimate estimate(const Fp8Problem& p, const Fp8Tile& t) {
  if (p.quantised && t.block_n != kFp8Block) return {};
  const int64_t group_rows = ceil_div(p.m, p.num_groups), row_tiles = ceil_div(group_rows, t.block_m());
  const int64_t tiles = p.num_groups * row_tiles * ceil_div(p.n, t.block_n * t.cluster) * t.cluster;
  const int64_t waves = ceil_div(tiles, p.num_sms), blocks = ceil_div(p.k, kFp8Block);
  // Rows that do not exist are not fetched.
  const double fetched =
      static_cast<double>(std::min<int64_t>(group_rows, t.block_m())) / t.cluster + t.block_n;
  const double fetch = fetched * kFp8Block / kCacheBytes;
  // A lone consumer starts its next block before it promotes the last, if that fits into registers.
  const bool exposed = t.consumers == 1 && t.block_n > 64;
  const double math =
      std::max(t.consumers * wgmma_cycles(t) + (exposed ? t.block_n / 2.0 + kPromoteLatency : 0),
               kBlockLatency) +
      (t.cluster - 1) * kClusterLatency;
  const double run = static_cast<double>(waves * blocks) * std::max(math, fetch);
  const double memory = fp8_gemm_cost(p.m, p.n, p.k, DType::kBF16, p.num_groups).bytes /
                        (kMemoryBytes * static_cast<double>(p.num_sms));
  const char* bound = memory > run ? "HBM" : fetch > math ? "L2" : "tensor cores";
  return {std::max(run, memory) + kTileCycles * (t.block_n / 160.0 + 0.25), tiles, waves, bound};
}

Fp8TileScore score(const Fp8Problem& p, const Fp8Tile& t) {
  const Estimate e = estimate(p, t);
  if (e.cycles == 0) return {t, 0, "q needs its block of 128 columns in one tile"};
  const double last = static_cast<double>(e.tiles - (e.waves - 1) * p.num_sms);
  return {t, e.cycles,
          fmt::format("{} tiles in {} waves, {:.0f}% of the last full, bound by {}", e.tiles, e.waves,
                      100 * last / static_cast<double>(p.num_sms), e.bound)};
}

}  // namespace

std::vector<Fp8TileScore> score_fp8_tiles(const Fp8Problem& problem) {
  std::vector<Fp8TileScore> scores;
  for (const Fp8Tile& t : kFp8Tiles) scores.push_back(score(problem, t));
  std::stable_sort(scores.begin(), scores.end(), [](const Fp8TileScore& a, const Fp8TileScore& b) {
    return a.cycles != 0 && (b.cycles == 0 || a.cycles < b.cycles);
  });
  return scores;
}

Fp8Tile best_fp8_tile(const Fp8Problem& problem) {
  Fp8Tile best;
  double least = 0;
  for (const Fp8Tile& t : kFp8Tiles) {
    const double cycles = estimate(problem, t).cycles;
    if (cycles == 0 || (least != 0 && cycles >= least)) continue;
    least = cycles;
    best = t;
  }
  return best;
}

std::string explain_fp8_gemm(const Fp8Problem& p) {
  std::string text = fmt::format("fp8 gemm M {} N {} K {} groups {}{}, {} SMs\n", p.m, p.n, p.k, p.num_groups,
                                 p.quantised ? " with q" : "", p.num_sms);
  for (const Fp8TileScore& s : score_fp8_tiles(p)) {
    const std::string cycles = s.cycles == 0 ? "-" : fmt::format("{:.0f}", s.cycles);
    text += fmt::format("{:>4} x {:<3} cluster {} {:>9} cycles  {}\n", s.tile.block_m(), s.tile.block_n,
                        s.tile.cluster, cycles, s.reason);
  }
  return text;
}

}  // namespace contender::cuda
