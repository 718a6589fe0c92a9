// What: the forms of a weight that products read, from its FP32 master.
// Layouts: kCudaWeights: of each group, forward [N, K] and backward [K, N], BF16, row-major, no padding
//   within; groups lie N * K * 2 bytes apart, rounded up to 64. A row is therefore aligned to 16 bytes when
//   its length is a multiple of 8.
// Precision: one rounding to nearest even.
// Schedule: a block turns a square of 64 x 64 through shared memory and writes both forms of it.
// Roofline: 8 bytes per weight (4 in, 2 + 2 out), no flops.
// Limits: 65,535 groups, 4,194,240 columns.
#include "cuda/common/rows.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"

namespace contender::cuda {
namespace {

constexpr int kSide = 64;
constexpr int kThreads = 256;
constexpr int kQuads = kSide / 4;  // in a row of the square

struct PackParams {
  const float* master;  // [groups * n, k]
  int64_t ld;
  __nv_bfloat16 *forward, *backward;      // or null
  int64_t forward_group, backward_group;  // elements from group to group
  int n, k;
};

// Quads of a row are permuted by the quad of its number: rows written and columns read meet all banks.
__device__ inline int place_of(int row, int quad) { return row * kQuads + (quad ^ (row / 4 % 8)); }

template <Access kAccess>
__global__ void __launch_bounds__(kThreads) pack_weight_kernel(const __grid_constant__ PackParams p) {
  __shared__ float4 square[kSide * kQuads];
  const int row0 = blockIdx.x * kSide, col0 = blockIdx.y * kSide;
  const int64_t g = blockIdx.z;
#pragma unroll
  for (int i = 0; i < kSide * kQuads / kThreads; ++i) {
    const int index = threadIdx.x + i * kThreads;
    const int row = row0 + index / kQuads, col = col0 + index % kQuads * 4;
    float4 v = make_float4(0, 0, 0, 0);
    if (row < p.n) {
      v = load_quad_piece<kAccess>(p.master + (g * p.n + row) * p.ld, col, p.k);
      if (p.forward) {
        __nv_bfloat16* to = p.forward + g * p.forward_group + static_cast<int64_t>(row) * p.k;
        store_quad_piece<kAccess>(to, col, p.k, v);
      }
    }
    square[place_of(index / kQuads, index % kQuads)] = v;
  }
  if (!p.backward) return;
  __syncthreads();
  // A warp: 4 columns of the square by 8 quads of rows.
  const float* values = reinterpret_cast<const float*>(square);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kSide * kQuads / kThreads; ++i) {
    const int part = warp + i * (kThreads / 32);  // of 16 groups of columns x 2 halves of rows
    const int col = part / 2 * 4 + lane / 8, row = (part % 2 * 8 + lane % 8) * 4;
    float v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = values[place_of(row + j, col / 4) * 4 + col % 4];
    if (col0 + col >= p.k) continue;
    __nv_bfloat16* to = p.backward + g * p.backward_group + static_cast<int64_t>(col0 + col) * p.n;
    store_quad_piece<kAccess>(to, row0 + row, p.n, make_float4(v[0], v[1], v[2], v[3]));
  }
}

}  // namespace

void pack_weight(const Exec& exec, const PackWeightArgs& args) {
  const int64_t n = args.n, k = args.k, groups = args.num_groups;
  CHECK(args.master.rows == groups * n && args.master.cols == k, "master [{}, {}], {} groups of [{}, {}]",
        args.master.rows, args.master.cols, groups, n, k);
  const PackParams params = {
      .master = args.master.f32(),
      .ld = args.master.ld,
      .forward = static_cast<__nv_bfloat16*>(args.forward),
      .backward = static_cast<__nv_bfloat16*>(args.backward),
      .forward_group = packed_forward_bytes(n, k, kCudaWeights) / dtype_size(DType::kBF16),
      .backward_group = packed_backward_bytes(n, k, kCudaWeights) / dtype_size(DType::kBF16),
      .n = narrow<int>(n),
      .k = narrow<int>(k)};
  if (groups * n * k == 0) return;
  const int64_t col_tiles = ceil_div(k, kSide);
  CHECK(col_tiles <= 65535 && groups <= 65535, "{} columns, {} groups", k, groups);
  const dim3 grid(static_cast<unsigned>(narrow<int>(ceil_div(n, kSide))), static_cast<unsigned>(col_tiles),
                  static_cast<unsigned>(groups));
  const bool vector = in_pieces(args.master) && n % 4 == 0 &&
                      reinterpret_cast<uintptr_t>(args.forward) % 8 == 0 &&
                      reinterpret_cast<uintptr_t>(args.backward) % 8 == 0;
  with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
    pack_weight_kernel<kAccess><<<grid, kThreads, 0, stream_of(exec)>>>(params);
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace contender::cuda
