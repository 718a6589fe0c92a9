// What: block-scaled FP8 (E4M3) quantisation in 1x128, 128x1 and 128x128 blocks, and back.
// Math: scale = amax / 448 of each block, rounded up to a power of two but in 128x128 blocks, 1 where it is
//   zero; code = rn(x / scale), saturating;  y = code * scale
// Shapes: x, y [rows, cols] F32 or BF16 (y F32); data [rows, cols]; scale by layout (ops/quantize.h).
// Layouts: row-major with any row stride. Rows that are whole 16-byte pieces at aligned addresses move in
//   such pieces, others element by element, with the same bits.
// Precision: bit-equal to the CPU backend (a NaN's code loses its sign).
// Schedule: 1x128: a thread for each 16-byte piece, the 128 / piece neighbouring lanes of a block find its
//   amax by a butterfly. 128x1 and 128x128: a block of threads keeps a tile of 128 x 128 in registers, amax
//   of its columns, or of all, over shared memory; x is read once. Back: four codes to a thread, so that
//   lanes read 128 bytes and write 512 side by side.
// Roofline: a handful of flops for 5 bytes (BF16: 3): memory-bound, floor bytes / 4.3 TB/s on H200, / 3.0
//   TB/s on H800.
// Limits: fewer than 2^31 pieces; 65,535 * 128 rows.
// Source: DeepSeek-V3, arXiv 2412.19437, section 3.3.
#include "cuda/common/e4m3.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/quantize.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = kQuantizeBlock;
constexpr int kNumWarps = kThreads / 32;
constexpr int kMaxRowBlocks = 65535;  // of a grid

// Rows of a tile go round `kRowGroups` groups of threads; of a group, each thread has the same piece of
// columns.
template <class T>
struct Tile {
  static constexpr int kLanes = kTile / kVec<T>;
  static constexpr int kRowGroups = kThreads / kLanes;
  static constexpr int kRows = kTile / kRowGroups;  // of a thread
};

template <class T>
struct Smem {
  // Of four columns each, [part of a piece][lane]: neighbouring lanes, neighbouring 16 bytes. Four more of
  // them keep the second part out of the banks of the first when columns are read one by one.
  float4 column_max[Tile<T>::kRowGroups][kVec<T> / 4][Tile<T>::kLanes + 4];
  float warp_max[kNumWarps];
};

template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads) quantize_rows_kernel(const __grid_constant__ QuantizeArgs a) {
  constexpr int kPieces = kQuantizeBlock / kVec<T>;
  const int cols = static_cast<int>(a.x.cols);
  const unsigned per_row = (cols + kQuantizeBlock - 1) / kQuantizeBlock * kPieces;
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  const bool inside = i / per_row < a.x.rows;
  const unsigned r = inside ? i / per_row : 0;
  const int c = static_cast<int>(i % per_row) * kVec<T>;
  const int end = inside ? cols : 0;  // lanes past the last row hold zeros and store nothing
  quantize_piece<kAccess>(load_piece<kAccess>(row_of<const T>(a.x, r), c, end), c, end,
                          row_of<uint8_t>(a.q.data, r), row_of<float>(a.q.scale, r));
}

// amax over the tile, in every thread.
template <class T>
__device__ float tile_max(const Vec<T> (&x)[Tile<T>::kRows], Smem<T>& smem) {
  float amax = 0;
#pragma unroll
  for (int i = 0; i < Tile<T>::kRows; ++i) amax = abs_max<kVec<T>>(x[i].v, amax);
  amax = warp_reduce_max(amax);
  if (threadIdx.x % 32 == 0) smem.warp_max[threadIdx.x / 32] = amax;
  __syncthreads();
  return abs_max<kNumWarps>(smem.warp_max);
}

__device__ float4 max4(float4 a, float4 b) {
  return make_float4(fmaxf(a.x, b.x), fmaxf(a.y, b.y), fmaxf(a.z, b.z), fmaxf(a.w, b.w));
}

// amax of each column over the tile, for the columns of this thread.
template <class T>
__device__ Vec<T> column_max(const Vec<T> (&x)[Tile<T>::kRows], Smem<T>& smem) {
  const int lane = threadIdx.x % Tile<T>::kLanes, group = threadIdx.x / Tile<T>::kLanes;
  Vec<T> amax = {};
#pragma unroll
  for (int i = 0; i < Tile<T>::kRows; ++i) {
#pragma unroll
    for (int k = 0; k < kVec<T>; ++k) amax.v[k] = fmaxf(amax.v[k], fabsf(x[i].v[k]));
  }
#pragma unroll
  for (int q = 0; q < kVec<T> / 4; ++q)
    smem.column_max[group][q][lane] =
        make_float4(amax.v[4 * q], amax.v[4 * q + 1], amax.v[4 * q + 2], amax.v[4 * q + 3]);
  __syncthreads();
#pragma unroll
  for (int q = 0; q < kVec<T> / 4; ++q) {
    float4 all = smem.column_max[0][q][lane];
#pragma unroll
    for (int g = 1; g < Tile<T>::kRowGroups; ++g) all = max4(all, smem.column_max[g][q][lane]);
    amax.v[4 * q] = all.x;
    amax.v[4 * q + 1] = all.y;
    amax.v[4 * q + 2] = all.z;
    amax.v[4 * q + 3] = all.w;
  }
  return amax;
}

