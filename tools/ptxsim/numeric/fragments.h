// Where the elements of a matrix lie: in the registers of a warp (mma, wgmma, ldmatrix, stmatrix, movmatrix)
// and in shared memory behind a wgmma matrix descriptor. Lane 4g + t is thread t of group g. Sources: PTX
// ISA 9.0, sections 9.7.15 (mma fragments, ldmatrix) and 9.7.16 (wgmma fragments, matrix descriptor,
// swizzle).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "numeric/tensor_core.h"

namespace ptxsim::numeric {

struct Position {
  int row, column;
  bool operator==(const Position&) const = default;
};

constexpr int group_of(int lane) { return lane / 4; }
constexpr int thread_of(int lane) { return lane % 4; }

// --- operands of less than 64 bits: registers of 32 bits with 4 / bytes elements, element 0 in the low bits
// ---

// A of mma.sync m16n8k*, m8n8k16 (register 0 only), and of wgmma in registers (rows of the warp): {row, k}.
constexpr Position a_position(int bytes, int lane, int reg, int element) {
  const int per = 4 / bytes;
  return {group_of(lane) + 8 * (reg & 1), per * thread_of(lane) + element + 4 * per * (reg >> 1)};
}
// B of mma.sync: {k, column}.
constexpr Position b_position(int bytes, int lane, int reg, int element) {
  const int per = 4 / bytes;
  return {per * thread_of(lane) + element + 4 * per * reg, group_of(lane)};
}
// C and D with 32-bit elements, of mma.sync (registers 0 to 3) and wgmma (to N / 2 - 1; rows of the warp):
// {row, column}.
constexpr Position d_position_32(int lane, int reg) {
  return {group_of(lane) + 8 * (reg >> 1 & 1), 8 * (reg >> 2) + 2 * thread_of(lane) + (reg & 1)};
}
// With f16 elements, two to a register.
constexpr Position d_position_16(int lane, int reg, int element) {
  return {group_of(lane) + 8 * (reg & 1), 8 * (reg >> 1) + 2 * thread_of(lane) + element};
}
// One 8x8 matrix of 16-bit elements of ldmatrix, stmatrix and movmatrix; {column, row} with .trans.
constexpr Position matrix_position(int lane, int element) {
  return {group_of(lane), 2 * thread_of(lane) + element};
}

// --- f64: m8n8k4 (A and B register 0, C registers 0 and 1) and m16n8k4, k8, k16 ---
constexpr Position a_position_f64(int lane, int reg) {
  return {group_of(lane) + 8 * (reg & 1), thread_of(lane) + 4 * (reg >> 1)};
}
constexpr Position b_position_f64(int lane, int reg) { return {thread_of(lane) + 4 * reg, group_of(lane)}; }

// --- whole fragments to and from the blocks of numeric/tensor_core.h; a row is 32 lanes ---

// `registers` rows of A: word w of vector v is what bytes 4w.. of row v of A hold.
inline void gather_a(const uint32_t* const* rows, int registers, RawPanel& panel) {
  for (int r = 0; r < registers; ++r)
    for (int g = 0; g < 8; ++g)
      for (int t = 0; t < 4; ++t) panel.word[t + 4 * (r >> 1)][g + 8 * (r & 1)] = rows[r][4 * g + t];
}
// Rows of B: its 8 columns are the first vectors of the panel.
inline void gather_b(const uint32_t* const* rows, int registers, RawPanel& panel) {
  for (int r = 0; r < registers; ++r)
    for (int g = 0; g < 8; ++g)
      for (int t = 0; t < 4; ++t) panel.word[t + 4 * r][g] = rows[r][4 * g + t];
}

// 8 columns of a 16-row accumulator of 32-bit elements: four rows of registers <-> columns c .. c + 7 of
// d[row][column].
template <class T>
void gather_d(const T* const* rows, int c, T (*d)[kPanelVectors]) {
  for (int half = 0; half < 2; ++half)
    for (int g = 0; g < 8; ++g)
      for (int t = 0; t < 4; ++t) {
        d[g + 8 * half][c + 2 * t] = rows[2 * half][4 * g + t];
        d[g + 8 * half][c + 2 * t + 1] = rows[2 * half + 1][4 * g + t];
      }
}
template <class T>
void scatter_d(const T (*d)[kPanelVectors], int c, T* const* rows) {
  for (int half = 0; half < 2; ++half)
    for (int g = 0; g < 8; ++g)
      for (int t = 0; t < 4; ++t) {
        rows[2 * half][4 * g + t] = d[g + 8 * half][c + 2 * t];
        rows[2 * half + 1][4 * g + t] = d[g + 8 * half][c + 2 * t + 1];
      }
}
// The same transposed: d[column][row], all 16 rows, columns 0 to 7.
template <class T>
void gather_d_transposed(const T* const* rows, T (*d)[kPanelVectors]) {
  for (int r = 0; r < 4; ++r)
    for (int g = 0; g < 8; ++g)
      for (int t = 0; t < 4; ++t) d[2 * t + (r & 1)][g + 8 * (r >> 1)] = rows[r][4 * g + t];
}
template <class T>
void scatter_d_transposed(const T (*d)[kPanelVectors], T* const* rows) {
  for (int r = 0; r < 4; ++r)
    for (int g = 0; g < 8; ++g)
      for (int t = 0; t < 4; ++t) rows[r][4 * g + t] = d[2 * t + (r & 1)][g + 8 * (r >> 1)];
}

// --- matrices in shared memory ---

// Offsets are bytes within the shared memory of the block. `pattern` is the width of the swizzle: 32, 64 or
// 128 bytes, or 16 where there is none.
struct MatrixDescriptor {
  uint32_t start = 0, leading = 0, stride = 0;
  uint32_t base = 0;  // where the swizzle pattern begins, modulo 1024: base offset * 128
  uint32_t pattern = 16;

