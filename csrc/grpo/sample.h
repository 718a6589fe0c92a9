// A scored completion, and the groups of G of them that GRPO compares.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/prompts.h"
#include "reward/reward.h"
#include "rollout/engine.h"

namespace contender {

struct Sample {
  Completion completion;
  Score score;
  std::string text;
};

struct SampleGroup {
  uint64_t id = 0;  // place in the stream of prompts
  Prompt prompt;
  std::vector<Sample> samples;  // by sample index
};

// Bytes for the exchange between ranks and for checkpoints of batches in flight.
std::string pack_samples(uint64_t id, const std::vector<Sample>& samples);
// Reads one packed group at `at` and moves it on; Error when the bytes end before it does. A score's id does
// not travel.
std::pair<uint64_t, std::vector<Sample>> unpack_samples(const std::string& bytes, size_t& at);

}  // namespace contender
