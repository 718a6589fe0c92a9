// What the BF16 products share: tiles in shared memory, the chain of mma.sync over the contracted index, the
// tree over chains, and the way of a tile to memory.
//
// Math: C[i, j] = sum over l of A(i, l) B(j, l). Stages of kDepth values of l: cp.async fills some while
// mma.sync m16n8k16 reads one through ldmatrix.
// Precision: BF16 operands, FP32 accumulators, one rounding of the result. An accumulator goes through l in
// steps of 16 from the chain's start, zeros behind its end; nothing else (tile, place, neighbours, access)
// enters, so the bits of C[i, j] depend on row i of A and row j of B alone. Of one step the tensor core cuts
// 17 addends at 2^-25 of the largest and the sum to 24 bits.
#pragma once

#include <atomic>
#include <bit>

#include "cuda/common/rows.cuh"

namespace contender::cuda {

using Bf16 = __nv_bfloat16;

inline constexpr int kDepth = 64;     // contracted index per stage: rows of 128 bytes, all banks
inline constexpr int kPieceSize = 8;  // values in 16 bytes
inline constexpr int kMaxSharedBytes = 227 * 1024;

// A block makes a square of kSide results; a warp kSide/2 x 32 of it. Small tiles, of which few run where
// rows are few, need more stages to keep the memory busy.
template <int kSide_, int kStages_>
struct SquareTile {
  static constexpr int kSide = kSide_, kStages = kStages_;
  static constexpr int kWarpsN = kSide / 32;
  static constexpr int kThreads = 2 * kWarpsN * 32;
  static constexpr int kWarpM = kSide / 2;
  static constexpr int kMmaM = kWarpM / 16, kMmaN = 4;
  static constexpr int kAccumulators = kMmaM * kMmaN * 4;                 // of one thread
  static constexpr int kPieces = kSide * kDepth / kPieceSize / kThreads;  // of one operand, per thread
};
using SmallTile = SquareTile<64, 4>;
using LargeTile = SquareTile<128, 3>;

template <class S>
struct ProductSmem {
  Bf16 a[S::kStages][S::kSide * kDepth];
  Bf16 b[S::kStages][S::kSide * kDepth];
};
// Behind the rest of a kernel's shared memory: one level of the tree per doubling of the number of chains,
// [level][accumulator][thread] floats.
template <class S>
constexpr int64_t tree_bytes(int64_t chains) {
  const int64_t levels = std::bit_width(static_cast<uint64_t>(chains)) - 1;
  return levels * S::kAccumulators * S::kThreads * 4;
}
static_assert(sizeof(ProductSmem<SmallTile>) >= 64 * 64 * sizeof(float), "the result is staged in it");
static_assert(sizeof(ProductSmem<LargeTile>) >= 128 * 128 * sizeof(float), "the result is staged in it");

// Which index runs along the rows of an operand in memory.
enum class Major { kContracted, kFree };

// Element that a row's piece starts at. Pieces of a row are permuted so that eight rows of one column are in
// different banks.
__device__ inline int swizzled(int row, int piece, int pieces_per_row) {
  return (row * pieces_per_row + (piece ^ (row & 7))) * kPieceSize;
}
__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Columns [c, c + 8) of a row to shared memory; those at and behind `end` become 0. `valid` is any address
// that may be read.
template <Access kAccess>
__device__ inline void copy_piece(Bf16* dst, const Bf16* row, int c, int end, const Bf16* valid) {
  if constexpr (kAccess == Access::kVector) {
    const bool present = c < end;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)),
                 "l"(present ? row + c : valid), "r"(present ? 16 : 0)
                 : "memory");
  } else {
    uint32_t word[4] = {};
#pragma unroll
    for (int k = 0; k < kPieceSize; ++k) {
      if (c + k < end) word[k / 2] |= uint32_t{__bfloat16_as_ushort(row[c + k])} << (k % 2 * 16);
    }
    *reinterpret_cast<uint4*>(dst) = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

// Columns [first, first + kDepth) of up to kSide rows of an operand.
template <Access kAccess, class S>
__device__ inline void load_rows(Bf16* tile, const Bf16* src, int64_t ld, int rows, int first, int end) {
  constexpr int kRowPieces = kDepth / kPieceSize;
#pragma unroll
  for (int i = 0; i < S::kPieces; ++i) {
    const int index = threadIdx.x + i * S::kThreads;
    const int row = index / kRowPieces, piece = index % kRowPieces;
    copy_piece<kAccess>(tile + swizzled(row, piece, kRowPieces), src + row * ld, first + piece * kPieceSize,
                        row < rows ? end : 0, src);
  }
}

template <class S>
struct Accumulator {
  float v[S::kMmaM][S::kMmaN][4];
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < S::kAccumulators; ++i) (&v[0][0][0])[i] = 0;
  }
};

