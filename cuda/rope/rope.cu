// What: rotary position embedding, forward and backward, in place or into another layout of heads.
// Math: (a, b) -> (a cos - b sin, a sin + b cos)
//       backward, the transpose: (a, b) -> (a cos + b sin, b cos - a sin)
// Shapes: of each head h the `dim` columns from x_heads.column(h) of x [T, ...], and from y_heads.column(h)
//   of y [T, ...]; table [positions, dim].
// Layouts: pairs (2i, 2i + 1), or (i, i + dim / 2). Rotated columns that are whole 16-byte pieces at
//   aligned addresses move in such pieces, others element by element, with the same bits. Other columns of
//   y are untouched.
// Precision: x and y F32 or BF16, table FP32; one product and one fused multiply-add per element, one
//   rounding. F32 has the bits of the CPU backend.
// Schedule: a thread rotates the same piece of up to 32 heads of a token (two pieces where a pair lies in
//   two): its cosines and sines stay in registers, and the table is read once for 32 heads. Four heads are
//   in flight.
// Roofline: 3 flops for 2 elements of traffic: memory-bound, floor 2 T heads dim elements / 4.3 TB/s on
//   H200, / 3.0 TB/s on H800.
// Limits: fewer than 2^31 threads. A position outside the table ends the job from the device.
// Source: Su et al., arXiv 2104.09864; YaRN is in the table (ops/rope.h).
#include "cuda/common/device_check.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/heads.cuh"
#include "cuda/common/rows.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/rope.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeadsPerThread = 32;
constexpr int kPiecesInFlight = 4;

enum class Pairs { kNeighbours, kHalves };

// What a thread rotates of one head: a piece, or the same piece of both halves.
template <class T, Pairs kPairs>
struct HeadPiece {
  static constexpr int kParts = kPairs == Pairs::kHalves ? 2 : 1;
  static constexpr int kAngles = kPairs == Pairs::kHalves ? kVec<T> : kVec<T> / 2;
  static constexpr int kInFlight = kPiecesInFlight / kParts;
  Vec<T> part[kParts];

  template <Access kAccess>
  __device__ void load(const T* head, int c, int span) {
#pragma unroll
    for (int p = 0; p < kParts; ++p) part[p] = load_piece<kAccess>(head + p * span, c, span);
  }
  template <Access kAccess>
  __device__ void store(T* head, int c, int span) const {
#pragma unroll
    for (int p = 0; p < kParts; ++p) store_piece<kAccess>(head + p * span, c, span, part[p]);
  }
  __device__ void rotate(const float* cos, const float* sin) {
#pragma unroll
    for (int k = 0; k < kAngles; ++k) {
      float& a = kPairs == Pairs::kHalves ? part[0].v[k] : part[0].v[2 * k];
      float& b = kPairs == Pairs::kHalves ? part[kParts - 1].v[k] : part[0].v[2 * k + 1];
      const float x = a, y = b;
      a = fmaf(x, cos[k], -(y * sin[k]));
      b = fmaf(x, sin[k], y * cos[k]);
    }
  }
};

template <Access kAccess, int kCount>
__device__ void load_angles(float (&out)[kCount], const float* row, int first, int half, float sign) {
  if constexpr (kAccess == Access::kScalar) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) out[k] = first + k < half ? sign * row[first + k] : 0.0f;
  } else if constexpr (kCount == 2) {
    const float2 v = *reinterpret_cast<const float2*>(row + first);
    out[0] = sign * v.x;
    out[1] = sign * v.y;
  } else {
#pragma unroll
    for (int k = 0; k < kCount; k += 4) {
      const Vec<float> v = load_vec(row + first + k);
#pragma unroll
      for (int i = 0; i < 4; ++i) out[k + i] = sign * v.v[i];
    }
  }
}

template <class T, Pairs kPairs, Access kAccess>
__global__ void __launch_bounds__(kThreads, 2) rope_kernel(const __grid_constant__ RopeArgs a) {
  using Piece = HeadPiece<T, kPairs>;
  const int half = static_cast<int>(a.table.cols) / 2, span = 2 * half / Piece::kParts;
  const int num_heads = static_cast<int>(a.x_heads.count);
  const unsigned pieces = (span + kVec<T> - 1) / kVec<T>;
  const unsigned per_token = pieces * ((num_heads + kHeadsPerThread - 1) / kHeadsPerThread);
  const unsigned i = blockIdx.x * kThreads + threadIdx.x, piece = i % per_token % pieces;
  const int64_t t = i / per_token;
  if (t >= a.x.rows) return;
  const int position = a.positions[t];
  DEVICE_CHECK(0 <= position && position < a.table.rows,
               "rope: token %lld has position %d of a table of %lld", static_cast<long long>(t), position,
               static_cast<long long>(a.table.rows));

  const float* table = row_of<const float>(a.table, position);
  float cos[Piece::kAngles], sin[Piece::kAngles];
  load_angles<kAccess, Piece::kAngles>(cos, table, static_cast<int>(piece) * Piece::kAngles, half, 1.0f);
  load_angles<kAccess, Piece::kAngles>(sin, table + half, static_cast<int>(piece) * Piece::kAngles, half,
                                       a.inverse ? -1.0f : 1.0f);

  const int c = static_cast<int>(piece) * kVec<T>;
  const int first = static_cast<int>(i % per_token / pieces) * kHeadsPerThread;
  const int end = min(first + kHeadsPerThread, num_heads);
  const T* x = row_of<const T>(a.x, t);
  T* y = row_of<T>(a.y, t);
  HeadWalk from(a.x_heads, first), to(a.y_heads, first);
  for (int h = first; h < end; h += Piece::kInFlight) {
    Piece v[Piece::kInFlight];
#pragma unroll
    for (int k = 0; k < Piece::kInFlight; ++k) {
      if (h + k < end) v[k].template load<kAccess>(x + from.next(), c, span);
    }
#pragma unroll
    for (int k = 0; k < Piece::kInFlight; ++k) {
      if (h + k >= end) break;
      v[k].rotate(cos, sin);
      v[k].template store<kAccess>(y + to.next(), c, span);
    }
  }
}

template <class T, Pairs kPairs>
void launch(const Exec& exec, const RopeArgs& a) {
  const int64_t span = kPairs == Pairs::kHalves ? a.table.cols / 2 : a.table.cols;
  const int64_t pieces = a.x.rows * ceil_div(a.x_heads.count, kHeadsPerThread) * ceil_div(span, kVec<T>);
  const bool vector =
      heads_in_pieces(a.x, a.x_heads, span) && heads_in_pieces(a.y, a.y_heads, span) && in_pieces(a.table);
  with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
    rope_kernel<T, kPairs, kAccess>
        <<<grid_size(narrow<int32_t>(pieces), kThreads), kThreads, 0, stream_of(exec)>>>(a);
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace

void rope(const Exec& exec, const RopeArgs& args) {
  check_rope(args);
  RopeArgs a = args;
  if (!a.y) a.y = a.x, a.y_heads = a.x_heads;
  CHECK(a.y.dtype == a.x.dtype, "x {}, y {}", dtype_name(a.x.dtype), dtype_name(a.y.dtype));
  if (a.x.rows == 0 || a.table.cols == 0) return;
  with_float_type(a.x.dtype, [&]<class T>(std::type_identity<T>) {
    if (a.interleaved) {
      launch<T, Pairs::kNeighbours>(exec, a);
    } else {
      launch<T, Pairs::kHalves>(exec, a);
    }
  });
}

}  // namespace contender::cuda
