// What comparisons of all families share: the comparison of two rows as bits, and its combination with a
// predicate.
#pragma once

#include <cstdint>
#include <string_view>

#include "exec/program.h"

namespace ptxsim::alu {

struct Comparison {
  Handler setp = nullptr;  // d = a cmp b, rows of the type; null: no such comparison
  uint32_t (*compare)(const void*, const void*) = nullptr;  // the same of two rows as bits
};
// The comparison that a word of an opcode names ("lt", "geu", "hi"), of a type (integer, f32, f64). ftz: of
// f32.
Comparison find_comparison(std::string_view word, ptx::Type type, bool ftz);

enum class Bool : uint8_t { kNone, kAnd, kOr, kXor };
inline Bool find_bool(const ptx::Instruction& in) {
  return in.has("and") ? Bool::kAnd : in.has("or") ? Bool::kOr : in.has("xor") ? Bool::kXor : Bool::kNone;
}
// a where there is none.
inline uint32_t combine(Bool op, uint32_t a, uint32_t b) {
  switch (op) {
    case Bool::kAnd:
      return a & b;
    case Bool::kOr:
      return a | b;
    case Bool::kXor:
      return a ^ b;
    default:
      return a;
  }
}

// The types at the end of an opcode, from the last.
inline ptx::Type type_from_end(const ptx::Instruction& in, size_t k) {
  return in.parts.size() > k + 1 ? ptx::type_named(in.parts[in.parts.size() - 1 - k]) : ptx::Type::kNone;
}

}  // namespace ptxsim::alu
