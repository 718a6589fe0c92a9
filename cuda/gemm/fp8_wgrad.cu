// What: weight gradients of block-scaled FP8 products, dw[g] (+)= sum over the tokens t of group g of dy[:,
//   t] x[:, t]^T; dense, or grouped by expert, a chain for each group or for each of its leaves; offsets and
//   places are in device memory.
// Math: d = fma(part_b, sdy_b * sx_b, d) over the blocks b of 128 tokens of a chain, from +0; leaves summed
//   in the fixed tree; then dw = d or dw + d, one rounding (ops/gemm.h).
// Shapes: N and K multiples of 16; any number of tokens, chains of any lengths (a block may be short, chains
//   begin anywhere); up to kMaxFp8Groups groups of kMaxLeaves leaves.
// Layouts: dy^T [N, M], x^T [K, M]: tokens innermost. Scales [blocks, N] and [blocks, K]. dw [G * N, K] F32.
// Precision: one chain per element and leaf, deterministic; part_b is a chain of four wgmma.
// Schedule: persistent, as in fp8_gemm.cu: a producer thread, a ring of stages (rows of each operand, 128
//   tokens, and the scales of each, all by TMA), two consumer warpgroups out of step with 64 x 128 of dw
//   each. Where there are columns enough, clusters of two make neighbouring ones, and each block fetches half
//   of the rows of dy^T for both. The scales of a block are in registers before its wgmma end. A chain's last
//   block is short: the consumers clear what lies behind it, tokens of the next chain, in shared memory.
// Leaves: the sum of a pair waits in registers for its second leaf; those of pairs in shared memory, one for
//   each set bit of the pairs so far. That takes 64 x 64 x 4 bytes a level and consumer, and so tiles are
//   narrower, from 17 leaves on also lower.
// Budget: consumers 232 registers (64 sums, 64 of the block, 34 scales; with leaves 32, 32, 32 and 18),
//   producer 40; a lone consumer has 161. Stages and sums, in KB:
//     one leaf  128 x 128   6 x 33            198
//     to 8      128 x 64    6 x 24.75 + 64    212.5
//     to 16     128 x 64    5 x 24.75 + 96    219.75
//     to 64      64 x 64    8 x 16.5 + 80     212
//     to 512     64 x 64    5 x 16.5 + 128    210.5
// Roofline: 2 M N K flops, (N + K) M + 8 G N K bytes: with N = K = 4096 memory-bound below M = 2100 (H200),
//   3200 (H800).
// Limits: codes and rows of scales and dw at multiples of 16 bytes. Sizes of groups and places that break the
//   contract end the job with their numbers.
// Source: DeepSeek-V3, arXiv 2412.19437, sections 3.3.2 and 3.5.2.
#include "cuda/common/shared_memory.h"
#include "cuda/common/stream.h"
#include "cuda/gemm/fp8_gemm_pipe.cuh"
#include "cuda/gemm/fp8_gemm_store.cuh"
#include "cuda/gemm/fp8_grouped.cuh"

