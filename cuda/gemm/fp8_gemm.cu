// What: D[M, N] = A[M, K] B[N, K]^T with block-scaled E4M3 operands: plain, rows sorted by expert, or experts
//   of fixed capacity; optionally with D quantised again for the next product.
// Math: d = fma(part_b, sa_b * sb_b, d) over the blocks b of 128 along K, from +0 (ops/gemm.h).
// Shapes: any M; N and K multiples of 16; up to kMaxFp8Groups experts, of any sizes.
// Layouts: A, B row-major (K innermost); scales of A [M, K/128], of B [N/128, K/128], row-major; D BF16, F32.
// Precision: exact mode: an element is one chain over K whatever the tile, M or the row's place, so that all
//   tiles of the table have the same bits. part_b is a chain of four wgmma. Mode fast may cut the chain into
//   2 to 32 parts of whole blocks, as M and N suggest, summed in FP32 in a fixed tree.
// Schedule: persistent. One thread of the producer warpgroup fills a ring of stages (A 64 or 128 rows, B kN
//   rows, 128 bytes of K each) by TMA, under the 128-byte swizzle. Each of one or two consumer warpgroups
//   multiplies 64 rows, four wgmma m64nNk32 a block, releases the stage, and promotes the block into FP32
//   registers while the other's wgmma run: the second one starts a block later, so that they stay out of
//   step. Scales come straight from global memory into registers, four blocks a load, four blocks ahead.
//   Tiles are walked in bands of rows, all columns of a band, so that the blocks of threads in flight share
//   both operands in L2. BF16 results go over shared memory and leave in pieces of 16 bytes; F32 ones leave
//   from registers, 32 bytes of a row at a time.
// Small M: tiles of 64 x 16 to 64 x 64 spread the weights over all SMs, with up to 16 stages in flight each:
//   rows that do not exist are not fetched, and the weights are read once. Their one consumer starts a block
//   before it promotes the last.
// Mode fast, where tiles are few: blocks of threads share K. Its parts take the place of groups, over the
//   same rows and weights, their products are matrices in the workspace one below the other, and split.cu
//   sums.
// Clusters of two make neighbouring columns: each block fetches half of the rows of A for both.
// Budget: two consumers of 232 registers (128 x 160: 160 of them sums and a block), producer 40; one consumer
//   has up to 255. Stages: 5 (128 x 160, 128 x 128), 8 (128 x 64, 64 x 128), 13 (64 x 64), 16.
// Roofline: 2 M N K flops, M K + N K + 2 M N bytes: with N = K = 4096 memory-bound below M = 280 (H200), 440
//   (H800).
// Limits: addresses and strides of codes and D in multiples of 16 bytes. A size of a group that breaks the
//   contract ends the job with its numbers.
// Source: DeepSeek-V3, arXiv 2412.19437, sections 3.3.2 and 3.5.2.
#include <bit>

#include "cuda/common/dispatch.h"
#include "cuda/common/grid.h"
#include "cuda/common/shared_memory.h"
#include "cuda/common/stream.h"
#include "cuda/common/tensor_map.h"
#include "cuda/gemm/fp8_gemm_pipe.cuh"
#include "cuda/gemm/fp8_gemm_store.cuh"
#include "cuda/gemm/fp8_grouped.cuh"
#include "cuda/gemm/split.h"

