// From ptx::Instruction to Instr. Each opcode family is one exec/<family>.cpp with one function
//   bool decode_<family>(Decoder& d, const ptx::Instruction& in);
// that looks at in.parts, and either emits one or more Instr and returns true, or returns false ("not mine").
// A form that belongs to the family but cannot be run: d.unknown(in) (fails by name when it is executed).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "exec/program.h"

namespace ptxsim {

class Decoder {
 public:
  virtual ~Decoder() = default;

  // Row offset of a register operand (or of `%p` in p|q by passing elements[k]); for an immediate, a variable
  // or a function: a constant row of `type`'s width holding its value (address of a variable: its
  // generic-free address, i.e. offset in its space for shared, tagged nothing). _ gives a scratch row that
  // nobody reads. A float immediate is rounded to `type`. Fails by ParseError where the operand cannot be
  // that.
  virtual uint32_t row(const ptx::Operand& op, ptx::Type type) = 0;
  // The same for 4-byte predicate rows; *flip = ~0 for !p. (Constants true/false are rows as well.)
  virtual uint32_t predicate(const ptx::Operand& op, uint32_t* flip) = 0;
  // Type of a register operand as declared; kNone for other operands.
  virtual ptx::Type register_type(const ptx::Operand& op) const = 0;
  // Value of an operand that must be an integer known now.
  virtual int64_t integer(const ptx::Operand& op) = 0;
  virtual bool is_integer(const ptx::Operand& op) const = 0;

  // [base + offset] -> row of the base (a 64-bit row; 32-bit bases are given as they are, see address_bits)
  // and offset.
  struct Address {
    uint32_t row = 0;
    int64_t offset = 0;
    int bits = 64;  // width of the base row: 32 or 64
  };
  virtual Address address(const ptx::Operand& op) = 0;

  // Index of the instruction that a label stands for, as the target of a branch: known only after everything
  // is emitted, so the decoder writes it into instr.imm of the instruction with that index.
  virtual void branch_target(int index, const ptx::Operand& label) = 0;
  // The same for each label of a `.branchtargets` table, into *pcs (owned by the program).
  virtual void branch_table(const ptx::Operand& label, std::vector<uint32_t>* pcs) = 0;
  // Place of a variable of the kernel: its space and offset (kernel parameters, shared, local; .param
  // variables of calls live in local memory). Fails where the operand is no such variable.
  struct Place {
    ptx::Space space = ptx::Space::kNone;
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  virtual Place place(const ptx::Operand& op) = 0;

  // Appends; fills guard, guard_flip and the location. Returns the index.
  virtual int emit(Instr instr) = 0;
  virtual Program& program() = 0;
  // A scratch row of so many bytes per lane (4: also predicates as 128 bytes) that lives within one PTX
  // instruction.
  virtual uint32_t scratch(ptx::Type type) = 0;
  // Emits an instruction that fails by name when a lane reaches it.
  virtual void unknown(const ptx::Instruction& in) = 0;
};

// Reads of special registers (mov from %tid.x and its kin), asked before all others.
bool decode_special(Decoder& d, const ptx::Instruction& in);  // exec/special.cpp
// In the order in which they are asked. integer, float, memory and control: mov, cvta, ld/st, bra, bar, ...
bool decode_integer(Decoder& d, const ptx::Instruction& in);  // exec/integer.cpp
bool decode_float(Decoder& d, const ptx::Instruction& in);    // exec/float.cpp: f32, f64
bool decode_compare(Decoder& d,
                    const ptx::Instruction& in);  // exec/compare.cpp: setp, set, selp, slct, predicates, mov
bool decode_memory(Decoder& d,
                   const ptx::Instruction& in);  // exec/memory.cpp: ld, st, ldu, prefetch, cvta, isspacep
bool decode_control(Decoder& d,
                    const ptx::Instruction& in);  // exec/control.cpp: bra, brx, exit, bar, barrier, trap
bool decode_half(Decoder& d, const ptx::Instruction& in);     // exec/half.cpp: f16, bf16, packed
bool decode_convert(Decoder& d, const ptx::Instruction& in);  // exec/convert.cpp: cvt
bool decode_atomic(Decoder& d, const ptx::Instruction& in);   // exec/atomic.cpp: atom, red, multimem
bool decode_lanes(Decoder& d,
                  const ptx::Instruction& in);  // exec/lanes.cpp: shfl, vote, match, redux, activemask
bool decode_mbarrier(Decoder& d, const ptx::Instruction& in);  // exec/mbarrier.cpp
bool decode_async(Decoder& d, const ptx::Instruction& in);   // exec/async.cpp: cp.async, bulk, griddepcontrol
bool decode_tensor(Decoder& d, const ptx::Instruction& in);  // exec/tensor.cpp: TMA, tensormap
bool decode_cluster(Decoder& d,
                    const ptx::Instruction& in);          // exec/cluster.cpp: barrier.cluster, mapa, fences
bool decode_mma(Decoder& d, const ptx::Instruction& in);  // exec/mma.cpp: mma, ldmatrix, stmatrix, movmatrix
bool decode_wgmma(Decoder& d, const ptx::Instruction& in);  // exec/wgmma.cpp
bool decode_system(Decoder& d,
                   const ptx::Instruction& in);  // exec/system.cpp: nanosleep, setmaxnreg, vprintf, ...

// Address of a .global or .const variable of the module on the program's device; 0 where there is none.
using GlobalAddress = std::function<uint64_t(std::string_view name)>;
// A kernel of a parsed module; bodies of the functions it calls are parsed on the way. Throws
// ptx::ParseError.
std::unique_ptr<Program> decode(ptx::Module& module, ptx::Function& entry,
                                const GlobalAddress& global_address);

}  // namespace ptxsim
