// Constant expressions: what PTX allows wherever an immediate may stand.
// Source: PTX ISA 9.0, section 4.5.
#pragma once

#include <cstdint>

#include "ptx/lexer.h"

namespace ptxsim::ptx {

struct Constant {
  bool is_float = false;
  bool is_unsigned = false;  // .u64 rather than .s64
  bool is_single = false;    // 0f........: `integer` holds the 32 bits
  uint64_t integer = 0;      // the value, or the bits of `real`
  double real = 0;
};

// One unsigned literal: 12, 0x1fU, 017, 0b101, 1.5e3, 0f3F800000, 0d3FF0000000000000.
Constant parse_literal(Lexer& lexer);
// An expression with the operators and the precedence of C, casts to .s64 and .u64, and WARP_SZ. Integers are
// 64 bits wide and wrap; division by zero is an error.
Constant parse_constant(Lexer& lexer);
// The same where only an integer will do.
uint64_t parse_integer(Lexer& lexer);
// True where the next token can only begin a constant expression.
bool at_constant(const Lexer& lexer);

}  // namespace ptxsim::ptx
