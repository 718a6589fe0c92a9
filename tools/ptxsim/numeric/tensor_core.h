// The arithmetic of mma and wgmma on small blocks: pure functions of decoded operands, no registers, no
// memory.
//
// Every operand is handled as panels: 16 vectors along k (rows of A or columns of B) of at most 32 bytes
// each, which is the depth of every wgmma and the most of every mma.sync. `RawPanel` holds them as 32-bit
// words, the unit in which fragments and shared memory hold k; `Panel` as numbers.
#pragma once

#include <cstdint>

#include "config.h"
#include "numeric/tensor_core_model.h"

namespace ptxsim::numeric {

enum class InputType : uint8_t { kF16, kBf16, kTf32, kE4m3, kE5m2, kS8, kU8 };
enum class ResultType : uint8_t { kF32, kF16 };

constexpr int input_bytes(InputType type) {
  return type == InputType::kTf32 ? 4 : type == InputType::kF16 || type == InputType::kBf16 ? 2 : 1;
}
constexpr const SumModel& sum_model(InputType type) {
  return type == InputType::kTf32 ? kSumTf32 : input_bytes(type) == 2 ? kSum16Bit : kSumFp8;
}

inline constexpr int kPanelVectors = 16;
inline constexpr int kPanelWords = 8;
inline constexpr int kPanelDepth = 32;

// word[w][v]: bytes 4w .. 4w + 3 along k of vector v, little endian. Vectors that do not exist are zero.
struct alignas(64) RawPanel {
  uint32_t word[kPanelWords][kPanelVectors];
};

inline constexpr int16_t kNoExponent = -8192;  // of a zero

struct alignas(64) Panel {
  float value[kPanelDepth][kPanelVectors];
  int16_t exponent[kPanelDepth][kPanelVectors];  // of the significand: max(field, 1) - bias
  bool special = false;                          // an infinity or NaN is among the values
};

// The first `words` words of each vector as numbers; every value negated where `negate`. Returns their number
// along k. tf32 values lose the low 13 bits. Not for kS8 and kU8.
int decode(InputType type, const RawPanel& raw, int words, bool negate, Panel& panel);

// d[i][j] += sum over k < depth of x.value[k][i] * y.value[k][j], for i < rows and all 16 j.
// Hardware accumulation: as `model` says; depth even. Plain: fp32 sums of fp32 products (which are exact) in
// the order of k. For kF16 the accumulators are f32 of the same values, rounded to f16 at the end of each
// sum.
void multiply_add(const SumModel& model, Accumulation accumulation, ResultType result, const Panel& x,
                  int rows, const Panel& y, int depth, float (*d)[kPanelVectors]);

// The same for integers, 4 * words deep: modulo 2^32, or clamped to 32 bits.
void multiply_add(InputType x_type, const RawPanel& x, int rows, InputType y_type, const RawPanel& y,
                  int words, bool saturate, int32_t (*d)[kPanelVectors]);

}  // namespace ptxsim::numeric
