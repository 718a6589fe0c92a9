// What: RMSNorm with its residual addition, its backward, and its fusion with 1x128 quantisation.
// Math: rstd = 1 / sqrt(mean(x^2) + eps);  y = (x * rstd) * gamma
//       dx = rstd * (dy * gamma - xhat * mean(dy * gamma * xhat)), xhat = x * rstd
//       dgamma = sum over rows of dy * xhat
// Shapes: x, delta, sum, y, dy, dx [M, H]; gamma, dgamma [1, H]; rstd [M].
// Layouts: row-major with any row stride. Rows that are whole 16-byte pieces at aligned addresses are read
//   and written in such pieces, others element by element, with the same bits.
// Precision: activations F32 or BF16, everything between in FP32. The residual stream and y are rounded
//   before they are used further, so that the fused forms equal the composition bit for bit.
// Schedule: a team of 32 to 512 threads, chosen by H alone, keeps a row in registers: piece p of the row is
//   thread p % team's. A sum over the row: each thread's own elements in column order, then a butterfly over
//   the warp, then the warps in order. Teams walk over rows, gamma stays in registers; of BF16 rows the next
//   one is under way while one is worked on. dgamma is a second kernel: canonical sums over rows
//   (column_sum.cuh), equal to the CPU backend's bit for bit.
// Roofline: 4 M H flops for 2 M H elements of traffic (with delta 4: it is read, the sum written):
//   memory-bound everywhere, floor bytes / 4.3 TB/s on H200, / 3.0 TB/s on H800. The backward reads dy and x
//   twice, once for dx and once for dgamma, whose chains go down the columns: 5 M H elements, 6 where dx is
//   added to.
// Limits: H <= 16384; dgamma: those of column_sum.cuh.
// Source: Zhang and Sennrich, arXiv 1910.07467.
#include "cuda/common/column_sum.cuh"
#include "cuda/common/e4m3.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/norm.h"

namespace contender::cuda {
namespace {

constexpr int kMinThreads = 128;  // of a block: teams of one warp share it
constexpr int kMaxWarps = 16;

// Elements of a row that a thread of the team holds.
template <int kTeam_, int kElems_>
struct Shape {
  static constexpr int kTeam = kTeam_, kElems = kElems_, kColumns = kTeam * kElems;
  static constexpr int kThreads = kTeam < kMinThreads ? kMinThreads : kTeam;
  static constexpr int kTeams = kThreads / kTeam;
  // 128 registers for a thread that holds 32 elements of three operands, 64 for 8.
  static constexpr int kBlocksPerSm = (kElems == 8 ? 1024 : 512) / kThreads;
};

// Two slots, used in turn: one barrier for each sum.
struct Smem {
  float warp_sum[2][kMaxWarps];
};

// The sum over a team, in all its threads. `turn` alternates between calls.
template <int kTeam>
__device__ float team_reduce_sum(float x, Smem& smem, int turn) {
  x = warp_reduce_sum(x);
  if constexpr (kTeam > 32) {
    float* sums = smem.warp_sum[turn];
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = sums[0];
#pragma unroll
    for (int w = 1; w < kTeam / 32; ++w) x += sums[w];
  }
  return x;
}

template <Access kAccess, class T, int kPieces>
__device__ void load_row(Vec<T> (&v)[kPieces], const T* row, int first, int step, int cols) {
#pragma unroll
  for (int p = 0; p < kPieces; ++p) v[p] = load_piece<kAccess>(row, first + p * step, cols);
}

// A row that is asked for before it is used: BF16 pieces wait packed, while the row before is worked on. F32
// has no registers for that, and twice the bytes in flight without it.
template <class T, Access kAccess, int kPieces>
class RowAhead {
 public:
  __device__ RowAhead(int first, int step, int cols) : first_(first), step_(step), cols_(cols) {}
  __device__ void ask(const T* row) {
    row_ = row;
    if constexpr (kPacked) {
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        const int c = first_ + p * step_;
        packed_[p] = c < cols_ ? *reinterpret_cast<const uint4*>(row + c) : make_uint4(0, 0, 0, 0);
      }
    }
  }
  __device__ void get(Vec<T> (&v)[kPieces]) const {
    if constexpr (kPacked) {
#pragma unroll
      for (int p = 0; p < kPieces; ++p) v[p] = unpack_vec(packed_[p]);
    } else {
      load_row<kAccess>(v, row_, first_, step_, cols_);
    }
  }

