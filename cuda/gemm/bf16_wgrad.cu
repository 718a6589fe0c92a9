// What: dw[g] = sum over the rows r of group g of dy[r]^T x[r] in BF16 on wgmma, and one such sum per head on
//   strided columns (ops/linear.h).
// Math: dw[g] = the sum over leaves, in the tree of ops/exec.h, of one chain over the rows of each.
// Shapes: any M, N, K, groups, segments. Groups without rows get 0.
// Layouts: dy [M, N], x [M, K] BF16, row-major; dw [groups * N, K] F32. The table of segments
//   [groups][leaves][parts] lies on the device and is checked there.
// Precision: the chain of a (group, leaf) counts its rows one after the other over all its segments, in steps
//   of 16, zeros behind the last: it does not see how the rows are cut or where they lie. Leaves are summed
//   in FP32 in the fixed tree; an absent one is +0. All tiles give the same bits.
// Schedule: one block per tile of dw and group or head, which goes through all its rows. A warpgroup gathers:
//   rows of a chain may lie anywhere, so it copies them by cp.async into the layout that TMA would write, the
//   contracted index across rows, and wgmma reads both operands MN-major. Two consumers (one for many leaves)
//   multiply; sums of the tree wait in shared memory.
// Registers: 56 for the gatherers and 224 for each of two consumers.
// Shared memory: 2 to 5 stages of 16 to 48 KB, up to 160 KB of sums.
// Roofline: 2 M N K flops; 2 (M N + M K) + 4 N K groups bytes. Memory-bound below 410 (H200) and 590 (H800)
//   rows of a group.
// Limits: kMaxLeaves leaves; rows and bases of dy and x in pieces of 16 bytes; 65,535 groups or heads and
//   tiles of columns.
// Source: PTX ISA 9.0: wgmma (matrix-descriptor, MN-major), cp.async, mbarrier.
#include "cuda/common/row_cursor.cuh"
#include "cuda/gemm/bf16_gemm.h"
#include "cuda/gemm/bf16_gemm_device.cuh"

namespace contender::cuda {
namespace {

constexpr uint64_t kWgradName = stall_word("bf16wgrd");
constexpr int kGathererRegisters = 56, kMultiplierRegisters = 224;
constexpr int kGatherBarrier = 1;  // of the gatherers

// Strides are in elements; *_group is from one group or head to the next.
struct WgradParams {
  const Bf16* dy = nullptr;  // [m, n]
  int64_t ld_dy = 0, dy_group = 0;
  const Bf16* x = nullptr;  // [m, k]
  int64_t ld_x = 0, x_group = 0;
  GemmOut dw;                            // [groups * n, k]; y_layer: n rows
  const RowSegment* segments = nullptr;  // [groups][num_leaves][parts], or [num_leaves][parts] for all heads
  StallRecord* stall = nullptr;
  bool shared_rows = false;  // by all heads
  int m = 0, n = 0, num_leaves = 1, parts = 0;
};

// 64 rows of dw for each consumer, kQ columns; 2^(levels + 1) leaves, or one if levels < 0.
template <int kConsumers_, int kQ_, int kStages_, int kLevels_>
struct WgradTile {
  static constexpr int kConsumers = kConsumers_, kQ = kQ_, kStages = kStages_, kLevels = kLevels_;
  static constexpr int kP = 64 * kConsumers, kAccumulators = kQ / 2;
  static constexpr int kThreads = 128 * (1 + kConsumers);
  // Stages on their way: consumers give one back when the next one is there, so one more must be free.
  static constexpr int kLag = kStages - 2;
  static constexpr int kLevelBytes = 32 * 4 * kAccumulators;  // of a warp
  static constexpr int kWarpBytes = kLevels * kLevelBytes > 2048 ? kLevels* kLevelBytes : 2048;
};
using LargeWgrad = WgradTile<2, 256, 4, -1>;
using FewLeavesWgrad = WgradTile<2, 128, 5, 1>;
using LeavesWgrad = WgradTile<2, 128, 3, 2>;
using ManyLeavesWgrad = WgradTile<1, 128, 2, 5>;
using MostLeavesWgrad = WgradTile<1, 64, 5, 8>;
static_assert(kMaxLeaves == 2 << MostLeavesWgrad::kLevels);

template <class T>
struct WgradSmem {
  alignas(1024) Bf16 p[T::kStages][T::kP * kGemmDepth];  // blocks of 64 columns, each [kGemmDepth][64]
  alignas(1024) Bf16 q[T::kStages][T::kQ * kGemmDepth];
  alignas(1024) uint8_t sums[T::kConsumers][4][T::kWarpBytes];  // of the tree, then results on their way
  Mbarrier full[T::kStages], empty[T::kStages];
  int leaf_rows[kMaxLeaves];
  int rows[2][kGemmDepth];  // of a stage, -1: none
};

// Rows of each leaf of `group`, whose part of the table is given. Says whether there are any.
__device__ __forceinline__ bool count_rows(int* leaf_rows, const WgradParams& p, const RowSegment* segments,
                                           int group) {
  for (int leaf = threadIdx.x; leaf < p.num_leaves; leaf += blockDim.x) leaf_rows[leaf] = 0;
  __syncthreads();
  bool any = false;
  for (int i = threadIdx.x; i < p.num_leaves * p.parts; i += blockDim.x) {
    const RowSegment s = segments[i];
    const int leaf = i / p.parts;
    if (!(0 <= s.begin && s.begin <= s.end && s.end <= p.m && s.group == group && s.leaf == leaf))
      trap_with(p.stall, refused_group(kWgradName, group, s.begin, s.end, p.m));
    if (s.begin == s.end) continue;
    atomicAdd(&leaf_rows[leaf], s.end - s.begin);
    any = true;
  }
  return __syncthreads_or(any);
}

// The first `bytes` of 16, and zeros.
__device__ __forceinline__ void copy_16(Bf16* dst, const Bf16* src, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(dst)), "l"(src), "r"(bytes)
               : "memory");
}