namespace contender::cuda {
namespace {

constexpr uint64_t kName = stall_word("fp8wgrad");
constexpr int kBand = 16;  // tiles of rows in a band of the raster
constexpr int kTurnBarrier = 1, kTailBarrier = 2;

// [64 * consumers, n] of dw, of up to 2^(levels + 1) leaves, or one if levels < 0.
template <int kConsumers_, int kN_, int kLevels_, int kStages_, int kCluster_>
struct Tile {
  static constexpr int kConsumers = kConsumers_, kN = kN_, kLevels = kLevels_, kStages = kStages_,
                       kCluster = kCluster_;
  static constexpr int kM = 64 * kConsumers, kSums = kN / 2, kThreads = kWarpgroup * (kConsumers + 1);
};
template <int kCluster>
using OneLeaf = Tile<2, 128, -1, 6, kCluster>;
template <int kCluster>
using FewLeaves = Tile<2, 64, 2, 6, kCluster>;
template <int kCluster>
using SomeLeaves = Tile<2, 64, 3, 5, kCluster>;
template <int kCluster>
using ManyLeaves = Tile<1, 64, 5, 8, kCluster>;
template <int kCluster>
using MostLeaves = Tile<1, 64, 8, 5, kCluster>;
static_assert(kMaxLeaves == 2 << MostLeaves<1>::kLevels);

struct Params {
  CUtensorMap dy, x, sdy, sx;
  Tensor dw;
  bool accumulate;
  int n, k, tiles_n;
  int tiles_k;  // columns of tiles, as many as a cluster has at once
  GroupRows groups;
  const RowPlace* places;  // of chains, or null: one of each group
  int leaves;
  StallRecord* stall;
};

template <class T>
struct Stage {
  uint8_t dy[T::kM * kRowBytes];
  uint8_t x[T::kN * kRowBytes];
};
template <class T>
struct Scales {
  float dy[T::kM], x[T::kN];
};
template <class T>
struct alignas(1024) Smem {
  Stage<T> stage[T::kStages];
  float4 sums[T::kConsumers][T::kLevels < 0 ? 1 : T::kLevels][T::kSums / 4][T::kLevels < 0 ? 1 : kWarpgroup];
  alignas(128) Scales<T> scales[T::kStages];
  Mbarrier full[T::kStages], empty[T::kStages];
  GroupTable table;  // of blocks
};
template <class T>
constexpr bool kFits = sizeof(Smem<T>) <= kMaxSharedMemory && sizeof(Scales<T>) % 128 == 0;
static_assert(kFits<OneLeaf<2>> && kFits<FewLeaves<2>> && kFits<SomeLeaves<2>> && kFits<ManyLeaves<2>> &&
              kFits<MostLeaves<2>>);

// [row, row + kM) x [column, column + kN) of dw[group].
struct Place {
  int group, row, column;
};

// The tiles of a block, or cluster: group by group, in bands of rows. Columns may lie behind the last one.
template <class T>
__device__ inline bool next_tile(const Params& p, int& next, Place& place) {
  const int per_group = p.tiles_n * p.tiles_k;
  if (next >= per_group * p.groups.num_groups) return false;
  place.group = next / per_group;
  const int tile = next - place.group * per_group;
  const int band = tile / (kBand * p.tiles_k), rest = tile - band * kBand * p.tiles_k;
  const int height = min(kBand, p.tiles_n - band * kBand);
  place.column = (rest / height * T::kCluster + static_cast<int>(blockIdx.x) % T::kCluster) * T::kN;
  place.row = (band * kBand + rest % height) * T::kM;
  next += static_cast<int>(gridDim.x) / T::kCluster;
  return true;
}

struct Chain {
  int token, tokens, block;
};
__device__ inline Chain chain_of(const Params& p, const GroupTable& table, int group, int leaf) {
  if (p.places) {
    const RowPlace* at = p.places + group * p.leaves + leaf;
    return {at[0].row, at[1].row - at[0].row, at[0].block};
  }
  const int begin = p.groups.begin(group);
  return {begin, p.groups.end(group) - begin, table.first[group]};
}
__device__ inline bool no_tokens(const Params& p, int group) {
  if (p.places) return p.places[group * p.leaves].row == p.places[(group + 1) * p.leaves].row;
  return p.groups.begin(group) == p.groups.end(group);
}

// Places of which none lies behind the tokens or the next one's, blocks as tokens ask; or the job ends.
__device__ inline void check_places(const Params& p) {
  const int chains = p.groups.num_groups * p.leaves;
  for (int c = static_cast<int>(threadIdx.x); c < chains; c += static_cast<int>(blockDim.x)) {
    const RowPlace from = p.places[c], to = p.places[c + 1];
    const bool ordered = 0 <= from.row && from.row <= to.row && to.row <= p.groups.rows;
    if (!ordered || (c == 0 && from.block != 0) ||
        to.block - from.block != (to.row - from.row + kRowBytes - 1) / kRowBytes)
      trap_with(p.stall, refused_group(kName, c / p.leaves, from.row, to.row, p.groups.rows));
  }
}

// --- producer: one thread ---

template <class T>
__device__ void produce(const Params& p, Smem<T>& smem) {
  RingPlace<T::kStages> at;
  Place place;
  for (int next = static_cast<int>(blockIdx.x) / T::kCluster; next_tile<T>(p, next, place);) {
    for (int leaf = 0; leaf < p.leaves; ++leaf) {
      const Chain chain = chain_of(p, smem.table, place.group, leaf);
      for (int token = 0, block = chain.block; token < chain.tokens;
           token += kRowBytes, ++block, at.advance()) {
        mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1, {p.stall, kName, stall_word("empty")});
        Mbarrier* full = &smem.full[at.stage];
        mbarrier_arrive_expect_tx(full, sizeof(Stage<T>) + sizeof(Scales<T>));
        load_shared_rows<T::kCluster, T::kM>(smem.stage[at.stage].dy, &p.dy, full, chain.token + token,
                                             place.row);
        tma_load_2d(smem.stage[at.stage].x, &p.x, full, chain.token + token, place.column);
        tma_load_2d(smem.scales[at.stage].dy, &p.sdy, full, place.row, block);
        tma_load_2d(smem.scales[at.stage].x, &p.sx, full, place.column, block);
      }
    }
  }
}

// --- consumers ---

// Zeros for tokens [count, 128) of a row under the swizzle: 16 bytes at a time, as a row's neighbours lie in
// other banks.
__device__ void clear_tail(uint8_t* codes, int row, int count) {
  for (int piece = count / 16; piece < kRowBytes / 16; ++piece) {
    auto* at = reinterpret_cast<uint4*>(codes + row * kRowBytes + (piece ^ row % 8) * 16);
    uint4 v = make_uint4(0, 0, 0, 0);
    const int keep = count - piece * 16;
    if (keep > 0) {
      v = *at;
      const auto cut = [&](uint32_t word, int i) {
        const int bytes = keep - 4 * i;
        return bytes >= 4 ? word : bytes <= 0 ? 0u : word & ((1u << (8 * bytes)) - 1);
      };
      v = make_uint4(cut(v.x, 0), cut(v.y, 1), cut(v.z, 2), cut(v.w, 3));
    }
    *at = v;
  }
}

// By all consumers: all rows of both operands, seen by the wgmma behind it.
template <class T>
__device__ void clear_tails(Stage<T>& stage, int me, int thread, int count) {
  const int row = me * kWarpgroup + thread;
  if (row < T::kM) {
    clear_tail(stage.dy, row, count);
  } else if (row < T::kM + T::kN) {
    clear_tail(stage.x, row - T::kM, count);
  }
  fence_proxy_async_shared();
  named_barrier_sync(kTailBarrier, T::kConsumers * kWarpgroup);
}

// d = a chain, part by part.
template <class T>
__device__ __forceinline__ void chain_sum(float (&d)[T::kSums], const Params& p, Smem<T>& smem,
                                          RingPlace<T::kStages>& at, bool& first, int tokens, int me) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const Fragment f(thread);
  float part[T::kSums];
#pragma unroll
  for (int i = 0; i < T::kSums; ++i) d[i] = 0;
  for (int token = 0; token < tokens; token += kRowBytes, at.advance()) {
    mbarrier_wait(&smem.full[at.stage], at.parity, {p.stall, kName, stall_word("full")});
    Stage<T>& stage = smem.stage[at.stage];
    if (tokens - token < kRowBytes) clear_tails<T>(stage, me, thread, tokens - token);
    // Out of step with the first warpgroup from its first block on.
    if (T::kConsumers == 2 && first && me == 1) named_barrier_sync(kTurnBarrier, 2 * kWarpgroup);
    block_product<T::kN>(part,
                         wgmma_descriptor<Layout::kKMajor>(smem_address(stage.dy + me * 64 * kRowBytes)),
                         wgmma_descriptor<Layout::kKMajor>(smem_address(stage.x)));
    const Scales<T>& scales = smem.scales[at.stage];
    const float row[2] = {scales.dy[me * 64 + f.row[0]], scales.dy[me * 64 + f.row[1]]};
    float2 column[T::kN / 8];
#pragma unroll
    for (int j = 0; j < T::kN / 8; ++j)
      column[j] = *reinterpret_cast<const float2*>(scales.x + f.column + 8 * j);
    wgmma_wait<0>();
    wgmma_hold(part);
    if (T::kConsumers == 2 && first && me == 0) named_barrier_arrive(kTurnBarrier, 2 * kWarpgroup);
    first = false;
    __syncwarp();  // all lanes have read their scales
    if (thread % 32 == 0) release<T::kCluster>(&smem.empty[at.stage]);
#pragma unroll
    for (int i = 0; i < T::kSums; ++i) {
      const float2 c = column[i / 4];
      d[i] = fmaf(part[i], __fmul_rn(row[i / 2 % 2], i % 2 == 0 ? c.x : c.y), d[i]);
    }
  }
}

