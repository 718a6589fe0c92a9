// The roles of bf16_gemm.cu: where a unit of work lies, the producer, the consumers' chain and tree, and the
// way of a tile to memory.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include "cuda/common/rows.cuh"
#include "cuda/common/tma.cuh"
#include "cuda/common/wgmma.cuh"
#include "cuda/gemm/schedule.h"

namespace contender::cuda {

using Bf16 = __nv_bfloat16;
inline constexpr int kGemmDepth = 64;  // contracted values of a stage: rows of 128 bytes
inline constexpr uint64_t kGemmName = stall_word("bf16gemm");

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

// What becomes of results. Strides are in elements.
struct GemmOut {
  void* y = nullptr;
  int64_t ldy = 0, y_layer = 0;
  const float* bias = nullptr;  // [n] or null
  int n = 0;
  DType y_type = DType::kBF16;
  bool accumulate = false;
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
  int band = 1;  // of the raster, in tiles of rows
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
      const int layer_w = place.layer + slice, layer_x = p.offsets != nullptr ? 0 : layer_w;
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

// One chain: `acc` = the sum over the blocks of a slice, in steps of 16 from its start.
template <class T>
__device__ __forceinline__ void multiply_chain(float (&acc)[T::kBlocks][T::kAccumulators],
                                               const GemmParams& p, GemmSmem<T>& s, Ring<T::kStages>& ring,
                                               int first_row) {
  for (int kb = 0, before = 0; kb < p.k_blocks; ++kb, ring.advance()) {
    const int stage = ring.stage;
    mbarrier_wait(&s.full[stage], ring.parity, {p.stall, kGemmName, stall_word("full")});
    const uint64_t a = wgmma_descriptor<Layout::kKMajor>(smem_address(s.p[stage] + first_row * kGemmDepth));
    const uint64_t b = wgmma_descriptor<Layout::kKMajor>(smem_address(s.q[stage]));
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kGemmDepth / 16; ++step) {
      const uint64_t at = step * kWgmmaStep<Layout::kKMajor>;
#pragma unroll
      for (int block = 0; block < T::kBlocks; ++block)
        wgmma_bf16<T::kQ>(acc[block], a + at + block * (64 * 128 >> 4), b + at, kb + step);
    }
    wgmma_commit();
    if (kb > 0) {
      wgmma_wait<1>();
      release<T>(s, before);
    }
    before = stage;
  }
  wgmma_wait<0>();
#pragma unroll
  for (int block = 0; block < T::kBlocks; ++block) wgmma_hold(acc[block]);
  release<T>(s, ring.stage == 0 ? T::kStages - 1 : ring.stage - 1);
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ uint4 load_shared_16(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// The tree ((0+1)+(2+3)) over 1, 2 or 4 chains. The first pair's sum waits in `half`, shared memory, each
// thread's own.
template <class T>
__device__ __forceinline__ void multiply_slices(float (&chain)[1][T::kAccumulators], const GemmParams& p,
                                                GemmSmem<T>& s, Ring<T::kStages>& ring, int warpgroup,
                                                uint32_t half) {
  float(&acc)[T::kAccumulators] = chain[0];
  for (int slice = 0;; slice += 2) {
    multiply_chain<T>(chain, p, s, ring, warpgroup * 64);
    if (p.slices == 1) return;
    float first[T::kAccumulators];
#pragma unroll
    for (int i = 0; i < T::kAccumulators; ++i) first[i] = acc[i];
    multiply_chain<T>(chain, p, s, ring, warpgroup * 64);
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
#pragma unroll
    for (int i = 0; i < T::kAccumulators; i += 4)
      asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(half + i * 128), "f"(acc[i]),
                   "f"(acc[i + 1]), "f"(acc[i + 2]), "f"(acc[i + 3])
                   : "memory");
  }
}

// Where a warpgroup's part of a unit goes: its first element, and how much of y lies behind.
struct OutPlace {
  int64_t index;
  int rows, cols;
  __device__ OutPlace plus(const GemmOut& p, int row, int col) const {
    return {index + row * p.ldy + col, rows - row, cols - col};
  }
};

__device__ __forceinline__ void store_eight(const GemmOut& p, const OutPlace& at, int row, int col, uint4 v) {
  if (row >= at.rows || col >= at.cols) return;
  // In one piece: the compiler takes plain stores of what it holds in registers apart.
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(static_cast<Bf16*>(p.y) + at.index +
                                                                row * p.ldy + col),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
// Four results in FP32: bias, then what is there, then one rounding.
template <class Y>
__device__ __forceinline__ void add_four(const GemmOut& p, Y* y, float4 v) {
  if (p.accumulate) {
    const float4 old = load_quad(y);
    v = make_float4(old.x + v.x, old.y + v.y, old.z + v.z, old.w + v.w);
  }
  store_quad(y, v);
}
__device__ __forceinline__ void store_four(const GemmOut& p, const OutPlace& at, int row, int col,
                                           uint4 bits) {
  if (row >= at.rows || col >= at.cols) return;
  float4 v = make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                         __uint_as_float(bits.w));
  if (p.bias != nullptr) {
    const float4 b = load_quad(p.bias + (p.n - at.cols) + col);
    v = make_float4(v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w);
  }
  const int64_t index = at.index + row * p.ldy + col;
  if (p.y_type == DType::kBF16) return add_four(p, static_cast<Bf16*>(p.y) + index, v);
  add_four(p, static_cast<float*>(p.y) + index, v);
}

// Staging: rows of 128 bytes, pieces of 16 bytes permuted by the row so that neither side meets a bank twice.
// kRows: a warp stages its own 16 rows; no other warp is waited for.
template <class T>
__device__ __forceinline__ void store_rows(const float (&acc)[T::kAccumulators], const GemmOut& p,
                                           uint32_t staging, const OutPlace& out, bool packed) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int matrix = lane / 8, piece_read = lane % 8;
  const OutPlace at = out.plus(p, 16 * warp + matrix, (packed ? 8 : 4) * piece_read);
  if (packed) {
    const int row = lane % 8 + (matrix & 1) * 8;
#pragma unroll
    for (int c = 0; c < T::kQ; c += 64) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* d = acc + (c + 16 * i) / 2;
        const int piece = (2 * i + matrix / 2) ^ (row & 7);
        stmatrix_x4(staging + row * 128 + piece * 16, pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]),
                    pack_bf16(d[4], d[5]), pack_bf16(d[6], d[7]));
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = 4 * i + matrix;
        store_eight(p, at, 4 * i, c, load_shared_16(staging + r * 128 + (piece_read ^ (r & 7)) * 16));
      }
    }
    return;
  }
