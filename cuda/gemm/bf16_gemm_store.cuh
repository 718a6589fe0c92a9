// The way of a warpgroup's results of wgmma to memory, through shared memory: whole rows of y, whichever side
// of wgmma they lay on.
#pragma once

#include <cuda_bf16.h>

#include "cuda/common/ptx.cuh"
#include "cuda/common/rows.cuh"

namespace contender::cuda {

using Bf16 = __nv_bfloat16;

// How results may be written: BF16 in pieces of 16 bytes, as they are; four at a time; one by one, where N or
// a stride does not allow more.
enum class Store { kPieces, kQuads, kElements };

// What becomes of results. Strides are in elements.
struct GemmOut {
  void* y = nullptr;
  int64_t ldy = 0, y_layer = 0;
  const float* bias = nullptr;  // [n] or null
  int n = 0;
  DType y_type = DType::kBF16;
  bool accumulate = false;
  Store store = Store::kElements;
};

inline Store store_of(const void* y, DType type, int64_t n, int64_t ldy, int64_t y_layer, const float* bias,
                      bool accumulate) {
  const auto in = [&](int64_t elements) {
    const int64_t bytes = elements * dtype_size(type);
    return n % elements == 0 && ldy % elements == 0 && y_layer % elements == 0 &&
           reinterpret_cast<uintptr_t>(y) % static_cast<uintptr_t>(bytes) == 0;
  };
  if (type == DType::kBF16 && bias == nullptr && !accumulate && in(8)) return Store::kPieces;
  return in(4) && reinterpret_cast<uintptr_t>(bias) % 16 == 0 ? Store::kQuads : Store::kElements;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ uint4 load_shared_16(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// Where a warpgroup's part of a unit goes: its first element, and how much of y lies behind.
struct OutPlace {
  int64_t index;
  int rows, cols;
  __device__ OutPlace plus(const GemmOut& p, int row, int col) const {
    return {index + row * p.ldy + col, rows - row, cols - col};
  }
};

__device__ __forceinline__ void store_eight(const GemmOut& p, const OutPlace& at, int row, int col, uint4 v) {
  if (row >= at.rows || col >= at.cols) return;
  // In one piece: the compiler takes plain stores of what it holds in registers apart.
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(static_cast<Bf16*>(p.y) + at.index +
                                                                row * p.ldy + col),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
// Four results in FP32: bias, then what is there, then one rounding.
template <Access kAccess, class Y>
__device__ __forceinline__ void add_four(const GemmOut& p, Y* row, int col, float4 v) {
  if (p.bias != nullptr) {
    const float4 b = load_quad_piece<kAccess>(p.bias, col, p.n);
    v = make_float4(v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w);
  }
  if (p.accumulate) {
    const float4 old = load_quad_piece<kAccess>(row, col, p.n);
    v = make_float4(old.x + v.x, old.y + v.y, old.z + v.z, old.w + v.w);
  }
  store_quad_piece<kAccess>(row, col, p.n, v);
}
template <Access kAccess>
__device__ __forceinline__ void add_four(const GemmOut& p, int64_t row, int col, float4 v) {
  if (p.y_type == DType::kBF16) return add_four<kAccess>(p, static_cast<Bf16*>(p.y) + row, col, v);
  add_four<kAccess>(p, static_cast<float*>(p.y) + row, col, v);
}
__device__ __forceinline__ void store_four(const GemmOut& p, const OutPlace& at, int row, int col,
                                           uint4 bits) {
  if (row >= at.rows || col >= at.cols) return;
  const float4 v = make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                               __uint_as_float(bits.w));
  const int first = p.n - at.cols;  // column of y
  const int64_t start = at.index - first + row * p.ldy;
  if (p.store == Store::kElements) return add_four<Access::kScalar>(p, start, first + col, v);
  add_four<Access::kVector>(p, start, first + col, v);
}

// Staging: rows of 128 bytes, pieces of 16 bytes permuted by the row so that neither side meets a bank twice.
// kRows: a warp stages its own 16 rows; no other warp is waited for.
template <class T>
__device__ __forceinline__ void store_rows(const float (&acc)[T::kAccumulators], const GemmOut& p,
                                           uint32_t staging, const OutPlace& out) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int matrix = lane / 8, piece_read = lane % 8;
  const OutPlace at = out.plus(p, 16 * warp + matrix, (p.store == Store::kPieces ? 8 : 4) * piece_read);
  if (p.store == Store::kPieces) {
    const int row = lane % 8 + (matrix & 1) * 8;
#pragma unroll
    for (int c = 0; c < T::kQ; c += 64) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* d = acc + (c + 16 * i) / 2;
        const int piece = (2 * i + matrix / 2) ^ (row & 7);
        stmatrix_x4(staging + row * 128 + piece * 16, pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]),
                    pack_bf16(d[4], d[5]), pack_bf16(d[6], d[7]));
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = 4 * i + matrix;
        store_eight(p, at, 4 * i, c, load_shared_16(staging + r * 128 + (piece_read ^ (r & 7)) * 16));
      }
    }
    return;
  }
