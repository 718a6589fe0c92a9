// What: rotary position embedding in place, forward and backward.
// Math: (a, b) -> (a cos - b sin, a sin + b cos); the backward is the transpose, (a cos + b sin, b cos - a
// sin). Shapes: x [T, num_heads * head_stride], of each head the columns [offset, offset + dim); table
// [positions, dim]. Layouts: pairs (2i, 2i + 1), or (i, i + dim / 2). Rotated columns that are whole 16-byte
// pieces at aligned
//   addresses move in such pieces, others element by element, with the same bits.
// Precision: x F32 or BF16, table FP32; one product and one fused multiply-add per element, one rounding. F32
// has
//   the bits of the CPU backend.
// Schedule: a thread rotates one piece of a token's head (two where a pair lies in two pieces). Threads run
//   along a token's heads, so that its row of the table is read from DRAM once.
// Roofline: 3 flops for 2 elements of traffic: memory-bound, floor 2 T heads dim elements / 4.3 TB/s on H200,
//   / 3.0 TB/s on H800.
// Limits: fewer than 2^31 pieces. A position outside the table ends the job from the device.
// Source: Su et al., arXiv 2104.09864; YaRN is in the table (ops/rope.h).
#include "cuda/common/device_check.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/rows.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/rope.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 256;

enum class Pairs { kNeighbours, kHalves };

__device__ void rotate(float& a, float& b, float cos, float sin) {
  const float x = a, y = b;
  a = fmaf(x, cos, -(y * sin));
  b = fmaf(x, sin, y * cos);
}

// Pairs of one piece: all inside it.
template <Access kAccess, class T>
__device__ void rotate_neighbours(T* head, int c, int dim, const float* table, float sign) {
  Vec<T> v = load_piece<kAccess>(head, c, dim);
#pragma unroll
  for (int k = 0; k < kVec<T>; k += 2) {
    const int pair = (c + k) / 2;
    if (c + k < dim) rotate(v.v[k], v.v[k + 1], table[pair], sign * table[dim / 2 + pair]);
  }
  store_piece<kAccess>(head, c, dim, v);
}

// Pairs of a piece of the first half with the same columns of the second.
template <Access kAccess, class T>
__device__ void rotate_halves(T* head, int c, int dim, const float* table, float sign) {
  const int half = dim / 2;
  Vec<T> a = load_piece<kAccess>(head, c, half), b = load_piece<kAccess>(head + half, c, half);
#pragma unroll
  for (int k = 0; k < kVec<T>; ++k) {
    if (c + k < half) rotate(a.v[k], b.v[k], table[c + k], sign * table[half + c + k]);
  }
  store_piece<kAccess>(head, c, half, a);
  store_piece<kAccess>(head + half, c, half, b);
}

template <class T, Pairs kPairs, Access kAccess>
__global__ void __launch_bounds__(kThreads) rope_kernel(const __grid_constant__ RopeArgs a) {
  const int dim = static_cast<int>(a.table.cols), span = kPairs == Pairs::kHalves ? dim / 2 : dim;
  const unsigned pieces = (span + kVec<T> - 1) / kVec<T>,
                 per_token = pieces * static_cast<unsigned>(a.num_heads);
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  const unsigned t = i / per_token, rest = i % per_token;
  if (t >= a.x.rows) return;
  const int position = a.positions[t];
  DEVICE_CHECK(0 <= position && position < a.table.rows, "rope: token %u has position %d of a table of %lld",
               t, position, static_cast<long long>(a.table.rows));
  T* head = row_of<T>(a.x, t) + rest / pieces * a.head_stride + a.offset;
  const int c = static_cast<int>(rest % pieces) * kVec<T>;
  const float* table = row_of<const float>(a.table, position);
  const float sign = a.inverse ? -1.0f : 1.0f;
  if constexpr (kPairs == Pairs::kNeighbours) rotate_neighbours<kAccess>(head, c, dim, table, sign);
  if constexpr (kPairs == Pairs::kHalves) rotate_halves<kAccess>(head, c, dim, table, sign);
}

// Every head's rotated columns (of both halves) are whole pieces.
bool heads_in_pieces(const RopeArgs& a) {
  const int64_t vec = 16 / dtype_size(a.x.dtype), span = a.interleaved ? a.table.cols : a.table.cols / 2;
  return reinterpret_cast<uintptr_t>(a.x.data) % 16 == 0 && a.x.ld % vec == 0 && a.offset % vec == 0 &&
         span % vec == 0 && (a.num_heads == 1 || a.head_stride % vec == 0);
}

template <class T, Pairs kPairs>
void launch(const Exec& exec, const RopeArgs& a) {
  const int64_t span = kPairs == Pairs::kHalves ? a.table.cols / 2 : a.table.cols;
  const int64_t pieces = a.x.rows * a.num_heads * ceil_div(span, kVec<T>);
  with_access(heads_in_pieces(a), [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
    rope_kernel<T, kPairs, kAccess>
        <<<grid_size(narrow<int32_t>(pieces), kThreads), kThreads, 0, stream_of(exec)>>>(a);
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace

void rope(const Exec& exec, const RopeArgs& a) {
  const int64_t dim = a.table.cols;
  CHECK(dim % 2 == 0 && a.num_heads >= 1, "rope over {} columns, {} heads", dim, a.num_heads);
  CHECK((a.num_heads - 1) * a.head_stride + a.offset + dim <= a.x.cols,
        "{} heads of stride {}, offset {}, dim {} in {} columns", a.num_heads, a.head_stride, a.offset, dim,
        a.x.cols);
  if (a.x.rows == 0 || dim == 0) return;
  with_float_type(a.x.dtype, [&]<class T>(std::type_identity<T>) {
    if (a.interleaved) {
      launch<T, Pairs::kNeighbours>(exec, a);
    } else {
      launch<T, Pairs::kHalves>(exec, a);
    }
  });
}

}  // namespace contender::cuda