// kCount columns of kGemmDepth rows, of which `cols` exist.
template <int kCount>
__device__ __forceinline__ void gather(Bf16* tile, const Bf16* src, int64_t ld, int cols, const int* rows,
                                       int thread) {
  constexpr int kPieces = kCount / 8, kRowsAtOnce = 128 / kPieces;
  const int piece = thread % kPieces;
  const int bytes = 2 * max(0, min(8, cols - piece * 8));
  Bf16* block = tile + piece / 8 * (64 * kGemmDepth);
#pragma unroll 4
  for (int row = thread / kPieces; row < kGemmDepth; row += kRowsAtOnce) {
    const int from = rows[row];
    const bool present = bytes > 0 && from >= 0;
    copy_16(block + row * 64 + (piece % 8 ^ (row & 7)) * 8, present ? src + from * ld + piece * 8 : src,
            present ? bytes : 0);
  }
}

template <class T>
__device__ __forceinline__ void gather_rows(const WgradParams& p, WgradSmem<T>& s, const RowSegment* segments,
                                            int group, int row0, int col0) {
  const int thread = threadIdx.x % 128;
  const Bf16* dy = p.dy + group * p.dy_group + row0;
  const Bf16* x = p.x + group * p.x_group + col0;
  Ring<T::kStages> fill, ready;
  int count = 0;
  // The oldest stage on its way is there, for wgmma too.
  const auto publish = [&] {
    fence_proxy_async_shared();
    mbarrier_arrive(&s.full[ready.stage]);
    ready.advance();
  };
  for (int leaf = 0; leaf < p.num_leaves; ++leaf) {
    RowCursor cursor = {segments + leaf * p.parts};
    for (int first = 0; first < s.leaf_rows[leaf]; first += kGemmDepth, fill.advance(), ++count) {
      int* rows = s.rows[count & 1];
      if (thread < kGemmDepth)
        rows[thread] = first + thread < s.leaf_rows[leaf] ? cursor.row(first + thread) : -1;
      named_barrier_sync(kGatherBarrier, 128);
      mbarrier_wait(&s.empty[fill.stage], fill.parity ^ 1, {p.stall, kWgradName, stall_word("empty")});
      gather<T::kP>(s.p[fill.stage], dy, p.ld_dy, p.n - row0, rows, thread);
      gather<T::kQ>(s.q[fill.stage], x, p.ld_x, p.dw.n - col0, rows, thread);
      asm volatile("cp.async.commit_group;" ::: "memory");
      if (count < T::kLag) continue;
      asm volatile("cp.async.wait_group %0;" ::"n"(T::kLag) : "memory");
      publish();
    }
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  for (int left = min(count, T::kLag); left > 0; --left) publish();
}

// acc = the sum over the rows of a leaf, +0 if it has none.
template <class T>
__device__ __forceinline__ void multiply_leaf(float (&acc)[T::kAccumulators], const WgradParams& p,
                                              WgradSmem<T>& s, Ring<T::kStages>& ring, int rows,
                                              int warpgroup) {
  constexpr uint32_t kBlockBytes = 64 * kGemmDepth * 2;
  if (rows == 0) {
#pragma unroll
    for (int i = 0; i < T::kAccumulators; ++i) acc[i] = 0;
    return;
  }
  int before = 0;
  for (int first = 0; first < rows; first += kGemmDepth, ring.advance()) {
    const int stage = ring.stage;
    mbarrier_wait(&s.full[stage], ring.parity, {p.stall, kWgradName, stall_word("full")});
    const uint64_t a =
        wgmma_descriptor<Layout::kMnMajor>(smem_address(s.p[stage]) + warpgroup * kBlockBytes, kBlockBytes);
    const uint64_t b = wgmma_descriptor<Layout::kMnMajor>(smem_address(s.q[stage]), kBlockBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kGemmDepth / 16; ++step) {
      const uint64_t at = step * kWgmmaStep<Layout::kMnMajor>;
      wgmma_bf16<T::kQ, Layout::kMnMajor, Layout::kMnMajor>(acc, a + at, b + at, first + step);
    }
    wgmma_commit();
    if (first > 0) {
      wgmma_wait<1>();
      if (threadIdx.x % 32 == 0) mbarrier_arrive(&s.empty[before]);
    }
    before = stage;
  }
  wgmma_wait<0>();
  wgmma_hold(acc);
  if (threadIdx.x % 32 == 0) mbarrier_arrive(&s.empty[before]);
}

// The tree over the leaves, a stack with one entry per set bit of the number of pairs so far, each thread's
// own.
template <class T>
__device__ __forceinline__ void multiply_leaves(float (&acc)[T::kAccumulators], const WgradParams& p,
                                                WgradSmem<T>& s, Ring<T::kStages>& ring, int warpgroup,
                                                uint32_t sums) {
  for (int leaf = 0;; leaf += 2) {
    multiply_leaf<T>(acc, p, s, ring, s.leaf_rows[leaf], warpgroup);
    if (p.num_leaves == 1) return;
    float left[T::kAccumulators];
#pragma unroll
    for (int i = 0; i < T::kAccumulators; ++i) left[i] = acc[i];
    multiply_leaf<T>(acc, p, s, ring, s.leaf_rows[leaf + 1], warpgroup);
#pragma unroll
    for (int i = 0; i < T::kAccumulators; ++i) acc[i] = left[i] + acc[i];
    uint32_t entry = sums;
    for (int rest = leaf / 2; rest & 1; rest >>= 1, entry += T::kLevelBytes) {
#pragma unroll
      for (int i = 0; i < T::kAccumulators; i += 4) {
        const uint4 v = load_shared_16(entry + i * 128);
        acc[i] = __uint_as_float(v.x) + acc[i];
        acc[i + 1] = __uint_as_float(v.y) + acc[i + 1];
        acc[i + 2] = __uint_as_float(v.z) + acc[i + 2];
        acc[i + 3] = __uint_as_float(v.w) + acc[i + 3];
      }
    }
    if (leaf + 2 == p.num_leaves) return;
#pragma unroll
    for (int i = 0; i < T::kAccumulators; i += 4)
      asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(entry + i * 128), "f"(acc[i]),
                   "f"(acc[i + 1]), "f"(acc[i + 2]), "f"(acc[i + 3])
                   : "memory");
  }
}

