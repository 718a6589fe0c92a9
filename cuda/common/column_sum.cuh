// Sums over rows in the canonical order of RowSegments (ops/exec.h), for results that are one row. The same
// bits as the CPU backend's, by construction.
//
// A block carries the chains of 64 columns, one to a thread, through some of the leaves, leaf by leaf. A
// chain is short of memory, not of arithmetic: all threads fetch the next tile of rows while two warps walk
// down the one in shared memory. The blocks of a column tile are a cluster, which ends with the tree over the
// leaves.
// Limits: kMaxLeaves leaves, one group. A segment outside the rows, or of another place in the table than its
// own, ends the job from the device.
#pragma once

#include <cooperative_groups.h>

#include <algorithm>

#include "cuda/common/check.h"
#include "cuda/common/device_check.cuh"
#include "cuda/common/rows.cuh"
#include "cuda/common/shared_memory.h"
#include "ops/exec.h"

namespace contender::cuda {

inline constexpr int kMaxLeafBlocks = 8;  // that share the leaves: a cluster
inline constexpr int kLeafLevels = 6;     // of the tree over those of a block
static_assert(kMaxLeaves == kMaxLeafBlocks << kLeafLevels);

// --- the table of a sum that has one group ---

struct SegmentTable {
  const RowSegment* data;  // [num_leaves][parts] in device memory
  int num_leaves, parts;
  int rows;  // of the operand

  __device__ RowSegment get(int leaf, int part) const {
    const RowSegment s = data[leaf * parts + part];
    DEVICE_CHECK(s.group == 0 && s.leaf == leaf && 0 <= s.begin && s.begin <= s.end && s.end <= rows,
                 "segment (leaf %d, part %d): rows [%d, %d) of %d, group %d, leaf %d", leaf, part, s.begin,
                 s.end, rows, s.group, s.leaf);
    return s;
  }
};

inline SegmentTable segment_table(const RowSegments& s, int64_t rows) {
  CHECK(s.num_leaves >= 1 && (s.num_leaves & (s.num_leaves - 1)) == 0, "num_leaves {} is not a power of two",
        s.num_leaves);
  CHECK(s.num_leaves <= kMaxLeaves, "num_leaves {}, at most {} here", s.num_leaves, kMaxLeaves);
  return {.data = s.data,
          .num_leaves = s.num_leaves,
          .parts = static_cast<int>(div_exact(s.count, s.num_leaves)),
          .rows = narrow<int>(rows)};
}

// The rows of a leaf, in order. The threads of a block walk together; their first warp reads 32 segments at a
// time.
class LeafRows {
 public:
  // The next segment, joined with those that go on where it ends; false if there is none. `shared` is for
  // this alone.
  __device__ bool next(const SegmentTable& table, int leaf, int& begin, int& end, int2& shared) {
    if (threadIdx.x < 32) {
      begin = end = 0;
      if (look(table, leaf)) begin = take(end);
      while (look(table, leaf) && __shfl_sync(0xffffffffu, begin_, __ffs(filled_) - 1) == end) take(end);
      if (threadIdx.x == 0) shared = make_int2(begin, end);
    }
    __syncthreads();
    begin = shared.x;
    end = shared.y;
    __syncthreads();
    return begin < end;
  }

 private:
  __device__ bool look(const SegmentTable& table, int leaf) {
    for (; filled_ == 0 && part_ < table.parts; part_ += 32) {
      const int part = part_ + threadIdx.x % 32;
      RowSegment s = {};
      if (part < table.parts) s = table.get(leaf, part);
      begin_ = s.begin;
      end_ = s.end;
      filled_ = static_cast<int>(__ballot_sync(0xffffffffu, begin_ < end_));
    }
    return filled_ != 0;
  }
  __device__ int take(int& end) {
    const int lane = __ffs(filled_) - 1;
    filled_ &= filled_ - 1;
    end = __shfl_sync(0xffffffffu, end_, lane);
    return __shfl_sync(0xffffffffu, begin_, lane);
  }

