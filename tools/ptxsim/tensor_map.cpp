#include "tensor_map.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

namespace ptxsim {

namespace {

constexpr uint32_t kMagic = 0x544d4150;

// Word 1 beside the magic number; bit 21 belongs to others.
struct Flags {
  uint32_t rank : 3;  // - 1
  uint32_t type : 4;
  uint32_t interleave : 2;
  uint32_t swizzle : 2;
  uint32_t l2_promotion : 2;
  uint32_t nan_fill : 1;
  uint32_t im2col : 1;
  uint32_t unused : 17;
};

// The 128 bytes. Counts are kept minus one, as the largest would not fit otherwise.
struct Encoded {
  uint64_t address;
  Flags flags;
  uint32_t magic;
  uint32_t dim[kMaxTensorRank];
  uint32_t channels;
  uint64_t stride[kMaxTensorRank - 1];
  uint8_t box[kMaxTensorRank];
  uint8_t step[kMaxTensorRank];
  uint16_t pixels;
  int16_t lower[3], upper[3];
  uint8_t unused[32];
};
static_assert(sizeof(Encoded) == kTensorMapBytes && offsetof(Encoded, flags) == 8);

void store(const TensorMap& m, void* out) {
  Encoded e{};
  e.address = m.address;
  e.flags = {static_cast<uint32_t>(m.rank - 1),
             static_cast<uint32_t>(m.type),
             static_cast<uint32_t>(m.interleave),
             static_cast<uint32_t>(m.swizzle),
             static_cast<uint32_t>(m.l2_promotion),
             m.nan_fill,
             m.im2col,
             0};
  e.magic = kMagic;
  for (int d = 0; d < kMaxTensorRank; ++d) {
    e.dim[d] = static_cast<uint32_t>(m.dim[d] - 1);
    if (d > 0) e.stride[d - 1] = m.stride[d];
    e.box[d] = static_cast<uint8_t>(m.box[d] - 1);
    e.step[d] = static_cast<uint8_t>(m.step[d] - 1);
  }
  e.channels = m.channels - 1;
  e.pixels = static_cast<uint16_t>(m.pixels - 1);
  for (int d = 0; d < 3; ++d) {
    e.lower[d] = static_cast<int16_t>(m.lower[d]);
    e.upper[d] = static_cast<int16_t>(m.upper[d]);
  }
  std::memcpy(out, &e, sizeof e);
}

// What both modes have in common, and what is wrong with it.
struct Arguments {
  void* map;
  uint32_t type, rank;
  const void* address;
  const uint64_t *dims, *strides;
  const uint32_t* steps;
  uint32_t interleave, swizzle, l2_promotion, fill;
};

std::string check_enums(const Arguments& a) {
  if (!a.map || !a.dims || !a.steps || (a.rank > 1 && !a.strides)) return "a required pointer is null";
  if (reinterpret_cast<uintptr_t>(a.map) % 64) return "tensorMap is not aligned to 64 bytes";
  if (a.type > 15) return fmt::format("tensorDataType {} is none", a.type);
  if (a.type > static_cast<uint32_t>(TensorType::kTf32Ftz))
    return fmt::format("tensorDataType {} (packed 4 or 6 bit) needs compute capability 10.0", a.type);
  if (a.rank < 1 || a.rank > kMaxTensorRank) return fmt::format("tensorRank {} is not 1 to 5", a.rank);
  if (a.interleave > 2) return fmt::format("interleave {} is none", a.interleave);
  if (a.swizzle > 6) return fmt::format("swizzle {} is none", a.swizzle);
  if (a.swizzle > 3)
    return fmt::format("swizzle {} (atoms of 32 or 64 bytes) needs compute capability 10.0", a.swizzle);
  if (a.l2_promotion > 3) return fmt::format("l2Promotion {} is none", a.l2_promotion);
  if (a.fill > 1) return fmt::format("oobFill {} is none", a.fill);
  if (a.fill && !is_float(static_cast<TensorType>(a.type)))
    return "oobFill NAN_REQUEST_ZERO_FMA needs a floating-point tensorDataType";
  return "";
}

std::string check_tensor(const Arguments& a) {
  const uint64_t alignment = a.interleave == 2 ? 32 : 16;
  if (reinterpret_cast<uintptr_t>(a.address) % alignment)
    return fmt::format("globalAddress {} is not aligned to {} bytes", a.address, alignment);
  if (a.interleave && a.rank < 3)
    return fmt::format("an interleaved tensor of rank {}: at least 3 is needed", a.rank);
  if (a.interleave == 2 && a.swizzle != 1) return "interleave 32B needs swizzle 32B";
  for (uint32_t d = 0; d < a.rank; ++d) {
    if (a.dims[d] < 1 || a.dims[d] > uint64_t{1} << 32)
      return fmt::format("globalDim[{}] = {} is not 1 to 2^32", d, a.dims[d]);
    const bool counts = d > 0 || a.interleave;  // without interleaving there is no step along dimension 0
    if (counts && (a.steps[d] < 1 || a.steps[d] > 8))
      return fmt::format("elementStrides[{}] = {} is not 1 to 8", d, a.steps[d]);
  }
  for (uint32_t d = 0; d + 1 < a.rank; ++d)
    if (a.strides[d] % alignment || a.strides[d] >= uint64_t{1} << 40)
      return fmt::format("globalStrides[{}] = {} is not a multiple of {} below 2^40", d, a.strides[d],
                         alignment);
  return "";
}

std::string check_inner(const char* name, uint64_t elements, const Arguments& a) {
  if (a.interleave) return "";
  const uint64_t bytes = elements * size_of(static_cast<TensorType>(a.type));
  if (bytes % 16) return fmt::format("{} is {} bytes, not a multiple of 16", name, bytes);
  const uint32_t span = span_of(static_cast<Swizzle>(a.swizzle));
  if (a.swizzle && bytes > span)
    return fmt::format("{} is {} bytes, more than the {} of the swizzle", name, bytes, span);
  return "";
}

TensorMap common(const Arguments& a) {
  TensorMap m;
  m.address = reinterpret_cast<uint64_t>(a.address);
  m.type = static_cast<TensorType>(a.type);
  m.rank = static_cast<int>(a.rank);
  m.interleave = static_cast<Interleave>(a.interleave);
  m.swizzle = static_cast<Swizzle>(a.swizzle);
  m.l2_promotion = static_cast<int>(a.l2_promotion);
  m.nan_fill = a.fill != 0;
  for (uint32_t d = 0; d < a.rank; ++d) {
    m.dim[d] = a.dims[d];
    if (d > 0) m.stride[d] = a.strides[d - 1];
    m.step[d] = d > 0 || a.interleave ? a.steps[d] : 1;
  }
  return m;
}

int refuse(std::string* why, std::string reason) {
  if (why) *why = std::move(reason);
  return kCuErrorInvalidValue;
}

// Corners have 16, 8 or 5 bits for tensors of 3, 4 or 5 dimensions.
int corner_bits(uint32_t rank) { return rank == 3 ? 16 : rank == 4 ? 8 : 5; }

std::string check_corners(const Arguments& a, const int* lower, const int* upper) {
  const int limit = 1 << (corner_bits(a.rank) - 1);
  for (uint32_t d = 0; d < a.rank - 2; ++d) {
    if (lower[d] < -limit || lower[d] >= limit)
      return fmt::format("pixelBoxLowerCorner[{}] = {} is not {} to {}", d, lower[d], -limit, limit - 1);
    if (upper[d] < -limit || upper[d] >= limit)
      return fmt::format("pixelBoxUpperCorner[{}] = {} is not {} to {}", d, upper[d], -limit, limit - 1);
    const int64_t extent = static_cast<int64_t>(a.dims[d + 1]) + upper[d] - lower[d];
    if (extent <= 0) return fmt::format("the bounding box has {} elements along dimension {}", extent, d + 1);
  }
  return "";
}

// The types as tensormap.replace numbers them.
constexpr TensorType kReplaceTypes[] = {
    TensorType::kU8,   TensorType::kU16,  TensorType::kU32,    TensorType::kS32,    TensorType::kU64,
    TensorType::kS64,  TensorType::kF16,  TensorType::kF32,    TensorType::kF32Ftz, TensorType::kF64,
    TensorType::kBf16, TensorType::kTf32, TensorType::kTf32Ftz};

std::string in_range(std::string_view field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return "";
  return fmt::format("{} {} is not {} to {}", field, value, low, high);
}

}  // namespace

int size_of(TensorType type) {
  switch (type) {
    case TensorType::kU8:
      return 1;
    case TensorType::kU16:
    case TensorType::kF16:
    case TensorType::kBf16:
      return 2;
    case TensorType::kU64:
    case TensorType::kS64:
    case TensorType::kF64:
      return 8;
    default:
      return 4;
  }
}

bool is_float(TensorType type) { return type >= TensorType::kF16; }

int encode_tiled(void* map, uint32_t type, uint32_t rank, const void* address, const uint64_t* dims,
                 const uint64_t* strides, const uint32_t* box, const uint32_t* steps, uint32_t interleave,
                 uint32_t swizzle, uint32_t l2_promotion, uint32_t fill, std::string* why) {
  const Arguments a{map, type, rank, address, dims, strides, steps, interleave, swizzle, l2_promotion, fill};
  std::string wrong = box ? check_enums(a) : "a required pointer is null";
  if (wrong.empty()) wrong = check_tensor(a);
  for (uint32_t d = 0; wrong.empty() && d < rank; ++d)
    if (box[d] < 1 || box[d] > 256) wrong = fmt::format("boxDim[{}] = {} is not 1 to 256", d, box[d]);
  if (wrong.empty()) wrong = check_inner("the inner dimension of the box", box[0], a);
  if (!wrong.empty()) return refuse(why, std::move(wrong));
  TensorMap m = common(a);
  for (uint32_t d = 0; d < rank; ++d) m.box[d] = box[d];
  store(m, map);
  return kCuSuccess;
}

int encode_im2col(void* map, uint32_t type, uint32_t rank, const void* address, const uint64_t* dims,
                  const uint64_t* strides, const int* lower, const int* upper, uint32_t channels,
                  uint32_t pixels, const uint32_t* steps, uint32_t interleave, uint32_t swizzle,
                  uint32_t l2_promotion, uint32_t fill, std::string* why) {
  const Arguments a{map, type, rank, address, dims, strides, steps, interleave, swizzle, l2_promotion, fill};
  std::string wrong = lower && upper ? check_enums(a) : "a required pointer is null";
  if (wrong.empty()) wrong = check_tensor(a);
  if (wrong.empty() && rank < 3) wrong = fmt::format("tensorRank {} is not 3 to 5", rank);
  if (wrong.empty()) wrong = check_corners(a, lower, upper);
  if (wrong.empty()) wrong = in_range("channelsPerPixel", channels, 1, 256);
  if (wrong.empty()) wrong = in_range("pixelsPerColumn", pixels, 1, 1024);
  if (wrong.empty()) wrong = check_inner("channelsPerPixel", channels, a);
  if (!wrong.empty()) return refuse(why, std::move(wrong));
  TensorMap m = common(a);
  m.im2col = true;
  for (uint32_t d = 0; d < rank - 2; ++d) {
    m.lower[d] = lower[d];
    m.upper[d] = upper[d];
  }
  m.channels = channels;
  m.pixels = pixels;
  store(m, map);
  return kCuSuccess;
}

int replace_address(void* map, const void* address, std::string* why) {
  if (!map || !decode_tensor_map(map)) return refuse(why, "tensorMap is no tensor map");
  std::string wrong = replace_field(map, "global_address", 0, reinterpret_cast<uint64_t>(address));
  return wrong.empty() ? kCuSuccess : refuse(why, std::move(wrong));
}

std::optional<TensorMap> decode_tensor_map(const void* map) {
  Encoded e;
  std::memcpy(&e, map, sizeof e);
  if (e.magic != kMagic || e.flags.rank >= kMaxTensorRank ||
      e.flags.type > static_cast<uint32_t>(TensorType::kTf32Ftz))
    return std::nullopt;
  TensorMap m;
  m.address = e.address;
  m.type = static_cast<TensorType>(e.flags.type);
  m.rank = static_cast<int>(e.flags.rank) + 1;
  m.interleave = static_cast<Interleave>(e.flags.interleave);
  m.swizzle = static_cast<Swizzle>(e.flags.swizzle);
  m.l2_promotion = static_cast<int>(e.flags.l2_promotion);
  m.nan_fill = e.flags.nan_fill;
  m.im2col = e.flags.im2col;
  m.stride[0] = static_cast<uint64_t>(size_of(m.type));
  for (int d = 0; d < m.rank; ++d) {
    m.dim[d] = uint64_t{e.dim[d]} + 1;
    if (d > 0) m.stride[d] = e.stride[d - 1];
    m.box[d] = e.box[d] + 1u;
    m.step[d] = e.step[d] + 1u;
  }
  for (int d = 0; d < 3; ++d) {
    m.lower[d] = e.lower[d];
    m.upper[d] = e.upper[d];
  }
  m.channels = e.channels + 1;
  m.pixels = e.pixels + 1u;
  return m;
}

std::string replace_field(void* map, std::string_view field, uint32_t ordinal, uint64_t value) {
  Encoded e;
  std::memcpy(&e, map, sizeof e);
  if (e.magic != kMagic) return "these 128 bytes are no tensor map";
  const bool per_dimension =
      field == "box_dim" || field == "global_dim" || field == "global_stride" || field == "element_stride";
  if (per_dimension && ordinal >= (field == "global_stride" ? kMaxTensorRank - 1u : kMaxTensorRank))
    return fmt::format("{} has no dimension {}", field, ordinal);
  std::string wrong;
  if (field == "global_address") {
    if (value % 16) return fmt::format("global_address {:#x} is not aligned to 16 bytes", value);
    e.address = value;
  } else if (field == "rank") {
    wrong = in_range(field, value, 0, kMaxTensorRank - 1);
    e.flags.rank = value & 7;
  } else if (field == "box_dim") {
    wrong = in_range(field, value, 1, 256);
    e.box[ordinal] = static_cast<uint8_t>(value - 1);
  } else if (field == "global_dim") {
    // 32 bits hold 2^32 as 0.
    e.dim[ordinal] = static_cast<uint32_t>(value - 1);
  } else if (field == "global_stride") {
    if (value % 16 || value >= uint64_t{1} << 40)
      return fmt::format("global_stride {} is not a multiple of 16 below 2^40", value);
    e.stride[ordinal] = value;
  } else if (field == "element_stride") {
    wrong = in_range(field, value, 1, 8);
    e.step[ordinal] = static_cast<uint8_t>(value - 1);
  } else if (field == "elemtype") {
    wrong = in_range(field, value, 0, std::size(kReplaceTypes) - 1);
    if (wrong.empty()) e.flags.type = static_cast<uint32_t>(kReplaceTypes[value]) & 15;
  } else if (field == "interleave_layout") {
    wrong = in_range(field, value, 0, 2);
    e.flags.interleave = value & 3;
  } else if (field == "swizzle_mode") {
    wrong = in_range(field, value, 0, 3);
    e.flags.swizzle = value & 3;
  } else if (field == "fill_mode") {
    wrong = in_range(field, value, 0, 1);
    e.flags.nan_fill = value & 1;
  } else {
    return fmt::format("tensormap.replace of {} is not known on sm_90", field);
  }
  if (wrong.empty()) std::memcpy(map, &e, sizeof e);
  return wrong;
}

}  // namespace ptxsim
