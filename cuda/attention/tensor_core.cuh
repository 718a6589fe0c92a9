// The instructions of the attention kernels, one a function: BF16 mma on 16 x 8 tiles, its fragments from
// shared memory, and copies to shared memory in 16 bytes.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace contender::cuda {

// 16 bytes, of which the last 16 - `filled` become 0; with filled == 0 nothing is read.
__device__ inline void cp_async_16(void* to, const void* from, int filled) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(filled)
               : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All groups but the latest kPending are there, for the thread that made them.
template <int kPending>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. Lane l gets elements 2 (l % 4)
// and 2 (l % 4) + 1 of row l / 4 of each, or of the transposed matrices.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const __nv_bfloat16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const __nv_bfloat16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// d += a b, a 16 x 16, b 16 x 8. d: lane l holds columns 2 (l % 4) and the next of rows l / 4 and l / 4 + 8.
__device__ inline void mma_16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where in a row-major tile a lane points for ldmatrix_x4. Rows first: matrices (0, 0), (8, 0), (0, 8), (8,
// 8), which is the A fragment, and transposed the B fragments of two column tiles. Columns first: (0, 0), (0,
// 8), (8, 0), (8, 8), the B fragments of two tiles of 8 when each row of memory is a column of B.
__device__ inline int rows_first(int lane, int stride) { return lane % 16 * stride + lane / 16 * 8; }
__device__ inline int columns_first(int lane, int stride) {
  return (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
}

}  // namespace contender::cuda