// d = the sum of all pairs of leaves that end with this one, whose sum it is; it waits if others are to come.
template <class T>
__device__ __forceinline__ void tree_push(float (&d)[T::kSums], Smem<T>& smem, int pair, int pairs, int me) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  int level = 0;
  for (int rest = pair; rest & 1; rest >>= 1, ++level) {
#pragma unroll
    for (int i = 0; i < T::kSums; i += 4) {
      const float4 left = smem.sums[me][level][i / 4][thread];
      d[i] = left.x + d[i];
      d[i + 1] = left.y + d[i + 1];
      d[i + 2] = left.z + d[i + 2];
      d[i + 3] = left.w + d[i + 3];
    }
  }
  if (pair + 1 == pairs) return;
#pragma unroll
  for (int i = 0; i < T::kSums; i += 4)
    smem.sums[me][level][i / 4][thread] = make_float4(d[i], d[i + 1], d[i + 2], d[i + 3]);
}

template <class T>
__device__ void consume(const Params& p, Smem<T>& smem, int me) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  RingPlace<T::kStages> at;
  Place place;
  bool first = true;
  for (int next = static_cast<int>(blockIdx.x) / T::kCluster; next_tile<T>(p, next, place);) {
    float d[T::kSums];
    if constexpr (T::kLevels < 0) {
      chain_sum<T>(d, p, smem, at, first, chain_of(p, smem.table, place.group, 0).tokens, me);
    } else {
      for (int leaf = 0; leaf < p.leaves; leaf += 2) {
        float left[T::kSums];
        chain_sum<T>(left, p, smem, at, first, chain_of(p, smem.table, place.group, leaf).tokens, me);
        chain_sum<T>(d, p, smem, at, first, chain_of(p, smem.table, place.group, leaf + 1).tokens, me);
#pragma unroll
        for (int i = 0; i < T::kSums; ++i) d[i] = left[i] + d[i];
        tree_push<T>(d, smem, leaf / 2, p.leaves / 2, me);
      }
    }
    if (p.accumulate && no_tokens(p, place.group)) continue;
    const int64_t above = int64_t{place.group} * p.n;
    float old[T::kSums];
    store_f32<T::kN>(p.dw, p.accumulate, {above + place.row + me * 64, above + p.n, place.column, p.k},
                     thread, d, old);
  }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) fp8_wgrad_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) uint8_t shared[];
  auto& smem = *reinterpret_cast<Smem<T>*>(shared);
  const int role = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (threadIdx.x == 0) {
    prefetch_tensor_map(&p.dy);
    prefetch_tensor_map(&p.x);
    prefetch_tensor_map(&p.sdy);
    prefetch_tensor_map(&p.sx);
    for (int s = 0; s < T::kStages; ++s) {
      mbarrier_init(&smem.full[s], 1);
      mbarrier_init(&smem.empty[s], T::kConsumers * 4 * T::kCluster);
    }
    fence_mbarrier_init();
  }
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
  if (p.places) {
    check_places(p);
  } else if (threadIdx.x < 32) {
    smem.table.fill(p.groups, kRowBytes, p.stall, kName);
  }
  sync_all<T::kCluster>();
  if (role == T::kConsumers) {
    if constexpr (T::kConsumers == 2) setmaxnreg_dec<kProducerRegisters>();
    if (threadIdx.x % kWarpgroup == 0) produce<T>(p, smem);
  } else {
    if constexpr (T::kConsumers == 2) setmaxnreg_inc<kConsumerRegisters>();
    consume<T>(p, smem, role);
  }
  // No block ends while another one may still write to its shared memory or arrive there.
  if constexpr (T::kCluster > 1) sync_all<T::kCluster>();
}

