// What the tensor-core families share.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "exec/decoder.h"
#include "exec/warp.h"
#include "numeric/tensor_core.h"

namespace ptxsim {

// For `.sync.aligned` instructions of a warp: true when all 32 lanes run this instruction now. False: none
// does (the guard is false), or the split was parked until the others come; the handler returns. Fails where
// only a part can come.
bool whole_warp(Warp& w, const Instr& i, const char* why);

std::optional<numeric::InputType> input_type(std::string_view word);
constexpr bool is_integer(numeric::InputType type) {
  return type == numeric::InputType::kS8 || type == numeric::InputType::kU8;
}
// "m16n8k16"; all zero where the word is no shape.
struct MmaShape {
  int m = 0, n = 0, k = 0;
};
MmaShape mma_shape(std::string_view word);

// Rows of a `{a, b, ...}` operand, or of a single one; false where it has not `count` of them.
bool operand_rows(Decoder& d, const ptx::Operand& op, ptx::Type type, int count, uint32_t* rows);

// exec/matrix_move.cpp: ldmatrix, stmatrix, movmatrix; asked by decode_mma.
bool decode_matrix_move(Decoder& d, const ptx::Instruction& in);

}  // namespace ptxsim
