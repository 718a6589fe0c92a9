#include "tensor_box.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "numeric/float_formats.h"

namespace ptxsim {

namespace {

constexpr uint32_t kChunk = 16;
constexpr uint32_t kMaxRowBytes = 256 * 8;

// The chunks of the row at shared address `a` are XORed with this: the same for the whole row, as a row never
// crosses a 128-byte line when it is swizzled.
uint32_t flip_of(const TensorMap& m, uint32_t a) {
  return (a >> 7 & (span_of(m.swizzle) / kChunk - 1)) * kChunk;
}

struct Shared {
  const TensorMap& m;
  uint32_t address, pitch, bytes;  // of the first row; between rows; of one row
  Shared(const TensorMap& map, uint32_t shared_address)
      : m(map), address(shared_address), pitch(pitch_of(map)), bytes(row_elements(map) * size_of(map.type)) {}
};

void write_row(const Shared& s, std::byte* row, uint32_t address, const std::byte* from) {
  if (s.m.swizzle == Swizzle::kNone) {
    std::memcpy(row, from, s.bytes);
    return;
  }
  const uint32_t flip = flip_of(s.m, address);
  for (uint32_t k = 0; k < s.bytes; k += kChunk) std::memcpy(row + (k ^ flip), from + k, kChunk);
}

void read_row(const Shared& s, const std::byte* row, uint32_t address, std::byte* to) {
  if (s.m.swizzle == Swizzle::kNone) {
    std::memcpy(to, row, s.bytes);
    return;
  }
  const uint32_t flip = flip_of(s.m, address);
  for (uint32_t k = 0; k < s.bytes; k += kChunk) std::memcpy(to + k, row + (k ^ flip), kChunk);
}

// NaN of the element type: all bits but the sign.
void fill_row(const TensorMap& m, std::byte* row, uint32_t bytes) {
  std::memset(row, m.nan_fill ? 0xff : 0, bytes);
  if (!m.nan_fill) return;
  for (uint32_t k = size_of(m.type) - 1; k < bytes; k += size_of(m.type)) row[k] = std::byte{0x7f};
}

bool converts(TensorType t) {
  return t == TensorType::kF32Ftz || t == TensorType::kTf32 || t == TensorType::kTf32Ftz;
}

// Loads of these types change values: subnormals become zero, tf32 keeps 10 bits of the fraction.
void convert_row(TensorType type, std::byte* row, uint32_t bytes) {
  for (uint32_t k = 0; k < bytes; k += 4) {
    uint32_t x;
    std::memcpy(&x, row + k, 4);
    if (type != TensorType::kTf32 && (x & 0x7f800000) == 0) x &= 0x80000000;
    if (type != TensorType::kF32Ftz && !numeric::is_nan_f32(x)) {
      using namespace numeric;
      x = narrow<kTf32, Round::kNearestEven, Overflow::kInfinity>(x) << 13;
    }
    std::memcpy(row + k, &x, 4);
  }
}

}  // namespace

std::string check_box(const TensorMap& m) {
  if (m.interleave != Interleave::kNone) return "interleaved tensors are not simulated";
  const uint32_t bytes = row_elements(m) * size_of(m.type), span = span_of(m.swizzle);
  if (bytes % kChunk)
    return fmt::format("the inner dimension of the box is {} bytes, not a multiple of 16", bytes);
  if (m.swizzle != Swizzle::kNone && bytes > span)
    return fmt::format("the inner dimension of the box is {} bytes, more than the {} of the swizzle", bytes,
                       span);
  return "";
}

uint32_t row_elements(const TensorMap& m) { return m.im2col ? m.channels : m.box[0]; }

uint32_t box_rows(const TensorMap& m) {
  if (m.im2col) return m.pixels;
  uint32_t rows = 1;
  for (int d = 1; d < m.rank; ++d) rows *= box_count(m, d);
  return rows;
}

uint32_t pitch_of(const TensorMap& m) {
  const uint32_t bytes = row_elements(m) * size_of(m.type);
  return m.swizzle == Swizzle::kNone ? bytes : span_of(m.swizzle);
}

uint32_t box_bytes(const TensorMap& m) { return box_rows(m) * row_elements(m) * size_of(m.type); }
uint32_t box_extent(const TensorMap& m) { return box_rows(m) * pitch_of(m); }

bool global_hull(const TensorMap& m, const BoxPlace& place, uint64_t* begin, uint64_t* end) {
  *begin = ~uint64_t{0};
  *end = 0;
  for_each_row(m, place, [&](const BoxRow& row) {
    if (!row.count) return;
    *begin = std::min(*begin, row.global);
    *end = std::max(*end, row.global + uint64_t{row.count} * size_of(m.type));
  });
  return *end != 0;
}

void load_box(const TensorMap& m, const BoxPlace& place, std::byte* shared, uint32_t shared_address) {
  const Shared s(m, shared_address);
  const uint32_t size = size_of(m.type), elements = row_elements(m);
  const bool plain = !converts(m.type);
  for_each_row(m, place, [&](const BoxRow& row) {
    std::byte* to = shared + row.index * s.pitch;
    const uint32_t address = s.address + row.index * s.pitch;
    const auto* from = reinterpret_cast<const std::byte*>(row.global);
    if (row.count == elements && plain) {
      write_row(s, to, address, from);
      return;
    }
    std::byte whole[kMaxRowBytes];
    if (row.count < elements) fill_row(m, whole, s.bytes);
    if (row.count) {
      std::memcpy(whole + row.first * size, from, row.count * size);
      if (!plain) convert_row(m.type, whole + row.first * size, row.count * size);
    }
    write_row(s, to, address, whole);
  });
}

void store_box(const TensorMap& m, const BoxPlace& place, const std::byte* shared, uint32_t shared_address) {
  const Shared s(m, shared_address);
  const uint32_t size = size_of(m.type), elements = row_elements(m);
  for_each_row(m, place, [&](const BoxRow& row) {
    if (!row.count) return;
    const std::byte* from = shared + row.index * s.pitch;
    const uint32_t address = s.address + row.index * s.pitch;
    auto* to = reinterpret_cast<std::byte*>(row.global);
    if (row.count == elements) {
      read_row(s, from, address, to);
      return;
    }
    std::byte whole[kMaxRowBytes];
    read_row(s, from, address, whole);
    std::memcpy(to, whole + row.first * size, row.count * size);
  });
}

void reduce_box(const TensorMap& m, const BoxPlace& place, const std::byte* shared, uint32_t shared_address,
                ReduceElements reduce) {
  const Shared s(m, shared_address);
  const uint32_t size = size_of(m.type);
  for_each_row(m, place, [&](const BoxRow& row) {
    if (!row.count) return;
    alignas(8) std::byte whole[kMaxRowBytes];
    read_row(s, shared + row.index * s.pitch, s.address + row.index * s.pitch, whole);
    reduce(reinterpret_cast<std::byte*>(row.global), whole + row.first * size, row.count);
  });
}

}  // namespace ptxsim
