// What: weight gradients of block-scaled FP8 products, dw[g] (+)= sum over the tokens t of group g of
//   dy[:, t] x[:, t]^T; dense, or grouped by expert with offsets in device memory.
// Math: d = fma(part_b, sdy_b * sx_b, d) over the blocks b of 128 tokens of a group, from +0; then dw = d or
//   dw + d, one rounding (ops/gemm.h).
// Shapes: N and K multiples of 16; any number of tokens, groups of any sizes (a block may be short, groups
//   begin anywhere); up to kMaxFp8Groups groups.
// Layouts: dy^T [N, M], x^T [K, M]: tokens innermost. Scales [blocks, N] and [blocks, K]. dw [G * N, K] F32.
// Precision: one chain per element, deterministic; part_b is a chain of four wgmma.
// Schedule: persistent, as in fp8_gemm.cu: a producer thread, a ring of stages (128 rows of each operand, 128
//   tokens, and the 128 scales of each, all by TMA), two consumer warpgroups out of step with 64 x 128 of dw
//   each. Where there are columns enough, clusters of two make neighbouring ones, and each block fetches half
//   of the rows of dy^T for both. The scales of a block are in registers before its wgmma end. A group's last
//   block is short: the consumers clear what lies behind it, tokens of the next group, in shared memory.
// Budget: consumers 232 registers (64 sums, 64 of the block, 34 scales), producer 40; six stages of 33 KB.
// Roofline: 2 M N K flops, (N + K) M + 8 G N K bytes: with N = K = 4096 memory-bound below M = 2100
//   (H200), 3200 (H800).
// Limits: codes and rows of scales and dw at multiples of 16 bytes. Sizes of groups that break the contract
//   end the job with their numbers.
// Source: DeepSeek-V3, arXiv 2412.19437, sections 3.3.2 and 3.5.2.
#include "cuda/common/shared_memory.h"
#include "cuda/common/stream.h"
#include "cuda/gemm/fp8_gemm_pipe.cuh"
#include "cuda/gemm/fp8_gemm_store.cuh"
#include "cuda/gemm/fp8_grouped.cuh"