namespace contender::cuda {
namespace {

constexpr uint64_t kName = stall_word("fp8gemm");
constexpr int kMaxStages = 16;
constexpr int kBandRows = 2048;                   // of a band of tiles
constexpr int kOutBarrier = 1, kTurnBarrier = 3;  // named barriers; the first of a warpgroup each

struct Params {
  CUtensorMap a, b;
  const float* sfa;
  const float* sfb;
  int64_t sfa_ld, sfb_ld;
  bool sfa_vector, sfb_vector;
  int sfb_group_rows;  // ceil(N / 128)
  Tensor d, q, sfq;    // data null: not asked for
  bool accumulate;
  int n, k_blocks;
  int tiles_n;    // columns of tiles, as many as a cluster has at once
  int part_bits;  // of K there are 2^part_bits parts, which stand in the place of groups; 0: it is whole
  GroupRows groups;
  StallRecord* stall;
};

template <int kConsumers, int kN, int kCluster>
struct Fp8Layout {
  static constexpr int kM = 64 * kConsumers, kThreads = kWarpgroup * (kConsumers + 1);
  static constexpr int kStageBytes = (kM + kN) * kRowBytes;
  static constexpr int kFixedBytes =
      kConsumers * kOutBytes<kN> + static_cast<int>(sizeof(GroupTable)) + 16 * kMaxStages + 64;
  static constexpr int kFitting = (kMaxSharedMemory - kFixedBytes) / kStageBytes;
  static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;
  static_assert(kStages >= 4 && kN % 16 == 0);

  struct Stage {
    uint8_t a[kM * kRowBytes];
    uint8_t b[kN * kRowBytes];
  };
  struct alignas(1024) Smem {
    Stage stage[kStages];
    uint8_t out[kConsumers][kOutBytes<kN>];
    Mbarrier full[kStages], empty[kStages];
    GroupTable table;
  };
  static constexpr int kReleases = kConsumers * 4 * kCluster;  // of a stage: every warp that reads its a
  static_assert(sizeof(Smem) <= kMaxSharedMemory);
};

// Rows [row, row_end) of which this tile has the first kM, columns from `column` on, weights of `group`; of K
// the blocks [k_begin, k_begin + k_blocks). Row r of a has its results in row first_out + r of d.
struct Place {
  int row, row_end, column, group;
  int k_begin, k_blocks;
  int first_out;
};

// The tiles of a block, in order; a cluster walks together, its blocks side by side. Columns may lie behind
// the last one where their number is odd.
template <int kM, int kN, int kCluster>
class TileWalk {
 public:
  __device__ TileWalk(const Params& p, const GroupTable& table) : p_(p), table_(table) {
    tiles_m_ = table.first[p.groups.num_groups];
    total_ = tiles_m_ * p.tiles_n;
    next_ = static_cast<int>(blockIdx.x) / kCluster;
  }
  __device__ bool next(Place& place) {
    if (next_ >= total_) return false;
    constexpr int kBand = kBandRows / kM;
    const int band = next_ / (kBand * p_.tiles_n), rest = next_ - band * kBand * p_.tiles_n;
    const int height = min(kBand, tiles_m_ - band * kBand);
    const int tile_n = rest / height, tile_m = band * kBand + rest - tile_n * height;
    const int group = p_.groups.num_groups == 1 ? 0 : table_.group_of(tile_m, p_.groups.num_groups);
    const int part = p_.part_bits == 0 ? 0 : group;
    place.group = group - part;
    place.row = p_.groups.begin(group) + (tile_m - table_.first[group]) * kM;
    place.row_end = p_.groups.end(group);
    place.k_begin = (part * p_.k_blocks) >> p_.part_bits;
    place.k_blocks = (((part + 1) * p_.k_blocks) >> p_.part_bits) - place.k_begin;
    place.first_out = part * p_.groups.rows;
    place.column = (tile_n * kCluster + static_cast<int>(blockIdx.x) % kCluster) * kN;
    next_ += static_cast<int>(gridDim.x) / kCluster;
    return true;
  }