  static constexpr MatrixDescriptor from(uint64_t bits) {
    constexpr uint32_t kPattern[] = {16, 128, 64, 32};
    return {static_cast<uint32_t>(bits & 0x3fff) << 4, static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4,
            static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4, static_cast<uint32_t>(bits >> 49 & 7) << 7,
            kPattern[bits >> 62]};
  }

  // Permutes 16-byte chunks within rows of the pattern by the row's place in it.
  constexpr uint32_t swizzle(uint32_t address) const {
    return address ^ (((address - base) >> 3) & (pattern - 16));
  }

  // K-major: the 16-byte chunk `chunk` (0 or 1) along k of vector v (row of A, column of B).
  constexpr uint32_t k_major(int v, int chunk) const {
    const uint32_t in_group = static_cast<uint32_t>(v % 8) * pattern;
    const uint32_t along = pattern == 16 ? chunk * leading : chunk * 16u;
    return swizzle(start + static_cast<uint32_t>(v / 8) * stride + in_group + along);
  }

  // MN-major, 16-bit elements: the 16-byte chunk with vectors v .. v + 7 (v a multiple of 8) at depth k.
  constexpr uint32_t mn_major(int v, int k) const {
    const uint32_t in_group = static_cast<uint32_t>(k % 8) * pattern;
    if (pattern == 16)
      return start + static_cast<uint32_t>(v / 8) * stride + static_cast<uint32_t>(k / 8) * leading +
             in_group;
    const uint32_t across = static_cast<uint32_t>(v) * 2;
    return swizzle(start + across / pattern * leading + static_cast<uint32_t>(k / 8) * stride + in_group +
                   across % pattern);
  }
};

// Where the 16-byte chunks of `vectors` vectors (a multiple of 8) from `first` on lie, 32 bytes deep: two per
// vector, in the order in which load_panel takes them.
inline void chunk_addresses(const MatrixDescriptor& m, bool mn_major, int first, int vectors,
                            uint32_t* chunks) {
  if (mn_major) {
    for (int v = 0; v < vectors; v += 8)
      for (int k = 0; k < 16; ++k) chunks[2 * v + k] = m.mn_major(first + v, k);
  } else {
    for (int c = 0; c < 2 * vectors; ++c) chunks[c] = m.k_major(first + c / 2, c % 2);
  }
}

// `vectors` (8 or 16) vectors whose chunks lie there; `shared` is offset 0. The other vectors of the panel
// become zero.
inline void load_panel(const std::byte* shared, bool mn_major, const uint32_t* chunks, int vectors,
                       RawPanel& panel) {
  if (vectors < kPanelVectors) panel = {};
  if (!mn_major) {
    for (int v = 0; v < vectors; ++v) {
      uint32_t words[kPanelWords];
      std::memcpy(words, shared + chunks[2 * v], 16);
      std::memcpy(words + 4, shared + chunks[2 * v + 1], 16);
      for (int w = 0; w < kPanelWords; ++w) panel.word[w][v] = words[w];
    }
    return;
  }
  for (int v = 0; v < vectors; v += 8) {
    for (int w = 0; w < kPanelWords; ++w) {
      uint16_t even[8], odd[8];
      std::memcpy(even, shared + chunks[2 * v + 2 * w], 16);
      std::memcpy(odd, shared + chunks[2 * v + 2 * w + 1], 16);
      for (int e = 0; e < 8; ++e) panel.word[w][v + e] = even[e] | static_cast<uint32_t>(odd[e]) << 16;
    }
  }
}

}  // namespace ptxsim::numeric