extern __shared__ __align__(1024) uint8_t wgrad_smem[];

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) bf16_wgrad_kernel(const __grid_constant__ WgradParams p) {
  auto& s = *reinterpret_cast<WgradSmem<T>*>(wgrad_smem);
  static_assert(sizeof(WgradSmem<T>) <= kMaxSharedMemory);
  const int group = static_cast<int>(blockIdx.z), row_group = p.shared_rows ? 0 : group;
  const RowSegment* segments = p.segments + static_cast<int64_t>(row_group) * p.num_leaves * p.parts;
  const int row0 = static_cast<int>(blockIdx.x) * T::kP, col0 = static_cast<int>(blockIdx.y) * T::kQ;
  if (threadIdx.x == 0) {
    for (int i = 0; i < T::kStages; ++i) {
      mbarrier_init(&s.full[i], 128);
      mbarrier_init(&s.empty[i], 4 * T::kConsumers);
    }
    fence_mbarrier_init();
  }
  count_rows(s.leaf_rows, p, segments, row_group);
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);  // uniform
  if (warpgroup == T::kConsumers) {
    if constexpr (T::kConsumers == 2) setmaxnreg_dec<kGathererRegisters>();
    gather_rows<T>(p, s, segments, group, row0, col0);
  } else {
    if constexpr (T::kConsumers == 2) setmaxnreg_inc<kMultiplierRegisters>();
    const uint32_t own = smem_address(s.sums[warpgroup][threadIdx.x / 32 % 4]);
    Ring<T::kStages> ring;
    float acc[T::kAccumulators];
    if constexpr (T::kLevels < 0) {
      multiply_leaf<T>(acc, p, s, ring, s.leaf_rows[0], warpgroup);
    } else {
      multiply_leaves<T>(acc, p, s, ring, warpgroup, own + threadIdx.x % 32 * 16);
    }
    const int row = row0 + warpgroup * 64;
    store_rows<T>(acc, p.dw, own, {group * p.dw.y_layer + row * p.dw.ldy + col0, p.n - row, p.dw.n - col0});
  }
  __syncwarp();
}

