// What: softmax statistics, the target's z and the entropy's sum of every row of h w^T, and their combination
//   over slices (ops/head.h). No logit reaches memory.
// Math: z = (h w^T) * inv_temperature; per block of 128 columns of a slice max z, sum e, sum e z with
//   e = exp(z - max), and z[target]; blocks, then slices, in the tree of softmax_slice.cuh.
//   lse = max + log sum e; logp = z[target] - lse; entropy = lse - (sum e z) / (sum e).
// Shapes: h [M, H], w [V_local, H]; any M, H and V_local, also a slice that is no multiple of 128; no rows
//   are legal.
// Layouts: h BF16, row-major, any ld; w the forward form of kCudaWeights. In pieces of 16 bytes where H and
// ld
//   are multiples of 8, else by element: the same bits.
// Precision: a logit is the chain of linear_tile.cuh over H, unrounded FP32: the bits of linear with F32
// output.
//   Statistics in FP32 in the order that the sampler has: its logp of those logits has the bits of this one.
//   Nothing depends on M, the row's place, or the workspace.
// Schedule: a thread block makes a tile of 128 x 128 logits, one softmax block of 128 rows, and reduces it in
//   registers: two lane exchanges, then once through shared memory between the four warps that share rows. A
//   second launch combines the blocks of a slice, a warp for each row and slice; a slice of one block needs
//   none. Row tiles run fastest, so that h stays in L2 and w is read once. Rows are taken in as many as the
//   workspace has partials for: 16 bytes per row and block, 4096 rows and more in the bytes that
//   head_workspace_bytes asks for.
// Roofline: 2 M V H flops; 2 (M H + V H) bytes and 32 M V / 128 for the partials. Memory-bound below M = 206
//   (H200) and 295 (H800) rows.
// Limits: F32 h; slices of 4,190,208 columns; 65,535 blocks of columns; 512 slices in all.
// Source: ops/head.h; PTX ISA, mma.m16n8k16.
#include <bit>

#include "cuda/common/grid.h"
#include "cuda/common/softmax_slice.cuh"
#include "cuda/common/stream.h"
#include "cuda/head/head_rows.cuh"
#include "cuda/ops.h"

namespace contender::cuda {
namespace {

using S = LargeTile;
static_assert(S::kSide == kSoftmaxBlock && S::kWarpsN == 4 && S::kMmaN == 4);
static_assert(S::kThreads == 2 * S::kSide, "two threads finish a row");

constexpr int kCombineWarps = 8;
constexpr int kTreeLevels = 10;  // of what one thread combines

struct PartialParams {
  const Bf16* h = nullptr;  // [m, k]
  int64_t ldh = 0;
  const Bf16* w = nullptr;           // [slices * width, k]
  const int32_t* targets = nullptr;  // [m]
  int64_t vocab_begin = 0;
  float inv_temperature = 1;
  int m = 0, k = 0, slices = 1, width = 0, blocks = 0;  // `blocks` of a slice
  HeadPartial* out = nullptr;                           // [m, slices, blocks]
};

// In the place of the operands, which are used up.
struct Reduction {
  float max[S::kWarpsN][S::kSide];
  float sum[S::kWarpsN][S::kSide][4];    // of a place of an octet
  float sum_z[S::kWarpsN][S::kSide][4];  // of e z
  int target[S::kSide];                  // column of the tile, or outside
  float target_z[S::kSide];
};
static_assert(sizeof(Reduction) <= sizeof(ProductSmem<S>));

// Adding it changes nothing, the sign of a zero included.
constexpr float kNoTarget = -0.0f;

__device__ inline HeadPartial combine_partials(const HeadPartial& a, const HeadPartial& b) {
  const CommonMax c = common_max(a.max, b.max);
  return {.max = c.max,
          .sum_exp = combine_sums(c, a.sum_exp, b.sum_exp),
          .sum_exp_z = combine_sums(c, a.sum_exp_z, b.sum_exp_z),
          .target_z = __fadd_rn(a.target_z, b.target_z)};
}
__device__ inline HeadPartial no_columns() { return {-INFINITY, 0.0f, 0.0f, kNoTarget}; }
__device__ inline HeadPartial load_partial(const HeadPartial* p) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  return {v.x, v.y, v.z, v.w};
}
__device__ inline void store_partial(HeadPartial* p, const HeadPartial& v) {
  *reinterpret_cast<float4*>(p) = make_float4(v.max, v.sum_exp, v.sum_exp_z, v.target_z);
}

// The tree ((0+1)+(2+3))+... over partials that come in order.
struct PartialTree {
  HeadPartial level[kTreeLevels];
  int count = 0;  // its bits say which levels hold something

