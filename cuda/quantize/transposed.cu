// What: activations in 128x1 blocks of E4M3 with rows innermost, as weight gradients contract them; from one
//   read also in 1x128 blocks.
// Math: scale = amax / 448 of each block, rounded up to a power of two, 1 where it is zero; code = rn(x /
//   scale), saturating. Blocks of 128 rows begin anew in each group, or in each chain, whose rows are
//   gathered (ops/quantize.h).
// Shapes: x [rows, cols] BF16, F32, or E4M3 with 1x128 scales; codes [cols, rows], scales [blocks, cols].
// Layouts: row-major with any row stride. Where rows of x are whole pieces and rows of codes begin at
//   multiples of 16 bytes, x moves in pieces of 16 bytes (E4M3: 8) and codes in aligned ones of 16, the ends
//   of a group byte by byte; otherwise all move element by element, with the same bits.
// Precision: bit-equal to the CPU backend (a NaN's code loses its sign); E4M3 is code * scale rounded to F32.
// Schedule: a block of threads has a block of rows and 128 columns. Its rows are counted from the 16-byte
//   boundary of the codes before its first one: a thread keeps 8 of those 144 rows and 8 columns in
//   registers, so that what it has of a column is one 8-byte store to shared memory, where pieces of 16 are
//   taken from. amax of columns over a shuffle and shared memory; of rows by a butterfly among 16 lanes.
//   Every warp finds the rows of its block: by a scan of the groups, or among the places of chains, 32 at
//   once.
// Roofline: a handful of flops for 3 to 5 bytes (E4M3: 2): memory-bound, floor bytes / 4.3 TB/s on H200, /
//   3.0 TB/s on H800.
// Limits: 65,535 blocks of rows; fewer than 2^31 rows and columns.
// Source: DeepSeek-V3, arXiv 2412.19437, section 3.3.
#include "cuda/common/device_check.cuh"
#include "cuda/common/e4m3.cuh"
#include "cuda/common/row_cursor.cuh"
#include "cuda/common/stream.h"
#include "cuda/ops.h"

