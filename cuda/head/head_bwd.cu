// What: dh and dw of log-probs and entropies of the rows of h w^T (ops/head.h), logits recomputed.
// Math: z = (h w^T) * inv_temperature; logp = z - lse; p = exp(logp);
//   dlogits = (dlogp (onehot - p) - dentropy p (logp + entropy)) * inv_temperature;
//   dh = dlogits w; dw = dlogits^T h.
// Shapes: h, dh [M, H], w, dw [V_local, H]; any M and V_local, H a multiple of 8; without rows dw is 0.
// Layouts: h BF16, dh BF16 or F32, dw F32, row-major; w the forward form of kCudaWeights alone.
// Precision: products as in bf16_gemm; dlogits, of logits with the bits of the forward pass, are rounded to
//   BF16 once; a row without a gradient has +0 there, whatever its statistics are. dh of a slice is one chain
//   over its columns, slices are summed in FP32 in the tree, and rounded once; dw is that of bf16_wgrad: one
//   chain over the rows of a leaf, leaves in the tree. The bits depend neither on M nor on how the vocabulary
//   is cut into rounds.
// Schedule: rounds over the vocabulary; one takes as many columns as dlogits of all rows fit the workspace,
//   whole slices, each with a gap up to a multiple of 8 columns, or a part of one. Three launches each:
//   dlogits; dh, where a tile goes on with its chain from the last round; and the columns' rows of dw, which
//   are complete with it. Chains and the tree's levels wait in the workspace, rows as those of dh. The first
//   two are the pipeline of bf16_gemm; dh reads w with the contracted index across rows.
// Registers: 40 and 232, as bf16_gemm.
// Shared memory: 4 stages of 48 KB, 208 KB in all.
// Roofline: 6 M V H flops; 2 (2 M H + 2 V H) + 4 V H bytes, and each round 6 bytes a dlogit, written once and
//   read twice, and 8 M H for the accumulators. Memory-bound below M = 275 (H200) and 394 (H800) rows.
// Limits: F32 h; kMaxLeaves leaves; 65,535 tiles of columns.
// Source: ops/head.h; PTX ISA 9.0, wgmma.
#include "cuda/common/exp.cuh"
#include "cuda/gemm/bf16_gemm.h"
#include "cuda/head/head_tile.cuh"
#include "cuda/ops.h"
#include "ops/head_blocks.h"

