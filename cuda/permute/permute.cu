// What: moving rows and columns of heads, and the weighted sum of a token's expert outputs with its backward.
// Math: gather: y[i] = x[index[i]], zeros for -1; scatter: y[index[i]] = x[i], -1 skips.
//       copy_heads: y_h = x_h.
//       combine: y[t] = sum_j weight[t, j] x[pos[t, j]], from 0 or from y; without weights they are 1.
//       combine_bwd: dx[pos[t, j]] = weight[t, j] dy[t];  dweight[t, j] = dy[t] . x[pos[t, j]].
// Shapes: x [R, H], y and dy [T, H], pos and weight [T, k]; no rows and no columns are legal.
// Layouts: row strides are free; rows and heads that are whole numbers of aligned 16-byte pieces move in
//   those, others by element. gather, scatter and copy_heads move bytes of any dtype; combine and its
//   backward take F32 or BF16 rows, F32 weights. gather without an index also turns F32 into BF16 and back.
// Precision: FP32 between load and store, to nearest even. combine is one chain of fused multiply-adds, j
//   ascending, as on the CPU; the dot product is a chain per lane over its columns and one tree over the
//   lanes.
// Schedule: gather, scatter: a warp moves up to 4 KB of one row, all loads before the stores. copy_heads: a
//   thread for each piece. Another dtype: a thread for four columns. combine: a thread owns one piece of y
//   and walks the k rows. combine_bwd: a block owns a token, keeps dy in shared memory, a warp takes every
//   eighth j. Nothing depends on other tokens; no atomics.
// Roofline: memory-bound everywhere. Bytes a column: gather, scatter, copy_heads 2 s; combine (k + 1) s;
//   backward (2 k + 1) s, with s the size of an element.
// Limits: combine_bwd: a row of dy fits the shared memory of a block (227 KB). copy_heads and another dtype:
//   fewer than 2^31 pieces. An index outside its tensor traps.
// Source: ops/permute.h.
#include "cuda/common/device_check.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/heads.cuh"
#include "cuda/common/rows.cuh"
#include "cuda/common/shared_memory.h"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/permute.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// --- gather and scatter ---

enum class Indexed { kSource, kDestination };
constexpr int kPiecesPerLane = 8;

struct RowMove {
  const char* x;
  char* y;
  const int32_t* index;        // [rows] or null: row i
  int64_t rows;                // of the side without an index
  int64_t indexed_rows;        // of the other
  int32_t pieces;              // of a row
  int64_t x_stride, y_stride;  // bytes
};

template <class Piece, Indexed indexed>
__global__ __launch_bounds__(kThreads) void move_rows(const __grid_constant__ RowMove a) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= a.rows) return;
  const int64_t at = a.index ? a.index[row] : row;
  DEVICE_CHECK(-1 <= at && at < a.indexed_rows, "move_rows: index[%lld] = %lld of %lld rows",
               static_cast<long long>(row), static_cast<long long>(at),
               static_cast<long long>(a.indexed_rows));
  if (indexed == Indexed::kDestination && at < 0) return;
  const int64_t from = indexed == Indexed::kSource ? at : row, to = indexed == Indexed::kSource ? row : at;
  const Piece* x = reinterpret_cast<const Piece*>(a.x + from * a.x_stride);
  Piece* y = reinterpret_cast<Piece*>(a.y + to * a.y_stride);
  const int begin = blockIdx.y * (32 * kPiecesPerLane) + threadIdx.x % 32;
  Piece piece[kPiecesPerLane] = {};
#pragma unroll
  for (int k = 0; k < kPiecesPerLane; ++k) {
    if (from >= 0 && begin + 32 * k < a.pieces) piece[k] = x[begin + 32 * k];
  }
#pragma unroll
  for (int k = 0; k < kPiecesPerLane; ++k) {
    if (begin + 32 * k < a.pieces) y[begin + 32 * k] = piece[k];
  }
}

// f(std::type_identity<Piece>()): 16 bytes where everything is aligned, else an element of `size` bytes.
template <class F>
void with_piece(bool vector, int64_t size, const F& f) {
  if (vector) return f(std::type_identity<uint4>());
  if (size == 4) return f(std::type_identity<uint32_t>());
  if (size == 2) return f(std::type_identity<uint16_t>());
  f(std::type_identity<uint8_t>());
}