// --- launcher ---

// A row of `count` scales of a block.
CUtensorMap scale_map(const Tensor& t, int count) {
  return make_tensor_map_2d({.base = t.data,
                             .type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                             .element_bytes = 4,
                             .cols = t.cols,
                             .rows = t.rows,
                             .row_stride = t.ld,
                             .box_cols = count,
                             .box_rows = 1,
                             .swizzle = CU_TENSOR_MAP_SWIZZLE_NONE});
}

template <class T>
void launch(const Exec& exec, const Fp8WgradArgs& args, int64_t blocks) {
  const int64_t m = args.dy.data.cols, n = args.dy.data.rows, k = args.x.data.rows;
  const Params p = {
      .dy = code_map(args.dy.data, T::kM / T::kCluster),
      .x = code_map(args.x.data, T::kN),
      .sdy = scale_map(args.dy.scale, T::kM),
      .sx = scale_map(args.x.scale, T::kN),
      .dw = args.dw,
      .accumulate = args.accumulate,
      .n = narrow<int>(n),
      .k = narrow<int>(k),
      .tiles_n = narrow<int>(ceil_div(n, T::kM)),
      .tiles_k = narrow<int>(ceil_div(k, T::kN * T::kCluster)),
      .groups = {.offsets = args.offsets, .num_groups = narrow<int>(args.num_groups), .rows = narrow<int>(m)},
      .places = args.segments.data ? args.segments.places : nullptr,
      .leaves = args.segments.data ? args.segments.num_leaves : 1,
      .stall = stall_record()};
  const int64_t tiles = narrow<int32_t>(args.num_groups * p.tiles_n * p.tiles_k);
  const int64_t clusters = std::min(tiles, std::max<int64_t>(blocks / T::kCluster, 1));
  allow_shared_memory<fp8_wgrad_kernel<T>>();
  launch_dependent(fp8_wgrad_kernel<T>, p, clusters * T::kCluster, T::kCluster, T::kThreads, sizeof(Smem<T>),
                   stream_of(exec));
}

