// What ptxas decided about each kernel, read from the SASS image beside the PTX: registers and stack.
// Occupancy and launch limits are then those of the GPU. Source: .nv.info of the ELF images of sm_90
// (attributes 0x2f register count, 0x11 frame size, each {symbol, value}).
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

namespace ptxsim::runtime {

struct SassUsage {
  int registers = 0;    // per thread
  int stack_bytes = 0;  // of local memory per thread
};

// By mangled kernel name. Empty where the bytes are no such image; never reads past them.
std::unordered_map<std::string, SassUsage> read_cubin(std::string_view elf);

}  // namespace ptxsim::runtime
