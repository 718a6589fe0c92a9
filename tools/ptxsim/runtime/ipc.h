// Memory and events of other processes. A handle says where this process keeps the memory file; the other
// process opens it through /proc. Both must be of one user and live.
#pragma once

#include <driver_types.h>

#include <memory>

#include "runtime/event.h"

namespace ptxsim::runtime {

// Gives the event a page that other processes can map.
void share_event(Event& event);

}  // namespace ptxsim::runtime