 private:
  const Params& p_;
  const GroupTable& table_;
  int tiles_m_, total_, next_;
};

// --- producer: one thread ---

template <int kConsumers, int kN, int kCluster>
__device__ void produce(const Params& p, typename Fp8Layout<kConsumers, kN, kCluster>::Smem& smem) {
  using L = Fp8Layout<kConsumers, kN, kCluster>;
  TileWalk<L::kM, kN, kCluster> walk(p, smem.table);
  RingPlace<L::kStages> at;
  Place place;
  while (walk.next(place)) {
    const int b_row = place.group * p.n + place.column;
    for (int k = 0; k < place.k_blocks; ++k, at.advance()) {
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1, {p.stall, kName, stall_word("empty")});
      Mbarrier* full = &smem.full[at.stage];
      mbarrier_arrive_expect_tx(full, L::kStageBytes);
      const int column = (place.k_begin + k) * kRowBytes;
      load_shared_rows<kCluster, L::kM>(smem.stage[at.stage].a, &p.a, full, column, place.row);
      tma_load_2d(smem.stage[at.stage].b, &p.b, full, column, b_row);
    }
  }
}

// --- consumer: a warpgroup ---

// The scales of a thread's two rows, and of the tile's columns: one block of 128 of them, or, where the
// tile's width does not divide 128, two.
template <int kN>
class TileScales {
 public:
  static constexpr bool kTwo = kQuantizeBlock % kN != 0;
  TileScales() = default;
  __device__ TileScales(const Params& p, const Place& place, int row0, const Fragment& f)
      : row_{{row(p, place, row0 + f.row[0]), place.k_blocks, vector(p.sfa_vector, place)},
             {row(p, place, row0 + f.row[1]), place.k_blocks, vector(p.sfa_vector, place)}},
        low_(column(p, place, 0), place.k_blocks, vector(p.sfb_vector, place)),
        high_(kTwo ? column(p, place, 1) : nullptr, place.k_blocks, vector(p.sfb_vector, place)),
        split_(kQuantizeBlock - place.column % kQuantizeBlock) {}
  // Before block k.
  __device__ void refill(int k) {
    if (k % 4 != 0 || k == 0) return;
    row_[0].refill(k);
    row_[1].refill(k);
    low_.refill(k);
    if constexpr (kTwo) high_.refill(k);
  }
  // The next block's promotion.
  __device__ __forceinline__ void promote(const float (&part)[kN / 2], float (&d)[kN / 2]) {
    const float a[2] = {row_[0].take(), row_[1].take()};
    const float low = low_.take(), high = kTwo ? high_.take() : low;
    const float s_low[2] = {__fmul_rn(a[0], low), __fmul_rn(a[1], low)};
    const float s_high[2] = {__fmul_rn(a[0], high), __fmul_rn(a[1], high)};
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      const int h = i / 2 % 2;
      const bool in_high = kTwo && i / 4 * 8 >= split_;
      d[i] = fmaf(part[i], in_high ? s_high[h] : s_low[h], d[i]);
    }
  }

 private:
  __device__ static bool vector(bool whole, const Place& place) { return whole && place.k_begin % 4 == 0; }
  __device__ static const float* row(const Params& p, const Place& place, int row) {
    return row < place.row_end ? p.sfa + row * p.sfa_ld + place.k_begin : nullptr;
  }
  __device__ static const float* column(const Params& p, const Place& place, int i) {
    const int block = place.column / kQuantizeBlock + i;
    if (block >= p.sfb_group_rows) return nullptr;
    return p.sfb + (int64_t{place.group} * p.sfb_group_rows + block) * p.sfb_ld + place.k_begin;
  }

  ScaleStream row_[2], low_, high_;
  int split_ = 0;  // columns of the tile in the first block
};

template <int kConsumers, int kN, int kCluster>
class Consumer {
  using L = Fp8Layout<kConsumers, kN, kCluster>;
  // A warpgroup alone has nobody to hide its promotion behind: its next block multiplies meanwhile.
  static constexpr bool kAhead = kConsumers == 1 && kN <= 64;

 public:
  __device__ Consumer(const Params& p, typename L::Smem& smem, int me)
      : p_(p), smem_(smem), me_(me), thread_(static_cast<int>(threadIdx.x) % kWarpgroup) {}