namespace contender::cuda {
namespace {

constexpr int kTile = kQuantizeBlock;
constexpr int kChunk = 16;               // rows whose codes are stored at once
constexpr int kWindow = kTile + kChunk;  // rows of a tile, from a multiple of kChunk on
constexpr int kRows = 8, kColumns = 8;   // of a thread
constexpr int kLanes = kTile / kColumns;
constexpr int kThreads = kWindow / kRows * kLanes;
constexpr int kWarps = kThreads / 32;
constexpr int kChunks = kWindow / kChunk;
constexpr int kMaxBlocks = 65535;  // of a grid
static_assert(kLanes == 16 && kThreads % 32 == 0, "a warp has two groups of rows");
static_assert(kTile * kChunks % kThreads == 0 && kThreads % 8 == 0, "8 lanes share no column boundary");

// The first or last four of a thread's columns in a row of the tile.
constexpr int kParts = kColumns / 4;

struct Smem {
  // [part][lane][column]; the padding keeps the parts in banks of their own.
  float warp_max[kWarps][kParts][kLanes * 4 + 16];
  float column_max[kParts][kLanes * 4 + 16];
  alignas(16) uint8_t codes[kTile * kWindow + kTile / 8 * 16];
};

// Columns of the codes.
struct RowRange {
  int begin, end;
};
// Those of a block, and of a chain its segments and first column; a group's rows are where their codes are.
struct BlockRows {
  RowRange columns;
  const RowSegment* chain = nullptr;
  int chain_begin = 0;
};

// Column k of a thread's: neighbours in BF16 and E4M3, two quads half a tile apart in F32, so that lanes read
// neighbouring bytes.
template <class T>
__device__ int column_of(int lane, int k) {
  if constexpr (std::is_same_v<T, float>) return k / 4 * (kTile / 2) + lane * 4 + k % 4;
  return lane * kColumns + k;
}

// Of block `block`: that of the last chain whose first block is not behind it. All lanes of a warp come here.
__device__ BlockRows rows_of_chain_block(const QuantizeTransposedArgs& a, int block) {
  const RowSegments& s = a.segments;
  const int chains = static_cast<int>(a.num_groups) * s.num_leaves, lane = threadIdx.x % 32;
  int chain = 0;
  for (int count = chains + 1; count > 1;) {
    const int step = (count + 31) / 32, at = lane * step;
    const bool before = at < count && s.places[chain + at].block <= block;
    const int passed = (__popc(__ballot_sync(0xffffffffu, before)) - 1) * step;
    chain += passed;
    count = min(step, count - passed);
  }
  if (chain == chains) return {};
  const RowPlace first = s.places[chain];
  const int begin = first.row + (block - first.block) * kTile;
  return {
      {begin, min(begin + kTile, s.places[chain + 1].row)}, s.data + chain * (s.count / chains), first.row};
}

// Rows of block `block`. All lanes of a warp come here.
__device__ BlockRows rows_of_block(const QuantizeTransposedArgs& a, int block) {
  const int rows = static_cast<int>(a.x.rows);
  if (a.segments.data) return rows_of_chain_block(a, block);
  if (!a.offsets) return {{block * kTile, min(rows, (block + 1) * kTile)}};
  const int groups = static_cast<int>(a.num_groups), lane = threadIdx.x % 32;
  int first = 0;  // block of the 32 groups
  for (int g0 = 0; g0 < groups; g0 += 32) {
    const int g = g0 + lane;
    const int begin = g < groups ? a.offsets[g] : 0, end = g < groups ? a.offsets[g + 1] : 0;
    DEVICE_CHECK((g > 0 || begin == 0) && begin <= end && end <= rows,
                 "quantize_transposed: group %d has rows [%d, %d) of %d", g, begin, end, rows);
    const int blocks = (end - begin + kTile - 1) / kTile;
    int last = blocks;  // of the group, one past it, counted from `first`
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, last, o);
      if (lane >= o) last += before;
    }
    const int place = block - first - (last - blocks);
    const unsigned mine = __ballot_sync(0xffffffffu, place >= 0 && place < blocks);
    if (mine != 0) {
      const int from = begin + place * kTile, owner = __ffs(mine) - 1;
      return {
          {__shfl_sync(0xffffffffu, from, owner), __shfl_sync(0xffffffffu, min(end, from + kTile), owner)}};
    }
    first += __shfl_sync(0xffffffffu, last, 31);
  }
  return {};
}

// The thread's columns of row r of the tile that begins at column c0.
template <class T, Access kAccess>
__device__ void load_columns(const QuantizeTransposedArgs& a, int64_t r, int c0, int lane,
                             float (&v)[kColumns]) {
  const int cols = static_cast<int>(a.x.cols);
  const T* row = row_of<const T>(a.x, r);
  if constexpr (std::is_same_v<T, uint8_t>) {
    const int c = c0 + column_of<T>(lane, 0);
    uint2 codes = {};
    if constexpr (kAccess == Access::kVector) {
      if (c < cols) codes = *reinterpret_cast<const uint2*>(row + c);
    } else {
#pragma unroll
      for (int k = 0; k < kColumns; ++k) {
        const uint32_t code = c + k < cols ? row[c + k] : 0;
        (k < 4 ? codes.x : codes.y) |= code << (8 * (k % 4));
      }
    }
    const float scale = row_of<const float>(a.x_scale, r)[c0 / kTile];
#pragma unroll
    for (int k = 0; k < kColumns; k += 2) {
      const float2 pair = decode_e4m3x2(static_cast<uint16_t>((k < 4 ? codes.x : codes.y) >> (8 * (k % 4))));
      v[k] = pair.x * scale;
      v[k + 1] = pair.y * scale;
    }
  } else {
#pragma unroll
    for (int k = 0; k < kColumns; k += kVec<T>) {
      const Vec<T> piece = load_piece<kAccess>(row, c0 + column_of<T>(lane, k), cols);
#pragma unroll
      for (int i = 0; i < kVec<T>; ++i) v[k + i] = piece.v[i];
    }
  }
}

