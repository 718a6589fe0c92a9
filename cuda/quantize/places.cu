// What: where the chains of a table of segments begin when FP8 lays them one behind the other, in rows and in
//   blocks of 128 (ops/exec.h).
// Math: place[c] = sums over the chains before c of their rows, and of ceil(rows / 128).
// Shapes: table [groups][leaves][parts], places [groups * leaves + 1].
// Schedule: one block; a thread adds up the parts of its chain, a scan over the block's threads, chains by
//   the number of threads at a time. Both sums travel in one word.
// Roofline: 16 bytes of each segment, 8 of each chain: a few KB, the time of one launch.
// Limits: fewer than 2^31 rows. A table that breaks the rules ends the job with its numbers.
// Source: -
#include "cuda/common/check.h"
#include "cuda/common/device_check.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kBlockBits = 26;  // of a word; 2^31 rows in blocks of 128, and a short one for each chain

__device__ RowPlace place_of(uint64_t word) {
  return {static_cast<int32_t>(word >> kBlockBits),
          static_cast<int32_t>(word & ((uint64_t{1} << kBlockBits) - 1))};
}

__device__ uint64_t rows_of_chain(const RowPlacesArgs& a, int chain, int parts) {
  const int group = chain / a.segments.num_leaves, leaf = chain % a.segments.num_leaves;
  uint64_t rows = 0;
  for (int i = 0; i < parts; ++i) {
    const RowSegment s = a.segments.data[static_cast<int64_t>(chain) * parts + i];
    DEVICE_CHECK(0 <= s.begin && s.begin <= s.end && s.end <= a.rows && s.group == group && s.leaf == leaf,
                 "row_places: part %d of group %d, leaf %d: rows [%d, %d) of %d, group %d, leaf %d", i, group,
                 leaf, s.begin, s.end, static_cast<int>(a.rows), s.group, s.leaf);
    rows += static_cast<uint64_t>(s.end - s.begin);
  }
  return rows;
}

__global__ void __launch_bounds__(kThreads) row_places_kernel(const __grid_constant__ RowPlacesArgs a) {
  __shared__ uint64_t warp_sum[kWarps];
  const int chains = static_cast<int>(a.num_groups) * a.segments.num_leaves;
  const int parts = a.segments.count / chains, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint64_t before = 0;
  for (int base = 0; base < chains; base += kThreads) {
    const int c = base + static_cast<int>(threadIdx.x);
    const uint64_t rows = c < chains ? rows_of_chain(a, c, parts) : 0;
    const uint64_t own = rows << kBlockBits | (rows + kQuantizeBlock - 1) / kQuantizeBlock;
    uint64_t sum = own;  // of the warp's, up to this one
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const uint64_t left = __shfl_up_sync(0xffffffffu, sum, o);
      if (lane >= o) sum += left;
    }
    if (lane == 31) warp_sum[warp] = sum;
    __syncthreads();
    sum += before - own;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) sum += warp_sum[w];
      before += warp_sum[w];
    }
    if (c < chains) a.places[c] = place_of(sum);
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  DEVICE_CHECK(before >> kBlockBits <= static_cast<uint64_t>(a.rows),
               "row_places: segments name %lld rows of %d", static_cast<long long>(before >> kBlockBits),
               static_cast<int>(a.rows));
  a.places[chains] = place_of(before);
}

}  // namespace

void row_places(const Exec& exec, const RowPlacesArgs& a) {
  check_row_places(a);
  narrow<int32_t>(a.num_groups * a.segments.num_leaves);
  row_places_kernel<<<1, kThreads, 0, stream_of(exec)>>>(a);
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::cuda
