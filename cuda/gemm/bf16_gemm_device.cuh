// The roles of the products on wgmma that TMA feeds (bf16_gemm.cu, the head's): where a unit of work lies,
// the producer, the consumers' chain and tree, and the launch.
#pragma once

#include <cuda.h>

#include <algorithm>

#include "cuda/common/dispatch.h"
#include "cuda/common/shared_memory.h"
#include "cuda/common/stream.h"
#include "cuda/common/tma.cuh"
#include "cuda/common/wgmma.cuh"
#include "cuda/gemm/bf16_gemm_store.cuh"
#include "cuda/gemm/schedule.h"

namespace contender::cuda {

inline constexpr int kGemmDepth = 64;  // contracted values of a stage: rows of 128 bytes
inline constexpr uint64_t kGemmName = stall_word("bf16gemm");
inline constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

// The first operand of wgmma, `p`, has the 64 rows of each consumer; the second, `q`, has N of them.
template <TileShape kShape>
struct Tile {
  static constexpr int kTileM = kShape.tile_m(), kTileN = kShape.tile_n();
  static constexpr bool kSwapped = kShape.side == Side::kColumns;
  static constexpr int kStages = kShape.stages, kCluster = kShape.cluster, kConsumers = kShape.consumers;
  static constexpr int kP = 64 * kConsumers, kQ = kShape.wgmma_n;
  static constexpr int kAccumulators = kQ / 2;  // of a thread
  static constexpr int kLevels = kShape.levels;
  static constexpr int kThreads = 128 * (1 + kConsumers);
  static constexpr bool kInTurns = kShape.turns == Turns::kInTurns;
  static constexpr int kBlocks = kInTurns ? 2 : 1;                // of 64 rows that a consumer makes
  static constexpr int kReaders = kInTurns ? 4 : 4 * kConsumers;  // warps that read a stage
  static constexpr uint32_t kStageBytes = (kP + kQ) * kGemmDepth * 2;
  // Of a consumer: half of the tree's sums while there are chains to come, then results on their way.
  static constexpr int kStaging = kLevels == 2 && 256 * kQ > 8192 ? 256 * kQ : 8192;
  static_assert(kQ % 16 == 0 && (kSwapped || kQ % 64 == 0) && kQ % (8 * kCluster) == 0 && kQ <= 256);
  static_assert(kLevels == 0 || kLevels == 2);
  static_assert(kAccumulators * kBlocks * (kLevels == 0 ? 1 : 2) <= 128, "registers of a consumer");
  static_assert(!kInTurns || (kConsumers == 2 && !kSwapped && kLevels == 0));
};

template <class T>
struct GemmSmem {
  alignas(1024) Bf16 p[T::kStages][T::kP * kGemmDepth];
  alignas(1024) Bf16 q[T::kStages][T::kQ * kGemmDepth];
  alignas(1024) uint8_t staging[T::kConsumers][T::kStaging];
  Mbarrier full[T::kStages], empty[T::kStages];
};

struct GemmParams {
  CUtensorMap x;  // [layers or slices][m][k], boxes of one tile
  CUtensorMap w;  // [layers, groups or slices][n][k]
  GemmOut out;
  const int32_t* offsets = nullptr;  // [layers + 1]: rows of each group; null: every layer has all rows
  StallRecord* stall = nullptr;
  int m = 0, layers = 1;
  int k_blocks = 0;  // of a slice
  int slices = 1;
  int band = 1;        // of the raster, in tiles of rows
  bool one_x = false;  // x is the same for every layer, and has one
};

// Rows [row, row_end) of x and columns from `col` of a layer; row_end is that of the layer's rows.
struct Place {
  int row = 0, row_end = 0, col = 0, layer = 0;
};

// Goes through the units of a cluster; whole warps come here, all with the same result.
template <class T>
class TileWalk {
 public:
  __device__ explicit TileWalk(const GemmParams& p)
      : p_(p), tiles_n_(ceil(p.out.n, T::kTileN)), unit_(blockIdx.x / T::kCluster) {}

  // The place of the next unit; false behind the last one.
  __device__ bool next(Place& place) {
    const bool found = p_.offsets == nullptr ? dense(place) : grouped(place);
    unit_ += gridDim.x / T::kCluster;
    return found;
  }

 private:
  static __device__ int ceil(int a, int b) { return (a + b - 1) / b; }