// 1x128 blocks of the thread's rows, -1: none.
template <class T, Access kAccess>
__device__ void store_row_codes(const QTensor& q, const float (&x)[kRows][kColumns], const int (&rows)[kRows],
                                int c0, int lane) {
  const int cols = static_cast<int>(q.data.cols);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    float amax = abs_max<kColumns>(x[i]);
#pragma unroll
    for (int o = kLanes / 2; o > 0; o >>= 1) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, o));
    const int r = rows[i];
    if (r < 0) continue;
    const E4m3Scale scale(amax);
    uint32_t words[kParts];
    scale.template encode<kColumns>(x[i], words);
    uint8_t* codes = row_of<uint8_t>(q.data, r);
    if constexpr (std::is_same_v<T, float>) {
#pragma unroll
      for (int p = 0; p < kParts; ++p)
        store_codes<kAccess, 4>(codes, c0 + column_of<T>(lane, 4 * p), cols, words + p);
    } else {
      store_codes<kAccess, kColumns>(codes, c0 + column_of<T>(lane, 0), cols, words);
    }
    if (lane == 0) row_of<float>(q.scale, r)[c0 / kTile] = scale.value();
  }
}

// amax of each of the tile's columns into smem.column_max; a thread for each writes its scale.
template <class T>
__device__ void find_column_max(const float (&x)[kRows][kColumns], Smem& smem, float* scales, int cols) {
  const int t = threadIdx.x, lane = t % kLanes;
  float amax[kColumns] = {};
#pragma unroll
  for (int k = 0; k < kColumns; ++k) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) amax[k] = fmaxf(amax[k], fabsf(x[i][k]));
    amax[k] = fmaxf(amax[k], __shfl_xor_sync(0xffffffffu, amax[k], kLanes));
  }
  if (t % 32 < kLanes) {
#pragma unroll
    for (int p = 0; p < kParts; ++p)
      *reinterpret_cast<float4*>(smem.warp_max[t / 32][p] + lane * 4) =
          make_float4(amax[4 * p], amax[4 * p + 1], amax[4 * p + 2], amax[4 * p + 3]);
  }
  __syncthreads();
  if (t < kTile) {  // column t of the tile
    constexpr bool kHalves = std::is_same_v<T, float>;
    const int part = kHalves ? t / (kTile / 2) : t % kColumns / 4;
    const int place = kHalves ? t % (kTile / 2) : t / kColumns * 4 + t % 4;
    float all = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) all = fmaxf(all, smem.warp_max[w][part][place]);
    smem.column_max[part][place] = all;
    if (t < cols) scales[t] = E4m3Scale(all).value();
  }
  __syncthreads();
}

// Codes of a column lie behind each other, its pieces of 8 in pairs that two bits of its number swap: lanes
// that store theirs of different columns meet different banks, and so do lanes that take whole pairs.
__device__ int codes_of(int col) { return col * kWindow + col / 8 * 16; }
__device__ int pair_order(int col) { return (col >> 6 ^ col >> 2) & 1; }

template <class T>
__device__ void keep_codes(const float (&x)[kRows][kColumns], Smem& smem) {
  const int lane = threadIdx.x % kLanes, piece = threadIdx.x / kLanes;
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const float4 amax = *reinterpret_cast<const float4*>(smem.column_max[p] + lane * 4);
    const float column_max[4] = {amax.x, amax.y, amax.z, amax.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float v[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) v[i] = x[i][4 * p + k];
      uint32_t words[2];
      E4m3Scale(column_max[k]).template encode<kRows>(v, words);
      const int col = column_of<T>(lane, 4 * p + k);
      *reinterpret_cast<uint2*>(smem.codes + codes_of(col) + (piece ^ pair_order(col)) * 8) =
          make_uint2(words[0], words[1]);
    }
  }
}