struct Fragment {
  uint32_t r[4];
};
template <Major kMajor>
__device__ inline Fragment load_matrices(const Bf16* p) {
  Fragment f;
  if constexpr (kMajor == Major::kContracted) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(f.r[0]), "=r"(f.r[1]), "=r"(f.r[2]), "=r"(f.r[3])
                 : "r"(shared_address(p))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(f.r[0]), "=r"(f.r[1]), "=r"(f.r[2]), "=r"(f.r[3])
                 : "r"(shared_address(p))
                 : "memory");
  }
  return f;
}
// Four 8x8 matrices at (free, l), two in each direction. kFreeFirst: the second lies beside the first in the
// free direction (A); otherwise in the contracted one (B: two columns of mma tiles).
enum class Order { kFreeFirst, kContractedFirst };
template <class S, Major kMajor, Order kOrder>
__device__ inline Fragment load_fragment(const Bf16* tile, int free, int l) {
  const int lane = threadIdx.x % 32, second = lane / 8 % 2 * 8, third = lane / 16 * 8;
  const int i = free + (kOrder == Order::kFreeFirst ? second : third);
  const int k = l + (kOrder == Order::kFreeFirst ? third : second);
  if constexpr (kMajor == Major::kContracted) {
    return load_matrices<kMajor>(tile + swizzled(i + lane % 8, k / kPieceSize, kDepth / kPieceSize));
  } else {
    return load_matrices<kMajor>(tile + swizzled(k + lane % 8, i / kPieceSize, S::kSide / kPieceSize));
  }
}

__device__ inline void mma(float (&c)[4], const Fragment& a, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b0), "r"(b1));
}

// Where a warp's part of the tile starts.
template <class S>
__device__ inline int warp_row() {
  return threadIdx.x / 32 / S::kWarpsN * S::kWarpM;
}
template <class S>
__device__ inline int warp_col() {
  return threadIdx.x / 32 % S::kWarpsN * 32;
}

template <class S, Major kMajor>
__device__ inline void multiply_step(Accumulator<S>& acc, const Bf16* a_tile, const Bf16* b_tile, int l) {
  Fragment a[S::kMmaM], b[S::kMmaN / 2];
#pragma unroll
  for (int i = 0; i < S::kMmaM; ++i)
    a[i] = load_fragment<S, kMajor, Order::kFreeFirst>(a_tile, warp_row<S>() + 16 * i, l);
#pragma unroll
  for (int j = 0; j < S::kMmaN / 2; ++j)
    b[j] = load_fragment<S, kMajor, Order::kContractedFirst>(b_tile, warp_col<S>() + 16 * j, l);
#pragma unroll
  for (int i = 0; i < S::kMmaM; ++i) {
#pragma unroll
    for (int j = 0; j < S::kMmaN; ++j)
      mma(acc.v[i][j], a[i], b[j / 2].r[j % 2 * 2], b[j / 2].r[j % 2 * 2 + 1]);
  }
}

// The tree ((0+1)+(2+3))+... over chains that come in order, as a stack with one entry per set bit of the
// number of chains so far. After chain `index` of `count` in acc; after the last one acc is the sum.
template <class S>
__device__ inline void tree_push(Accumulator<S>& acc, float* levels, int index, int count) {
  float* entry = levels + threadIdx.x;  // a thread sees only its own
  float* values = &acc.v[0][0][0];
  for (int rest = index; rest & 1; rest >>= 1, entry += S::kAccumulators * S::kThreads) {
#pragma unroll
    for (int i = 0; i < S::kAccumulators; ++i) values[i] = entry[i * S::kThreads] + values[i];
  }
  if (index + 1 == count) return;
#pragma unroll
  for (int i = 0; i < S::kAccumulators; ++i) entry[i * S::kThreads] = values[i];
}

// What a chain starts with.
struct FromZero {
  template <class S>
  __device__ void operator()(Accumulator<S>& acc, int) const {
    acc.clear();
  }
};