  // Bands of `band` tiles of rows, columns ascending within a band, rows fastest.
  __device__ void set(Place& place, int tile, int begin, int end, int layer) const {
    const int tiles_m = ceil(end - begin, T::kTileM), in_band = p_.band * tiles_n_;
    const int first = tile / in_band * p_.band, rest = tile % in_band;
    const int height = min(p_.band, tiles_m - first);
    place = {begin + (first + rest % height) * T::kTileM, end, rest / height * T::kTileN, layer};
  }
  __device__ bool dense(Place& place) const {
    const int of_layer = ceil(p_.m, T::kTileM) * tiles_n_;
    if (unit_ >= of_layer * p_.layers) return false;
    set(place, unit_ % of_layer, 0, p_.m, unit_ / of_layer);
    return true;
  }
  // Units ascend, so the search goes on in the 32 groups where it found the last one.
  __device__ bool grouped(Place& place) {
    constexpr unsigned kAll = 0xffffffffu;
    const int lane = threadIdx.x % 32;
    for (; group_ < p_.layers; group_ += 32) {
      const int g = group_ + lane;
      const int begin = g < p_.layers ? p_.offsets[g] : p_.m, end = g < p_.layers ? p_.offsets[g + 1] : p_.m;
      if (g < p_.layers && !((g == 0 ? begin == 0 : begin >= 0) && begin <= end && end <= p_.m))
        trap_with(p_.stall, refused_group(kGemmName, g, begin, end, p_.m));
      int sum = ceil(end - begin, T::kTileM) * tiles_n_;
      const int tiles = sum;
#pragma unroll
      for (int o = 1; o < 32; o *= 2) {
        const int left = __shfl_up_sync(kAll, sum, o);
        if (lane >= o) sum += left;
      }
      const unsigned reached = __ballot_sync(kAll, before_ + sum > unit_);
      if (reached != 0) {
        const int owner = __ffs(static_cast<int>(reached)) - 1;
        const int first = before_ + __shfl_sync(kAll, sum - tiles, owner);
        set(place, unit_ - first, __shfl_sync(kAll, begin, owner), __shfl_sync(kAll, end, owner),
            group_ + owner);
        return true;
      }
      before_ += __shfl_sync(kAll, sum, 31);
    }
    return false;
  }

  const GemmParams& p_;
  int tiles_n_, unit_;
  int group_ = 0, before_ = 0;  // first of 32 groups, units before it
};

// A place in the ring of stages.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
  __device__ void skip(int stages) {
    const int to = stage + stages;
    parity ^= to / kStages & 1;
    stage = to % kStages;
  }
};

