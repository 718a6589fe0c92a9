// What: the sum of two matrices, and the sum of a matrix's rows.
// Math: y = a + b;  sum[n] = sum over rows of dy[r, n]
// Shapes: a, b, y [M, N]; dy [M, N], sum [1, N].
// Layouts: row-major with any row stride. Rows that are whole 16-byte pieces at aligned addresses move in
//   such pieces, others element by element, with the same bits.
// Precision: F32 or BF16, added in FP32, y rounded once; sum F32. The CPU backend's bits.
// Schedule: add: a thread for each piece. Column sums: column_sum.cuh.
// Roofline: a flop for 3 elements (column sums: 1): memory-bound, floor bytes / 4.3 TB/s on H200, / 3.0
//   TB/s on H800.
// Limits: add: fewer than 2^31 pieces; column sums: those of column_sum.cuh.
// Source: -
#include "cuda/common/column_sum.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/permute.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 256;

template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads) add_kernel(const __grid_constant__ AddArgs args) {
  const int cols = static_cast<int>(args.y.cols);
  const unsigned per_row = (cols + kVec<T> - 1) / kVec<T>, i = blockIdx.x * kThreads + threadIdx.x;
  const int64_t r = i / per_row;
  const int c = static_cast<int>(i % per_row) * kVec<T>;
  if (r >= args.y.rows) return;
  Vec<T> a = load_piece<kAccess>(row_of<const T>(args.a, r), c, cols);
  const Vec<T> b = load_piece<kAccess>(row_of<const T>(args.b, r), c, cols);
#pragma unroll
  for (int k = 0; k < kVec<T>; ++k) a.v[k] += b.v[k];
  store_piece<kAccess>(row_of<T>(args.y, r), c, cols, a);
}

// acc += dy.
template <class T>
struct RowTerm {
  using Type = T;
  static constexpr int kOperands = 1;
  Tensor operand[1];
  const float* scale = nullptr;
  __device__ static float step(float acc, const float (&value)[1], float) { return acc + value[0]; }
};

}  // namespace

void add(const Exec& exec, const AddArgs& args) {
  const Tensor &a = args.a, &b = args.b, &y = args.y;
  CHECK(a.rows == y.rows && b.rows == y.rows && a.cols == y.cols && b.cols == y.cols,
        "a [{}, {}], b [{}, {}], y [{}, {}]", a.rows, a.cols, b.rows, b.cols, y.rows, y.cols);
  CHECK(a.dtype == y.dtype && b.dtype == y.dtype, "a {}, b {}, y {}", dtype_name(a.dtype),
        dtype_name(b.dtype), dtype_name(y.dtype));
  if (y.numel() == 0) return;
  with_float_type(y.dtype, [&]<class T>(std::type_identity<T>) {
    with_access(in_pieces(a) && in_pieces(b) && in_pieces(y),
                [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
                  const auto pieces = narrow<int32_t>(y.rows * ceil_div(y.cols, kVec<T>));
                  add_kernel<T, kAccess><<<grid_size(pieces, kThreads), kThreads, 0, stream_of(exec)>>>(args);
                  CUDA_CHECK_LAUNCH();
                });
  });
}

void column_sum(const Exec& exec, const ColumnSumArgs& a) {
  CHECK(a.sum.rows == 1 && a.sum.cols == a.dy.cols, "dy has {} columns, sum is [{}, {}]", a.dy.cols,
        a.sum.rows, a.sum.cols);
  with_float_type(a.dy.dtype, [&]<class T>(std::type_identity<T>) {
    launch_column_sum(stream_of(exec), RowTerm<T>{.operand = {a.dy}}, a.sum, a.segments);
  });
}

}  // namespace contender::cuda