namespace contender::cuda {
namespace {

constexpr uint64_t kName = stall_word("fp8wgrad");
constexpr int kConsumers = 2, kThreads = kWarpgroup * (kConsumers + 1);
constexpr int kM = 64 * kConsumers, kN = 128;
constexpr int kStages = 6, kBand = 16;  // tiles of rows in a band of the raster
constexpr int kTurnBarrier = 1, kTailBarrier = 2;

struct Params {
  CUtensorMap dy, x, sdy, sx;
  Tensor dw;
  bool accumulate;
  int n, k, tiles_n;
  int tiles_k;  // columns of tiles, as many as a cluster has at once
  GroupRows groups;
  StallRecord* stall;
};

struct Stage {
  uint8_t dy[kM * kRowBytes];
  uint8_t x[kN * kRowBytes];
};
struct Scales {
  float dy[kM], x[kN];
};
struct alignas(1024) Smem {
  Stage stage[kStages];
  Scales scales[kStages];
  Mbarrier full[kStages], empty[kStages];
  GroupTable table;  // of blocks
};
static_assert(sizeof(Smem) <= kMaxSharedMemory && sizeof(Scales) % 128 == 0);

// [row, row + kM) x [column, column + kN) of dw[group].
struct Place {
  int group, row, column;
};

// The tiles of a block, or cluster: group by group, in bands of rows. Columns may lie behind the last one.
template <int kCluster>
__device__ inline bool next_tile(const Params& p, int& next, Place& place) {
  const int per_group = p.tiles_n * p.tiles_k;
  if (next >= per_group * p.groups.num_groups) return false;
  place.group = next / per_group;
  const int tile = next - place.group * per_group;
  const int band = tile / (kBand * p.tiles_k), rest = tile - band * kBand * p.tiles_k;
  const int height = min(kBand, p.tiles_n - band * kBand);
  place.column = (rest / height * kCluster + static_cast<int>(blockIdx.x) % kCluster) * kN;
  place.row = (band * kBand + rest % height) * kM;
  next += static_cast<int>(gridDim.x) / kCluster;
  return true;
}

// --- producer: one thread ---

template <int kCluster>
__device__ void produce(const Params& p, Smem& smem) {
  RingPlace<kStages> at;
  Place place;
  for (int next = static_cast<int>(blockIdx.x) / kCluster; next_tile<kCluster>(p, next, place);) {
    const int token = p.groups.begin(place.group);
    const int first = smem.table.first[place.group], blocks = smem.table.first[place.group + 1] - first;
    for (int b = 0; b < blocks; ++b, at.advance()) {
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1, {p.stall, kName, stall_word("empty")});
      Mbarrier* full = &smem.full[at.stage];
      mbarrier_arrive_expect_tx(full, sizeof(Stage) + sizeof(Scales));
      load_shared_rows<kCluster, kM>(smem.stage[at.stage].dy, &p.dy, full, token + b * kRowBytes, place.row);
      tma_load_2d(smem.stage[at.stage].x, &p.x, full, token + b * kRowBytes, place.column);
      tma_load_2d(smem.scales[at.stage].dy, &p.sdy, full, place.row, first + b);
      tma_load_2d(smem.scales[at.stage].x, &p.sx, full, place.column, first + b);
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

// By both warpgroups: all rows of both operands, seen by the wgmma behind it.
__device__ void clear_tails(Stage& stage, int me, int thread, int count) {
  clear_tail(me == 0 ? stage.dy : stage.x, thread, count);
  fence_proxy_async_shared();
  named_barrier_sync(kTailBarrier, kConsumers * kWarpgroup);
}

template <int kCluster>
__device__ void consume(const Params& p, Smem& smem, int me) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const Fragment f(thread);
  RingPlace<kStages> at;
  Place place;
  bool first = true;
  for (int next = static_cast<int>(blockIdx.x) / kCluster; next_tile<kCluster>(p, next, place);) {
    const int tokens = p.groups.end(place.group) - p.groups.begin(place.group);
    float d[kN / 2] = {}, part[kN / 2];
    for (int token = 0; token < tokens; token += kRowBytes, at.advance()) {
      mbarrier_wait(&smem.full[at.stage], at.parity, {p.stall, kName, stall_word("full")});
      Stage& stage = smem.stage[at.stage];
      if (tokens - token < kRowBytes) clear_tails(stage, me, thread, tokens - token);
      // Out of step with the first warpgroup from its first block on.
      if (first && me == 1) named_barrier_sync(kTurnBarrier, kConsumers * kWarpgroup);
      block_product<kN>(part, wgmma_descriptor<Layout::kKMajor>(smem_address(stage.dy + me * 64 * kRowBytes)),
                        wgmma_descriptor<Layout::kKMajor>(smem_address(stage.x)));
      const Scales& scales = smem.scales[at.stage];
      const float row[2] = {scales.dy[me * 64 + f.row[0]], scales.dy[me * 64 + f.row[1]]};
      float2 column[kN / 8];
#pragma unroll
      for (int j = 0; j < kN / 8; ++j)
        column[j] = *reinterpret_cast<const float2*>(scales.x + f.column + 8 * j);
      wgmma_wait<0>();
      wgmma_hold(part);
      if (first && me == 0) named_barrier_arrive(kTurnBarrier, kConsumers * kWarpgroup);
      first = false;
      __syncwarp();  // all lanes have read their scales
      if (thread % 32 == 0) release<kCluster>(&smem.empty[at.stage]);
#pragma unroll
      for (int i = 0; i < kN / 2; ++i) {
        const float2 c = column[i / 4];
        d[i] = fmaf(part[i], __fmul_rn(row[i / 2 % 2], i % 2 == 0 ? c.x : c.y), d[i]);
      }
    }
    if (p.accumulate && tokens == 0) continue;
    const int64_t above = int64_t{place.group} * p.n;
    store_f32<kN>(p.dw, p.accumulate, {above + place.row + me * 64, above + p.n, place.column, p.k}, thread,
                  d, part);
  }
}

template <int kCluster>
__global__ void __launch_bounds__(kThreads, 1) fp8_wgrad_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) uint8_t shared[];
  Smem& smem = *reinterpret_cast<Smem*>(shared);
  const int role = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (threadIdx.x == 0) {
    prefetch_tensor_map(&p.dy);
    prefetch_tensor_map(&p.x);
    prefetch_tensor_map(&p.sdy);
    prefetch_tensor_map(&p.sx);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(&smem.full[s], 1);
      mbarrier_init(&smem.empty[s], kConsumers * 4 * kCluster);
    }
    fence_mbarrier_init();
  }
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
  if (threadIdx.x < 32) smem.table.fill(p.groups, kRowBytes, p.stall, kName);
  sync_all<kCluster>();
  if (role == kConsumers) {
    setmaxnreg_dec<kProducerRegisters>();
    if (threadIdx.x % kWarpgroup == 0) produce<kCluster>(p, smem);
  } else {
    setmaxnreg_inc<kConsumerRegisters>();
    consume<kCluster>(p, smem, role);
  }
  // No block ends while another one may still write to its shared memory or arrive there.
  if constexpr (kCluster > 1) sync_all<kCluster>();
}