template <Indexed indexed>
void launch_move_rows(const Exec& exec, const Tensor& x, const int32_t* index, const Tensor& y) {
  CHECK(x.cols == y.cols && x.dtype == y.dtype, "x [{}, {}] {}, y [{}, {}] {}", x.rows, x.cols,
        dtype_name(x.dtype), y.rows, y.cols, dtype_name(y.dtype));
  constexpr bool kGather = indexed == Indexed::kSource;
  const int64_t size = dtype_size(x.dtype);
  RowMove a = {.x = static_cast<const char*>(x.data),
               .y = static_cast<char*>(y.data),
               .index = index,
               .rows = kGather ? y.rows : x.rows,
               .indexed_rows = kGather ? x.rows : y.rows,
               .pieces = 0,
               .x_stride = x.ld * size,
               .y_stride = y.ld * size};
  if (a.rows == 0 || x.cols == 0) return;
  const auto launch = [&]<class Piece>(std::type_identity<Piece>) {
    a.pieces = narrow<int32_t>(x.cols * size / static_cast<int64_t>(sizeof(Piece)));
    const dim3 grid(grid_size(a.rows, kWarps), grid_size(a.pieces, 32 * kPiecesPerLane));
    move_rows<Piece, indexed><<<grid, kThreads, 0, stream_of(exec)>>>(a);
    CUDA_CHECK_LAUNCH();
  };
  with_piece(in_pieces(x) && in_pieces(y), size, launch);
}

// --- copies: of heads, and to another dtype ---

struct HeadCopy {
  const char* x;
  char* y;
  Heads x_heads, y_heads;      // in bytes
  int64_t x_stride, y_stride;  // bytes
  int64_t rows;
  unsigned pieces;  // of a head
};

Heads in_bytes(Heads heads, int64_t size) {
  heads.offset *= size;
  heads.stride *= size;
  heads.slice_stride *= size;
  return heads;
}

template <class Piece>
__global__ __launch_bounds__(kThreads) void copy_heads_kernel(const __grid_constant__ HeadCopy a) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x, piece = i % a.pieces, item = i / a.pieces;
  const auto heads = static_cast<unsigned>(a.x_heads.count);
  const unsigned h = item % heads;
  const int64_t r = item / heads;
  if (r >= a.rows) return;
  const char* x = a.x + r * a.x_stride + head_column(a.x_heads, h);
  char* y = a.y + r * a.y_stride + head_column(a.y_heads, h);
  reinterpret_cast<Piece*>(y)[piece] = reinterpret_cast<const Piece*>(x)[piece];
}

template <class X, class Y, Access kAccess>
__global__ __launch_bounds__(kThreads) void convert_rows(const __grid_constant__ GatherRowsArgs a) {
  const int cols = static_cast<int>(a.y.cols);
  const unsigned quads = (cols + 3) / 4, i = blockIdx.x * kThreads + threadIdx.x;
  const int64_t r = i / quads;
  const int c = static_cast<int>(i % quads) * 4;
  if (r >= a.y.rows) return;
  store_quad_piece<kAccess>(row_of<Y>(a.y, r), c, cols,
                            load_quad_piece<kAccess>(row_of<const X>(a.x, r), c, cols));
}

// --- combine ---

__device__ void check_position(const Tensor& pos, int64_t t, int64_t j, int64_t rows) {
  const int64_t p = row_of<int32_t>(pos, t)[j];
  DEVICE_CHECK(0 <= p && p < rows, "combine: pos[%lld, %lld] = %lld of %lld rows", static_cast<long long>(t),
               static_cast<long long>(j), static_cast<long long>(p), static_cast<long long>(rows));
}

// Row pos[t, j] for j = the lane; one of 32 at a time, dealt out by shuffles.
__device__ int32_t lane_position(const Tensor& pos, int64_t t, int64_t j, int64_t rows) {
  if (j >= pos.cols) return 0;
  check_position(pos, t, j, rows);
  return row_of<int32_t>(pos, t)[j];
}

template <class T, Access kAccess>
__global__ __launch_bounds__(kThreads) void combine_kernel(const __grid_constant__ CombineArgs a) {
  const int64_t t = blockIdx.x;
  const int cols = static_cast<int>(a.y.cols), top_k = static_cast<int>(a.pos.cols), lane = threadIdx.x % 32;
  const int c = (blockIdx.y * kThreads + threadIdx.x) * kVec<T>;
  if (c - lane * kVec<T> >= cols) return;  // the whole warp
  T* y = row_of<T>(a.y, t);
  Vec<T> sum = {};
  if (a.accumulate) sum = load_piece<kAccess>(y, c, cols);
  for (int first = 0; first < top_k; first += 32) {
    const int32_t lane_pos = lane_position(a.pos, t, first + lane, a.x.rows);
    float lane_weight = 1;
    if (a.weight.data && first + lane < top_k) lane_weight = row_of<float>(a.weight, t)[first + lane];
#pragma unroll(kAccess == Access::kVector ? 8 : 2)
    for (int j = 0; j < min(top_k - first, 32); ++j) {
      const int32_t p = __shfl_sync(0xFFFFFFFFu, lane_pos, j);
      const float w = __shfl_sync(0xFFFFFFFFu, lane_weight, j);
      const Vec<T> x = load_piece<kAccess>(row_of<T>(a.x, p), c, cols);
#pragma unroll
      for (int k = 0; k < kVec<T>; ++k) sum.v[k] = fmaf(w, x.v[k], sum.v[k]);
    }
  }
  store_piece<kAccess>(y, c, cols, sum);
}