  __device__ void push(HeadPartial v) {
#pragma unroll
    for (int l = 0; l < kTreeLevels; ++l) {
      if ((count >> l & 1) == 0) {
        level[l] = v;
        break;
      }
      v = combine_partials(level[l], v);
    }
    ++count;
  }
  __device__ HeadPartial sum() const {
    HeadPartial v = no_columns();
#pragma unroll
    for (int l = 0; l < kTreeLevels; ++l) {
      if (count >> l & 1) v = combine_partials(level[l], v);
    }
    return v;
  }
};
constexpr int64_t kTreeCapacity = (int64_t{1} << kTreeLevels) - 1;

// z in the place of the logits, and what one warp knows of the rows' maxima.
__device__ void scale_logits(Accumulator<S>& acc, Reduction& r, float inv_temperature, int cols) {
  for_each_row<S>([&](int i, int half, int row) {
    float max = -INFINITY;
#pragma unroll
    for (int j = 0; j < S::kMmaN; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& z = acc.v[i][j][2 * half + c];
        z = __fmul_rn(z, inv_temperature);
        if (thread_col<S>(j) + c < cols) max = fmaxf(max, z);
      }
    }
    max = fmaxf(max, __shfl_xor_sync(0xFFFFFFFFu, max, 1));
    max = fmaxf(max, __shfl_xor_sync(0xFFFFFFFFu, max, 2));
    if (threadIdx.x % 4 == 0) r.max[warp_col<S>() / 32][row] = max;
  });
}

__device__ inline float block_max(const Reduction& r, int row) {
  return fmaxf(fmaxf(r.max[0][row], r.max[1][row]), fmaxf(r.max[2][row], r.max[3][row]));
}

// This thread's part of the sums, and z of the targets that it holds.
__device__ void sum_terms(const Accumulator<S>& acc, Reduction& r, int cols) {
  const int warp = warp_col<S>() / 32, place = threadIdx.x % 4;
  for_each_row<S>([&](int i, int half, int row) {
    const float base = softmax_base(block_max(r, row));
    const int target = r.target[row];
    float sum[S::kMmaN], sum_z[S::kMmaN];
#pragma unroll
    for (int j = 0; j < S::kMmaN; ++j) {
      const float* z = acc.v[i][j] + 2 * half;
      const int col = thread_col<S>(j);
      const float e0 = col < cols ? softmax_term(z[0], base) : 0.0f;
      const float e1 = col + 1 < cols ? softmax_term(z[1], base) : 0.0f;
      sum[j] = __fadd_rn(e0, e1);
      sum_z[j] = fmaf(e1, z[1], __fmul_rn(e0, z[0]));
      if (col == target) r.target_z[row] = z[0];
      if (col + 1 == target) r.target_z[row] = z[1];
    }
    r.sum[warp][row][place] = sum_of_four(sum[0], sum[1], sum[2], sum[3]);
    r.sum_z[warp][row][place] = sum_of_four(sum_z[0], sum_z[1], sum_z[2], sum_z[3]);
  });
}

// Of places 2 half and 2 half + 1 over the warps, then of all.
__device__ inline float finish_sum(const float (&part)[S::kWarpsN][S::kSide][4], int row, int half) {
  float2 v[S::kWarpsN];
#pragma unroll
  for (int w = 0; w < S::kWarpsN; ++w) v[w] = *reinterpret_cast<const float2*>(&part[w][row][2 * half]);
  return sum_of_places(sum_of_four(v[0].x, v[1].x, v[2].x, v[3].x),
                       sum_of_four(v[0].y, v[1].y, v[2].y, v[3].y));
}

