// Values of the tensors of a GGUF file, as ggml defines them, in FP32: the same bits as ggml's own
// dequantisation, sum and product rounded one after the other.
//
//   Q4_0, Q4_1, Q8_0: blocks of 32 values with a half scale (and, Q4_1, a half minimum)
//   Q4_K: blocks of 256: eight groups of 32 with scales and minima of 6 bits, of which halves give the unit
//   Q6_K: blocks of 256: sixteen groups of 16 with scales of 8 bits, likewise
#pragma once

#include <cstddef>
#include <cstdint>

#include "data/gguf_file.h"

namespace contender {

// Values [first, +count) of a row that begins at `row`.
void gguf_to_f32(GgufType type, const std::byte* row, int64_t first, int64_t count, float* values);

}  // namespace contender
