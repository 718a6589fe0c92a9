// What: softmax statistics, the target's z and the entropy's sum of every row of h w^T, and their combination
//   over slices (ops/head.h). No logit reaches memory.
// Math: z = (h w^T) * inv_temperature; per block of 128 columns of a slice max z, sum e, sum e z with
//   e = exp(z - max), and z[target]; blocks, then slices, in the tree of softmax_slice.cuh.
//   lse = max + log sum e; logp = z[target] - lse; entropy = lse - (sum e z) / (sum e).
// Shapes: h [M, H], w [V_local, H]; any M and V_local, also a slice that is no multiple of 128; H a multiple
//   of 8. No rows are legal.
// Layouts: h BF16, row-major; w the forward form of kCudaWeights.
// Precision: a logit is the chain of bf16_gemm over H, unrounded FP32: the bits of linear with F32 output,
//   made by the same instructions. Statistics in FP32 in the order that the sampler has: its logp of those
//   logits has the bits of this one. Nothing depends on M, the row's place, or the workspace.
// Schedule: the pipeline of bf16_gemm: a producer warp, a ring of 4 stages, two consumers, clusters of two. A
//   consumer has 64 rows of 256 logits, two softmax blocks, in registers: a row's in four lanes. They are
//   reduced there, with two exchanges between the lanes, while the next operands arrive. A second launch
//   combines the blocks of a slice, a warp for each row and slice; a slice of one block needs none. Rows are
//   taken in as many as the workspace has partials for: 16 bytes per row and block, 4096 rows and more in the
//   bytes that head_workspace_bytes asks for.
// Registers: 40 and 232, as bf16_gemm.
// Shared memory: 4 stages of 48 KB, 208 KB in all.
// Roofline: 2 M V H flops; 2 (M H + V H) bytes and 32 M V / 128 for the partials. Memory-bound below M = 206
//   (H200) and 295 (H800) rows. Of a tile 16 H cycles are products, and some 5,500 statistics that nothing
//   hides.
// Limits: F32 h; slices of 4,190,208 columns; 512 slices in all.
// Source: ops/head.h; PTX ISA 9.0, wgmma.
#include <bit>

#include "cuda/common/grid.h"
#include "cuda/common/softmax_slice.cuh"
#include "cuda/common/stream.h"
#include "cuda/head/head_tile.cuh"
#include "cuda/ops.h"

