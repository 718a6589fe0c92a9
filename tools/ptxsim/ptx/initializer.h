// Initialisers of .global and .const variables.
// Source: PTX ISA 9.0, section 5.4.4 (initializers).
#pragma once

#include "ptx/declaration.h"
#include "ptx/lexer.h"
#include "ptx/module.h"

namespace ptxsim::ptx {

// Behind '=': 5, 0f3f800000, {1, 2}, {{1}, {2, 3}}, var+4, generic(var)+4, 0xff00(generic(var)). Fills init
// and addresses, and the size where the first dimension is open. Symbols must be known to `module`. At most
// `budget` bytes of values, by which it is lowered.
void parse_initializer(Lexer& lexer, const Module& module, Declarator& declarator, uint64_t& budget);

}  // namespace ptxsim::ptx
