// The modifiers that ld, st, atom, red and fences share.
#pragma once

#include "exec/decoder.h"
#include "exec/warp.h"

namespace ptxsim {

// State space named by the modifiers; kNone: generic. ".shared", ".shared::cta", ".shared::cluster" are
// kShared.
ptx::Space space_of(const ptx::Instruction& in);
Order order_of(const ptx::Instruction& in, Order otherwise);
Scope scope_of(const ptx::Instruction& in, Scope otherwise);
// The last modifier that names a fundamental type.
ptx::Type type_of(const ptx::Instruction& in);
// 1, 2, 4 or 8 from .v2 / .v4 / .v8
int vector_of(const ptx::Instruction& in);

// Base row, offset and space of a memory operand; `run-time` form of Decoder::Address.
struct AddressOperand {
  uint32_t row = 0;
  int bits = 64;
  int64_t offset = 0;
  ptx::Space space = ptx::Space::kNone;
};
// For [..] of an instruction that names `space`. A .param variable of a call is in local memory.
AddressOperand address_operand(Decoder& d, const ptx::Operand& op, ptx::Space space);
// The 32 tagged addresses.
inline void tagged_addresses(Warp& w, const AddressOperand& a, uint64_t* out) {
  load_addresses(w, a.row, a.bits, a.offset, out);
  if (a.space == ptx::Space::kShared) {
    for (int l = 0; l < kWarpSize; ++l) out[l] = kSharedTag | static_cast<uint32_t>(out[l]);
  } else if (a.space == ptx::Space::kLocal || a.space == ptx::Space::kParam) {
    const uint64_t tag = a.space == ptx::Space::kLocal ? kLocalTag : kParamTag;
    for (int l = 0; l < kWarpSize; ++l) out[l] = (out[l] & ~kTagMask) | tag;
  }
}

}  // namespace ptxsim
