// Tensor maps for the tests, and what a tile looks like in shared memory, from the definition.
#pragma once

#include <cuda.h>

#include <array>

#include "tests/ptxsim/silicon/harness.h"

namespace silicon {

constexpr int kMaxRank = 5;

struct TensorSpec {
  int rank = 2;
  int width = 4;                            // bytes per element: 1, 2, 4, 8
  std::array<uint64_t, kMaxRank> size{};    // elements
  std::array<uint64_t, kMaxRank> stride{};  // bytes, of dimensions 1.. (stride[0] is that of dimension 1)
  std::array<uint32_t, kMaxRank> box{};     // elements
  std::array<uint32_t, kMaxRank> step{1, 1, 1, 1, 1};
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT32;

  uint32_t tile_bytes() const {
    uint32_t n = uint32_t(width);
    for (int i = 0; i < rank; ++i) n *= (box[i] + step[i] - 1) / step[i];
    return n;
  }
  uint64_t bytes() const { return rank == 1 ? size[0] * width : size[rank - 1] * stride[rank - 2]; }
};

inline CUresult encode_map(const TensorSpec& s, void* base, CUtensorMap* map) {
  static const auto encode = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found),
          "entry point");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(f);
  }();
  return encode(map, s.type, cuuint32_t(s.rank), base, s.size.data(), s.stride.data(), s.box.data(),
                s.step.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, s.swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}
inline CUtensorMap make_map(const TensorSpec& s, void* base) {
  CUtensorMap map;
  EXPECT_EQ(encode_map(s, base, &map), CUDA_SUCCESS);
  return map;
}

// Byte offset in a buffer aligned to 1024 of byte `offset` of the dense tile.
inline uint32_t swizzled(CUtensorMapSwizzle swizzle, uint32_t offset) {
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_32B:
      return offset ^ ((offset >> 3) & 0x10);
    case CU_TENSOR_MAP_SWIZZLE_64B:
      return offset ^ ((offset >> 3) & 0x30);
    case CU_TENSOR_MAP_SWIZZLE_128B:
      return offset ^ ((offset >> 3) & 0x70);
    default:
      return offset;
  }
}

// f(shared offset of the element, its offset in global memory or -1 where it lies outside) for all elements
// of a tile.
template <typename F>
void for_tile(const TensorSpec& s, const std::array<int, kMaxRank>& start, F f) {
  const uint32_t count = s.tile_bytes() / s.width;
  for (uint32_t e = 0; e < count; ++e) {
    uint32_t rest = e;
    int64_t global = 0;
    bool inside = true;
    for (int i = 0; i < s.rank; ++i) {
      const uint32_t n = (s.box[i] + s.step[i] - 1) / s.step[i];
      const int64_t c = start[i] + int64_t(rest % n) * s.step[i];
      rest /= n;
      inside &= c >= 0 && c < int64_t(s.size[i]);
      global += c * int64_t(i == 0 ? s.width : s.stride[i - 1]);
    }
    f(swizzled(s.swizzle, e * s.width), inside ? global : -1);
  }
}

}  // namespace silicon