#pragma unroll
  for (int c = 0; c < T::kQ; c += 32) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // eight columns and half of the rows
      const float* d = acc + (c + 8 * (i / 2)) / 2 + i % 2 * 2;
      const int row = lane / 4 + i % 2 * 8, piece = (i / 2 * 2 + lane % 4 / 2) ^ ((row & 3) * 2);
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(staging + row * 128 + piece * 16 + lane % 2 * 8),
                   "f"(d[0]), "f"(d[1])
                   : "memory");
    }
    __syncwarp();
#pragma unroll 2
    for (int i = 0; i < 4; ++i) {
      const int r = 4 * i + matrix;
      store_four(p, at, 4 * i, c, load_shared_16(staging + r * 128 + (piece_read ^ ((r & 3) * 2)) * 16));
    }
  }
}

// kColumns: D holds columns of y in its rows; a warpgroup turns 64 of them through its staging.
template <class T>
__device__ __forceinline__ void store_columns(const float (&acc)[T::kAccumulators], const GemmOut& p,
                                              uint32_t staging, const OutPlace& out, bool packed,
                                              int barrier) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, thread = threadIdx.x % 128;
  if (packed) {
    constexpr int kRows = T::kQ < 64 ? T::kQ : 64;  // rows of 64 BF16
    const int matrix = lane / 8, piece_read = thread % 8;
    const OutPlace at = out.plus(p, thread / 8, 8 * piece_read);
#pragma unroll
    for (int c = 0; c < T::kQ; c += kRows) {
      named_barrier_sync(barrier, 128);
#pragma unroll
      for (int i = 0; i < kRows; i += 16) {
        const float* d = acc + (c + i) / 2;
        const int row = i + matrix / 2 * 8 + lane % 8, piece = (2 * warp + (matrix & 1)) ^ (row & 7);
        stmatrix_x4_trans(staging + row * 128 + piece * 16, pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]),
                          pack_bf16(d[4], d[5]), pack_bf16(d[6], d[7]));
      }
      named_barrier_sync(barrier, 128);
