// Lanes that part and meet again. Handlers and the scheduler share these; opcode families use exec/warp.h.
#pragma once

#include "exec/warp.h"

namespace ptxsim {

// Stands at every label: lanes that wait for nothing and are at the same place go on together; lanes that are
// behind go first.
void run_join(Warp& w, const Instr& i);
// exit, and ret of a kernel.
void run_exit(Warp& w, const Instr& i);

// After w.pc changed (or the running lanes ended): puts the running split back and takes the one that should
// run now, the one furthest behind (lowest pc); for a while after that one used up its time, the one furthest
// ahead, so that nobody starves. False when none can run.
bool reschedule(Warp& w);
// Of `left`, the lanes that name the same members as its lowest one. Fails where that lane is not among them.
uint32_t same_members(Warp& w, const Instr& i, uint32_t left, const uint32_t* members, const char* why);
// Puts the running split back into the list.
void put_back(Warp& w);

}  // namespace ptxsim
