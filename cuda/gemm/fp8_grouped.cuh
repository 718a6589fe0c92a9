// Which rows belong to a tile when they are grouped by expert: every block reads the sizes of all groups from
// device memory once, and keeps the running count of their tiles in shared memory. Sizes that break the
// contract end the job with a record (stall.h): kernels with wgmma cannot print.
#pragma once

#include "cuda/common/mbarrier.cuh"
#include "ops/gemm.h"

namespace contender::cuda {

// Rows (or tokens) of each group: [offsets[g], offsets[g + 1]), or the first counts[g] of `capacity`; with
// neither, one group has all `rows`.
struct GroupRows {
  const int32_t* offsets = nullptr;
  const int32_t* counts = nullptr;
  int num_groups = 1, rows = 0, capacity = 0;

  __device__ int begin(int g) const { return offsets ? offsets[g] : g * capacity; }
  __device__ int end(int g) const {
    if (offsets) return offsets[g + 1];
    return counts ? g * capacity + counts[g] : rows;
  }
};

// first[g]: pieces of `unit` rows in the groups before g.
struct GroupTable {
  int first[kMaxFp8Groups + 1];

  // By one warp. Its sizes are those of the contract, or the job ends.
  __device__ void fill(const GroupRows& groups, int unit, StallRecord* record, uint64_t kernel) {
    int before = 0;
    const int lane = static_cast<int>(threadIdx.x % 32);
    for (int base = 0; base < groups.num_groups; base += 32) {
      const int g = base + lane;
      int pieces = 0;
      if (g < groups.num_groups) {
        const int begin = groups.begin(g), end = groups.end(g);
        const int limit = groups.counts ? begin + groups.capacity : groups.rows;
        if (begin < 0 || end < begin || end > limit || (g == 0 && begin != 0)) {
          trap_with(record, refused_group(kernel, g, begin, end, limit));
        }
        pieces = (end - begin + unit - 1) / unit;
      }
#pragma unroll
      for (int o = 1; o < 32; o *= 2) {
        const int left = __shfl_up_sync(0xffffffffu, pieces, o);
        if (lane >= o) pieces += left;
      }
      if (g < groups.num_groups) first[g + 1] = before + pieces;
      before += __shfl_sync(0xffffffffu, pieces, 31);
    }
    if (lane == 0) first[0] = 0;
  }
  // The group that has piece i: the last one whose first is not behind it.
  __device__ int group_of(int i, int num_groups) const {
    int low = 0, high = num_groups;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first[middle] <= i) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

}  // namespace contender::cuda