template <class T>
__device__ __forceinline__ void produce(const GemmParams& p, GemmSmem<T>& s) {
  const uint32_t rank = T::kCluster > 1 ? cluster_rank() : 0;
  const bool elected = threadIdx.x % 32 == 0;
  const CUtensorMap* map_p = T::kSwapped ? &p.w : &p.x;
  const CUtensorMap* map_q = T::kSwapped ? &p.x : &p.w;
  if (elected) prefetch_tensor_map(map_p), prefetch_tensor_map(map_q);
  Ring<T::kStages> ring;
  TileWalk<T> walk(p);
  for (Place place; walk.next(place);) {
    __syncwarp();
    if (!elected) continue;
    const int own = static_cast<int>(rank) * T::kP;
    const int row_p = (T::kSwapped ? place.col : place.row) + own,
              row_q = T::kSwapped ? place.row : place.col;
    for (int slice = 0; slice < p.slices; ++slice) {
      const int layer_w = place.layer + slice, layer_x = p.one_x ? 0 : layer_w;
      const int layer_p = T::kSwapped ? layer_w : layer_x, layer_q = T::kSwapped ? layer_x : layer_w;
      for (int kb = 0; kb < p.k_blocks; ++kb, ring.advance()) {
        const int stage = ring.stage, k = kb * kGemmDepth;
        Mbarrier* full = &s.full[stage];
        mbarrier_wait(&s.empty[stage], ring.parity ^ 1, {p.stall, kGemmName, stall_word("empty")});
        mbarrier_arrive_expect_tx(full, T::kStageBytes);
        tma_load_3d(s.p[stage], map_p, full, k, row_p, layer_p);
        if constexpr (T::kCluster == 1) {
          tma_load_3d(s.q[stage], map_q, full, k, row_q, layer_q);
        } else {
          constexpr int kPart = T::kQ / T::kCluster;
          const int part = static_cast<int>(rank) * kPart;
          tma_load_3d_multicast(s.q[stage] + part * kGemmDepth, map_q, full, k, row_q + part, layer_q,
                                (1u << T::kCluster) - 1);
        }
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void release(GemmSmem<T>& s, int stage) {
  const int lane = threadIdx.x % 32;
  if constexpr (T::kCluster == 1) {
    if (lane == 0) mbarrier_arrive(&s.empty[stage]);
  } else {
    if (lane < T::kCluster) mbarrier_arrive_cluster(&s.empty[stage], static_cast<uint32_t>(lane));
  }
}

// One chain: `acc` = the sum over the blocks of a slice, in steps of 16 from its start; or what is in it goes
// on, if `go_on` is not 0. kLayoutQ: of the second operand, whose blocks of 64 columns lie behind each other
// where it is MN-major.
template <class T, Layout kLayoutQ = Layout::kKMajor>
__device__ __forceinline__ void multiply_chain(float (&acc)[T::kBlocks][T::kAccumulators], StallRecord* stall,
                                               int k_blocks, GemmSmem<T>& s, Ring<T::kStages>& ring,
                                               int first_row, int go_on = 0) {
  int kb = 0, before = 0;
  do {  // at least one: what is no sum on one of the ways makes ptxas put wgmma in series
    const int stage = ring.stage;
    mbarrier_wait(&s.full[stage], ring.parity, {stall, kGemmName, stall_word("full")});
    const uint64_t a = wgmma_descriptor<Layout::kKMajor>(smem_address(s.p[stage] + first_row * kGemmDepth));
    const uint64_t b = wgmma_descriptor<kLayoutQ>(smem_address(s.q[stage]),
                                                  kLayoutQ == Layout::kKMajor ? 16 : 64 * kGemmDepth * 2);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kGemmDepth / 16; ++step) {
      const uint64_t at_p = step * kWgmmaStep<Layout::kKMajor>, at_q = step * kWgmmaStep<kLayoutQ>;
#pragma unroll
      for (int block = 0; block < T::kBlocks; ++block)
        wgmma_bf16<T::kQ, Layout::kKMajor, kLayoutQ>(acc[block], a + at_p + block * (64 * 128 >> 4), b + at_q,
                                                     go_on + kb + step);
    }
    wgmma_commit();
    if (kb > 0) {
      wgmma_wait<1>();
      release<T>(s, before);
    }
    before = stage;
    ring.advance();
  } while (++kb < k_blocks);
  wgmma_wait<0>();
#pragma unroll
  for (int block = 0; block < T::kBlocks; ++block) wgmma_hold(acc[block]);
  release<T>(s, ring.stage == 0 ? T::kStages - 1 : ring.stage - 1);
}

// The tree ((0+1)+(2+3)) over 1, 2 or 4 chains. The first pair's sum waits in `half`, shared memory, each
// thread's own.
template <class T>
__device__ __forceinline__ void multiply_slices(float (&chain)[1][T::kAccumulators], const GemmParams& p,
                                                GemmSmem<T>& s, Ring<T::kStages>& ring, int warpgroup,
                                                uint32_t half) {
  float(&acc)[T::kAccumulators] = chain[0];
  for (int slice = 0;; slice += 2) {
    multiply_chain<T>(chain, p.stall, p.k_blocks, s, ring, warpgroup * 64);
    if (p.slices == 1) return;
    float first[T::kAccumulators];
#pragma unroll
    for (int i = 0; i < T::kAccumulators; ++i) first[i] = acc[i];
    multiply_chain<T>(chain, p.stall, p.k_blocks, s, ring, warpgroup * 64);
#pragma unroll
    for (int i = 0; i < T::kAccumulators; ++i) acc[i] = first[i] + acc[i];
    if (slice + 2 == p.slices) {
      if (slice == 0) return;
#pragma unroll
      for (int i = 0; i < T::kAccumulators; i += 4) {
        const uint4 v = load_shared_16(half + i * 128);
        acc[i] = __uint_as_float(v.x) + acc[i];
        acc[i + 1] = __uint_as_float(v.y) + acc[i + 1];
        acc[i + 2] = __uint_as_float(v.z) + acc[i + 2];
        acc[i + 3] = __uint_as_float(v.w) + acc[i + 3];
      }
      return;
    }
    // The unit before may still leave from there, rows of all four warps together.
    if constexpr (T::kSwapped) named_barrier_sync(1 + warpgroup, 128);
#pragma unroll
    for (int i = 0; i < T::kAccumulators; i += 4)
      asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(half + i * 128), "f"(acc[i]),
                   "f"(acc[i + 1]), "f"(acc[i + 2]), "f"(acc[i + 3])
                   : "memory");
  }
}

__device__ __forceinline__ OutPlace out_place(const GemmParams& p, const Place& place, int row, int col) {
  const int64_t layer = p.offsets != nullptr ? 0 : place.layer * p.out.y_layer;
  return {layer + row * p.out.ldy + col, place.row_end - row, p.out.n - col};
}

template <class T>
__device__ __forceinline__ void consume(const GemmParams& p, GemmSmem<T>& s, int warpgroup) {
  const uint32_t rank = T::kCluster > 1 ? cluster_rank() : 0;
  const int own = static_cast<int>(rank) * T::kP + warpgroup * 64;
  const uint32_t staging = smem_address(s.staging[warpgroup]);
  const int warp = threadIdx.x / 32 % 4;
  Ring<T::kStages> ring;
  TileWalk<T> walk(p);
  for (Place place; walk.next(place);) {
    float acc[1][T::kAccumulators];
    if constexpr (T::kLevels == 0) {
      multiply_chain<T>(acc, p.stall, p.k_blocks, s, ring, warpgroup * 64);
    } else {
      const uint32_t half = staging + warp * (T::kStaging / 4) + threadIdx.x % 32 * 16;
      multiply_slices<T>(acc, p, s, ring, warpgroup, half);
    }
    if constexpr (T::kSwapped) {
      const OutPlace out = out_place(p, place, place.row, place.col + own);
      store_columns<T>(acc[0], p.out, staging, out, 1 + warpgroup);
    } else {
      const OutPlace out = out_place(p, place, place.row + own, place.col);
      store_rows<T>(acc[0], p.out, staging + warp * (T::kStaging / 4), out);
    }
  }
}

// Two consumers, every other unit each: one multiplies while the other stores.
template <class T>
__device__ __forceinline__ void consume_in_turns(const GemmParams& p, GemmSmem<T>& s, int warpgroup) {
  constexpr int kTurn = 1, kBoth = 256;  // barriers kTurn and kTurn + 1 say whose turn it is
  const uint32_t rank = T::kCluster > 1 ? cluster_rank() : 0;
  const uint32_t staging = smem_address(s.staging[warpgroup]) + threadIdx.x / 32 % 4 * (T::kStaging / 4);
  Ring<T::kStages> ring;
  TileWalk<T> walk(p);
  if (warpgroup == 1) named_barrier_arrive(kTurn, kBoth);  // the first turn is free
  int unit = 0;
  for (Place place; walk.next(place); ++unit) {
    if (unit % 2 != warpgroup) {
      ring.skip(p.k_blocks);
      continue;
    }
    named_barrier_sync(kTurn + warpgroup, kBoth);
    float acc[2][T::kAccumulators];
    multiply_chain<T>(acc, p.stall, p.k_blocks, s, ring, 0);
    named_barrier_arrive(kTurn + 1 - warpgroup, kBoth);
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      const int row = place.row + static_cast<int>(rank) * T::kP + block * 64;
      store_rows<T>(acc[block], p.out, staging, out_place(p, place, row, place.col));
    }
  }
  // The turn that is left over: no barrier may end half full.
  if (unit % 2 == warpgroup) named_barrier_sync(kTurn + warpgroup, kBoth);
}

// What every kernel of these roles does around them. produce() runs in one warp, consume(warpgroup) in each
// of the consumers.
template <class T, class Produce, class Consume>
__device__ __forceinline__ void run_roles(GemmSmem<T>& s, const Produce& produce, const Consume& consume) {
  static_assert(sizeof(GemmSmem<T>) <= kMaxSharedMemory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < T::kStages; ++i) {
      mbarrier_init(&s.full[i], 1);
      mbarrier_init(&s.empty[i], T::kReaders * T::kCluster);  // a lane of each warp that reads it
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  if constexpr (T::kCluster > 1) cluster_arrive(), cluster_wait();
  griddepcontrol_wait();
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);  // uniform
  if (warpgroup == T::kConsumers) {
    if constexpr (T::kConsumers == 2) setmaxnreg_dec<kProducerRegisters>();
    if (threadIdx.x / 32 % 4 == 0) produce();
    __syncwarp();
    griddepcontrol_launch_dependents();
  } else {
    if constexpr (T::kConsumers == 2) setmaxnreg_inc<kConsumerRegisters>();
    consume(warpgroup);
    __syncwarp();  // warps leave whole: without this ptxas spills
  }
  // Nobody leaves while another block may still count at its barriers.
  if constexpr (T::kCluster > 1) cluster_arrive(), cluster_wait();
}

// A launch of as many blocks as there are units or SMs, which may begin before the kernel in front of it
// ends: run_roles waits for that.
template <auto kKernel, class T, class Params>
void launch_roles(const Exec& exec, const Params& p, int64_t units) {
  allow_shared_memory<kKernel>();
  const int64_t clusters = std::min<int64_t>(units, sm_count() / T::kCluster);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {T::kCluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(narrow<int>(clusters * T::kCluster)));
  config.blockDim = dim3(T::kThreads);
  config.dynamicSmemBytes = sizeof(GemmSmem<T>);
  config.stream = stream_of(exec);
  config.attrs = attributes;
  config.numAttrs = T::kCluster > 1 ? 2 : 1;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kKernel, p));
}

}  // namespace contender::cuda