extern __shared__ __align__(128) char partial_smem[];

template <Access kAccess>
__global__ void __launch_bounds__(S::kThreads) partial_kernel(const __grid_constant__ PartialParams p) {
  auto& smem = *reinterpret_cast<ProductSmem<S>*>(partial_smem);
  auto& r = *reinterpret_cast<Reduction*>(partial_smem);
  const int first_row = blockIdx.x * S::kSide, rows = min(S::kSide, p.m - first_row);
  const int slice = blockIdx.y / p.blocks, begin = blockIdx.y % p.blocks * kSoftmaxBlock;
  const int cols = min(kSoftmaxBlock, p.width - begin);
  const int64_t first_col = static_cast<int64_t>(slice) * p.width + begin;
  const Bf16* h = p.h + first_row * p.ldh;
  const Bf16* w = p.w + first_col * p.k;
  Accumulator<S> acc;
  sum_of_chains<S, Major::kContracted>(
      acc, smem, nullptr, 1, [&](int) { return p.k; },
      [&](int stage, int, int first) {
        load_rows<kAccess, S>(smem.a[stage], h, p.ldh, rows, first, p.k);
        load_rows<kAccess, S>(smem.b[stage], w, p.k, cols, first, p.k);
      });
  if (threadIdx.x < S::kSide) {
    r.target[threadIdx.x] =
        threadIdx.x < rows ? column_of(p.targets[first_row + threadIdx.x], p.vocab_begin + first_col, cols)
                           : -1;
    r.target_z[threadIdx.x] = kNoTarget;
  }
  scale_logits(acc, r, p.inv_temperature, cols);
  __syncthreads();
  sum_terms(acc, r, cols);
  __syncthreads();
  const int row = threadIdx.x / 2, half = threadIdx.x % 2;
  const float sum = finish_sum(r.sum, row, half), sum_z = finish_sum(r.sum_z, row, half);
  if (half == 1 || row >= rows) return;
  HeadPartial* out = p.out + static_cast<int64_t>(first_row + row) * gridDim.y + blockIdx.y;
  store_partial(out, {block_max(r, row), sum, sum_z, r.target_z[row]});
}

struct CombineParams {
  const HeadPartial* parts;  // [sums, count]
  HeadPartial* out;          // [sums]
  int64_t sums;
  int count;
};

// A warp for each sum: 32 neighbours at a time as a tree of lanes, then the tree of those.
__global__ void __launch_bounds__(kCombineWarps * 32)
    combine_kernel(const __grid_constant__ CombineParams p) {
  const int lane = threadIdx.x % 32;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kCombineWarps + threadIdx.x / 32;
  if (index >= p.sums) return;
  const HeadPartial* parts = p.parts + index * p.count;
  PartialTree tree;
  for (int first = 0; first < p.count; first += 32) {
    HeadPartial v = first + lane < p.count ? load_partial(parts + first + lane) : no_columns();
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      v = combine_partials(v, {.max = __shfl_down_sync(0xFFFFFFFFu, v.max, o),
                               .sum_exp = __shfl_down_sync(0xFFFFFFFFu, v.sum_exp, o),
                               .sum_exp_z = __shfl_down_sync(0xFFFFFFFFu, v.sum_exp_z, o),
                               .target_z = __shfl_down_sync(0xFFFFFFFFu, v.target_z, o)});
    }
    tree.push(v);  // of lane 0
  }
  if (lane == 0) store_partial(p.out + index, tree.sum());
}

constexpr int kFinishThreads = 128;

__global__ void __launch_bounds__(kFinishThreads) finish_kernel(const __grid_constant__ HeadFinishArgs args) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x;
  if (row >= args.rows) return;
  PartialTree tree;
  for (int s = 0; s < args.slices; ++s) tree.push(load_partial(args.partials + row * args.slices + s));
  const HeadPartial p = tree.sum();
  const float lse = log_sum_exp({p.max, p.sum_exp});
  args.stats[row] = {.lse = lse,
                     .logp = __fsub_rn(p.target_z, lse),
                     .entropy = __fsub_rn(lse, __fdiv_rn(p.sum_exp_z, p.sum_exp))};
}