// The sum of `count` chains in the tree, 0 if there are none: chain i goes over length(i) values of the
// contracted index, from 0, or goes on from what start(acc, i) puts into acc. load(stage, i, first): values
// [first, first + kDepth) of both operands of chain i; called in the order of the chains. While one stage is
// multiplied the next ones are on their way, those of the next chain too.
template <class S, Major kMajor, class Length, class Load, class Start = FromZero>
__device__ inline void sum_of_chains(Accumulator<S>& acc, ProductSmem<S>& smem, float* levels, int count,
                                     const Length& length, Load&& load, const Start& start = {}) {
  int next = 0, next_first = 0;  // chain and position of the stage to be loaded
  const auto load_next = [&](int stage) {
    while (next < count && next_first >= length(next)) ++next, next_first = 0;
    if (next < count) load(stage, next, next_first);
    next_first += kDepth;
    cp_async_commit();
  };
  acc.clear();
  for (int s = 0; s < S::kStages - 1; ++s) load_next(s);
  int stage = 0, used = S::kStages - 1;
  for (int i = 0; i < count; ++i) {
    start(acc, i);
    for (int rest = length(i); rest > 0; rest -= kDepth) {
      cp_async_wait<S::kStages - 2>();
      __syncthreads();  // this stage is there, and all have done with the one before it
      load_next(used);
#pragma unroll
      for (int l = 0; l < kDepth; l += 16) {
        if (l < rest) multiply_step<S, kMajor>(acc, smem.a[stage], smem.b[stage], l);
      }
      used = stage;
      stage = stage + 1 == S::kStages ? 0 : stage + 1;
    }
    tree_push<S>(acc, levels, i, count);
  }
  __syncthreads();  // the stages are free for the caller
}

// Where a tile goes: its first element, how much of it exists.
template <class T>
struct TileOut {
  T* c;
  int64_t ld;
  int rows, cols;
  const float* bias = nullptr;  // [cols] or null
  bool accumulate = false;      // c = c + (result + bias), rounded once
};

// Element of a staged result; groups of eight columns are permuted so that a warp's pairs are in different
// banks.
template <class S>
__device__ inline int staged(int row, int col) {
  return row * S::kSide + ((col / 8 ^ (row & 3)) * 8) + col % 8;
}

// Two floats in one access: the compiler takes plain stores of pairs apart, and the halves meet in banks.
__device__ inline void store_pair(float* p, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(shared_address(p)), "f"(x), "f"(y) : "memory");
}

// Through shared memory, so that a warp writes whole rows. All threads of the block come here.
template <Access kAccess, class S, class T>
__device__ inline void store_tile(const Accumulator<S>& acc, ProductSmem<S>& smem, const TileOut<T>& out) {
  float* stage = reinterpret_cast<float*>(&smem);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < S::kMmaM; ++i) {
#pragma unroll
    for (int j = 0; j < S::kMmaN; ++j) {
      const int row = warp_row<S>() + 16 * i + lane / 4, col = warp_col<S>() + 8 * j + lane % 4 * 2;
      const float* v = acc.v[i][j];
      store_pair(stage + staged<S>(row, col), v[0], v[1]);
      store_pair(stage + staged<S>(row + 8, col), v[2], v[3]);
    }
  }
  __syncthreads();
  constexpr int kQuads = S::kSide / 4;
  const int col = threadIdx.x % kQuads * 4;
  if (col >= out.cols) return;
  float4 bias = make_float4(0, 0, 0, 0);
  if (out.bias) bias = load_quad_piece<kAccess>(out.bias, col, out.cols);
  for (int row = threadIdx.x / kQuads; row < out.rows; row += S::kThreads / kQuads) {
    float4 v = *reinterpret_cast<const float4*>(stage + staged<S>(row, col));
    T* to = out.c + row * out.ld;
    if (out.bias) v = make_float4(v.x + bias.x, v.y + bias.y, v.z + bias.z, v.w + bias.w);
    if (out.accumulate) {
      const float4 old = load_quad_piece<kAccess>(to, col, out.cols);
      v = make_float4(old.x + v.x, old.y + v.y, old.z + v.z, old.w + v.w);
    }
    store_quad_piece<kAccess>(to, col, out.cols, v);
  }
}

// What a launch of more than 48 KB of shared memory needs to be told first, once for each kernel and device;
// nothing that a captured stream would see.
template <auto kKernel>
size_t shared_bytes_of(int64_t bytes) {
  CHECK(bytes <= kMaxSharedBytes, "{} bytes of shared memory, at most {}", bytes, kMaxSharedBytes);
  static std::atomic<uint64_t> told = 0;  // a bit for each device
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CHECK(device < 64, "device {}, at most 63", device);
  const uint64_t bit = uint64_t{1} << device;
  if ((told.load(std::memory_order_relaxed) & bit) == 0) {
    CUDA_CHECK(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedBytes));
    told.fetch_or(bit, std::memory_order_relaxed);
  }
  return static_cast<size_t>(bytes);
}

}  // namespace contender::cuda
