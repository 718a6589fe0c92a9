#include "cuda/gemm/schedule.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "cuda/gemm/split.h"

namespace contender::cuda {
namespace {

// Of an SM of Hopper, per cycle, at the boost clock; to be fitted where there is a GPU. Only ratios matter.
constexpr double kMultiplyAdds = 2048;  // BF16
constexpr double kSharedBytes = 128;    // operands of wgmma come from shared memory
constexpr double kL2Bytes = 44;         // of a share of the L2; neighbours that read the same line share it
constexpr double kMemoryBytes = 18;     // of a share of the memory
constexpr double kUnitCycles = 900;     // first bytes of a unit, last ones of its result: nothing hides them
constexpr double kTurnCycles = 100;     // from one consumer's products to the other's
constexpr double kSumCycles = 3500;     // of a second launch that sums partial products
constexpr double kEpilogueBytes = 32;   // results, per cycle; the other half of the time behind products

double wgmma_cycles(const TileShape& t, double k) {
  const double rows = 64.0 * t.consumers, n = t.wgmma_n;
  const double multiply = rows * n * k / kMultiplyAdds;
  // Each warpgroup reads its 64 rows and all of N.
  const double shared = (rows + n * t.consumers) * k * 2 / kSharedBytes;
  return std::max(multiply, shared);
}

TileScore score(const TileShape& t, ProductShape s, int splits, int64_t sms) {
  TileScore r = {.splits = splits};
  const double m = static_cast<double>(s.m), n = static_cast<double>(s.n);
  if (splits > 1) r.sum = split_sum_cycles(splits, s.m, s.n, s.out_bytes, sms);
  if (splits > 1 || s.mode == Mode::kFast) s.slices = 1;
  if (splits > 1) s.layers = splits, s.k /= splits, s.out_bytes = 4;
  const int64_t rows_of_layer =
      s.grouped ? std::max<int64_t>(ceil_div(s.m, std::max<int64_t>(s.layers, 1)), 1) : s.m;
  const int64_t tiles_m = ceil_div(rows_of_layer, t.tile_m()), tiles_n = ceil_div(s.n, t.tile_n());
  r.units = tiles_m * tiles_n * s.layers;
  const int64_t places = sms / t.cluster;
  r.waves = ceil_div(r.units, places);
  const double k = static_cast<double>(s.k), waves = static_cast<double>(r.waves);
  const double p = 64.0 * t.consumers, q = t.wgmma_n;
  // A cluster fetches a shared tile once.
  const double tile_bytes = (p + q / t.cluster) * k * 2;
  const double tile_out = p * q * static_cast<double>(s.out_bytes);
  const double layers = static_cast<double>(s.layers), rows = s.grouped ? m : m * layers;
  const double unique = layers * n * k * 2 + rows * (k * 2 + n * static_cast<double>(s.out_bytes));
  const bool hidden = t.turns == Turns::kInTurns;  // behind the other consumer's products
  r.multiply =
      waves * (wgmma_cycles(t, k) + (hidden ? kTurnCycles : kUnitCycles)) + (hidden ? kUnitCycles : 0);
  // Few blocks do not fill the memory: each takes twice its share at most.
  const double busy = static_cast<double>(std::min(r.units * t.cluster, sms)) / static_cast<double>(sms);
  r.load = std::max(waves * tile_bytes / kL2Bytes,
                    unique / (kMemoryBytes * static_cast<double>(sms) * std::min(1.0, 2 * busy)));
  r.store = (hidden ? 1 : waves) * tile_out / kEpilogueBytes / 2;
  r.total = std::max(r.multiply, r.load) + r.store + r.sum;
  return r;
}

bool too_many_slices(const TileShape& t, const ProductShape& s, int splits) {
  return splits == 1 && s.mode == Mode::kExact && (1 << t.levels) < s.slices;
}
bool too_little_space(const ProductShape& s, int splits) {
  return splits > 1 && split_bytes(splits, s.m, s.n) > s.workspace_bytes;
}
std::string rejection(const TileShape& t, const ProductShape& s, int splits) {
  if (too_many_slices(t, s, splits))
    return fmt::format("keeps sums of {} slices, {} are asked for", 1 << t.levels, s.slices);
  if (too_little_space(s, splits))
    return fmt::format("partial products need {} bytes of workspace, {} are there",
                       split_bytes(splits, s.m, s.n), s.workspace_bytes);
  return "";
}

// f(index, splits) of every candidate.
template <class F>
void each_candidate(std::span<const TileShape> table, const ProductShape& shape, const F& f) {
  for (int splits = 1; splits <= kMaxSplits; splits *= 2) {
    if (!may_split(shape, splits)) continue;
    for (size_t i = 0; i < table.size(); ++i) f(static_cast<int>(i), splits);
  }
}

std::string name_of(const TileShape& t, int splits) {
  return fmt::format("{}x{} {}{}{} x {} stages{}{}", t.tile_m(), t.tile_n(),
                     t.side == Side::kRows ? "rows first" : "columns first",
                     t.turns == Turns::kInTurns ? ", in turns" : "",
                     t.cluster > 1 ? fmt::format(", cluster of {}", t.cluster) : "", t.stages,
                     t.levels > 0 ? fmt::format(", {} slices", 1 << t.levels) : "",
                     splits > 1 ? fmt::format(", split in {}", splits) : "");
}

}  // namespace

bool may_split(const ProductShape& s, int splits) {
  if (splits == 1) return true;
  if (s.layers > 1 || s.grouped || splits < 2 || splits > kMaxSplits || s.k % (8 * splits) != 0) return false;
  return s.mode == Mode::kExact ? splits == s.slices : (splits & (splits - 1)) == 0;
}

double split_sum_cycles(int64_t splits, int64_t m, int64_t n, int64_t out_bytes, int64_t sms) {
  const double elements = static_cast<double>(m * n), all = static_cast<double>(sms);
  return kSumCycles + elements * static_cast<double>(splits * 4) / (kL2Bytes * all) +
         elements * static_cast<double>(out_bytes) / (kMemoryBytes * all);
}

std::vector<TileScore> score_tiles(std::span<const TileShape> table, const ProductShape& shape, int64_t sms) {
  std::vector<TileScore> scores;
  each_candidate(table, shape, [&](int index, int splits) {
    const TileShape& t = table[static_cast<size_t>(index)];
    scores.push_back(score(t, shape, splits, sms));
    scores.back().index = index;
    scores.back().reason = rejection(t, shape, splits);
  });
  std::stable_sort(scores.begin(), scores.end(), [](const TileScore& a, const TileScore& b) {
    if (a.reason.empty() != b.reason.empty()) return a.reason.empty();
    return a.total < b.total;
  });
  return scores;
}

// At every launch: nothing is sorted or said.
TileScore choose_tile(std::span<const TileShape> table, const ProductShape& shape, int64_t sms) {
  TileScore best;
  each_candidate(table, shape, [&](int index, int splits) {
    const TileShape& t = table[static_cast<size_t>(index)];
    if (too_many_slices(t, shape, splits) || too_little_space(shape, splits)) return;
    TileScore s = score(t, shape, splits, sms);
    s.index = index;
    if (best.index < 0 || s.total < best.total) best = s;
  });
  CHECK(best.index >= 0, "no tile for [{}, {}] x [{}, {}]^T in {} slices", shape.m, shape.k, shape.n, shape.k,
        shape.slices);
  return best;
}

std::string explain_tiles(std::span<const TileShape> table, const ProductShape& shape, int64_t sms) {
  std::string text = fmt::format("M {} N {} K {} x {}{}, {} slices, {}, on {} SMs\n", shape.m, shape.n,
                                 shape.k, shape.layers, shape.grouped ? " groups" : "", shape.slices,
                                 shape.mode == Mode::kExact ? "exact" : "fast", sms);
  const std::vector<TileScore> scores = score_tiles(table, shape, sms);
  for (const TileScore& s : scores) {
    const TileShape& t = table[static_cast<size_t>(s.index)];
    if (!s.reason.empty()) {
      text += fmt::format("  no   {}: {}\n", name_of(t, s.splits), s.reason);
      continue;
    }
    const char* bound = s.load > s.multiply ? "loads" : "products";
    text += fmt::format(
        "  {} {}: {} units in {} waves; cycles: products {:.0f}, loads {:.0f}, stores {:.0f}, sum {:.0f}, "
        "bound by {}, total {:.0f}{}\n",
        &s == scores.data() ? "best" : "    ", name_of(t, s.splits), s.units, s.waves, s.multiply, s.load,
        s.store, s.sum, bound, s.total,
        &s == scores.data() ? "" : fmt::format(" ({:+.1f}%)", 100 * (s.total / scores[0].total - 1)));
  }
  return text;
}

int raster_band(const TileShape& tile, int64_t sms) {
  const double at_once = static_cast<double>(sms / tile.cluster);
  const double band = std::sqrt(at_once * tile.tile_n() / tile.tile_m());
  return std::max(1, static_cast<int>(std::lround(band)));
}

}  // namespace contender::cuda
