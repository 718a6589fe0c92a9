// Rows for registers: registers that are never live together share a row, so that a warp's file stays in the
// cache.
#pragma once

#include <vector>

#include "decode/flatten.h"

namespace ptxsim {

struct Rows {
  std::vector<uint32_t> offset;  // of each register of the kernel
  uint32_t end = 0;              // first free byte behind them
  int live_registers = 0;        // most 32-bit registers live at once
};

// Lanes per row times bytes: 4 for predicates, 64, 128, 256, 512.
uint32_t row_bytes(ptx::Type type);

// `begin`: where rows may start. Linear scan over live ranges (Poletto, Sarkar 1999).
Rows allocate_rows(const FlatKernel& kernel, uint32_t begin);

}  // namespace ptxsim