namespace contender::cuda {
namespace {

// Columns [begin, end) of V_local: `slices` whole ones, or a part of one.
struct Round {
  int64_t begin, end, slices;
  int64_t width() const { return (end - begin) / slices; }
  int64_t stride() const { return round_up(width(), 8); }  // of dlogits, from one slice to the next
};

struct DlogitsParams {
  GemmParams g;            // out.n: columns of a slice with the gap behind them
  const int32_t* targets;  // [m]
  int64_t first_id;        // of the round's columns
  int width;               // of a slice
  const HeadStats* stats;  // [m]
  const float* dlogp;      // [m]
  const float* dentropy;   // [m] or null
  float inv_temperature;
};

// dlogits in the place of the logits that acc[4 j + 2 half + {0, 1}] has of a row, column `first` onward.
template <int kCount>
__device__ __forceinline__ void logit_gradients(float (&acc)[kCount], const DlogitsParams& p, int half, int r,
                                                int64_t slice_id, int first) {
  const float dlogp = r < p.g.m ? p.dlogp[r] : 0.0f,
              dentropy = r < p.g.m && p.dentropy ? p.dentropy[r] : 0.0f;
  const bool any = dlogp != 0 || dentropy != 0;
  const HeadStats stats = any ? p.stats[r] : HeadStats{};
  const int target = any ? column_of(p.targets[r], slice_id, p.width) : -1;
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    float& v = acc[i / 2 * 4 + 2 * half + i % 2];
    const int col = first + i / 2 * 8 + head_col() + i % 2;
    const float logp = __fsub_rn(__fmul_rn(v, p.inv_temperature), stats.lse);
    const float weight = fmaf(dentropy, __fadd_rn(logp, stats.entropy), dlogp);
    float d = -__fmul_rn(__fmul_rn(exp_below_one(logp), weight), p.inv_temperature);
    if (col == target) d = fmaf(dlogp, p.inv_temperature, d);
    v = any && col < p.width ? d : 0.0f;
  }
}

__device__ __forceinline__ void consume_dlogits(const DlogitsParams& p, GemmSmem<HeadTile>& s,
                                                int warpgroup) {
  const uint32_t staging =
      smem_address(s.staging[warpgroup]) + threadIdx.x / 32 % 4 * (HeadTile::kStaging / 4);
  const int own = head_group_row(warpgroup);
  HeadRing ring;
  TileWalk<HeadTile> walk(p.g);
  for (Place place; walk.next(place);) {
    float acc[1][HeadTile::kAccumulators];
    multiply_chain<HeadTile>(acc, p.g.stall, p.g.k_blocks, s, ring, warpgroup * 64);
    const int64_t slice_id = p.first_id + static_cast<int64_t>(place.layer) * p.width;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      logit_gradients(acc[0], p, half, place.row + head_row(warpgroup) + 8 * half, slice_id, place.col);
    store_rows<HeadTile>(acc[0], p.g.out, staging, out_place(p.g, place, place.row + own, place.col));
  }
}

extern __shared__ __align__(1024) uint8_t head_bwd_smem[];

__global__ void __launch_bounds__(HeadTile::kThreads, 1)
    dlogits_kernel(const __grid_constant__ DlogitsParams p) {
  auto& s = *reinterpret_cast<GemmSmem<HeadTile>*>(head_bwd_smem);
  run_roles<HeadTile>(
      s, [&] { produce<HeadTile>(p.g, s); }, [&](int warpgroup) { consume_dlogits(p, s, warpgroup); });
}

struct DhParams {
  GemmParams g;  // x: dlogits [slices of the round][m][width]; w [vocab][n], boxes of 64 x 64; out: dh [m, n]
  float* sums;   // [levels][rows][columns]
  int64_t sums_row, sums_level;
  int begin, end;  // the round
  int slices, width;
};

// What a round has of a slice; the first is `begin / width`.
struct Part {
  int begin, end;
  __device__ Part(const DhParams& p, int slice)
      : begin(max(p.begin, slice * p.width)), end(min(p.end, (slice + 1) * p.width)) {}
  __device__ int blocks() const { return (end - begin + kGemmDepth - 1) / kGemmDepth; }
};

__device__ __forceinline__ void produce_dh(const DhParams& p, GemmSmem<HeadTile>& s) {
  constexpr int kOwn = HeadTile::kQ / 64 / HeadTile::kCluster;  // boxes of columns
  const int rank = static_cast<int>(cluster_rank());
  const bool elected = threadIdx.x % 32 == 0;
  if (elected) prefetch_tensor_map(&p.g.x), prefetch_tensor_map(&p.g.w);
  HeadRing ring;
  TileWalk<HeadTile> walk(p.g);
  for (Place place; walk.next(place);) {
    __syncwarp();
    if (!elected) continue;
    const int first = p.begin / p.width;
    for (int slice = first; slice * p.width < p.end; ++slice) {
      const Part part(p, slice);
      for (int kb = 0; kb < part.blocks(); ++kb, ring.advance()) {
        const int stage = ring.stage, k = kb * kGemmDepth;
        Mbarrier* full = &s.full[stage];
        mbarrier_wait(&s.empty[stage], ring.parity ^ 1, {p.g.stall, kGemmName, stall_word("empty")});
        mbarrier_arrive_expect_tx(full, HeadTile::kStageBytes);
        tma_load_3d(s.p[stage], &p.g.x, full, k, place.row + rank * HeadTile::kP, slice - first);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          const int box = rank * kOwn + i, col = place.col + box * 64;
          // Rows behind those of the part meet zeros of dlogits.
          tma_load_3d_multicast(s.q[stage] + box * 64 * kGemmDepth, &p.g.w, full, col, part.begin + k, 0,
                                (1u << HeadTile::kCluster) - 1);
        }
      }
    }
  }
}

