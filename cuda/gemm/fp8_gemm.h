// FP8 products on the GPU (ops/gemm.h), and which tile they take: for tests, benches and `--explain`. In mode
// exact, which is the default, an element is one chain over K.
#pragma once

#include <string>
#include <vector>

#include "cuda/gemm/schedule.h"
#include "ops/gemm.h"

namespace contender::cuda {

void fp8_gemm(const Exec&, const Fp8GemmArgs&);
// Fast: K may be cut into parts that blocks of threads share, as far as the workspace holds their products:
// the bits then depend on M, and are the same run for run.
void fp8_gemm(const Exec&, const Fp8GemmArgs&, Mode);
void fp8_grouped_gemm(const Exec&, const Fp8GroupedGemmArgs&);
void fp8_wgrad(const Exec&, const Fp8WgradArgs&);

// A block of threads makes [64 * consumers, block_n] of d, each consumer warpgroup 64 rows of it; the blocks
// of a cluster make neighbouring columns and fetch their common rows of a together.
struct Fp8Tile {
  int consumers = 2;
  int block_n = 128;
  int cluster = 1;
  constexpr int block_m() const { return 64 * consumers; }
  bool operator==(const Fp8Tile&) const = default;
};
// The instantiation table. Every one of them gives the same bits.
inline constexpr Fp8Tile kFp8Tiles[] = {{2, 160}, {2, 128},    {2, 64},     {1, 128},   {1, 64},   {1, 32},
                                        {1, 16},  {2, 160, 2}, {2, 128, 2}, {1, 32, 2}, {1, 16, 2}};

// What the choice depends on: rows in all, of one group columns and contracted length.
struct Fp8Problem {
  int64_t m = 0, n = 0, k = 0, num_groups = 1;
  bool quantised = false;  // q is asked for
  int64_t num_sms = 0;
  Mode mode = Mode::kExact;
  int64_t out_bytes = 2;        // of an element of d
  int64_t workspace_bytes = 0;  // there for partial products
};
struct Fp8TileScore {
  Fp8Tile tile;
  int splits = 1;      // parts of K: 1, 2, 4, ..., kMaxSplits, of whole blocks of 128, equal up to one
  double cycles = 0;   // expected, of an SM; 0: not possible
  std::string reason;  // of the number, or of the rejection
};
// All tiles, and in mode fast all splits, the best first. The counts of groups are not known to the host:
// rows count as spread evenly.
std::vector<Fp8TileScore> score_fp8_tiles(const Fp8Problem& problem);
// Its first, without a reason, as every launch asks for it: nothing is sorted or said.
Fp8TileScore best_fp8_tile(const Fp8Problem& problem);
// Why K is not cut into so many parts; empty where it may be.
std::string fp8_split_refusal(const Fp8Problem& problem, int splits);
// The table of it, a line per candidate.
std::string explain_fp8_gemm(const Fp8Problem& problem);

// With a tile of the table, whatever its score, and so many blocks of threads; for tests and benches. splits:
// parts of K, more than one are mode fast.
void fp8_gemm(const Exec&, const Fp8GemmArgs&, const Fp8Tile&, int64_t blocks, int splits = 1);
void fp8_grouped_gemm(const Exec&, const Fp8GroupedGemmArgs&, const Fp8Tile&, int64_t blocks);
void fp8_wgrad(const Exec&, const Fp8WgradArgs&, int64_t blocks);

}  // namespace contender::cuda