// From shared memory to the rows of `data`; `window` is the first row of the tile.
template <Access kAccess>
__device__ void store_columns(const Tensor& data, const Smem& smem, int window, RowRange rows, int c0) {
#pragma unroll
  for (int i = 0; i < kTile * kChunks / kThreads; ++i) {
    const int item = threadIdx.x + i * kThreads, col = item / kChunks, chunk = item % kChunks;
    const int r = window + chunk * kChunk;
    if (c0 + col >= data.rows || r >= rows.end || r + kChunk <= rows.begin) continue;
    uint4 codes = *reinterpret_cast<const uint4*>(smem.codes + codes_of(col) + chunk * kChunk);
    if (pair_order(col)) codes = make_uint4(codes.z, codes.w, codes.x, codes.y);
    uint8_t* to = row_of<uint8_t>(data, c0 + col) + r;
    if (kAccess == Access::kVector && r >= rows.begin && r + kChunk <= rows.end) {
      *reinterpret_cast<uint4*>(to) = codes;
      continue;
    }
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      if (r + j >= rows.begin && r + j < rows.end)
        to[j] = static_cast<uint8_t>(words[j / 4] >> (8 * (j % 4)));
    }
  }
}

template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads)
    quantize_transposed_kernel(const __grid_constant__ QuantizeTransposedArgs a) {
  __shared__ Smem smem;
  const BlockRows block = rows_of_block(a, blockIdx.y);
  const RowRange columns = block.columns;
  if (columns.begin >= columns.end) return;
  const int c0 = blockIdx.x * kTile, lane = threadIdx.x % kLanes;
  const int window = columns.begin / kChunk * kChunk,
            first = window + static_cast<int>(threadIdx.x) / kLanes * kRows;
  RowCursor cursor = {block.chain};
  int rows[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    rows[i] = first + i >= columns.begin && first + i < columns.end ? first + i : -1;
    if (block.chain && rows[i] >= 0) rows[i] = cursor.row(first + i - block.chain_begin);
  }
  float x[kRows][kColumns] = {};
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (rows[i] >= 0) load_columns<T, kAccess>(a, rows[i], c0, lane, x[i]);
  }
  if constexpr (!std::is_same_v<T, uint8_t>) {
    if (a.q.data.data) store_row_codes<T, kAccess>(a.q, x, rows, c0, lane);
  }
  find_column_max<T>(x, smem, row_of<float>(a.t.scale, blockIdx.y) + c0, static_cast<int>(a.x.cols) - c0);
  keep_codes<T>(x, smem);
  __syncthreads();
  store_columns<kAccess>(a.t.data, smem, window, columns, c0);
}

template <class T>
void launch(const Exec& exec, const QuantizeTransposedArgs& a) {
  const int64_t chains = a.num_groups * (a.segments.data ? a.segments.num_leaves : 1);
  const int64_t blocks = max_row_blocks(a.x.rows, chains);
  CHECK(blocks <= kMaxBlocks, "{} rows in {} groups or chains", a.x.rows, chains);
  const dim3 grid(static_cast<unsigned>(narrow<int32_t>(ceil_div(a.x.cols, kTile))),
                  static_cast<unsigned>(blocks));
  constexpr bool kStored = std::is_same_v<T, uint8_t>;
  const bool vector = in_pieces(a.x, kStored ? 8 : 16) && in_pieces(a.q.data, sizeof(T) == 4 ? 4 : 8) &&
                      reinterpret_cast<uintptr_t>(a.t.data.data) % kChunk == 0 &&
                      (a.t.data.rows == 1 || a.t.data.ld % kChunk == 0);
  with_access(vector, [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
    quantize_transposed_kernel<T, kAccess><<<grid, kThreads, 0, stream_of(exec)>>>(a);
    CUDA_CHECK_LAUNCH();
  });
}

}  // namespace

void quantize_transposed(const Exec& exec, const QuantizeTransposedArgs& a) {
  check_quantize_transposed(a);
  narrow<int32_t>(a.x.rows);
  if (a.x.numel() == 0) return;
  if (a.x.dtype == DType::kE4M3) return launch<uint8_t>(exec, a);
  with_float_type(a.x.dtype, [&]<class T>(std::type_identity<T>) { launch<T>(exec, a); });
}

}  // namespace contender::cuda