  int part_ = 0;
  int begin_ = 0, end_ = 0;  // of the lane's segment
  int filled_ = 0;           // a bit for each lane whose rows are still to come
};

// --- the leaves of a cluster ---

// Blocks that share the leaves.
inline unsigned leaf_blocks(const SegmentTable& s) {
  return static_cast<unsigned>(std::min(s.num_leaves, kMaxLeafBlocks));
}

// One launch of clusters of leaf_blocks, one cluster for each of `items`.
template <class Params>
void launch_leaf_clusters(void (*kernel)(Params), const Params& params, int64_t items, unsigned threads,
                          size_t shared_bytes, cudaStream_t stream) {
  const unsigned blocks = leaf_blocks(params.segments);
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {blocks, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks * static_cast<unsigned>(narrow<int32_t>(items));
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, params));
}

// The tree over the leaves of a block, which come in order: one sum waits for each set bit of their number so
// far. Thread c has column c to itself.
template <int kColumns>
struct LeafTree {
  float waiting[kLeafLevels + 1][kColumns];
  __device__ void push(int leaf, float sum) {
    const int c = threadIdx.x;
    int level = 0;
    for (; leaf >> level & 1; ++level) sum = waiting[level][c] + sum;
    waiting[level][c] = sum;
  }
};

// The tree over the leaves of column threadIdx.x: all `own` of them have been pushed in this block, the same
// number in the next one, and so on. The result is the first block's. No block may end before the last has
// come here: the caller ends with another cluster.sync().
template <int kColumns>
__device__ float sum_of_leaves(LeafTree<kColumns>& tree, int own) {
  const auto cluster = cooperative_groups::this_cluster();
  const int c = threadIdx.x, blocks = static_cast<int>(cluster.num_blocks());
  cluster.sync();
  if (cluster.block_rank() != 0 || c >= kColumns) return 0;
  float sum[kMaxLeafBlocks];
#pragma unroll
  for (int b = 0; b < kMaxLeafBlocks; ++b)
    sum[b] = b < blocks ? *cluster.map_shared_rank(&tree.waiting[31 - __clz(own)][c], b) : 0.0f;
#pragma unroll
  for (int n = 1; n < kMaxLeafBlocks; n *= 2) {
#pragma unroll
    for (int b = 0; b < kMaxLeafBlocks; b += 2 * n) sum[b] += n < blocks ? sum[b + n] : 0.0f;
  }
  return sum[0];
}

// --- column sums ---

inline constexpr int kColumnSumThreads = 512;
inline constexpr int kColumnSumWidth = 64;  // columns of a block
inline constexpr int kColumnSumPasses = 4;  // pieces of each operand that a thread fetches for a tile

// Term: what a row adds to the chains.
//   using Type: of its operands;  Tensor operand[kOperands];  const float* scale: [M] or null
//   step(acc, values, scale): the chain of one column goes on
template <class Term>
struct ColumnSumParams {
  Term term;
  float* out;  // [cols]
  SegmentTable segments;
};

// A piece as its bytes: 16 at once, or put together from its elements.
template <Access kAccess, class T>
__device__ uint4 load_bytes(const T* row, int c, int cols) {
  uint4 bytes = make_uint4(0, 0, 0, 0);
  if constexpr (kAccess == Access::kVector) {
    if (c < cols) bytes = *reinterpret_cast<const uint4*>(row + c);
  } else {
    T piece[kVec<T>];
#pragma unroll
    for (int k = 0; k < kVec<T>; ++k) piece[k] = c + k < cols ? row[c + k] : T(0.0f);
    memcpy(&bytes, piece, sizeof(bytes));
  }
  return bytes;
}

// Rows of 64 columns: on their way in registers, then in shared memory.
template <Access kAccess, class Term>
class ColumnTile {
 public:
  using T = typename Term::Type;
  static constexpr int kOperands = Term::kOperands, kPieces = kColumnSumWidth / kVec<T>;
  static constexpr int kPassRows = kColumnSumThreads / kPieces, kRows = kPassRows * kColumnSumPasses;
  struct Smem {
    uint4 piece[kOperands][kRows * kPieces];
    float scale[kRows];
    LeafTree<kColumnSumWidth> tree;
    int2 rows;
  };
  static_assert(kRows <= kColumnSumThreads);