// f(element of acc, its float in a level of the sums), for two neighbours at a time.
template <int kCount, class F>
__device__ __forceinline__ void each_sum(float (&acc)[kCount], const DhParams& p, int level, int row, int col,
                                         const F& f) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* sums = p.sums + level * p.sums_level + (row + 8 * half) * p.sums_row;
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) {
      const int c = col + 8 * j;
      if (row + 8 * half < p.g.m && c < p.g.out.n)
        f(acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1], reinterpret_cast<float2*>(sums + c));
    }
  }
}

// The sum of a slice waits at the level of the tree where others join it; so does a chain that is not done.
__device__ __forceinline__ void consume_dh(const DhParams& p, GemmSmem<HeadTile>& s, int warpgroup) {
  const uint32_t staging =
      smem_address(s.staging[warpgroup]) + threadIdx.x / 32 % 4 * (HeadTile::kStaging / 4);
  const int own = head_group_row(warpgroup);
  const auto load = [](float& a, float& b, const float2* from) { a = from->x, b = from->y; };
  const auto add = [](float& a, float& b, const float2* from) { a = from->x + a, b = from->y + b; };
  const auto store = [](float a, float b, float2* to) { *to = make_float2(a, b); };
  HeadRing ring;
  TileWalk<HeadTile> walk(p.g);
  for (Place place; walk.next(place);) {
    const int row = place.row + head_row(warpgroup), col = place.col + head_col();
    float acc[1][HeadTile::kAccumulators];
    int slice = p.begin / p.width;
    do {
      const Part part(p, slice);
      const bool done = part.end == (slice + 1) * p.width;
      const int level = __ffs(~slice) - 1;
#pragma unroll
      for (float& v : acc[0]) v = 0;
      if (part.begin > slice * p.width) each_sum(acc[0], p, level, row, col, load);
      multiply_chain<HeadTile, Layout::kMnMajor>(acc, p.g.stall, part.blocks(), s, ring, warpgroup * 64, 1);
      for (int below = 0; done && below < level; ++below) each_sum(acc[0], p, below, row, col, add);
      if (!done || slice + 1 < p.slices) each_sum(acc[0], p, level, row, col, store);
    } while (++slice * p.width < p.end);
    if (p.end == p.slices * p.width)
      store_rows<HeadTile>(acc[0], p.g.out, staging, out_place(p.g, place, place.row + own, place.col));
  }
}

__global__ void __launch_bounds__(HeadTile::kThreads, 1) dh_kernel(const __grid_constant__ DhParams p) {
  auto& s = *reinterpret_cast<GemmSmem<HeadTile>*>(head_bwd_smem);
  run_roles<HeadTile>(
      s, [&] { produce_dh(p, s); }, [&](int warpgroup) { consume_dh(p, s, warpgroup); });
}

// The backward pass, round by round.
class HeadBackward {
 public:
  HeadBackward(const Exec& exec, const HeadBwdArgs& args)
      : exec_(exec),
        args_(args),
        m_(args.h.rows),
        vocab_(args.w.n),
        hidden_(args.w.k),
        width_(vocab_ / args.slices),
        sums_(static_cast<float*>(exec.workspace)) {
    const int64_t sums = head_bwd_sum_bytes(m_, hidden_, args.slices), column = 2 * std::max<int64_t>(m_, 1);
    columns_ = std::min((exec.workspace_bytes - sums) / column / kHeadColumnBlock * kHeadColumnBlock,
                        round_up(args.slices * round_up(width_, 8), kHeadColumnBlock));
    CHECK(columns_ > 0, "workspace of {} bytes, {} for the sums and {} for one block of columns",
          exec.workspace_bytes, sums, kHeadColumnBlock * column);
    dlogits_ = static_cast<Bf16*>(static_cast<void*>(static_cast<char*>(exec.workspace) + sums));
  }

  void run() const {
    for (Round round = next(0); round.begin < vocab_; round = next(round.end)) {
      if (m_ > 0) make_dlogits(round);
      if (m_ > 0) add_dh(round);
      bf16_wgrad({.stream = exec_.stream}, HeadsWgradArgs{.dy = dlogits(round),
                                                          .dy_stride = round.stride(),
                                                          .x = args_.h,
                                                          .dw = args_.dw.row_range(round.begin, round.end),
                                                          .num_heads = round.slices,
                                                          .segments = args_.segments});
    }
  }

