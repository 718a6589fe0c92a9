// A host thread that runs clusters: what it keeps between them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "exec/warp.h"

namespace ptxsim {

struct RangeCache {
  uint64_t begin = 1, end = 0, generation = 0;
};

// Counts of one instruction of a program; summed over all warps that a worker ran.
struct InstructionCounts {
  uint64_t issued = 0;            // warp instructions
  uint64_t lanes = 0;             // active lanes of them
  uint64_t bytes = 0;             // asked for by lanes (loads, stores, atomics) or moved by an engine
  uint64_t sectors = 0;           // 32-byte sectors of global memory touched by lanes
  uint64_t load_sectors = 0;      // of them, by loads
  uint64_t wavefronts = 0;        // of shared memory: passes that bank conflicts leave
  uint64_t ideal_wavefronts = 0;  // passes that the bytes need
  uint64_t flops = 0;             // of tensor cores
  uint64_t engine_read = 0, engine_written = 0;  // global bytes moved by TMA and bulk copies
};

struct Worker {
  std::array<RangeCache, 4> ranges;
  size_t next_range = 0;
  uint64_t random = 1;                                // state of next_random
  uint64_t steps = 0;                                 // warp instructions of the present launch
  std::vector<InstructionCounts>* profile = nullptr;  // by pc; null outside profiling
};

uint64_t next_random(Worker& w);

// Told by resolve() when the worker profiles. profile/profile.cpp
void profile_access(Warp& w, const Instr& i, uint32_t mask, const uint64_t* addresses,
                    const AccessInfo& info);
// Told by engines (TMA, bulk): bytes of global memory; and by tensor cores. No-ops when the worker does not
// profile.
void profile_engine(Warp& w, const Instr& i, uint64_t bytes, Access access);
void profile_flops(Warp& w, const Instr& i, uint64_t flops);

// "gemm.cu:120 (PTX line 4711: ld.global.v4.f32)"
std::string instruction_place(const Program& p, size_t pc);

}  // namespace ptxsim