namespace contender::cuda {
namespace {

constexpr int kCombineWarps = 8;
constexpr int kTreeLevels = 10;  // of what one thread combines

struct PartialParams {
  GemmParams g;                      // out.n: columns of a slice
  const int32_t* targets = nullptr;  // [m]
  int64_t vocab_begin = 0;
  float inv_temperature = 1;
  int blocks = 0;              // of a slice
  HeadPartial* out = nullptr;  // [m, layers, blocks]
};

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
    bool carried = true;
#pragma unroll
    for (int l = 0; l < kTreeLevels; ++l) {
      if (!carried) continue;
      carried = count >> l & 1;
      if (carried) {
        v = combine_partials(level[l], v);
      } else {
        level[l] = v;
      }
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

// Statistics of the block of 128 columns whose logits a row has from acc[kFirst] on, `cols` of which exist:
// the same in the four lanes that have the row.
template <int kFirst, int kCount>
__device__ __forceinline__ HeadPartial block_statistics(const float (&acc)[kCount], int cols, int target,
                                                        float inv_temperature) {
  constexpr unsigned kAll = 0xFFFFFFFFu;
  constexpr int kOctets = kSoftmaxBlock / 8;
  // Twice: what changes accumulators has ptxas put wgmma in series.
  const auto z_at = [&](int octet, int i) { return __fmul_rn(acc[kFirst + 4 * octet + i], inv_temperature); };
  float max = -INFINITY;
  bool bad = false;
#pragma unroll
  for (int i = 0; i < 2 * kOctets; ++i) {
    const float z = z_at(i / 2, i % 2);
    if (i / 2 * 8 + head_col() + i % 2 < cols) max = fmaxf(max, z);
    bad |= !(z < INFINITY);
  }
  max = fmaxf(max, __shfl_xor_sync(kAll, max, 1));
  max = fmaxf(max, __shfl_xor_sync(kAll, max, 2));
  const float base = softmax_base(max);
  float sum[4], sum_z[4], target_z = kNoTarget;  // of 32 columns
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    float e[4], ez[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int octet = 4 * part + i, col = 8 * octet + head_col();
      const float z0 = z_at(octet, 0), z1 = z_at(octet, 1);
      const float e0 = col < cols ? exp_below_one(__fsub_rn(z0, base)) : 0.0f;
      const float e1 = col + 1 < cols ? exp_below_one(__fsub_rn(z1, base)) : 0.0f;
      e[i] = __fadd_rn(e0, e1);
      ez[i] = fmaf(e1, z1, __fmul_rn(e0, z0));
      if (col == target) target_z = z0;
      if (col + 1 == target) target_z = z1;
    }
    sum[part] = sum_of_four(e[0], e[1], e[2], e[3]);
    sum_z[part] = sum_of_four(ez[0], ez[1], ez[2], ez[3]);
  }
  const auto of_row = [](float v) {
    v = __fadd_rn(v, __shfl_xor_sync(kAll, v, 1));
    return __fadd_rn(v, __shfl_xor_sync(kAll, v, 2));
  };
  return {.max = max,
          .sum_exp = of_row(bad ? NAN : sum_of_four(sum[0], sum[1], sum[2], sum[3])),
          .sum_exp_z = of_row(sum_of_four(sum_z[0], sum_z[1], sum_z[2], sum_z[3])),
          .target_z = of_row(target_z)};
}

// Of both blocks of the row that a half of the thread's accumulators belongs to, to memory.
template <int kHalf>
__device__ __forceinline__ void store_statistics(const float (&acc)[HeadTile::kAccumulators],
                                                 const PartialParams& p, const Place& place, int warpgroup) {
  static_assert(HeadTile::kQ == 2 * kSoftmaxBlock);
  const int row = place.row + head_row(warpgroup) + 8 * kHalf, width = p.g.out.n;
  const int cols = min(kSoftmaxBlock, width - place.col), rest = min(kSoftmaxBlock, width - place.col - cols);
  const int32_t id = row < p.g.m ? p.targets[row] : -1;
  const int64_t first_id = p.vocab_begin + static_cast<int64_t>(place.layer) * width + place.col;
  HeadPartial v = block_statistics<2 * kHalf>(acc, cols, column_of(id, first_id, cols), p.inv_temperature);
  const int block = threadIdx.x % 4;  // that this lane writes
  if (rest > 0) {
    const HeadPartial second = block_statistics<2 * kHalf + kSoftmaxBlock / 2>(
        acc, rest, column_of(id, first_id + kSoftmaxBlock, rest), p.inv_temperature);
    if (block == 1) v = second;
  }
  HeadPartial* out = p.out + (static_cast<int64_t>(row) * p.g.layers + place.layer) * p.blocks;
  if (row < p.g.m && block <= (rest > 0)) store_partial(out + place.col / kSoftmaxBlock + block, v);
}

__device__ __forceinline__ void consume_statistics(const PartialParams& p, GemmSmem<HeadTile>& s,
                                                   int warpgroup) {
  HeadRing ring;
  TileWalk<HeadTile> walk(p.g);
  for (Place place; walk.next(place);) {
    float acc[1][HeadTile::kAccumulators];
    multiply_chain<HeadTile>(acc, p.g.stall, p.g.k_blocks, s, ring, warpgroup * 64);
    store_statistics<0>(acc[0], p, place, warpgroup);
    store_statistics<1>(acc[0], p, place, warpgroup);
  }
}

extern __shared__ __align__(1024) uint8_t head_smem[];

__global__ void __launch_bounds__(HeadTile::kThreads, 1)
    partial_kernel(const __grid_constant__ PartialParams p) {
  auto& s = *reinterpret_cast<GemmSmem<HeadTile>*>(head_smem);
  run_roles<HeadTile>(
      s, [&] { produce<HeadTile>(p.g, s); }, [&](int warpgroup) { consume_statistics(p, s, warpgroup); });
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

// Statistics of every block of the rows of h.
void launch_partial(const Exec& exec, const HeadPartialArgs& args, const Tensor& h, const int32_t* targets,
                    int64_t blocks, HeadPartial* out) {
  const int64_t width = args.w.n / args.slices;
  const PartialParams p = {.g = logits_product(h, args.w.forward, width, args.slices),
                           .targets = targets,
                           .vocab_begin = args.vocab_begin,
                           .inv_temperature = args.inv_temperature,
                           .blocks = narrow<int>(blocks),
                           .out = out};
  launch_roles<partial_kernel, HeadTile>(exec, p, head_units(h.rows, width, args.slices));
}

void launch_combine(const Exec& exec, const CombineParams& p) {
  combine_kernel<<<grid_size(p.sums, kCombineWarps), kCombineWarps * 32, 0, stream_of(exec)>>>(p);
  CUDA_CHECK_LAUNCH();
}

}  // namespace

void head_partial(const Exec& exec, const HeadPartialArgs& args) {
  check_head(args.h, args.w, args.slices);
  CHECK(aligned16(args.partials) && aligned16(exec.workspace), "partials are not aligned to 16 bytes");
  const int64_t rows = args.h.rows, width = args.w.n / args.slices, blocks = ceil_div(width, kSoftmaxBlock);
  CHECK(ceil_div(blocks, 32) <= kTreeCapacity, "slices of {} columns, at most {}", width,
        kTreeCapacity * 32 * kSoftmaxBlock);
  if (blocks == 1) {  // its statistics are those of the slice
    if (rows > 0) launch_partial(exec, args, args.h, args.targets, blocks, args.partials);
    return;
  }
  const int64_t row_bytes = args.slices * blocks * static_cast<int64_t>(sizeof(HeadPartial));
  int64_t chunk = exec.workspace_bytes / row_bytes;
  CHECK(chunk > 0, "workspace of {} bytes, {} for the partials of one row", exec.workspace_bytes, row_bytes);
  if (chunk > kHeadShape.tile_m()) chunk -= chunk % kHeadShape.tile_m();
  auto* parts = static_cast<HeadPartial*>(exec.workspace);
  for (int64_t row = 0; row < rows; row += chunk) {
    const int64_t end = std::min(row + chunk, rows);
    launch_partial(exec, args, args.h.row_range(row, end), args.targets + row, blocks, parts);
    launch_combine(exec, {.parts = parts,
                          .out = args.partials + row * args.slices,
                          .sums = (end - row) * args.slices,
                          .count = narrow<int>(blocks)});
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