// A thread for each column of the tile: neighbouring threads write neighbouring scales.
template <class T>
__device__ void store_column_scales(const Smem<T>& smem, float* scales, int first, int cols) {
  const int t = threadIdx.x, lane = t / kVec<T>, part = t % kVec<T> / 4;
  if (t >= kTile || first + t >= cols) return;
  float amax = 0;
#pragma unroll
  for (int g = 0; g < Tile<T>::kRowGroups; ++g)
    amax = fmaxf(amax, reinterpret_cast<const float*>(&smem.column_max[g][part][lane])[t % 4]);
  scales[first + t] = E4m3Scale(amax).value();
}

template <class T, QLayout kLayout, Access kAccess>
__global__ void __launch_bounds__(kThreads) quantize_tile_kernel(const __grid_constant__ QuantizeArgs a) {
  __shared__ Smem<T> smem;
  const int lane = threadIdx.x % Tile<T>::kLanes, group = threadIdx.x / Tile<T>::kLanes;
  const int cols = static_cast<int>(a.x.cols), c = blockIdx.x * kTile + lane * kVec<T>;
  const int64_t first = int64_t{blockIdx.y} * kTile + group;
  Vec<T> x[Tile<T>::kRows];
#pragma unroll
  for (int i = 0; i < Tile<T>::kRows; ++i) {
    const int64_t r = first + i * Tile<T>::kRowGroups;
    x[i] = load_piece<kAccess>(row_of<const T>(a.x, r), c, r < a.x.rows ? cols : 0);
  }
  float* scales = row_of<float>(a.q.scale, blockIdx.y);
  uint32_t words[Tile<T>::kRows][kVec<T> / 4];
  if constexpr (kLayout == QLayout::k128x128) {
    const E4m3WeightScale scale(tile_max<T>(x, smem));
    if (threadIdx.x == 0) scales[blockIdx.x] = scale.value();
#pragma unroll
    for (int i = 0; i < Tile<T>::kRows; ++i) scale.template encode<kVec<T>>(x[i].v, words[i]);
  } else {
    const Vec<T> amax = column_max<T>(x, smem);
#pragma unroll
    for (int k = 0; k < kVec<T>; ++k) {
      const E4m3Scale column(amax.v[k]);
#pragma unroll
      for (int i = 0; i < Tile<T>::kRows; ++i) x[i].v[k] = column.divide(x[i].v[k]);
    }
    store_column_scales<T>(smem, scales, blockIdx.x * kTile, cols);
#pragma unroll
    for (int i = 0; i < Tile<T>::kRows; ++i) encode_quotients<kVec<T>>(x[i].v, words[i]);
  }
#pragma unroll
  for (int i = 0; i < Tile<T>::kRows; ++i) {
    const int64_t r = first + i * Tile<T>::kRowGroups;
    store_codes<kAccess, kVec<T>>(row_of<uint8_t>(a.q.data, r), c, r < a.x.rows ? cols : 0, words[i]);
  }
}

template <QLayout kLayout>
__device__ float scale_at(const QTensor& q, int64_t r, int c) {
  if constexpr (kLayout == QLayout::k1x128) return row_of<const float>(q.scale, r)[c / kQuantizeBlock];
  if constexpr (kLayout == QLayout::k128x1) return row_of<const float>(q.scale, r / kQuantizeBlock)[c];
  return row_of<const float>(q.scale, r / kQuantizeBlock)[c / kQuantizeBlock];
}