void launch_partial(const Exec& exec, const PartialParams& p, bool vector) {
  const int64_t column_blocks = int64_t{p.slices} * p.blocks;
  CHECK(column_blocks <= 65535, "{} slices of {} columns", p.slices, p.width);
  const dim3 grid(grid_size(p.m, S::kSide), static_cast<unsigned>(column_blocks));
  with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
    const size_t shared = shared_bytes_of<partial_kernel<kAccess>>(sizeof(ProductSmem<S>));
    partial_kernel<kAccess><<<grid, S::kThreads, shared, stream_of(exec)>>>(p);
    CUDA_CHECK_LAUNCH();
  });
}

void launch_combine(const Exec& exec, const CombineParams& p) {
  combine_kernel<<<grid_size(p.sums, kCombineWarps), kCombineWarps * 32, 0, stream_of(exec)>>>(p);
  CUDA_CHECK_LAUNCH();
}

}  // namespace

void head_partial(const Exec& exec, const HeadPartialArgs& args) {
  check_head(args.h, args.w, args.slices);
  CHECK(args.w.forward != nullptr || args.w.n * args.w.k == 0, "the forward form is not packed");
  CHECK(aligned16(args.partials) && aligned16(exec.workspace), "partials are not aligned to 16 bytes");
  const int64_t width = args.w.n / args.slices, blocks = ceil_div(width, kSoftmaxBlock);
  CHECK(ceil_div(blocks, 32) <= kTreeCapacity, "slices of {} columns, at most {}", width,
        kTreeCapacity * 32 * kSoftmaxBlock);
  PartialParams p = {.h = static_cast<const Bf16*>(args.h.data),
                     .ldh = args.h.ld,
                     .w = static_cast<const Bf16*>(args.w.forward),
                     .targets = args.targets,
                     .vocab_begin = args.vocab_begin,
                     .inv_temperature = args.inv_temperature,
                     .k = narrow<int>(args.w.k),
                     .slices = args.slices,
                     .width = narrow<int>(width),
                     .blocks = narrow<int>(blocks)};
  const bool vector = in_pieces(args.h) && aligned16(args.w.forward);
  if (blocks == 1) {  // its statistics are those of the slice
    if (args.h.rows == 0) return;
    p.m = narrow<int>(args.h.rows);
    p.out = args.partials;
    return launch_partial(exec, p, vector);
  }
  const int64_t row_bytes = args.slices * blocks * static_cast<int64_t>(sizeof(HeadPartial));
  int64_t chunk = exec.workspace_bytes / row_bytes;
  CHECK(chunk > 0, "workspace of {} bytes, {} for the partials of one row", exec.workspace_bytes, row_bytes);
  if (chunk > S::kSide) chunk -= chunk % S::kSide;
  p.out = static_cast<HeadPartial*>(exec.workspace);
  for (int64_t row = 0; row < args.h.rows; row += chunk) {
    p.m = narrow<int>(std::min(chunk, args.h.rows - row));
    launch_partial(exec, p, vector);
    launch_combine(exec, {.parts = p.out,
                          .out = args.partials + row * args.slices,
                          .sums = int64_t{p.m} * args.slices,
                          .count = p.blocks});
    p.h += p.m * p.ldh;
    p.targets += p.m;
  }
}

void head_finish(const Exec& exec, const HeadFinishArgs& args) {
  CHECK(args.slices >= 1 && std::has_single_bit(static_cast<uint32_t>(args.slices)) &&
            args.slices <= kTreeCapacity,
        "slices {}", args.slices);
  CHECK(aligned16(args.partials), "partials are not aligned to 16 bytes");
  if (args.rows == 0) return;
  finish_kernel<<<grid_size(args.rows, kFinishThreads), kFinishThreads, 0, stream_of(exec)>>>(args);
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::cuda