template <class T>
void launch(const Exec& exec, const WgradParams& p, int64_t groups) {
  allow_shared_memory<bf16_wgrad_kernel<T>>();
  const int64_t col_tiles = ceil_div(p.dw.n, T::kQ);
  CHECK(col_tiles <= 65535 && groups <= 65535, "{} columns, {} groups", p.dw.n, groups);
  const dim3 grid(static_cast<unsigned>(ceil_div(p.n, T::kP)), static_cast<unsigned>(col_tiles),
                  static_cast<unsigned>(groups));
  bf16_wgrad_kernel<T><<<grid, T::kThreads, sizeof(WgradSmem<T>), stream_of(exec)>>>(p);
  CUDA_CHECK_LAUNCH();
}

bool in_16(const void* p, std::initializer_list<int64_t> strides_bytes) {
  for (int64_t s : strides_bytes)
    if (s % 16 != 0) return false;
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

}  // namespace

std::string bf16_wgrad_refuses(const WgradProduct& w) {
  if (!in_16(w.dy.data, {2 * w.dy.ld, 2 * w.dy_group}) || !in_16(w.x.data, {2 * w.x.ld, 2 * w.x_group}))
    return fmt::format(
        "dy at {}, rows {} apart, x at {}, rows {} apart, groups {} and {}: not in pieces of 16 bytes",
        w.dy.data, w.dy.ld, w.x.data, w.x.ld, w.dy_group, w.x_group);
  return "";
}

void bf16_wgrad(const Exec& exec, const WgradProduct& w, int tile) {
  const std::string reason = bf16_wgrad_refuses(w);
  CHECK(reason.empty(), "bf16_wgrad: {}", reason);
  if (w.dw.numel() == 0) return;
  const int32_t leaves = w.segments.num_leaves;
  const WgradParams p = {
      .dy = static_cast<const Bf16*>(w.dy.data),
      .ld_dy = w.dy.ld,
      .dy_group = w.dy_group,
      .x = static_cast<const Bf16*>(w.x.data),
      .ld_x = w.x.ld,
      .x_group = w.x_group,
      .dw = {.y = w.dw.data,
             .ldy = w.dw.ld,
             .y_layer = w.dy.cols * w.dw.ld,
             .n = narrow<int>(w.x.cols),
             .y_type = DType::kF32,
             .store = store_of(w.dw.data, DType::kF32, w.x.cols, w.dw.ld, 0, nullptr, false)},
      .segments = w.segments.data,
      .stall = stall_record(),
      .shared_rows = w.shared_rows,
      .m = narrow<int>(w.x.rows),
      .n = narrow<int>(w.dy.cols),
      .num_leaves = leaves,
      .parts = narrow<int>(w.parts())};
  // The largest that keeps the sums of so many leaves.
  const int largest = leaves == 1 ? 0 : leaves <= 4 ? 1 : leaves <= 8 ? 2 : leaves <= 64 ? 3 : 4;
  if (tile < 0) tile = largest == 0 && w.x.cols <= FewLeavesWgrad::kQ ? 1 : largest;
  CHECK(largest <= tile && tile < kBf16WgradTiles, "tile {} does not sum {} leaves", tile, leaves);
  if (tile == 0) return launch<LargeWgrad>(exec, p, w.groups);
  if (tile == 1) return launch<FewLeavesWgrad>(exec, p, w.groups);
  if (tile == 2) return launch<LeavesWgrad>(exec, p, w.groups);
  if (tile == 3) return launch<ManyLeavesWgrad>(exec, p, w.groups);
  launch<MostLeavesWgrad>(exec, p, w.groups);
}

}  // namespace contender::cuda
