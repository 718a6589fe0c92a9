// What: dh and dw of log-probs and entropies of the rows of h w^T (ops/head.h), logits recomputed.
// Math: z = (h w^T) * inv_temperature; logp = z - lse; p = exp(logp);
//   dlogits = (dlogp (onehot - p) - dentropy p (logp + entropy)) * inv_temperature;
//   dh = dlogits w; dw = dlogits^T h.
// Shapes: h, dh [M, H], w, dw [V_local, H]; any M, H and V_local; without rows dw is 0.
// Layouts: h BF16, dh BF16 or F32, dw F32, row-major, any ld; w both forms of kCudaWeights. In pieces of
//   16 bytes where H, V_local, a slice and the row strides are multiples of 8, else by element: the same
//   bits.
// Precision: products as in linear_tile.cuh; dlogits are rounded to BF16 once; a row without a gradient has
//   +0 there, whatever its statistics are. dh of a slice is one chain over its columns, slices are summed in
//   FP32 in the tree, and rounded once; dw is that of linear_wgrad: one chain over the rows of a leaf,
//   leaves in the tree. The bits depend neither on M nor on how the vocabulary is cut into rounds.
// Schedule: rounds over the vocabulary; one takes as many columns as dlogits of all rows fit the workspace,
//   whole slices or a part of one. Three launches each: dlogits; dh, where a tile goes on with its chain from
//   the last round; and the columns' rows of dw, which are complete with it. Chains and the tree's levels
//   wait in the workspace as the accumulators of a tile lie.
// Roofline: 6 M V H flops; 2 (2 M H + 2 V H) + 4 V H bytes, and each round 6 bytes a dlogit, written once and
//   read twice, and 8 M H for the accumulators. Memory-bound below M = 275 (H200) and 394 (H800) rows.
// Limits: F32 h; 64 leaves; 65,535 tiles of columns.
// Source: ops/head.h; PTX ISA, mma.m16n8k16.
#include "cuda/common/grid.h"
#include "cuda/common/softmax_slice.cuh"
#include "cuda/common/stream.h"
#include "cuda/head/head_rows.cuh"
#include "cuda/ops.h"
#include "ops/head_blocks.h"