// A cluster whose second block has nothing to do costs more than shared rows save.
template <template <int> class T>
void launch_clusters(const Exec& exec, const Fp8WgradArgs& args, int64_t blocks) {
  const int64_t columns = ceil_div(args.x.data.rows, T<1>::kN);
  if (columns % 2 == 0 || columns > 8) return launch<T<2>>(exec, args, blocks);
  launch<T<1>>(exec, args, blocks);
}

}  // namespace

void fp8_wgrad(const Exec& exec, const Fp8WgradArgs& args, int64_t blocks) {
  check_fp8_wgrad(args);
  check_aligned(args.dy.data, "dy");
  check_aligned(args.x.data, "x");
  check_aligned(args.dy.scale, "scales of dy");
  check_aligned(args.x.scale, "scales of x");
  check_aligned(args.dw, "dw");
  if (args.dy.data.cols > 0) {
    // The largest that keeps the sums of so many leaves.
    const int32_t leaves = args.segments.data ? args.segments.num_leaves : 1;
    if (leaves == 1) return launch_clusters<OneLeaf>(exec, args, blocks);
    if (leaves <= 8) return launch_clusters<FewLeaves>(exec, args, blocks);
    if (leaves <= 16) return launch_clusters<SomeLeaves>(exec, args, blocks);
    if (leaves <= 64) return launch_clusters<ManyLeaves>(exec, args, blocks);
    launch_clusters<MostLeaves>(exec, args, blocks);
  } else if (!args.accumulate) {
    CUDA_CHECK(cudaMemset2DAsync(args.dw.data, static_cast<size_t>(args.dw.ld) * 4, 0,
                                 static_cast<size_t>(args.dw.cols) * 4, static_cast<size_t>(args.dw.rows),
                                 stream_of(exec)));
  }
}
void fp8_wgrad(const Exec& exec, const Fp8WgradArgs& args) { fp8_wgrad(exec, args, sm_count()); }

}  // namespace contender::cuda
