// Names of checkpoint directories: step_<N>, step_<N>-<generation> (written beside an older one),
// step_<N>.tmp-<run tag>-<random>.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace contender {

struct CheckpointDir {
  std::string name;
  int64_t step = 0;
  int64_t generation = 1;
};

// Newest first: by step, then by generation. Temporary and foreign names are left out.
std::vector<CheckpointDir> list_checkpoint_dirs(const std::string& dir);
// step_<N>, or with the next free generation.
std::string free_checkpoint_name(const std::string& dir, int64_t step);
// The tag makes a temporary directory recognisable as this run's after a crash.
std::string temporary_name(const std::string& step_name, const std::string& run_id);
// Names of what earlier, killed saves of this run left.
std::vector<std::string> list_leftovers(const std::string& dir, const std::string& run_id);

}  // namespace contender
