// Descriptions of matrices for TMA (tma.cuh), made on the host: nothing is called on the device, so a map may
// be built at every launch and travel in the kernel's parameters (__grid_constant__, 64-byte aligned).
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/common/check.h"

namespace contender::cuda {

// `layers` matrices of rows x cols elements, one behind the other or interleaved; strides in elements.
// TMA asks for base and strides in multiples of 16 bytes.
struct TensorMapArgs {
  const void* base = nullptr;
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  int element_bytes = 2;
  int64_t cols = 0, rows = 0, layers = 1;
  int64_t row_stride = 0, layer_stride = 0;
  int box_cols = 0, box_rows = 0;                           // of one layer; up to 256 each
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;  // box_cols * element_bytes <= 128 then
};

// The driver's function, asked of the runtime: nothing links with libcuda.
inline auto tensor_map_encoder() {
  static const auto encoder = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found{};
    CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found));
    CHECK(f != nullptr && found == cudaDriverEntryPointSuccess,
          "the driver has no cuTensorMapEncodeTiled: {}", static_cast<int>(found));
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(f);
  }();
  return encoder;
}

// Three dimensions: column, row, layer.
inline CUtensorMap make_tensor_map_3d(const TensorMapArgs& a) {
  const uint64_t bytes = static_cast<uint64_t>(a.element_bytes);
  // A stride that is never taken still has to be a legal one.
  const auto stride = [&](int64_t elements, int64_t count) {
    return count > 1 ? static_cast<cuuint64_t>(elements) * bytes : cuuint64_t{16};
  };
  const cuuint64_t size[3] = {static_cast<cuuint64_t>(a.cols), static_cast<cuuint64_t>(a.rows),
                              static_cast<cuuint64_t>(a.layers)};
  const cuuint64_t strides[2] = {stride(a.row_stride, a.rows), stride(a.layer_stride, a.layers)};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(a.box_cols), static_cast<cuuint32_t>(a.box_rows), 1};
  const cuuint32_t step[3] = {1, 1, 1};
  CUtensorMap map{};
  const CUresult result = tensor_map_encoder()(
      &map, a.type, 3, const_cast<void*>(a.base), size, strides, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
      a.swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CHECK(result == CUDA_SUCCESS,
        "no tensor map of {} matrices [{}, {}] of {}-byte elements at {}, rows {} apart, matrices {} apart, "
        "boxes of [{}, {}]: error {}",
        a.layers, a.rows, a.cols, a.element_bytes, a.base, a.row_stride, a.layer_stride, a.box_rows,
        a.box_cols, static_cast<int>(result));
  return CUtensorMap(map);  // not by name: GCC 12 aligns the caller's slot less than the type asks
}

// Two dimensions: column, row.
inline CUtensorMap make_tensor_map_2d(const TensorMapArgs& a) {
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(a.cols), static_cast<cuuint64_t>(a.rows)};
  // One row may be any distance from the next.
  const int64_t stride = a.row_stride * a.element_bytes;
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(a.rows > 1 ? stride : round_up(stride, 16))};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(a.box_cols), static_cast<cuuint32_t>(a.box_rows)};
  const cuuint32_t step[2] = {1, 1};
  CUtensorMap map{};
  const CUresult result = tensor_map_encoder()(
      &map, a.type, 2, const_cast<void*>(a.base), size, strides, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
      a.swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CHECK(result == CUDA_SUCCESS,
        "no tensor map of a matrix [{}, {}] of {}-byte elements at {}, rows {} apart, boxes of [{}, {}]: "
        "error {}",
        a.rows, a.cols, a.element_bytes, a.base, a.row_stride, a.box_rows, a.box_cols,
        static_cast<int>(result));
  return CUtensorMap(map);  // not by name: GCC 12 aligns the caller's slot less than the type asks
}

}  // namespace contender::cuda
