// The addresses of a warp's lanes as few ranges of memory: neighbouring lanes with consecutive or with equal
// addresses.
#pragma once

#include <cstdint>

#include "check/clock.h"
#include "exec/warp.h"

namespace ptxsim::check {

// The lane of each word of a range: table[k], or `one` for all.
struct Lanes {
  const uint8_t* table = nullptr;
  uint8_t one = 0;
  uint32_t operator[](uint32_t k) const { return table ? table[k] : one; }
};

struct Run {
  uint64_t address = 0;
  uint32_t bytes = 0;  // in all
  uint32_t lane = 0;   // the first
  Lanes lanes;         // for whole words
  bool whole_words = false;
};

// At most 32 runs. `addresses` of lanes outside of mask may be anything.
int find_runs(uint32_t mask, const uint64_t* addresses, uint32_t bytes, Run* out);

}  // namespace ptxsim::check