// --- launcher ---

// A row of 128 scales of a block.
CUtensorMap scale_map(const Tensor& t) {
  return make_tensor_map_2d({.base = t.data,
                             .type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                             .element_bytes = 4,
                             .cols = t.cols,
                             .rows = t.rows,
                             .row_stride = t.ld,
                             .box_cols = kN,
                             .box_rows = 1,
                             .swizzle = CU_TENSOR_MAP_SWIZZLE_NONE});
}

template <int kCluster>
void launch(const Exec& exec, const Fp8WgradArgs& args, int64_t blocks) {
  const int64_t m = args.dy.data.cols, n = args.dy.data.rows, k = args.x.data.rows;
  const Params p = {
      .dy = code_map(args.dy.data, kM / kCluster),
      .x = code_map(args.x.data, kN),
      .sdy = scale_map(args.dy.scale),
      .sx = scale_map(args.x.scale),
      .dw = args.dw,
      .accumulate = args.accumulate,
      .n = narrow<int>(n),
      .k = narrow<int>(k),
      .tiles_n = narrow<int>(ceil_div(n, kM)),
      .tiles_k = narrow<int>(ceil_div(k, kN * kCluster)),
      .groups = {.offsets = args.offsets, .num_groups = narrow<int>(args.num_groups), .rows = narrow<int>(m)},
      .stall = stall_record()};
  const int64_t tiles = narrow<int32_t>(args.num_groups * p.tiles_n * p.tiles_k);
  const int64_t clusters = std::min(tiles, std::max<int64_t>(blocks / kCluster, 1));
  allow_shared_memory<fp8_wgrad_kernel<kCluster>>();
  launch_dependent(fp8_wgrad_kernel<kCluster>, p, clusters * kCluster, kCluster, kThreads, sizeof(Smem),
                   stream_of(exec));
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
    // A cluster whose second block has nothing to do costs more than shared rows save.
    if (const int64_t columns = ceil_div(args.x.data.rows, kN); columns % 2 == 0 || columns > 8) {
      launch<2>(exec, args, blocks);
    } else {
      launch<1>(exec, args, blocks);
    }
  } else if (!args.accumulate) {
    CUDA_CHECK(cudaMemset2DAsync(args.dw.data, static_cast<size_t>(args.dw.ld) * 4, 0,
                                 static_cast<size_t>(args.dw.cols) * 4, static_cast<size_t>(args.dw.rows),
                                 stream_of(exec)));
  }
}
void fp8_wgrad(const Exec& exec, const Fp8WgradArgs& args) { fp8_wgrad(exec, args, sm_count()); }

}  // namespace contender::cuda
