// ldmatrix, stmatrix, movmatrix of 8x8 matrices of 16-bit elements. Source: PTX ISA 9.0, section 9.7.15.5.
#include <cstring>

#include "exec/memory.h"
#include "exec/mma.h"
#include "numeric/fragments.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Space;
using ptx::Type;

namespace {

struct MatrixMove {
  AddressOperand address;
  int matrices = 0;
  bool transposed = false, load = false;
  uint32_t rows[4] = {};
};

// An 8x8 matrix as it lies in memory: row, column.
using Matrix = uint16_t[8][8];

void to_registers(const Matrix& m, bool transposed, uint32_t* d) {
  for (int l = 0; l < kWarpSize; ++l) {
    const auto low = numeric::matrix_position(l, 0), high = numeric::matrix_position(l, 1);
    d[l] = transposed ? m[low.column][low.row] | uint32_t{m[high.column][high.row]} << 16
                      : m[low.row][low.column] | uint32_t{m[high.row][high.column]} << 16;
  }
}

void from_registers(const uint32_t* a, bool transposed, Matrix& m) {
  for (int l = 0; l < kWarpSize; ++l) {
    for (int e = 0; e < 2; ++e) {
      const auto p = numeric::matrix_position(l, e);
      (transposed ? m[p.column][p.row] : m[p.row][p.column]) = static_cast<uint16_t>(a[l] >> 16 * e);
    }
  }
}

// Lanes 8r .. 8r + 7 give the addresses of the rows of matrix r.
void run_move(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const MatrixMove*>(i.ext);
  if (!whole_warp(w, i, op.load ? "ldmatrix" : "stmatrix")) return;
  alignas(64) uint64_t addresses[kWarpSize];
  alignas(64) std::byte* p[kWarpSize];
  tagged_addresses(w, op.address, addresses);
  const int lanes = 8 * op.matrices;
  for (int l = 0; l < lanes; ++l)
    if ((addresses[l] & kTagMask) != kSharedTag)
      fail(w, i, l, ErrorCode::kInvalidAddressSpace,
           "[bounds.shared] the generic address is not in shared memory");
  const AccessInfo info{op.load ? Access::kRead : Access::kWrite, Order::kWeak, Scope::kCta, 16};
  resolve(w, i, lanes == kWarpSize ? kAllLanes : (1u << lanes) - 1, addresses, info, p);
  for (int r = 0; r < op.matrices; ++r) {
    Matrix m;
    if (op.load) {
      for (int k = 0; k < 8; ++k) std::memcpy(m[k], p[8 * r + k], 16);
      to_registers(m, op.transposed, row<uint32_t>(w, op.rows[r]));
    } else {
      from_registers(row<uint32_t>(w, op.rows[r]), op.transposed, m);
      for (int k = 0; k < 8; ++k) std::memcpy(p[8 * r + k], m[k], 16);
    }
  }
}

void run_movmatrix(Warp& w, const Instr& i) {
  if (!whole_warp(w, i, "movmatrix")) return;
  Matrix m;
  from_registers(row<uint32_t>(w, i.a), false, m);
  to_registers(m, true, row<uint32_t>(w, i.d));
}

int matrices_of(const Instruction& in) { return in.has("x1") ? 1 : in.has("x2") ? 2 : in.has("x4") ? 4 : 0; }

}  // namespace

bool decode_matrix_move(Decoder& d, const Instruction& in) {
  const std::string_view m = in.mnemonic();
  const bool load = m == "ldmatrix";
  if (m == "movmatrix") {
    if (in.has("m8n8") && in.has("trans") && in.has("b16") && in.operands.size() == 2)
      d.emit({.run = run_movmatrix,
              .d = d.row(in.operands[0], Type::kB32),
              .a = d.row(in.operands[1], Type::kB32)});
    else
      d.unknown(in);
    return true;
  }
  if (!load && m != "stmatrix") return false;
  MatrixMove op;
  op.matrices = matrices_of(in);
  op.transposed = in.has("trans");
  op.load = load;
  const bool known = in.has("m8n8") && in.has("b16") && op.matrices && in.operands.size() == 2 &&
                     operand_rows(d, in.operands[load ? 0 : 1], Type::kB32, op.matrices, op.rows);
  if (!known) {
    d.unknown(in);
    return true;
  }
  op.address = address_operand(d, in.operands[load ? 1 : 0], space_of(in));
  d.emit({.run = run_move, .ext = d.program().keep(op)});
  return true;
}

}  // namespace ptxsim
