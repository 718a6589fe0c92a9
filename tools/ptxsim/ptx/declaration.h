// The parts of declarations that modules, parameter lists and bodies share.
// Source: PTX ISA 9.0, sections 5.4 (variables), 7.1 (parameters).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ptx/lexer.h"
#include "ptx/module.h"

namespace ptxsim::ptx {

constexpr uint64_t kMaxVariableBytes = uint64_t{1} << 38;

// ".global" -> kGlobal for the spaces that variables may be declared in, kNone for other words.
Space space_named(std::string_view word);

// What all names of one declaration share.
struct DeclaredType {
  Type type = Type::kNone;
  int lanes = 1;       // .v2, .v4
  uint64_t align = 0;  // 0: natural
};
// Reads `.align 16`, `.attribute(...)`, `.v4`, `.f32`, `.ptr .global .align 8`. Some type must be among them.
DeclaredType parse_declared_type(Lexer& lexer);

// A name and its dimensions; `bytes` and `align` follow. The first dimension may be left open: then bytes is
// 0.
struct Declarator {
  Variable variable;
  std::string_view name;             // into the text
  std::vector<uint64_t> dimensions;  // 0 for an open first one; .v2 and .v4 are the last one
};
Declarator parse_declarator(Lexer& lexer, Space space, const DeclaredType& type);

// "( .param .u64 a, .reg .u32 b )", at '('. .reg parameters are given their space, kReg.
std::vector<Variable> parse_parameters(Lexer& lexer);

}  // namespace ptxsim::ptx