 private:
  // The rest of a slice, or blocks of its columns; or as many slices as fit.
  Round next(int64_t begin) const {
    const int64_t rest = width_ - begin % width_;
    if (rest > columns_) return {begin, begin + columns_, 1};
    if (rest < width_) return {begin, begin + rest, 1};
    const int64_t slices = std::min(columns_ / round_up(width_, 8), (vocab_ - begin) / width_);
    return {begin, begin + slices * width_, slices};
  }
  Tensor dlogits(const Round& round) const {
    return {dlogits_, DType::kBF16, m_, round.slices * round.stride(), columns_};
  }

  void make_dlogits(const Round& round) const {
    const auto* w = static_cast<const Bf16*>(args_.w.forward) + round.begin * hidden_;
    DlogitsParams p = {.g = logits_product(args_.h, w, round.width(), round.slices),
                       .targets = args_.targets,
                       .first_id = args_.vocab_begin + round.begin,
                       .width = narrow<int>(round.width()),
                       .stats = args_.stats,
                       .dlogp = args_.dlogp,
                       .dentropy = args_.dentropy,
                       .inv_temperature = args_.inv_temperature};
    p.g.out = {.y = dlogits_,
               .ldy = columns_,
               .y_layer = round.stride(),
               .n = narrow<int>(round.stride()),
               .store = Store::kPieces};
    launch_roles<dlogits_kernel, HeadTile>(exec_, p, head_units(m_, round.width(), round.slices));
  }

  void add_dh(const Round& round) const {
    const Tensor& dh = args_.dh;
    DhParams p = {.g = {},
                  .sums = sums_,
                  .sums_row = round_up(hidden_, kHeadColumnBlock),
                  .sums_level = round_up(m_, kHeadColumnBlock) * round_up(hidden_, kHeadColumnBlock),
                  .begin = narrow<int>(round.begin),
                  .end = narrow<int>(round.end),
                  .slices = args_.slices,
                  .width = narrow<int>(width_)};
    p.g.x = make_tensor_map_3d({.base = dlogits_,
                                .cols = round.width(),
                                .rows = m_,
                                .layers = round.slices,
                                .row_stride = columns_,
                                .layer_stride = round.stride(),
                                .box_cols = kGemmDepth,
                                .box_rows = HeadTile::kP});
    p.g.w = make_tensor_map_3d({.base = args_.w.forward,
                                .cols = hidden_,
                                .rows = vocab_,
                                .row_stride = hidden_,
                                .box_cols = 64,
                                .box_rows = kGemmDepth});
    p.g.out = {.y = dh.data,
               .ldy = dh.ld,
               .n = narrow<int>(hidden_),
               .y_type = dh.dtype,
               .store = store_of(dh.data, dh.dtype, dh.cols, dh.ld, 0, nullptr, false)};
    p.g.stall = stall_record();
    p.g.m = narrow<int>(m_);
    p.g.band = raster_band(kHeadShape, sm_count());
    launch_roles<dh_kernel, HeadTile>(exec_, p, head_units(m_, hidden_, 1));
  }

  const Exec& exec_;
  const HeadBwdArgs& args_;
  const int64_t m_, vocab_, hidden_, width_;
  float* sums_;
  Bf16* dlogits_;
  int64_t columns_;  // of dlogits
};

}  // namespace

void head_bwd(const Exec& exec, const HeadBwdArgs& args) {
  check_head(args.h, args.w, args.slices);
  const Tensor& dh = args.dh;
  CHECK(dh.rows == args.h.rows && dh.cols == args.w.k && args.dw.rows == args.w.n && args.dw.cols == args.w.k,
        "dh {} x {} dw {} x {}", dh.rows, dh.cols, args.dw.rows, args.dw.cols);
  CHECK(dh.dtype == DType::kBF16 || dh.dtype == DType::kF32, "dh {}", dtype_name(dh.dtype));
  CHECK(aligned16(exec.workspace), "the workspace is not aligned to 16 bytes");
  HeadBackward(exec, args).run();
}

}  // namespace contender::cuda
