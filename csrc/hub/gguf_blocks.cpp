#include "hub/gguf_blocks.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace contender {
namespace {

constexpr int64_t kLargestBlock = 256;

uint16_t u16_at(const uint8_t* at) { return static_cast<uint16_t>(at[0] | at[1] << 8); }
float half_at(const uint8_t* at) { return f16_to_f32(u16_at(at)); }

void f32_value(const uint8_t* b, float* v) { std::memcpy(v, b, sizeof *v); }
void f16_value(const uint8_t* b, float* v) { *v = half_at(b); }
void bf16_value(const uint8_t* b, float* v) {
  *v = std::bit_cast<float>(static_cast<uint32_t>(u16_at(b)) << 16);
}

// half scale | 16 bytes: low halves are the first 16 values, high halves the others
void q4_0_block(const uint8_t* b, float* v) {
  const float scale = half_at(b);
  for (int i = 0; i < 16; ++i) {
    v[i] = scale * static_cast<float>((b[2 + i] & 15) - 8);
    v[i + 16] = scale * static_cast<float>((b[2 + i] >> 4) - 8);
  }
}

// half scale | half minimum | 16 bytes
void q4_1_block(const uint8_t* b, float* v) {
  const float scale = half_at(b), least = half_at(b + 2);
  for (int i = 0; i < 16; ++i) {
    v[i] = scale * static_cast<float>(b[4 + i] & 15) + least;
    v[i + 16] = scale * static_cast<float>(b[4 + i] >> 4) + least;
  }
}

// half scale | 32 signed bytes
void q8_0_block(const uint8_t* b, float* v) {
  const float scale = half_at(b);
  for (int i = 0; i < 32; ++i) v[i] = static_cast<float>(static_cast<int8_t>(b[2 + i])) * scale;
}

// half unit of scales | half unit of minima | 12 bytes of scales and minima | 128 bytes: of each 32, low
// halves are one group, high halves the next
void q4_k_block(const uint8_t* b, float* v) {
  const float scale_unit = half_at(b), least_unit = half_at(b + 2);
  const uint8_t *packed = b + 4, *quants = b + 16;
  for (int group = 0; group < 8; ++group) {
    // Groups 0 to 3 have 6 bits in one byte each; of the others, 4 bits are in a shared byte, and 2 on top of
    // those.
    const int g = group % 4;
    const bool late = group >= 4;
    const int scale = late ? (packed[8 + g] & 15) | (packed[g] >> 6) << 4 : packed[g] & 63;
    const int least = late ? packed[8 + g] >> 4 | (packed[4 + g] >> 6) << 4 : packed[4 + g] & 63;
    const float d = scale_unit * static_cast<float>(scale), m = least_unit * static_cast<float>(least);
    const uint8_t* q = quants + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) v[group * 32 + i] = d * static_cast<float>(q[i] >> shift & 15) - m;
  }
}

// 128 bytes of low 4 bits | 64 bytes of high 2 bits | 16 signed scales | half unit. Each half of the block:
// 64 bytes of low bits and 32 of high ones are four runs of 32 values.
void q6_k_block(const uint8_t* b, float* v) {
  const auto* scales = reinterpret_cast<const int8_t*>(b + 192);
  const float unit = half_at(b + 208);
  for (int run = 0; run < 8; ++run) {
    const uint8_t* low = b + run / 4 * 64 + run % 2 * 32;
    const uint8_t* high = b + 128 + run / 4 * 32;
    const int low_shift = run % 4 / 2 * 4, high_shift = run % 4 * 2;
    for (int i = 0; i < 32; ++i) {
      const int q = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
      v[run * 32 + i] = unit * static_cast<float>(scales[run * 2 + i / 16]) * static_cast<float>(q - 32);
    }
  }
}

using Block = void (*)(const uint8_t*, float*);

// Whole blocks go to their place, those at the ends through a buffer.
template <Block block>
void convert(const GgufTypeInfo& info, const uint8_t* row, int64_t first, int64_t count, float* values) {
  const int64_t size = info.block_values;
  float buffer[kLargestBlock];
  for (int64_t at = first; at < first + count;) {
    const int64_t within = at % size, some = std::min(size - within, first + count - at);
    const uint8_t* from = row + at / size * info.block_bytes;
    if (some == size) {
      block(from, values + (at - first));
    } else {
      block(from, buffer);
      std::copy_n(buffer + within, some, values + (at - first));
    }
    at += some;
  }
}

}  // namespace

void gguf_to_f32(GgufType type, const std::byte* data, int64_t first, int64_t count, float* values) {
  const GgufTypeInfo& info = gguf_type_info(type);
  const auto* row = reinterpret_cast<const uint8_t*>(data);
  switch (type) {
    case GgufType::kF32:
      return convert<f32_value>(info, row, first, count, values);
    case GgufType::kF16:
      return convert<f16_value>(info, row, first, count, values);
    case GgufType::kBF16:
      return convert<bf16_value>(info, row, first, count, values);
    case GgufType::kQ4_0:
      return convert<q4_0_block>(info, row, first, count, values);
    case GgufType::kQ4_1:
      return convert<q4_1_block>(info, row, first, count, values);
    case GgufType::kQ8_0:
      return convert<q8_0_block>(info, row, first, count, values);
    case GgufType::kQ4_K:
      return convert<q4_k_block>(info, row, first, count, values);
    case GgufType::kQ6_K:
      return convert<q6_k_block>(info, row, first, count, values);
  }
  fail(ExitCode::kInternal, "tensor type {} of GGUF", static_cast<uint32_t>(type));
}

}  // namespace contender