#pragma unroll
  for (int c = 0; c < T::kQ; c += 32) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // eight columns and half of the rows
      const float* d = acc + (c + 8 * (i / 2)) / 2 + i % 2 * 2;
      const int row = lane / 4 + i % 2 * 8, piece = (i / 2 * 2 + lane % 4 / 2) ^ ((row & 3) * 2);
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(staging + row * 128 + piece * 16 + lane % 2 * 8),
                   "f"(d[0]), "f"(d[1])
                   : "memory");
    }
    __syncwarp();
#pragma unroll 2
    for (int i = 0; i < 4; ++i) {
      const int r = 4 * i + matrix;
      store_four(p, at, 4 * i, c, load_shared_16(staging + r * 128 + (piece_read ^ ((r & 3) * 2)) * 16));
    }
  }
}

// kColumns: D holds columns of y in its rows; a warpgroup turns 64 of them through its staging.
template <class T>
__device__ __forceinline__ void store_columns(const float (&acc)[T::kAccumulators], const GemmOut& p,
                                              uint32_t staging, const OutPlace& out, int barrier) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, thread = threadIdx.x % 128;
  if (p.store == Store::kPieces) {
    constexpr int kRows = T::kQ < 64 ? T::kQ : 64;  // rows of 64 BF16
    const int matrix = lane / 8, piece_read = thread % 8;
    const OutPlace at = out.plus(p, thread / 8, 8 * piece_read);
#pragma unroll
    for (int c = 0; c < T::kQ; c += kRows) {
      named_barrier_sync(barrier, 128);
#pragma unroll
      for (int i = 0; i < kRows; i += 16) {
        const float* d = acc + (c + i) / 2;
        const int row = i + matrix / 2 * 8 + lane % 8, piece = (2 * warp + (matrix & 1)) ^ (row & 7);
        stmatrix_x4_trans(staging + row * 128 + piece * 16, pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]),
                          pack_bf16(d[4], d[5]), pack_bf16(d[6], d[7]));
      }
      named_barrier_sync(barrier, 128);
#pragma unroll
      for (int i = 0; i < kRows; i += 16) {
        const int r = i + thread / 8;
        store_eight(p, at, c + i, 0, load_shared_16(staging + r * 128 + (piece_read ^ (r & 7)) * 16));
      }
    }
    return;
  }
  constexpr int kRows = T::kQ < 32 ? T::kQ : 32;  // rows of 64 floats, eights of them permuted
  const int col_read = thread % 16 * 4;
  const OutPlace at = out.plus(p, thread / 16, col_read);
#pragma unroll
  for (int c = 0; c < T::kQ; c += kRows) {
    named_barrier_sync(barrier, 128);
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {  // registers
      const int row = i / 4 * 8 + lane % 4 * 2 + i % 2, col = 16 * warp + lane / 4 + i / 2 % 2 * 8;
      asm volatile("st.shared.f32 [%0], %1;" ::"r"(staging + row * 256 + (col ^ (row / 2 % 4 * 8)) * 4),
                   "f"(acc[c / 2 + i])
                   : "memory");
    }
    named_barrier_sync(barrier, 128);
#pragma unroll
    for (int i = 0; i < kRows; i += 8) {
      const int r = i + thread / 16;
      store_four(p, at, c + i, 0, load_shared_16(staging + r * 256 + (col_read ^ (r / 2 % 4 * 8)) * 4));
    }
  }
}

}  // namespace contender::cuda
