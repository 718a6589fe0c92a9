// Entry points of libcudart.so.13 that are not simulated: the program starts with them, and their first call
// says so. (Arrays, textures, graphics and external semaphores: no kernel of this kind has them.)
#include "runtime/api.h"

namespace {

int missing(const char* name) {
  ptxsim::runtime::say(fmt::format("{} is not implemented (cudaErrorNotSupported)", name));
  return ptxsim::runtime::remember(cudaErrorNotSupported);
}

}  // namespace

#define PTXSIM_MISSING(name) \
  extern "C" int name() { return missing(#name); }
#pragma GCC visibility push(default)
#include "runtime/missing_entry_points.inc"
#pragma GCC visibility pop
#undef PTXSIM_MISSING