// --- combine_bwd ---

// Shared memory: the row dy[t], padded with zeros to whole pieces.
template <class T>
int64_t staged_bytes(int64_t cols) {
  return round_up(cols, kVec<T>) * static_cast<int64_t>(sizeof(T));
}

template <class T, Access kAccess>
__global__ __launch_bounds__(kThreads) void combine_bwd_kernel(const __grid_constant__ CombineBwdArgs a) {
  extern __shared__ uint4 smem[];
  T* dy = reinterpret_cast<T*>(smem);
  const int64_t t = blockIdx.x;
  const int cols = static_cast<int>(a.dy.cols), lane = threadIdx.x % 32;
  for (int j = threadIdx.x; j < static_cast<int>(a.pos.cols); j += kThreads)
    check_position(a.pos, t, j, a.x.rows);
  for (int c = threadIdx.x * kVec<T>; c < cols; c += kThreads * kVec<T>)
    store_vec(dy + c, load_piece<kAccess>(row_of<T>(a.dy, t), c, cols));
  __syncthreads();
  for (int j = threadIdx.x / 32; j < static_cast<int>(a.pos.cols); j += kWarps) {
    const int64_t p = row_of<int32_t>(a.pos, t)[j];
    const float w = row_of<float>(a.weight, t)[j];
    const T* x = row_of<T>(a.x, p);
    T* dx = row_of<T>(a.dx, p);
    float dot = 0;
#pragma unroll 4
    for (int c = lane * kVec<T>; c < cols; c += 32 * kVec<T>) {
      const Vec<T> g = load_vec(dy + c), v = load_piece<kAccess>(x, c, cols);
      Vec<T> scaled;
#pragma unroll
      for (int k = 0; k < kVec<T>; ++k) {
        dot = fmaf(g.v[k], v.v[k], dot);
        scaled.v[k] = w * g.v[k];
      }
      store_piece<kAccess>(dx, c, cols, scaled);
    }
    dot = warp_reduce_sum(dot);
    if (lane == 0) row_of<float>(a.dweight, t)[j] = dot;
  }
}

}  // namespace

void gather_rows(const Exec& exec, const GatherRowsArgs& a) {
  CHECK(a.index || a.y.rows <= a.x.rows, "x has {} rows, y {}", a.x.rows, a.y.rows);
  if (a.index || a.x.dtype == a.y.dtype) return launch_move_rows<Indexed::kSource>(exec, a.x, a.index, a.y);
  CHECK(a.x.rows == a.y.rows && a.x.cols == a.y.cols, "x [{}, {}], y [{}, {}]", a.x.rows, a.x.cols, a.y.rows,
        a.y.cols);
  if (a.y.numel() == 0) return;
  const bool vector = in_pieces(a.x, 4 * dtype_size(a.x.dtype)) && in_pieces(a.y, 4 * dtype_size(a.y.dtype));
  const unsigned blocks = grid_size(narrow<int32_t>(a.y.rows * ceil_div(a.y.cols, 4)), kThreads);
  with_float_type(a.x.dtype, [&]<class X>(std::type_identity<X>) {
    with_float_type(a.y.dtype, [&]<class Y>(std::type_identity<Y>) {
      if constexpr (!std::is_same_v<X, Y>) {
        with_access(vector, [&](auto access) {
          convert_rows<X, Y, access()><<<blocks, kThreads, 0, stream_of(exec)>>>(a);
        });
      }
    });
  });
  CUDA_CHECK_LAUNCH();
}

void scatter_rows(const Exec& exec, const ScatterRowsArgs& a) {
  CHECK(a.index || a.x.rows == 0, "scatter_rows of {} rows without an index", a.x.rows);
  launch_move_rows<Indexed::kDestination>(exec, a.x, a.index, a.y);
}

