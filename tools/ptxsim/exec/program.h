// A kernel ready to run: straight arrays of compact instructions over rows of 32 lanes.
//
// Registers. Each warp owns one register file, a byte array; a register is a row of 32 lanes at a fixed byte
// offset:
//   .pred 4 bytes (bit = lane) | 16-bit 64 | 32-bit 128 | 64-bit 256 | 128-bit 512, aligned to its size (at
//   most 64).
// Rows are shared by registers that are never live together (decode/allocate.cpp). Constants are rows too,
// filled before the first instruction. Rows of different width never overlap; rows of the same width are
// equal or disjoint, so an elementwise handler may write d while it reads a and b.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ptx/module.h"

namespace ptxsim {

struct Warp;
struct Instr;

// Runs one instruction for the lanes of the warp's running split. w.pc already points to the next
// instruction.
using Handler = void (*)(Warp& w, const Instr& i);

struct Instr {
  Handler run = nullptr;
  uint32_t d = 0, a = 0, b = 0, c = 0;  // byte offsets of rows, unless the family says otherwise
  uint32_t guard = 0;                   // offset of the predicate row of @p; kTrueRow where there is none
  uint32_t guard_flip = 0;              // ~0 for @!p
  int64_t imm = 0;                      // the family's; for memory: the byte offset
  const void* ext = nullptr;            // the family's further operands, owned by the Program
};

// The predicate row that is all ones.
inline constexpr uint32_t kTrueRow = 0;

// One constant of the register file: `bytes` per lane (4 of them: a predicate row is given as 32-bit word).
struct ConstantRow {
  uint32_t offset = 0;
  uint32_t width = 4;  // bytes per lane: 2, 4, 8; 0: one predicate word
  uint64_t value = 0;
  bool shared = false;  // a shared address: the rank of the block in its cluster is added, << 24
};

// A variable of shared or local space with its place.
struct Placed {
  std::string name;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct LoadedModule;

struct Program {
  uint64_t serial = 0;     // unique in the process
  std::string name;        // mangled, as in the PTX
  std::string short_name;  // demangled, without parameters: "gemm<128, 64>"
  const ptx::Module* module = nullptr;
  const ptx::Function* entry = nullptr;
  std::vector<Instr> code;
  std::vector<ptx::Location> where;  // per instruction of `code`
  std::vector<std::string_view>
      opcodes;  // per instruction of `code`, in the module's text; empty for what the decoder added
  std::vector<const ptx::Instruction*> source;  // the same, whole, in checked mode only
  std::vector<ConstantRow> constants;
  uint32_t register_bytes = 0;       // of one warp's register file
  int live_registers = 0;            // most 32-bit registers live at once: stands in for the register count
  uint32_t static_shared_bytes = 0;  // .shared of the kernel and of what it calls, from offset kSharedBase
  uint32_t local_bytes = 0;          // per thread
  std::vector<Placed> shared_variables, local_variables;
  std::vector<uint32_t> parameter_offsets;
  uint32_t parameter_bytes = 0;
  // Rows that an instruction reads and writes, for the check of registers in flight: row_uses[row_begin[pc]
  // .. row_begin[pc + 1]); bit 31 set where it is written. Filled in checked mode only.
  std::vector<uint32_t> row_begin, row_uses;

  // Owner of what Instr::ext points to.
  template <class T>
  const T* keep(T value) {
    return keep_mutable(std::move(value));
  }
  template <class T>
  T* keep_mutable(T value) {
    auto p = std::make_shared<T>(std::move(value));
    kept_.push_back(p);
    return p.get();
  }

 private:
  std::deque<std::shared_ptr<const void>> kept_;
};

// Shared addresses are rank << 24 | offset; user data begins here, so that 0 is no valid address.
inline constexpr uint32_t kSharedBase = 1024;

}  // namespace ptxsim
