// A kernel with the bodies of the device functions it calls put in their place: one list of instructions over
// one list of registers, labels and variables.
#pragma once

#include <vector>

#include "exec/decoder.h"
#include "ptx/module.h"

namespace ptxsim {

struct FlatVariable {
  const ptx::Variable* declared = nullptr;
  ptx::Space space =
      ptx::Space::kNone;  // kParam: a parameter of the kernel; kLocal also for .param variables of calls
  uint64_t offset = 0;    // in its space
};

struct FlatKernel {
  std::vector<ptx::Register> registers;
  std::vector<ptx::Instruction> body;  // register, variable and label indices refer to the lists here
  std::vector<ptx::Label> labels;
  std::vector<FlatVariable> variables;
  uint64_t shared_end = 0, local_end = 0, parameter_end = 0;  // bytes used in each space
};

// Calls of functions with a body are inlined, to a depth of 64; others stay as they are (vprintf, recursion,
// function pointers). Parses bodies that have not been parsed. Throws ptx::ParseError.
FlatKernel flatten(ptx::Module& module, ptx::Function& entry);

// The destination operands of an instruction are its first `count`; `also_read`: they are read as well
// (wgmma).
struct Destinations {
  int count = 0;
  bool also_read = false;
};
Destinations destinations(const ptx::Instruction& in);

}  // namespace ptxsim
