// What: weights in 128x128 blocks of E4M3, as they lie and transposed, from one read.
// Math: scale = amax / 448 of each block, 1 where it is zero; code = rn(x / scale), saturating.
// Shapes: x [G * N, K] F32; codes [G * N, K] and [G * K, N], a scale for each block of a group. Any of the
//   two may be absent.
// Layouts: row-major with any row stride. Where x, K and N come in 16-byte pieces they move in such (codes as
//   they lie in words of 4, a row of a block to a warp), others element by element, with the same bits.
// Precision: bit-equal to the CPU backend (a NaN's code loses its sign).
// Schedule: a block of threads holds a square of 128 x 128 in shared memory, finds its amax, and writes it
//   row by row and column by column.
// Roofline: 6 bytes and a handful of flops an element: memory-bound, floor bytes / 4.3 TB/s on H200, / 3.0
//   TB/s on H800.
// Limits: fewer than 2^31 squares; N and K below 2^31.
// Source: DeepSeek-V3, arXiv 2412.19437, section 3.3.
#include "cuda/common/shared_memory.h"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "cuda/quantize/weight_tile.cuh"

namespace contender::cuda {
namespace {

template <Access kAccess>
__global__ void __launch_bounds__(kWeightThreads)
    quantize_weight_kernel(const __grid_constant__ Tensor x, const __grid_constant__ WeightCopies copies) {
  extern __shared__ float4 shared[];
  WeightTile& tile = *reinterpret_cast<WeightTile*>(shared);
  const WeightPlace at = weight_place(copies);
  const int lane = threadIdx.x % 32;
  float amax = 0;
#pragma unroll 8
  for (int i = 0; i < kWeightRows; ++i) {
    const int local = threadIdx.x / 32 + i * kWeightWarps, row = at.row0 + local;
    const float* from = row_of<const float>(x, int64_t{at.group} * at.n + row);
    const float4 v = load_quad_piece<kAccess>(from, at.col0 + lane * 4, row < at.n ? at.k : 0);
    const float values[4] = {v.x, v.y, v.z, v.w};
    amax = abs_max<4>(values, amax);
    tile.quads[weight_quad(local, lane)] = v;
  }
  write_weight_copies<kAccess>(copies, {}, at, tile, amax);
}

}  // namespace

void quantize_weight(const Exec& exec, const QuantizeWeightArgs& a) {
  check_quantize_weight(a);
  const WeightCopies copies = {.n = a.x.rows / a.num_groups,
                               .k = a.x.cols,
                               .num_groups = a.num_groups,
                               .q = a.q,
                               .transposed = a.transposed};
  if (a.x.numel() == 0 || !copies.any()) return;
  with_access(in_pieces(a.x) && copies_in_pieces(copies), [&]<Access kAccess>(
                                                              std::integral_constant<Access, kAccess>) {
    allow_shared_memory<quantize_weight_kernel<kAccess>>();
    quantize_weight_kernel<kAccess>
        <<<weight_tiles(copies), kWeightThreads, sizeof(WeightTile), stream_of(exec)>>>(a.x, copies);
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace contender::cuda