  __device__ void run() {
    TileWalk<L::kM, kN, kCluster> walk(p_, smem_.table);
    Place place;
    bool more = walk.next(place);
    TileScales<kN> scales = more ? scales_of(place) : TileScales<kN>();
    while (more) {
      float d[kN / 2] = {}, part[kN / 2];
      if constexpr (kAhead) {
        run_ahead(place.k_blocks, part, scales, d);
      } else {
        for (int k = 0; k < place.k_blocks; ++k) {
          start(part);
          scales.refill(k);
          finish<0>(part, scales, d);
        }
      }
      const Place done = place;
      more = walk.next(place);
      if (more) scales = scales_of(place);  // on their way while d is stored
      store(done, d, part);
    }
  }

 private:
  __device__ TileScales<kN> scales_of(const Place& place) const {
    return TileScales<kN>(p_, place, place.row + me_ * 64, Fragment(thread_));
  }
  // The product of the next stage.
  __device__ __forceinline__ void start(float (&part)[kN / 2]) {
    mbarrier_wait(&smem_.full[started_.stage], started_.parity, {p_.stall, kName, stall_word("full")});
    if (first_ && me_ == 1) named_barrier_sync(kTurnBarrier, 2 * kWarpgroup);
    const auto& stage = smem_.stage[started_.stage];
    block_product<kN>(part, wgmma_descriptor<Layout::kKMajor>(smem_address(stage.a + me_ * 64 * kRowBytes)),
                      wgmma_descriptor<Layout::kKMajor>(smem_address(stage.b)));
    started_.advance();
  }
  // All but the last kPending products are done; the oldest of them releases its stage and is promoted. The
  // second warpgroup may begin when the first has come here: they stay out of step from then on.
  template <int kPending>
  __device__ __forceinline__ void finish(float (&part)[kN / 2], TileScales<kN>& scales, float (&d)[kN / 2]) {
    wgmma_wait<kPending>();
    wgmma_hold(part);
    if (first_ && me_ == 0) named_barrier_arrive(kTurnBarrier, 2 * kWarpgroup);
    first_ = false;
    if (thread_ % 32 == 0) release<kCluster>(&smem_.empty[done_.stage]);
    done_.advance();
    scales.promote(part, d);
  }
  // Two blocks at a time, without a branch around a product: ptxas would wait behind each of them.
  __device__ __forceinline__ void run_ahead(int k_blocks, float (&even)[kN / 2], TileScales<kN>& scales,
                                            float (&d)[kN / 2]) {
    float odd[kN / 2];
    int k = 0;
    start(even);
    for (; k + 2 < k_blocks; k += 2) {
      start(odd);
      scales.refill(k);
      finish<1>(even, scales, d);
      start(even);
      finish<1>(odd, scales, d);
    }
    if (k + 1 < k_blocks) {
      start(odd);
      scales.refill(k);
      finish<1>(even, scales, d);
      finish<0>(odd, scales, d);
    } else {
      scales.refill(k);
      finish<0>(even, scales, d);
    }
  }
  __device__ void store(const Place& place, float (&d)[kN / 2], float (&scratch)[kN / 2]) {
    const OutPlace to = {place.first_out + place.row + me_ * 64, place.first_out + place.row_end,
                         place.column, p_.n};
    uint8_t* out = smem_.out[me_];
    const int barrier = kOutBarrier + me_;
    if constexpr (kN == kQuantizeBlock) {
      if (p_.q.data != nullptr) store_q(p_.q, p_.sfq, p_.d.dtype, to, thread_, barrier, out, d);
    }
    if (p_.d.data == nullptr) return;
    if (p_.d.dtype == DType::kF32) {
      store_f32<kN>(p_.d, p_.accumulate, to, thread_, d, scratch);
    } else {
      store_bf16<kN>(p_.d, to, thread_, barrier, out, d);
    }
  }

  const Params& p_;
  typename L::Smem& smem_;
  int me_, thread_;
  bool first_ = kConsumers == 2;
  RingPlace<L::kStages> started_, done_;
};

