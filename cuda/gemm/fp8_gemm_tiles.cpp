// The tile of an FP8 product and, in mode fast, the parts of K: a model of the cycles that each candidate
// would take, and its reasons.
#include <algorithm>
#include <cmath>

#include "cuda/gemm/fp8_gemm.h"
#include "cuda/gemm/split.h"

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

Estimate estimate(const Fp8Problem& p, const Fp8Tile& t, int splits) {
  if (p.quantised && t.block_n != kFp8Block) return {};
  const int64_t group_rows = ceil_div(p.m, p.num_groups), row_tiles = ceil_div(group_rows, t.block_m());
  const int64_t tiles = splits * p.num_groups * row_tiles * ceil_div(p.n, t.block_n * t.cluster) * t.cluster;
  const int64_t waves = ceil_div(tiles, p.num_sms), blocks = ceil_div(ceil_div(p.k, kFp8Block), splits);
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
  const double operands =
      fp8_gemm_cost(p.m, p.n, p.k, DType::kBF16, p.num_groups).bytes - static_cast<double>(2 * p.m * p.n);
  const int64_t out = p.m * p.n * (splits > 1 ? 4 * splits : p.out_bytes);
  const double memory =
      (operands + static_cast<double>(out)) / (kMemoryBytes * static_cast<double>(p.num_sms));
  const char* bound = memory > run ? "HBM" : fetch > math ? "L2" : "tensor cores";
  const double sum = splits > 1 ? split_sum_cycles(splits, p.m, p.n, p.out_bytes, p.num_sms) : 0;
  return {std::max(run, memory) + kTileCycles * (t.block_n / 160.0 + 0.25) + sum, tiles, waves, bound};
}

Fp8TileScore score(const Fp8Problem& p, const Fp8Tile& t, int splits) {
  const std::string refusal = fp8_split_refusal(p, splits);
  if (!refusal.empty()) return {t, splits, 0, refusal};
  const Estimate e = estimate(p, t, splits);
  if (e.cycles == 0) return {t, splits, 0, "q needs its block of 128 columns in one tile"};
  const double last = static_cast<double>(e.tiles - (e.waves - 1) * p.num_sms);
  return {t, splits, e.cycles,
          fmt::format("{} tiles in {} waves, {:.0f}% of the last full, bound by {}", e.tiles, e.waves,
                      100 * last / static_cast<double>(p.num_sms), e.bound)};
}

// Parts of K that the mode, the kernel and K allow; the workspace may still be too small.
bool may_split(const Fp8Problem& p, int splits) {
  if (splits == 1) return true;
  return p.mode == Mode::kFast && p.num_groups == 1 && !p.quantised && splits >= 2 && splits <= kMaxSplits &&
         (splits & (splits - 1)) == 0 && splits <= ceil_div(p.k, kFp8Block);
}

// f(tile, splits) of every candidate.
template <class F>
void each_candidate(const Fp8Problem& problem, const F& f) {
  for (int splits = 1; splits <= kMaxSplits; splits *= 2) {
    if (!may_split(problem, splits)) continue;
    for (const Fp8Tile& t : kFp8Tiles) f(t, splits);
  }
}
bool too_little_space(const Fp8Problem& p, int splits) {
  return splits > 1 && split_bytes(splits, p.m, p.n) > p.workspace_bytes;
}

}  // namespace

std::string fp8_split_refusal(const Fp8Problem& p, int splits) {
  if (!may_split(p, splits))
    return fmt::format(
        "K {} of {} groups{} in mode {}: only a dense product without q, in mode fast, is cut "
        "into 2, 4, ..., {} parts of whole blocks of {}",
        p.k, p.num_groups, p.quantised ? " with q" : "", p.mode == Mode::kFast ? "fast" : "exact", kMaxSplits,
        kFp8Block);
  if (too_little_space(p, splits))
    return fmt::format("partial products need {} bytes of workspace, {} are there",
                       split_bytes(splits, p.m, p.n), p.workspace_bytes);
  return "";
}

std::vector<Fp8TileScore> score_fp8_tiles(const Fp8Problem& problem) {
  std::vector<Fp8TileScore> scores;
  each_candidate(problem, [&](const Fp8Tile& t, int splits) { scores.push_back(score(problem, t, splits)); });
  std::stable_sort(scores.begin(), scores.end(), [](const Fp8TileScore& a, const Fp8TileScore& b) {
    return a.cycles != 0 && (b.cycles == 0 || a.cycles < b.cycles);
  });
  return scores;
}

Fp8TileScore best_fp8_tile(const Fp8Problem& problem) {
  Fp8TileScore best;
  each_candidate(problem, [&](const Fp8Tile& t, int splits) {
    if (too_little_space(problem, splits)) return;
    const double cycles = estimate(problem, t, splits).cycles;
    if (cycles == 0 || (best.cycles != 0 && cycles >= best.cycles)) return;
    best = {t, splits, cycles, ""};
  });
  return best;
}

std::string explain_fp8_gemm(const Fp8Problem& p) {
  std::string text =
      fmt::format("fp8 gemm M {} N {} K {} groups {}{}, {}, {} SMs\n", p.m, p.n, p.k, p.num_groups,
                  p.quantised ? " with q" : "", p.mode == Mode::kExact ? "exact" : "fast", p.num_sms);
  for (const Fp8TileScore& s : score_fp8_tiles(p)) {
    const std::string cycles = s.cycles == 0 ? "-" : fmt::format("{:.0f}", s.cycles);
    text += fmt::format("{:>4} x {:<3} cluster {}{} {:>9} cycles  {}\n", s.tile.block_m(), s.tile.block_n,
                        s.tile.cluster, s.splits > 1 ? fmt::format(" split in {}", s.splits) : "", cycles,
                        s.reason);
  }
  return text;
}

}  // namespace contender::cuda