#pragma unroll
      for (int i = 0; i < kRows; i += 16) {
        const int r = i + thread / 8;
        store_eight(p, at, c + i, 0, load_shared_16(staging + r * 128 + (piece_read ^ (r & 7)) * 16));
      }
    }
    return;
  }
  constexpr int kRows = T::kQ < 32 ? T::kQ : 32;  // rows of 64 floats, eights of them permuted
  const int col_read = thread % 16 * 4;
  const OutPlace at = out.plus(p, thread / 16, col_read);
#pragma unroll
  for (int c = 0; c < T::kQ; c += kRows) {
    named_barrier_sync(barrier, 128);
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {  // registers
      const int row = i / 4 * 8 + lane % 4 * 2 + i % 2, col = 16 * warp + lane / 4 + i / 2 % 2 * 8;
      asm volatile("st.shared.f32 [%0], %1;" ::"r"(staging + row * 256 + (col ^ (row / 2 % 4 * 8)) * 4),
                   "f"(acc[c / 2 + i])
                   : "memory");
    }
    named_barrier_sync(barrier, 128);
#pragma unroll
    for (int i = 0; i < kRows; i += 8) {
      const int r = i + thread / 16;
      store_four(p, at, c + i, 0, load_shared_16(staging + r * 256 + (col_read ^ (r / 2 % 4 * 8)) * 4));
    }
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
  const bool packed = p.out.y_type == DType::kBF16 && p.out.bias == nullptr && !p.out.accumulate;
  const uint32_t staging = smem_address(s.staging[warpgroup]);
  const int warp = threadIdx.x / 32 % 4;
  Ring<T::kStages> ring;
  TileWalk<T> walk(p);
  for (Place place; walk.next(place);) {
    float acc[1][T::kAccumulators];
    if constexpr (T::kLevels == 0) {
      multiply_chain<T>(acc, p, s, ring, warpgroup * 64);
    } else {
      const uint32_t half = staging + warp * (T::kStaging / 4) + threadIdx.x % 32 * 16;
      multiply_slices<T>(acc, p, s, ring, warpgroup, half);
    }
    if constexpr (T::kSwapped) {
      const OutPlace out = out_place(p, place, place.row, place.col + own);
      store_columns<T>(acc[0], p.out, staging, out, packed, 1 + warpgroup);
    } else {
      const OutPlace out = out_place(p, place, place.row + own, place.col);
      store_rows<T>(acc[0], p.out, staging + warp * (T::kStaging / 4), out, packed);
    }
  }
}

// Two consumers, every other unit each: one multiplies while the other stores.
template <class T>
__device__ __forceinline__ void consume_in_turns(const GemmParams& p, GemmSmem<T>& s, int warpgroup) {
  constexpr int kTurn = 1, kBoth = 256;  // barriers kTurn and kTurn + 1 say whose turn it is
  const uint32_t rank = T::kCluster > 1 ? cluster_rank() : 0;
  const bool packed = p.out.y_type == DType::kBF16 && p.out.bias == nullptr && !p.out.accumulate;
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
    multiply_chain<T>(acc, p, s, ring, 0);
    named_barrier_arrive(kTurn + 1 - warpgroup, kBoth);
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      const int row = place.row + static_cast<int>(rank) * T::kP + block * 64;
      store_rows<T>(acc[block], p.out, staging, out_place(p, place, row, place.col), packed);
    }
  }
  // The turn that is left over: no barrier may end half full.
  if (unit % 2 == warpgroup) named_barrier_sync(kTurn + warpgroup, kBoth);
}

}  // namespace contender::cuda
