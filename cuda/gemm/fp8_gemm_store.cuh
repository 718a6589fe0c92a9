// Results of a warpgroup, 64 rows of a tile, on their way from registers to memory: F32, BF16, or quantised
// for the next product.
#pragma once

#include "cuda/common/e4m3.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/gemm/fp8_gemm_pipe.cuh"

namespace contender::cuda {

// Of a thread in a warpgroup's [64, kN]: d[4 j + 2 h + e] is row row[h], column `column` + 8 j + e.
struct Fragment {
  int row[2];
  int column;
  __device__ explicit Fragment(int thread)
      : row{thread / 32 * 16 + thread % 32 / 4, thread / 32 * 16 + thread % 32 / 4 + 8},
        column(thread % 4 * 2) {}
};

// Where 64 rows of results go: rows [row0, row_end) and columns [column, n) of a tensor exist.
struct OutPlace {
  int64_t row0, row_end;
  int column, n;
};

// Stores d, or adds it (one rounding). `old` is scratch. Four lanes write 32 bytes of a row.
template <int kN>
__device__ void store_f32(const Tensor& to, bool accumulate, const OutPlace& place, int thread,
                          float (&d)[kN / 2], float (&old)[kN / 2]) {
  const Fragment f(thread);
  float* rows[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) rows[h] = row_of<float>(to, place.row0 + f.row[h]) + place.column + f.column;
  const auto inside = [&](int j, int h) {
    return place.row0 + f.row[h] < place.row_end && place.column + f.column + 8 * j < place.n;
  };
  if (accumulate) {
#pragma unroll
    for (int i = 0; i < kN / 4; ++i) {
      const int j = i / 2, h = i % 2;
      const float2 v = inside(j, h) ? *reinterpret_cast<const float2*>(rows[h] + 8 * j) : float2{0, 0};
      old[2 * i] = v.x;
      old[2 * i + 1] = v.y;
    }
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) d[i] = __fadd_rn(old[i], d[i]);
  }
#pragma unroll
  for (int i = 0; i < kN / 4; ++i) {
    const int j = i / 2, h = i % 2;
    if (inside(j, h)) *reinterpret_cast<float2*>(rows[h] + 8 * j) = make_float2(d[2 * i], d[2 * i + 1]);
  }
}

// BF16 rows of a warpgroup on their way out; 16 bytes more keep eight rows in different banks.
template <int kN>
inline constexpr int kOutPitch = 2 * kN + 16;
template <int kN>
inline constexpr int kOutBytes = 64 * kOutPitch<kN>;

__device__ inline uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Pieces of 16 bytes of 64 rows in shared memory, `pitch` bytes (an odd number of pieces) apart, to rows of
// `out`. Eight lanes read at a time, each from other banks: all of one row, or of rows apart by their number.
template <class T, int kRowPieces>
__device__ void copy_out(const uint8_t* from, int pitch, const Tensor& out, const OutPlace& place,
                         int thread) {
  constexpr int kLanes = kRowPieces < 8 ? kRowPieces : (kRowPieces + 7) / 8 * 8;  // of a row
  constexpr int kTogether = kRowPieces < 8 ? 8 / kRowPieces : 1;                  // rows of eight lanes
#pragma unroll 4
  for (int i = thread; i < 64 * kLanes; i += kWarpgroup) {
    const int line = i / kLanes, piece = i % kLanes, c = place.column + piece * kVec<T>;
    const int r = line / 8 * 8 + line % 8 % kTogether * (8 / kTogether) + line % 8 / kTogether;
    if (piece >= kRowPieces || place.row0 + r >= place.row_end || c >= place.n) continue;
    *reinterpret_cast<uint4*>(row_of<T>(out, place.row0 + r) + c) =
        *reinterpret_cast<const uint4*>(from + r * pitch + piece * 16);
  }
}

template <int kN>
__device__ void store_bf16(const Tensor& to, const OutPlace& place, int thread, int barrier, uint8_t* out,
                           const float (&d)[kN / 2]) {
  constexpr int kPitch = kOutPitch<kN>;
  const int lane = thread % 32, matrix = lane / 8;
  const uint32_t at =
      smem_address(out) + (thread / 32 * 16 + matrix % 2 * 8 + lane % 8) * kPitch + matrix / 2 * 16;
  named_barrier_sync(barrier, kWarpgroup);  // the rows before have left
#pragma unroll
  for (int j = 0; j < kN / 8; j += 2)
    stmatrix_x4(at + j * 16, bf16_pair(d[4 * j], d[4 * j + 1]), bf16_pair(d[4 * j + 2], d[4 * j + 3]),
                bf16_pair(d[4 * j + 4], d[4 * j + 5]), bf16_pair(d[4 * j + 6], d[4 * j + 7]));
  named_barrier_sync(barrier, kWarpgroup);
  copy_out<__nv_bfloat16, kN / 8>(out, kPitch, to, place, thread);
}

// q, with its scales, from d as it is stored; the 128 columns of a row are in four neighbouring lanes.
__device__ inline void store_q(const Tensor& q, const Tensor& scales, DType stored, const OutPlace& place,
                               int thread, int barrier, uint8_t* out, float (&d)[64]) {
  constexpr int kPitch = kQuantizeBlock + 16;
  const Fragment f(thread);
  named_barrier_sync(barrier, kWarpgroup);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float amax = 0;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& v = d[4 * j + 2 * h + e];
        if (stored == DType::kBF16) v = round_to(v, std::type_identity<__nv_bfloat16>());
        if (place.column + f.column + 8 * j < place.n) amax = fmaxf(amax, fabsf(v));
      }
    }
    amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, 1));
    amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, 2));
    const E4m3Scale scale(amax);
#pragma unroll
    for (int j = 0; j < 16; ++j)
      *reinterpret_cast<uint16_t*>(out + f.row[h] * kPitch + 8 * j + f.column) =
          cvt_e4m3x2(scale.divide(d[4 * j + 2 * h]), scale.divide(d[4 * j + 2 * h + 1]));
    const int64_t row = place.row0 + f.row[h];
    if (f.column == 0 && row < place.row_end && place.column < place.n)
      row_of<float>(scales, row)[place.column / kQuantizeBlock] = scale.value();
  }
  named_barrier_sync(barrier, kWarpgroup);
  copy_out<uint8_t, kQuantizeBlock / 16>(out, kPitch, q, place, thread);
}

}  // namespace contender::cuda