 private:
  static constexpr bool kPacked = sizeof(T) == 2 && kAccess == Access::kVector;
  const T* row_ = nullptr;
  int first_, step_, cols_;
  uint4 packed_[kPacked ? kPieces : 1];
};

template <Access kAccess, class T, int kPieces>
__device__ void load_gamma(Vec<T> (&v)[kPieces], const float* row, int first, int step, int cols) {
#pragma unroll
  for (int p = 0; p < kPieces; ++p) v[p] = load_f32_piece<kAccess, T>(row, first + p * step, cols);
}

// x += delta, as the residual stream keeps it.
template <Access kAccess, class T, int kPieces>
__device__ void add_delta(Vec<T> (&x)[kPieces], T* sum_row, const T* delta_row, int first, int step,
                          int cols) {
  Vec<T> delta[kPieces];
  load_row<kAccess>(delta, delta_row, first, step, cols);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
#pragma unroll
    for (int k = 0; k < kVec<T>; ++k)
      x[p].v[k] = round_to(x[p].v[k] + delta[p].v[k], std::type_identity<T>());
    store_piece<kAccess>(sum_row, first + p * step, cols, x[p]);
  }
}

template <class T, class S, Access kAccess>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm)
    rms_norm_kernel(const __grid_constant__ RmsNormQuantizeArgs a) {
  constexpr int kPieces = S::kElems / kVec<T>, kStep = S::kTeam * kVec<T>;
  __shared__ Smem smem;
  const RmsNormArgs& n = a.norm;
  const int h = static_cast<int>(n.x.cols), thread = threadIdx.x % S::kTeam, first = thread * kVec<T>;
  const auto* gamma_row = static_cast<const float*>(n.gamma.data);
  Vec<T> gamma[kPieces];  // element by element there are no registers left for it
  if constexpr (kAccess == Access::kVector) load_gamma<kAccess>(gamma, gamma_row, first, kStep, h);

  int turn = 0;
  const int64_t stride = int64_t{gridDim.x} * S::kTeams;
  int64_t r = int64_t{blockIdx.x} * S::kTeams + threadIdx.x / S::kTeam;
  RowAhead<T, kAccess, kPieces> ahead(first, kStep, h);
  if (r < n.x.rows) ahead.ask(row_of<const T>(n.x, r));
  for (; r < n.x.rows; r += stride) {
    Vec<T> x[kPieces];
    ahead.get(x);
    if (r + stride < n.x.rows) ahead.ask(row_of<const T>(n.x, r + stride));
    if (n.delta.data)
      add_delta<kAccess>(x, row_of<T>(n.sum, r), row_of<const T>(n.delta, r), first, kStep, h);
    float sum = 0;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
#pragma unroll
      for (int k = 0; k < kVec<T>; ++k) sum = fmaf(x[p].v[k], x[p].v[k], sum);
    }
    const float mean = __fdiv_rn(team_reduce_sum<S::kTeam>(sum, smem, turn), static_cast<float>(h));
    turn ^= 1;
    const float rstd = __frcp_rn(__fsqrt_rn(mean + n.eps));
    if (n.rstd && thread == 0) n.rstd[r] = rstd;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int c = first + p * kStep;
      if constexpr (kAccess == Access::kScalar) gamma[p] = load_f32_piece<kAccess, T>(gamma_row, c, h);
#pragma unroll
      for (int k = 0; k < kVec<T>; ++k)
        x[p].v[k] = round_to((x[p].v[k] * rstd) * gamma[p].v[k], std::type_identity<T>());
      if (n.y.data) store_piece<kAccess>(row_of<T>(n.y, r), c, h, x[p]);
      if (a.q.data.data)
        quantize_piece<kAccess>(x[p], c, h, row_of<uint8_t>(a.q.data, r), row_of<float>(a.q.scale, r));
    }
  }
}