void copy_heads(const Exec& exec, const CopyHeadsArgs& a) {
  check_copy_heads(a);
  if (a.x.rows == 0 || a.width == 0) return;
  const int64_t size = dtype_size(a.x.dtype);
  HeadCopy copy = {.x = static_cast<const char*>(a.x.data),
                   .y = static_cast<char*>(a.y.data),
                   .x_heads = in_bytes(a.x_heads, size),
                   .y_heads = in_bytes(a.y_heads, size),
                   .x_stride = a.x.ld * size,
                   .y_stride = a.y.ld * size,
                   .rows = a.x.rows,
                   .pieces = 0};
  const bool vector = heads_in_pieces(a.x, a.x_heads, a.width) && heads_in_pieces(a.y, a.y_heads, a.width);
  with_piece(vector, size, [&]<class Piece>(std::type_identity<Piece>) {
    const int64_t pieces = a.width * size / static_cast<int64_t>(sizeof(Piece));
    copy.pieces = static_cast<unsigned>(pieces);
    const unsigned blocks = grid_size(narrow<int32_t>(a.x.rows * a.x_heads.count * pieces), kThreads);
    copy_heads_kernel<Piece><<<blocks, kThreads, 0, stream_of(exec)>>>(copy);
  });
  CUDA_CHECK_LAUNCH();
}

void combine(const Exec& exec, const CombineArgs& a) {
  CHECK(a.x.cols == a.y.cols && a.pos.rows == a.y.rows && a.x.dtype == a.y.dtype &&
            a.pos.dtype == DType::kI32 &&
            (!a.weight ||
             (a.weight.rows == a.y.rows && a.pos.cols == a.weight.cols && a.weight.dtype == DType::kF32)),
        "x [{}, {}] {}, pos [{}, {}], weight [{}, {}], y [{}, {}] {}", a.x.rows, a.x.cols,
        dtype_name(a.x.dtype), a.pos.rows, a.pos.cols, a.weight.rows, a.weight.cols, a.y.rows, a.y.cols,
        dtype_name(a.y.dtype));
  if (a.y.numel() == 0) return;
  with_float_type(a.y.dtype, [&]<class T>(std::type_identity<T>) {
    with_access(in_pieces(a.x) && in_pieces(a.y), [&](auto access) {
      const dim3 grid(grid_size(a.y.rows, 1), grid_size(a.y.cols, kThreads * kVec<T>));
      combine_kernel<T, access()><<<grid, kThreads, 0, stream_of(exec)>>>(a);
    });
  });
  CUDA_CHECK_LAUNCH();
}

void combine_bwd(const Exec& exec, const CombineBwdArgs& a) {
  const int64_t h = a.dy.cols;
  CHECK(a.x.cols == h && a.dx.cols == h && a.dx.rows == a.x.rows && a.pos.rows == a.dy.rows &&
            a.weight.rows == a.dy.rows && a.dweight.rows == a.dy.rows && a.pos.cols == a.weight.cols &&
            a.pos.cols == a.dweight.cols,
        "dy [{}, {}], x [{}, {}], dx [{}, {}], pos [{}, {}]", a.dy.rows, h, a.x.rows, a.x.cols, a.dx.rows,
        a.dx.cols, a.pos.rows, a.pos.cols);
  CHECK(a.x.dtype == a.dy.dtype && a.dx.dtype == a.dy.dtype && a.pos.dtype == DType::kI32 &&
            a.weight.dtype == DType::kF32 && a.dweight.dtype == DType::kF32,
        "dy {}, x {}, dx {}, pos {}, weight {}, dweight {}", dtype_name(a.dy.dtype), dtype_name(a.x.dtype),
        dtype_name(a.dx.dtype), dtype_name(a.pos.dtype), dtype_name(a.weight.dtype),
        dtype_name(a.dweight.dtype));
  if (a.dy.rows == 0) return;
  with_float_type(a.dy.dtype, [&]<class T>(std::type_identity<T>) {
    with_access(in_pieces(a.dy) && in_pieces(a.x) && in_pieces(a.dx), [&](auto access) {
      constexpr auto kernel = combine_bwd_kernel<T, access()>;
      const int64_t bytes = staged_bytes<T>(h);
      CHECK(bytes <= kMaxSharedMemory, "a row of {} bytes, at most {}", bytes, kMaxSharedMemory);
      allow_shared_memory<kernel>();
      kernel<<<grid_size(a.dy.rows, 1), kThreads, static_cast<size_t>(bytes), stream_of(exec)>>>(a);
    });
  });
  CUDA_CHECK_LAUNCH();
}

}  // namespace contender::cuda
