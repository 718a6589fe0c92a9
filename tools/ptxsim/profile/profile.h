// What each kernel and source line did, without a GPU: counts, no times.
#pragma once

#include <vector>

#include "exec/worker.h"

namespace ptxsim {

// Adds one worker's counts (by pc) of one launch. Printed at the end of the process as a table on stderr and,
// where PTXSIM_PROFILE names a file, as JSON. Thread-safe.
void add_to_profile(const Launch& launch, const std::vector<InstructionCounts>& counts);

}  // namespace ptxsim