template <class T, class S, Access kAccess>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm)
    rms_norm_dx_kernel(const __grid_constant__ RmsNormBwdArgs a) {
  constexpr int kPieces = S::kElems / kVec<T>, kStep = S::kTeam * kVec<T>;
  __shared__ Smem smem;
  const int h = static_cast<int>(a.x.cols), first = threadIdx.x % S::kTeam * kVec<T>;
  Vec<T> gamma[kPieces];
  load_gamma<kAccess>(gamma, static_cast<const float*>(a.gamma.data), first, kStep, h);

  int turn = 0;
  const int64_t stride = int64_t{gridDim.x} * S::kTeams;
  for (int64_t r = int64_t{blockIdx.x} * S::kTeams + threadIdx.x / S::kTeam; r < a.x.rows; r += stride) {
    Vec<T> xhat[kPieces], g[kPieces];
    load_row<kAccess>(xhat, row_of<const T>(a.x, r), first, kStep, h);
    load_row<kAccess>(g, row_of<const T>(a.dy, r), first, kStep, h);
    const float rstd = a.rstd[r];
    float sum = 0;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
#pragma unroll
      for (int k = 0; k < kVec<T>; ++k) {
        xhat[p].v[k] *= rstd;
        g[p].v[k] *= gamma[p].v[k];
        sum = fmaf(g[p].v[k], xhat[p].v[k], sum);
      }
    }
    const float mean = __fdiv_rn(team_reduce_sum<S::kTeam>(sum, smem, turn), static_cast<float>(h));
    turn ^= 1;
    T* dx = row_of<T>(a.dx, r);
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int c = first + p * kStep;
      Vec<T> old = {};
      if (a.accumulate) old = load_piece<kAccess>(dx, c, h);
#pragma unroll
      for (int k = 0; k < kVec<T>; ++k) {
        const float slope = fmaf(-xhat[p].v[k], mean, g[p].v[k]);
        g[p].v[k] = a.accumulate ? fmaf(rstd, slope, old.v[k]) : rstd * slope;
      }
      store_piece<kAccess>(dx, c, h, g[p]);
    }
  }
}

// dgamma: acc = fma(dy, x * rstd, acc).
template <class T>
struct GammaTerm {
  using Type = T;
  static constexpr int kOperands = 2;
  Tensor operand[2];  // dy, x
  const float* scale;
  __device__ static float step(float acc, const float (&value)[2], float rstd) {
    return fmaf(value[0], value[1] * rstd, acc);
  }
};

// The narrowest team that holds a row; a team's width decides the order of its sums, so nothing but H
// chooses.
template <class F>
void with_shape(int64_t h, const F& f) {
  if (h <= Shape<32, 8>::kColumns) return f(Shape<32, 8>());
  if (h <= Shape<32, 32>::kColumns) return f(Shape<32, 32>());
  if (h <= Shape<128, 32>::kColumns) return f(Shape<128, 32>());
  if (h <= Shape<256, 32>::kColumns) return f(Shape<256, 32>());
  if (h <= Shape<512, 32>::kColumns) return f(Shape<512, 32>());
  fail(ExitCode::kConfig, "RMSNorm over {} columns, at most {}", h, Shape<512, 32>::kColumns);
}

template <class S>
unsigned grid_of(int64_t rows) {
  return grid_size(rows, S::kTeams, S::kBlocksPerSm);
}

void check_norm(const RmsNormArgs& a) {
  CHECK(a.gamma.rows == 1 && a.gamma.cols == a.x.cols, "x has {} columns, gamma is [{}, {}]", a.x.cols,
        a.gamma.rows, a.gamma.cols);
  CHECK(!a.delta || (a.delta.rows == a.x.rows && a.delta.cols == a.x.cols && a.delta.dtype == a.x.dtype),
        "x [{}, {}], delta [{}, {}]", a.x.rows, a.x.cols, a.delta.rows, a.delta.cols);
  CHECK(!a.sum || (a.delta && a.sum.rows == a.x.rows && a.sum.cols == a.x.cols && a.sum.dtype == a.x.dtype),
        "x [{}, {}], delta [{}, {}], sum [{}, {}]", a.x.rows, a.x.cols, a.delta.rows, a.delta.cols,
        a.sum.rows, a.sum.cols);
  CHECK(!a.y || (a.y.rows == a.x.rows && a.y.cols == a.x.cols && a.y.dtype == a.x.dtype),
        "x [{}, {}], y [{}, {}]", a.x.rows, a.x.cols, a.y.rows, a.y.cols);
}