template <QLayout kLayout, Access kAccess>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(const __grid_constant__ DequantizeArgs a) {
  const int cols = static_cast<int>(a.y.cols);
  const unsigned per_row = (cols + 3) / 4, i = blockIdx.x * kThreads + threadIdx.x;
  const int64_t r = i / per_row;
  const int c = static_cast<int>(i % per_row) * 4;
  if (r >= a.y.rows) return;
  const uint8_t* codes = row_of<const uint8_t>(a.q.data, r) + c;
  uint32_t word = 0;
  if constexpr (kAccess == Access::kVector) {
    word = *reinterpret_cast<const uint32_t*>(codes);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) word |= c + k < cols ? uint32_t{codes[k]} << (8 * k) : 0;
  }
  const float2 low = decode_e4m3x2(static_cast<uint16_t>(word)),
               high = decode_e4m3x2(static_cast<uint16_t>(word >> 16));
  float4 scale;
  if constexpr (kLayout == QLayout::k128x1) {
    scale = load_quad_piece<kAccess>(row_of<const float>(a.q.scale, r / kQuantizeBlock), c, cols);
  } else {
    const float s = scale_at<kLayout>(a.q, r, c);
    scale = make_float4(s, s, s, s);
  }
  store_quad_piece<kAccess>(
      row_of<float>(a.y, r), c, cols,
      make_float4(low.x * scale.x, low.y * scale.y, high.x * scale.z, high.y * scale.w));
}

void check_shapes(const QTensor& q, const Tensor& x) {
  const int64_t block_rows = q.layout == QLayout::k1x128 ? 1 : kQuantizeBlock;
  const int64_t block_cols = q.layout == QLayout::k128x1 ? 1 : kQuantizeBlock;
  CHECK(q.data.dtype == DType::kE4M3, "dtype {}", dtype_name(q.data.dtype));
  CHECK(q.data.rows == x.rows && q.data.cols == x.cols, "{} x {}, quantised {} x {}", x.rows, x.cols,
        q.data.rows, q.data.cols);
  CHECK(q.scale.rows == ceil_div(x.rows, block_rows) && q.scale.cols == ceil_div(x.cols, block_cols),
        "scale {} x {} for {} x {} in blocks of {} x {}", q.scale.rows, q.scale.cols, x.rows, x.cols,
        block_rows, block_cols);
}

// f(std::integral_constant<QLayout, ...>()).
template <class F>
void with_layout(QLayout layout, const F& f) {
  switch (layout) {
    case QLayout::k1x128:
      return f(std::integral_constant<QLayout, QLayout::k1x128>());
    case QLayout::k128x1:
      return f(std::integral_constant<QLayout, QLayout::k128x1>());
    case QLayout::k128x128:
      return f(std::integral_constant<QLayout, QLayout::k128x128>());
  }
  fail(ExitCode::kInternal, "unknown layout {}", static_cast<int>(layout));
}

template <class T, QLayout kLayout, Access kAccess>
void launch_quantize(const Exec& exec, const QuantizeArgs& a) {
  const int64_t column_blocks = ceil_div(a.x.cols, kQuantizeBlock);
  if constexpr (kLayout == QLayout::k1x128) {
    const auto pieces = narrow<int32_t>(a.x.rows * column_blocks * (kQuantizeBlock / kVec<T>));
    quantize_rows_kernel<T, kAccess><<<grid_size(pieces, kThreads), kThreads, 0, stream_of(exec)>>>(a);
  } else {
    const int64_t row_blocks = ceil_div(a.x.rows, kTile);
    CHECK(row_blocks <= kMaxRowBlocks, "{} rows", a.x.rows);
    const dim3 grid(static_cast<unsigned>(narrow<int32_t>(column_blocks)), static_cast<unsigned>(row_blocks));
    quantize_tile_kernel<T, kLayout, kAccess><<<grid, kThreads, 0, stream_of(exec)>>>(a);
  }
  CUDA_CHECK_LAUNCH();
}

}  // namespace

void quantize(const Exec& exec, const QuantizeArgs& a) {
  check_shapes(a.q, a.x);
  if (a.x.numel() == 0) return;
  with_float_type(a.x.dtype, [&]<class T>(std::type_identity<T>) {
    with_layout(a.q.layout, [&]<QLayout kLayout>(std::integral_constant<QLayout, kLayout>) {
      with_access(in_pieces(a.x) && in_pieces(a.q.data, kVec<T>),
                  [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
                    launch_quantize<T, kLayout, kAccess>(exec, a);
                  });
    });
  });
}

void dequantize(const Exec& exec, const DequantizeArgs& a) {
  check_shapes(a.q, a.y);
  CHECK(a.y.dtype == DType::kF32, "dtype {}", dtype_name(a.y.dtype));
  if (a.y.numel() == 0) return;
  const bool vector =
      in_pieces(a.y) && in_pieces(a.q.data, 4) && (a.q.layout != QLayout::k128x1 || in_pieces(a.q.scale));
  const unsigned blocks = grid_size(narrow<int32_t>(a.y.rows * ceil_div(a.y.cols, 4)), kThreads);
  with_layout(a.q.layout, [&]<QLayout kLayout>(std::integral_constant<QLayout, kLayout>) {
    with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
      dequantize_kernel<kLayout, kAccess><<<blocks, kThreads, 0, stream_of(exec)>>>(a);
      CUDA_CHECK_LAUNCH();
    });
  });
}

}  // namespace contender::cuda
