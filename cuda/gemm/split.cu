// What: y = the sum of partial products that blocks made of parts of the contracted dimension.
// Math: y = ((p0 + p1) + (p2 + p3)) + ... + bias (+ y).
// Shapes: any M and N, 2 to 32 partial products.
// Layouts: partials F32 [splits][M][round_up(N, 4)]; y BF16 or F32, row-major.
// Precision: FP32 in a fixed tree, one rounding: the same bits run for run.
// Schedule: a thread for four columns of a row. It may start before the product ends, and waits for it.
// Roofline: memory, 4 bytes for each partial and those of y; partials of a small M come from L2.
// Limits: 65,535 x 256 quads of columns.
// Source: -
#include "cuda/common/stream.h"
#include "cuda/gemm/bf16_gemm_store.cuh"
#include "cuda/gemm/split.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 128;

struct SumParams {
  const float* partials;
  int64_t row, split;  // floats from one row, one partial product to the next
  GemmOut out;
  int m;
};

template <int kCount>
__device__ __forceinline__ float4 tree(const float* p, int64_t step) {
  if constexpr (kCount == 1) {
    return load_quad(p);
  } else {
    const float4 a = tree<kCount / 2>(p, step), b = tree<kCount / 2>(p + kCount / 2 * step, step);
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
  }
}

template <int kSplits>
__global__ void __launch_bounds__(kThreads) sum_splits_kernel(const __grid_constant__ SumParams p) {
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
  const int col = (static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x)) * 4;
  const int64_t row = blockIdx.x;
  if (col >= p.out.n) return;
  const float4 v = tree<kSplits>(p.partials + row * p.row + col, p.split);
  if (p.out.store == Store::kElements) return add_four<Access::kScalar>(p.out, row * p.out.ldy, col, v);
  add_four<Access::kVector>(p.out, row * p.out.ldy, col, v);
}

template <int kSplits>
void launch(const Exec& exec, const SumParams& p) {
  const int64_t blocks = ceil_div(ceil_div(int64_t{p.out.n}, 4), kThreads);
  CHECK(blocks <= 65535, "{} columns", p.out.n);
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(p.m), static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream_of(exec);
  config.attrs = &early;
  config.numAttrs = 1;
  CUDA_CHECK(cudaLaunchKernelEx(&config, sum_splits_kernel<kSplits>, p));
}

}  // namespace

void sum_splits(const Exec& exec, const SplitSumArgs& args) {
  const Tensor& y = args.y;
  if (y.numel() == 0) return;
  const Store store = store_of(y.data, y.dtype, y.cols, y.ld, 0, args.bias, args.accumulate);
  const SumParams p = {.partials = args.partials,
                       .row = split_row(y.cols),
                       .split = y.rows * split_row(y.cols),
                       .out = {.y = y.data,
                               .ldy = y.ld,
                               .bias = args.bias,
                               .n = narrow<int>(y.cols),
                               .y_type = y.dtype,
                               .accumulate = args.accumulate,
                               .store = store},
                       .m = narrow<int>(y.rows)};
  switch (args.splits) {
    case 2:
      return launch<2>(exec, p);
    case 4:
      return launch<4>(exec, p);
    case 8:
      return launch<8>(exec, p);
    case 16:
      return launch<16>(exec, p);
    case 32:
      return launch<32>(exec, p);
    default:
      fail(ExitCode::kInternal, "a sum of {} partial products, not of 2, 4, ..., {}", args.splits,
           kMaxSplits);
  }
}

}  // namespace contender::cuda