void launch_rms_norm(const Exec& exec, const RmsNormQuantizeArgs& args) {
  check_norm(args.norm);
  if (args.norm.x.rows == 0) return;
  RmsNormQuantizeArgs a = args;
  RmsNormArgs& n = a.norm;
  if (!n.sum) n.sum = n.x;
  const int64_t code_bytes = 16 / dtype_size(n.x.dtype);
  const bool vector = in_pieces(n.x) && in_pieces(n.delta) && in_pieces(n.sum) && in_pieces(n.y) &&
                      in_pieces(n.gamma) && in_pieces(a.q.data, code_bytes);
  with_float_type(n.x.dtype, [&]<class T>(std::type_identity<T>) {
    with_shape(n.x.cols, [&]<class S>(S) {
      with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
        rms_norm_kernel<T, S, kAccess><<<grid_of<S>(n.x.rows), S::kThreads, 0, stream_of(exec)>>>(a);
        CUDA_CHECK_LAUNCH();
      });
    });
  });
}

void launch_dx(const Exec& exec, const RmsNormBwdArgs& a) {
  if (a.x.rows == 0) return;
  const bool vector = in_pieces(a.x) && in_pieces(a.dy) && in_pieces(a.dx) && in_pieces(a.gamma);
  with_float_type(a.x.dtype, [&]<class T>(std::type_identity<T>) {
    with_shape(a.x.cols, [&]<class S>(S) {
      with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
        rms_norm_dx_kernel<T, S, kAccess><<<grid_of<S>(a.x.rows), S::kThreads, 0, stream_of(exec)>>>(a);
        CUDA_CHECK_LAUNCH();
      });
    });
  });
}

}  // namespace

void rms_norm(const Exec& exec, const RmsNormArgs& a) {
  CHECK(a.y || a.x.rows == 0, "no y for {} rows", a.x.rows);
  launch_rms_norm(exec, {.norm = a, .q = {}});
}

void rms_norm_bwd(const Exec& exec, const RmsNormBwdArgs& a) {
  const int64_t h = a.x.cols;
  CHECK(a.dy.rows == a.x.rows && a.dx.rows == a.x.rows && a.dy.cols == h && a.dx.cols == h &&
            a.gamma.cols == h && a.dgamma.cols == h && a.dgamma.rows == 1,
        "x [{}, {}], dy [{}, {}], dx [{}, {}], gamma of {}, dgamma of {}", a.x.rows, h, a.dy.rows, a.dy.cols,
        a.dx.rows, a.dx.cols, a.gamma.cols, a.dgamma.cols);
  CHECK(a.dy.dtype == a.x.dtype && a.dx.dtype == a.x.dtype, "x {}, dy {}, dx {}", dtype_name(a.x.dtype),
        dtype_name(a.dy.dtype), dtype_name(a.dx.dtype));
  // dgamma before dx, which may be dy's memory.
  with_float_type(a.x.dtype, [&]<class T>(std::type_identity<T>) {
    launch_column_sum(stream_of(exec), GammaTerm<T>{.operand = {a.dy, a.x}, .scale = a.rstd}, a.dgamma,
                      a.segments);
  });
  launch_dx(exec, a);
}

void rms_norm_quantize(const Exec& exec, const RmsNormQuantizeArgs& a) {
  CHECK(a.q.layout == QLayout::k1x128, "layout {}", static_cast<int>(a.q.layout));
  CHECK(a.q.data.dtype == DType::kE4M3 && a.q.data.rows == a.norm.x.rows && a.q.data.cols == a.norm.x.cols,
        "x [{}, {}], quantised [{}, {}]", a.norm.x.rows, a.norm.x.cols, a.q.data.rows, a.q.data.cols);
  CHECK(a.q.scale.rows == a.q.data.rows && a.q.scale.cols == ceil_div(a.q.data.cols, kQuantizeBlock),
        "scale [{}, {}] of [{}, {}]", a.q.scale.rows, a.q.scale.cols, a.q.data.rows, a.q.data.cols);
  launch_rms_norm(exec, a);
}

}  // namespace contender::cuda
