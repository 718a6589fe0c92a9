// CUtensorMap: 128 bytes that describe a tensor in global memory and the boxes in which TMA moves it. CUDA
// calls the bytes opaque; the encoding is our own: encode_tiled writes what decode_tensor_map reads,
// replace_field changes one field. Sources: CUDA driver API (cuTensorMapEncodeTiled,
// cuTensorMapEncodeIm2col); PTX ISA 9.0, 5.5 and tensormap.replace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ptxsim {

inline constexpr size_t kTensorMapBytes = 128;
inline constexpr int kMaxTensorRank = 5;

// In the order of CUtensorMapDataType.
enum class TensorType : uint8_t {
  kU8,
  kU16,
  kU32,
  kS32,
  kU64,
  kS64,
  kF16,
  kF32,
  kF64,
  kBf16,
  kF32Ftz,
  kTf32,
  kTf32Ftz,
};
int size_of(TensorType type);
bool is_float(TensorType type);

// In the order of CUtensorMapInterleave and CUtensorMapSwizzle. Swizzles move chunks of 16 bytes within their
// span.
enum class Interleave : uint8_t { kNone, k16, k32 };
enum class Swizzle : uint8_t { kNone, k32, k64, k128 };
// 16 (one chunk: nothing moves), 32, 64 or 128 bytes.
constexpr uint32_t span_of(Swizzle s) { return 16u << static_cast<int>(s); }

// Dimension 0 is the innermost; entries from `rank` on are 1 (strides 0), so that loops may run over all
// five.
struct TensorMap {
  uint64_t address = 0;
  TensorType type = TensorType::kU8;
  int rank = 1;
  Interleave interleave = Interleave::kNone;
  Swizzle swizzle = Swizzle::kNone;
  int l2_promotion = 0;
  bool nan_fill = false;  // what lies outside reads as NaN instead of 0
  bool im2col = false;
  uint64_t dim[kMaxTensorRank] = {1, 1, 1, 1, 1};   // elements
  uint64_t stride[kMaxTensorRank] = {};             // bytes; stride[0] is the element size
  uint32_t box[kMaxTensorRank] = {1, 1, 1, 1, 1};   // elements spanned; ceil(box / step) of them are moved
  uint32_t step[kMaxTensorRank] = {1, 1, 1, 1, 1};  // element strides
  // im2col: corners of the bounding box in W, H, D (dimensions 1, 2, 3), and what one column holds.
  int32_t lower[3] = {}, upper[3] = {};
  uint32_t channels = 1, pixels = 1;
};

// The values of CUresult that the encoders return.
inline constexpr int kCuSuccess = 0;
inline constexpr int kCuErrorInvalidValue = 1;

// cuTensorMapEncodeTiled, argument by argument (the enums by value): CUDA_SUCCESS or
// CUDA_ERROR_INVALID_VALUE, then with one line in *why (may be null) and the map untouched. Types and
// swizzles that sm_90 lacks are refused as well.
int encode_tiled(void* map, uint32_t type, uint32_t rank, const void* address, const uint64_t* dims,
                 const uint64_t* strides, const uint32_t* box, const uint32_t* steps, uint32_t interleave,
                 uint32_t swizzle, uint32_t l2_promotion, uint32_t fill, std::string* why);
// cuTensorMapEncodeIm2col likewise. The corners are given W, H, D first to last, as many as rank - 2.
int encode_im2col(void* map, uint32_t type, uint32_t rank, const void* address, const uint64_t* dims,
                  const uint64_t* strides, const int* lower, const int* upper, uint32_t channels,
                  uint32_t pixels, const uint32_t* steps, uint32_t interleave, uint32_t swizzle,
                  uint32_t l2_promotion, uint32_t fill, std::string* why);
// cuTensorMapReplaceAddress.
int replace_address(void* map, const void* address, std::string* why);

// Nothing where the bytes are no map (never encoded, or overwritten). Bit 21 of the second 64-bit word may be
// anything: libraries change it.
std::optional<TensorMap> decode_tensor_map(const void* map);

// tensormap.replace. `field` as in PTX: "global_address", "rank" (value: rank - 1), "box_dim", "global_dim",
// "global_stride" (bytes; ordinal 0 is the stride of dimension 1), "element_stride" (these four with an
// ordinal), "elemtype", "interleave_layout", "swizzle_mode", "fill_mode" (values of PTX, not of the driver).
// Returns what is wrong with it, empty where nothing is.
std::string replace_field(void* map, std::string_view field, uint32_t ordinal, uint64_t value);

}  // namespace ptxsim
