// Which tile a product on wgmma uses, into how many blocks its contracted dimension is split, and why. All
// tiles give the same bits (bf16_gemm.cu), so the choice is free to look at M.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace contender::cuda {

// kRows: the 64 rows of a wgmma are rows of x. kColumns: they are columns of y (rows of w), and rows of x its
// N, of which few are needed where M is small.
enum class Side { kRows, kColumns };

// Consumers share a unit, 64 rows of wgmma each; or each makes units of its own, 128 rows of wgmma, and one
// stores while the other multiplies.
enum class Turns { kTogether, kInTurns };

// kExact: a row's bits depend neither on M nor on its place. The contracted dimension is one chain, or the
// tree over its slices, which blocks may share. kFast: any split of it, whatever M says; slices do not count.
enum class Mode { kExact, kFast };

// One row of a table of instantiations. A unit of work is tile_m() x tile_n() of y, made by a cluster.
struct TileShape {
  Side side = Side::kRows;
  int consumers = 2;  // warpgroups; a block has 64 rows of wgmma for each
  int wgmma_n = 256;  // its N
  int stages = 4;     // of kDepth = 64 contracted values, 128 bytes a row
  int cluster = 1;    // blocks that share a tile of w
  int levels = 0;     // of the tree over slices: 2^levels slices
  Turns turns = Turns::kTogether;
  constexpr int wgmma_rows() const { return 64 * consumers * cluster; }
  constexpr int tile_m() const { return side == Side::kRows ? wgmma_rows() : wgmma_n; }
  constexpr int tile_n() const { return side == Side::kRows ? wgmma_n : wgmma_rows(); }
  bool operator==(const TileShape&) const = default;
};

// What a launch looks like to the chooser.
struct ProductShape {
  int64_t m = 0, n = 0, k = 0;  // of a layer; with groups m counts the rows of all
  int64_t layers = 1;           // heads, or groups
  bool grouped = false;         // rows dealt out to groups, not all rows for every layer
  int slices = 1;
  int64_t out_bytes = 2;  // of an element of y
  Mode mode = Mode::kExact;
  int64_t workspace_bytes = 0;  // there for partial products
};

// Cycles of one SM as the chooser sees a candidate.
struct TileScore {
  int index = -1;     // in the table
  int splits = 1;     // of the contracted dimension
  int64_t units = 0;  // of work
  int64_t waves = 0;  // of them
  double multiply = 0, load = 0, store = 0, sum = 0, total = 0;
  std::string reason;  // for a rejection; empty where it could run
};

std::vector<TileScore> score_tiles(std::span<const TileShape> table, const ProductShape& shape, int64_t sms);
// The best; exit 1 naming the shape where no tile can run it.
TileScore choose_tile(std::span<const TileShape> table, const ProductShape& shape, int64_t sms);
// Whether partial products of so many parts are what the mode allows, and equal multiples of 8 long.
bool may_split(const ProductShape& shape, int splits);
// Cycles of one SM, of so many, that the launch takes which sums partial products (split.h).
double split_sum_cycles(int64_t splits, int64_t m, int64_t n, int64_t out_bytes, int64_t sms);
// A line per candidate, the best first: what bench --explain prints.
std::string explain_tiles(std::span<const TileShape> table, const ProductShape& shape, int64_t sms);

// How many tiles of rows a band of the raster has, so that what runs at once reads the fewest bytes of x and
// w: nearly square.
int raster_band(const TileShape& tile, int64_t sms);

}  // namespace contender::cuda