namespace contender::cuda {
namespace {

// Columns [begin, end) of V_local.
struct Round {
  int64_t begin, end;
};

struct DlogitsParams {
  const Bf16* h;  // [m, k]
  int64_t ldh;
  const Bf16* w;           // [n, k] those of the round
  const int32_t* targets;  // [m]
  int64_t first_id;        // of the round's columns
  const HeadStats* stats;  // [m]
  const float* dlogp;      // [m]
  const float* dentropy;   // [m] or null
  float inv_temperature;
  Bf16* dlogits;  // [m, n]
  int64_t ld;
  int m, n, k;
};

// dlogits in the place of the logits of the tile.
template <class S>
__device__ void logit_gradients(Accumulator<S>& acc, const DlogitsParams& p, int first_row, int first_col) {
  for_each_row<S>([&](int i, int half, int row) {
    const int r = first_row + row;
    const float dlogp = r < p.m ? p.dlogp[r] : 0.0f, dentropy = r < p.m && p.dentropy ? p.dentropy[r] : 0.0f;
    const bool any = dlogp != 0 || dentropy != 0;
    const HeadStats stats = any ? p.stats[r] : HeadStats{};
    const int target = any ? column_of(p.targets[r], p.first_id + first_col, S::kSide) : -1;
#pragma unroll
    for (int j = 0; j < S::kMmaN; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& v = acc.v[i][j][2 * half + c];
        const float logp = __fsub_rn(__fmul_rn(v, p.inv_temperature), stats.lse);
        const float weight = fmaf(dentropy, __fadd_rn(logp, stats.entropy), dlogp);
        float d = -__fmul_rn(__fmul_rn(exp_below_one(logp), weight), p.inv_temperature);
        if (thread_col<S>(j) + c == target) d = fmaf(dlogp, p.inv_temperature, d);
        v = any ? d : 0.0f;
      }
    }
  });
}

extern __shared__ __align__(128) char head_bwd_smem[];

template <class S, Access kAccess>
__global__ void __launch_bounds__(S::kThreads) dlogits_kernel(const __grid_constant__ DlogitsParams p) {
  auto& smem = *reinterpret_cast<ProductSmem<S>*>(head_bwd_smem);
  const int row = blockIdx.x * S::kSide, col = blockIdx.y * S::kSide;
  const int rows = min(S::kSide, p.m - row), cols = min(S::kSide, p.n - col);
  const Bf16* h = p.h + row * p.ldh;
  const Bf16* w = p.w + static_cast<int64_t>(col) * p.k;
  Accumulator<S> acc;
  sum_of_chains<S, Major::kContracted>(
      acc, smem, nullptr, 1, [&](int) { return p.k; },
      [&](int stage, int, int first) {
        load_rows<kAccess, S>(smem.a[stage], h, p.ldh, rows, first, p.k);
        load_rows<kAccess, S>(smem.b[stage], w, p.k, cols, first, p.k);
      });
  logit_gradients<S>(acc, p, row, col);
  store_tile<kAccess, S>(
      acc, smem, TileOut<Bf16>{.c = p.dlogits + row * p.ld + col, .ld = p.ld, .rows = rows, .cols = cols});
}

struct DhParams {
  const Bf16* dlogits;  // [m, columns of the round]
  int64_t ld;
  const Bf16* w;  // backward form [n, vocab]
  int64_t vocab;
  void* dh;  // [m, n]
  int64_t ld_dh;
  float* sums;     // [tile][level][accumulator][thread]
  int levels;      // of a tile
  int begin, end;  // the round
  int m, n, slices, width;
};

// Where an unfinished chain waits: the level to which the slice's sum will go.
template <class S>
__device__ inline float* unfinished(float* levels, int slice) {
  const int level = __ffs(~slice) - 1;
  return levels + level * S::kAccumulators * S::kThreads + threadIdx.x;
}

template <class T, class S, Access kAccess>
__global__ void __launch_bounds__(S::kThreads) dh_kernel(const __grid_constant__ DhParams p) {
  auto& smem = *reinterpret_cast<ProductSmem<S>*>(head_bwd_smem);
  const int row = blockIdx.x * S::kSide, col = blockIdx.y * S::kSide;
  const int rows = min(S::kSide, p.m - row), cols = min(S::kSide, p.n - col);
  const int64_t tile = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  float* levels = p.sums + tile * p.levels * S::kAccumulators * S::kThreads;
  const Bf16* dlogits = p.dlogits + row * p.ld;
  const Bf16* w = p.w + col * p.vocab;
  Accumulator<S> acc;
  float* values = &acc.v[0][0][0];
  for (int slice = p.begin / p.width; slice * p.width < p.end; ++slice) {
    const int slice_end = (slice + 1) * p.width;
    const int begin = max(p.begin, slice * p.width), end = min(p.end, slice_end);
    float* const chain = unfinished<S>(levels, slice);
    sum_of_chains<S, Major::kContracted>(
        acc, smem, nullptr, 1, [&](int) { return end - begin; },
        [&](int stage, int, int first) {
          load_rows<kAccess, S>(smem.a[stage], dlogits, p.ld, rows, begin - p.begin + first, end - p.begin);
          load_rows<kAccess, S>(smem.b[stage], w, p.vocab, cols, begin + first, end);
        },
        [&](Accumulator<S>&, int) {
          if (begin == slice * p.width) return acc.clear();
#pragma unroll
          for (int i = 0; i < S::kAccumulators; ++i) values[i] = chain[i * S::kThreads];
        });
    if (end == slice_end) {
      tree_push<S>(acc, levels, slice, p.slices);
      continue;
    }
#pragma unroll
    for (int i = 0; i < S::kAccumulators; ++i) chain[i * S::kThreads] = values[i];
  }
  if (p.end < p.slices * p.width) return;
  store_tile<kAccess, S>(
      acc, smem,
      TileOut<T>{
          .c = static_cast<T*>(p.dh) + row * p.ld_dh + col, .ld = p.ld_dh, .rows = rows, .cols = cols});
}

// As in a product: large tiles where every SM gets one. f.operator()<S, kAccess>().
template <class F>
void with_tile(bool vector, int64_t m, int64_t n, const F& f) {
  constexpr int64_t kLarge = LargeTile::kSide;
  if (!vector) return f.template operator()<SmallTile, Access::kScalar>();
  if (ceil_div(m, kLarge) * ceil_div(n, kLarge) < sm_count())
    return f.template operator()<SmallTile, Access::kVector>();
  f.template operator()<LargeTile, Access::kVector>();
}

template <class S>
dim3 grid_of(int64_t m, int64_t n) {
  const int64_t col_tiles = ceil_div(n, S::kSide);
  CHECK(col_tiles <= 65535, "{} columns", n);
  return {grid_size(m, S::kSide), static_cast<unsigned>(col_tiles)};
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
                        round_up(vocab_, kHeadColumnBlock));
    CHECK(columns_ > 0, "workspace of {} bytes, {} for the sums and {} for one block of columns",
          exec.workspace_bytes, sums, kHeadColumnBlock * column);
    dlogits_ = static_cast<char*>(exec.workspace) + sums;
  }

  void run() const {
    for (Round round = {0, 0}; round.begin < vocab_; round.begin = round.end) {
      round.end = end_of(round.begin);
      const Tensor dlogits(dlogits_, DType::kBF16, m_, round.end - round.begin, columns_);
      if (m_ > 0) make_dlogits(round, dlogits);
      if (m_ > 0) add_dh(round, dlogits);
      linear_wgrad({.stream = exec_.stream}, {.dy = dlogits,
                                              .x = args_.h,
                                              .dw = args_.dw.row_range(round.begin, round.end),
                                              .segments = args_.segments});
    }
  }

 private:
  // Blocks of columns to the end of a slice, and then whole slices.
  int64_t end_of(int64_t begin) const {
    int64_t end = begin - begin % width_ + width_;
    if (end > begin + columns_) return begin + columns_;
    while (end < vocab_ && end + width_ <= begin + columns_) end += width_;
    return end;
  }

  void make_dlogits(Round round, const Tensor& dlogits) const {
    const auto* w = static_cast<const Bf16*>(args_.w.forward);
    const DlogitsParams p = {.h = static_cast<const Bf16*>(args_.h.data),
                             .ldh = args_.h.ld,
                             .w = w + round.begin * hidden_,
                             .targets = args_.targets,
                             .first_id = args_.vocab_begin + round.begin,
                             .stats = args_.stats,
                             .dlogp = args_.dlogp,
                             .dentropy = args_.dentropy,
                             .inv_temperature = args_.inv_temperature,
                             .dlogits = static_cast<Bf16*>(dlogits.data),
                             .ld = dlogits.ld,
                             .m = narrow<int>(m_),
                             .n = narrow<int>(dlogits.cols),
                             .k = narrow<int>(hidden_)};
    const bool vector = in_pieces(args_.h) && aligned16(w);
    with_tile(vector, m_, dlogits.cols, [&]<class S, Access kAccess>() {
      const dim3 grid = grid_of<S>(m_, dlogits.cols);
      const size_t shared = shared_bytes_of<dlogits_kernel<S, kAccess>>(sizeof(ProductSmem<S>));
      dlogits_kernel<S, kAccess><<<grid, S::kThreads, shared, stream_of(exec_)>>>(p);
      CUDA_CHECK_LAUNCH();
    });
  }

  void add_dh(Round round, const Tensor& dlogits) const {
    const DhParams p = {.dlogits = static_cast<const Bf16*>(dlogits.data),
                        .ld = dlogits.ld,
                        .w = static_cast<const Bf16*>(args_.w.backward),
                        .vocab = vocab_,
                        .dh = args_.dh.data,
                        .ld_dh = args_.dh.ld,
                        .sums = sums_,
                        .levels = head_bwd_levels(args_.slices),
                        .begin = narrow<int>(round.begin),
                        .end = narrow<int>(round.end),
                        .m = narrow<int>(m_),
                        .n = narrow<int>(hidden_),
                        .slices = args_.slices,
                        .width = narrow<int>(width_)};
    const bool vector =
        width_ % kPieceSize == 0 && aligned16(p.w) && in_pieces(args_.dh, 4 * dtype_size(args_.dh.dtype));
    with_float_type(args_.dh.dtype, [&]<class T>(std::type_identity<T>) {
      with_tile(vector, m_, hidden_, [&]<class S, Access kAccess>() {
        const dim3 grid = grid_of<S>(m_, hidden_);
        const size_t shared = shared_bytes_of<dh_kernel<T, S, kAccess>>(sizeof(ProductSmem<S>));
        dh_kernel<T, S, kAccess><<<grid, S::kThreads, shared, stream_of(exec_)>>>(p);
        CUDA_CHECK_LAUNCH();
      });
    });
  }

  const Exec& exec_;
  const HeadBwdArgs& args_;
  const int64_t m_, vocab_, hidden_, width_;
  float* sums_;
  void* dlogits_;
  int64_t columns_;  // at most, of a round
};

}  // namespace

void head_bwd(const Exec& exec, const HeadBwdArgs& args) {
  check_head(args.h, args.w, args.slices);
  CHECK(args.w.forward != nullptr && args.w.backward != nullptr, "both forms must be packed");
  CHECK(args.dh.rows == args.h.rows && args.dh.cols == args.w.k && args.dw.rows == args.w.n &&
            args.dw.cols == args.w.k,
        "dh {} x {} dw {} x {}", args.dh.rows, args.dh.cols, args.dw.rows, args.dw.cols);
  CHECK(aligned16(exec.workspace), "the workspace is not aligned to 16 bytes");
  HeadBackward(exec, args).run();
}

}  // namespace contender::cuda