template <int kConsumers, int kN, int kCluster>
__global__ void __launch_bounds__(Fp8Layout<kConsumers, kN, kCluster>::kThreads, 1)
    fp8_gemm_kernel(const __grid_constant__ Params p) {
  using L = Fp8Layout<kConsumers, kN, kCluster>;
  extern __shared__ __align__(1024) uint8_t shared[];
  auto& smem = *reinterpret_cast<typename L::Smem*>(shared);
  const int role = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (threadIdx.x == 0) {
    prefetch_tensor_map(&p.a);
    prefetch_tensor_map(&p.b);
    for (int s = 0; s < L::kStages; ++s) {
      mbarrier_init(&smem.full[s], 1);
      mbarrier_init(&smem.empty[s], L::kReleases);
    }
    fence_mbarrier_init();
  }
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
  if (threadIdx.x < 32) smem.table.fill(p.groups, L::kM, p.stall, kName);
  sync_all<kCluster>();
  if (role == kConsumers) {
    if constexpr (kConsumers == 2) setmaxnreg_dec<kProducerRegisters>();
    if (threadIdx.x % kWarpgroup == 0) produce<kConsumers, kN, kCluster>(p, smem);
  } else {
    if constexpr (kConsumers == 2) setmaxnreg_inc<kConsumerRegisters>();
    Consumer<kConsumers, kN, kCluster>(p, smem, role).run();
  }
  // No block ends while another one may still write to its shared memory or arrive there.
  if constexpr (kCluster > 1) sync_all<kCluster>();
}

// --- launcher ---

// f(std::integral_constant<Fp8Tile, ...>()) of the table.
template <class F, size_t... kIndex>
void with_tile(const Fp8Tile& tile, const F& f, std::index_sequence<kIndex...>) {
  const bool found =
      ((tile == kFp8Tiles[kIndex] && (f(std::integral_constant<size_t, kIndex>()), true)) || ...);
  CHECK(found, "no tile of {} x {} in clusters of {}", tile.block_m(), tile.block_n, tile.cluster);
}

// With parts > 1, which are a power of two, d has [parts * M, N], a product of each.
void launch(const Exec& exec, const Fp8GroupedGemmArgs& a, bool accumulate, const Fp8Tile& tile,
            int64_t blocks, int parts = 1) {
  for (const auto& [tensor, name] :
       {std::pair{&a.a.data, "a"}, {&a.b.data, "b"}, {&a.d, "d"}, {&a.q.data, "q"}})
    check_aligned(*tensor, name);
  const int64_t m = a.a.data.rows, n = a.b.data.rows / a.num_groups,
                k_blocks = ceil_div(a.a.data.cols, kFp8Block);
  CHECK(!a.q.data || tile.block_n == kFp8Block, "q needs tiles of 128 columns, not {}", tile.block_n);
  const auto vector = [](const Tensor& scale) {
    return aligned16(scale.data) && (scale.rows <= 1 || scale.ld % 4 == 0);
  };
  Params p = {.a = code_map(a.a.data, tile.block_m() / tile.cluster),
              .b = code_map(a.b.data, tile.block_n),
              .sfa = a.a.scale.f32(),
              .sfb = a.b.scale.f32(),
              .sfa_ld = a.a.scale.ld,
              .sfb_ld = a.b.scale.ld,
              .sfa_vector = vector(a.a.scale),
              .sfb_vector = vector(a.b.scale),
              .sfb_group_rows = narrow<int>(ceil_div(n, kFp8Block)),
              .d = a.d,
              .q = a.q.data,
              .sfq = a.q.scale,
              .accumulate = accumulate,
              .n = narrow<int>(n),
              .k_blocks = narrow<int>(k_blocks),
              .tiles_n = narrow<int>(ceil_div(n, tile.block_n * tile.cluster)),
              .part_bits = std::countr_zero(static_cast<unsigned>(parts)),
              .groups = {.offsets = a.offsets,
                         .counts = a.counts,
                         .num_groups = narrow<int>(a.num_groups * parts),
                         .rows = narrow<int>(m),
                         .capacity = a.counts ? narrow<int>(m / a.num_groups) : 0},
              .stall = stall_record()};
  const int64_t tiles_m =
      a.offsets || a.counts ? m / tile.block_m() + a.num_groups : ceil_div(m, tile.block_m()) * parts;
  const int64_t tiles = narrow<int32_t>(tiles_m * p.tiles_n);
  const int64_t clusters = std::min(tiles, std::max<int64_t>(blocks / tile.cluster, 1));
  with_tile(
      tile,
      [&]<size_t kIndex>(std::integral_constant<size_t, kIndex>) {
        constexpr Fp8Tile kTile = kFp8Tiles[kIndex];
        using L = Fp8Layout<kTile.consumers, kTile.block_n, kTile.cluster>;
        constexpr auto kernel = fp8_gemm_kernel<kTile.consumers, kTile.block_n, kTile.cluster>;
        allow_shared_memory<kernel>();
        launch_dependent(kernel, p, clusters * kTile.cluster, kTile.cluster, L::kThreads,
                         sizeof(typename L::Smem), stream_of(exec));
      },
      std::make_index_sequence<std::size(kFp8Tiles)>());
}