  __device__ ColumnTile(const Term& term, int first_column) : term_(term), first_column_(first_column) {}
  __device__ void fetch(int begin, int end) {
    const int c = first_column_ + threadIdx.x % kPieces * kVec<T>;
#pragma unroll
    for (int o = 0; o < kOperands; ++o) {
#pragma unroll
      for (int k = 0; k < kColumnSumPasses; ++k) {
        const int r = begin + threadIdx.x / kPieces + k * kPassRows;
        const int cols = r < end ? static_cast<int>(term_.operand[o].cols) : 0;
        piece_[o][k] = load_bytes<kAccess>(row_of<const T>(term_.operand[o], r), c, cols);
      }
    }
    const int r = begin + static_cast<int>(threadIdx.x);
    if (threadIdx.x < kRows && r < end && term_.scale) scale_ = term_.scale[r];
  }
  __device__ void put(Smem& smem) const {
#pragma unroll
    for (int o = 0; o < kOperands; ++o) {
#pragma unroll
      for (int k = 0; k < kColumnSumPasses; ++k)
        smem.piece[o][k * kColumnSumThreads + threadIdx.x] = piece_[o][k];
    }
    if (threadIdx.x < kRows) smem.scale[threadIdx.x] = scale_;
  }
  // The chain of column threadIdx.x < 64 of the block through the first `rows` rows.
  __device__ static float chain(float acc, const Smem& smem, int rows) {
#pragma unroll 8
    for (int r = 0; r < rows; ++r) {
      float value[kOperands];
#pragma unroll
      for (int o = 0; o < kOperands; ++o)
        value[o] = load_one(reinterpret_cast<const T*>(smem.piece[o]) + r * kColumnSumWidth + threadIdx.x);
      acc = Term::step(acc, value, smem.scale[r]);
    }
    return acc;
  }

 private:
  const Term& term_;
  int first_column_;
  uint4 piece_[kOperands][kColumnSumPasses];
  float scale_ = 0;
};

template <Access kAccess, class Term>
__global__ void __launch_bounds__(kColumnSumThreads, kAccess == Access::kVector ? 2 : 1)
    column_sum_kernel(const __grid_constant__ ColumnSumParams<Term> p) {
  using Tile = ColumnTile<kAccess, Term>;
  extern __shared__ uint4 shared[];
  auto& smem = *reinterpret_cast<typename Tile::Smem*>(shared);
  const auto cluster = cooperative_groups::this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks()), c = threadIdx.x;
  const int first_column = static_cast<int>(blockIdx.x) / blocks * kColumnSumWidth;
  const int leaves = p.segments.num_leaves / blocks;
  Tile tile(p.term, first_column);
  for (int leaf = 0; leaf < leaves; ++leaf) {
    float acc = 0;
    const int number = static_cast<int>(cluster.block_rank()) * leaves + leaf;
    LeafRows rows;
    for (int begin, end; rows.next(p.segments, number, begin, end, smem.rows);) {
      tile.fetch(begin, end);
      for (; begin < end; begin += Tile::kRows) {
        tile.put(smem);
        __syncthreads();
        if (begin + Tile::kRows < end) tile.fetch(begin + Tile::kRows, end);
        if (c < kColumnSumWidth) acc = Tile::chain(acc, smem, min(Tile::kRows, end - begin));
        __syncthreads();
      }
    }
    if (c < kColumnSumWidth) smem.tree.push(leaf, acc);
  }
  const float sum = sum_of_leaves(smem.tree, leaves);
  if (cluster.block_rank() == 0 && c < kColumnSumWidth && first_column + c < p.term.operand[0].cols)
    p.out[first_column + c] = sum;
  cluster.sync();
}

template <class Term>
void launch_column_sum(cudaStream_t stream, const Term& term, const Tensor& out,
                       const RowSegments& segments) {
  const Tensor& rows = term.operand[0];
  const ColumnSumParams<Term> params = {
      .term = term, .out = out.f32(), .segments = segment_table(segments, rows.rows)};
  const int64_t tiles = ceil_div(rows.cols, kColumnSumWidth);
  if (tiles == 0) return;
  const bool vector = std::all_of(std::begin(term.operand), std::end(term.operand),
                                  [](const Tensor& t) { return in_pieces(t); });
  with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
    constexpr auto kernel = column_sum_kernel<kAccess, Term>;
    allow_shared_memory<kernel>();
    launch_leaf_clusters(kernel, params, tiles, kColumnSumThreads,
                         sizeof(typename ColumnTile<kAccess, Term>::Smem), stream);
  });
}

}  // namespace contender::cuda
