// Barriers of a block, as the scheduler sees them.
#pragma once

#include "exec/warp.h"

namespace ptxsim {

// Ends the phase if everybody it waits for has arrived (or exited). Called at arrivals and exits.
bool try_complete(Cta& cta, int barrier);
// Of splits parked at bar.warp.sync.
bool warp_sync_ready(Warp& w, const Split& s);

}  // namespace ptxsim
