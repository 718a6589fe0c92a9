// From values known at launch to template arguments, and what a launcher asks of its operands.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "base/tensor.h"
#include "cuda/common/check.h"

namespace contender::cuda {

// How rows are read and written: in aligned pieces of 16 bytes, or element by element. Which thread holds
// which element is the same in both, and so are the bits.
enum class Access { kVector, kScalar };

// f(std::type_identity<T>()) with the element type of an activation.
template <class F>
void with_float_type(DType dtype, const F& f) {
  if (dtype == DType::kF32) return f(std::type_identity<float>());
  if (dtype == DType::kBF16) return f(std::type_identity<__nv_bfloat16>());
  fail(ExitCode::kInternal, "dtype {} where F32 or BF16 is expected", dtype_name(dtype));
}

// f(std::integral_constant<Access, ...>()).
template <class F>
void with_access(bool vector, const F& f) {
  if (vector) return f(std::integral_constant<Access, Access::kVector>());
  f(std::integral_constant<Access, Access::kScalar>());
}

// Every row starts at a multiple of `bytes` and is a whole number of such pieces. Empty tensors are.
inline bool in_pieces(const Tensor& t, int64_t bytes = 16) {
  if (!t) return true;
  const int64_t size = dtype_size(t.dtype);
  return reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(bytes) == 0 &&
         t.cols * size % bytes == 0 && (t.rows <= 1 || t.ld * size % bytes == 0);
}

// Of the device in use; tables of them rot.
inline int64_t sm_count() {
  int device = 0, count = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

}  // namespace contender::cuda