Fp8Problem problem_of(const Exec& exec, const Fp8GroupedGemmArgs& a, Mode mode) {
  return {.m = a.a.data.rows,
          .n = a.b.data.rows / a.num_groups,
          .k = a.a.data.cols,
          .num_groups = a.num_groups,
          .quantised = a.q.data.data != nullptr,
          .num_sms = sm_count(),
          .mode = mode,
          .out_bytes = dtype_size(a.d.dtype),
          .workspace_bytes = exec.workspace_bytes};
}

Fp8GroupedGemmArgs one_group(const Fp8GemmArgs& a) { return {.a = a.a, .b = a.b, .d = a.d, .q = a.q}; }

// The parts of K, and their sum.
void launch_split(const Exec& exec, const Fp8GemmArgs& args, const Fp8Tile& tile, int64_t blocks,
                  int splits) {
  const Fp8Problem problem = problem_of(exec, one_group(args), Mode::kFast);
  const std::string reason = fp8_split_refusal(problem, splits);
  CHECK(reason.empty(), "fp8_gemm in {} parts: {}", splits, reason);
  check_aligned(args.d, "d");
  Fp8GroupedGemmArgs parts = one_group(args);
  parts.d = {exec.workspace, DType::kF32, narrow<int32_t>(splits * problem.m), split_row(problem.n)};
  launch(exec, parts, false, tile, blocks, splits);
  sum_splits(exec, {.partials = parts.d.f32(), .splits = splits, .y = args.d, .accumulate = args.accumulate});
}

}  // namespace

void fp8_gemm(const Exec& exec, const Fp8GemmArgs& args, const Fp8Tile& tile, int64_t blocks, int splits) {
  check_fp8_gemm(args);
  if (args.a.data.rows == 0) return;
  if (splits != 1) return launch_split(exec, args, tile, blocks, splits);
  launch(exec, one_group(args), args.accumulate, tile, blocks);
}
void fp8_gemm(const Exec& exec, const Fp8GemmArgs& args, Mode mode) {
  check_fp8_gemm(args);
  const Fp8TileScore best = best_fp8_tile(problem_of(exec, one_group(args), mode));
  fp8_gemm(exec, args, best.tile, sm_count(), best.splits);
}
void fp8_gemm(const Exec& exec, const Fp8GemmArgs& args) { fp8_gemm(exec, args, Mode::kExact); }

void fp8_grouped_gemm(const Exec& exec, const Fp8GroupedGemmArgs& args, const Fp8Tile& tile, int64_t blocks) {
  check_fp8_grouped_gemm(args);
  if (args.a.data.rows > 0) launch(exec, args, false, tile, blocks);
}
void fp8_grouped_gemm(const Exec& exec, const Fp8GroupedGemmArgs& args) {
  check_fp8_grouped_gemm(args);
  fp8_grouped_gemm(exec, args, best_fp8_tile(problem_of(exec, args, Mode::kExact)).tile, sm_count());
}

}  // namespace contender::cuda
