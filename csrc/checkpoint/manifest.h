// MANIFEST.json: what a checkpoint is and which files belong to it. A directory counts as a checkpoint only
// when this file verifies: it carries the XXH3-128 of its own text, and of every chunk of every other file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/storage.h"

namespace contender {

struct CheckpointLayout {
  int64_t tp = 1, dp = 1, ep = 1, np = 1;
};

struct CheckpointInfo {
  std::string run_id;
  int64_t step = 0;
  CheckpointLayout layout;  // of the ranks that wrote it
  std::string config_hash;
  std::string tokenizer_hash;
  std::string state;  // the trainer's own JSON text: RNG, data cursor, schedule, counters
};

struct ShardFile {
  FileRecord record;
  int rank = 0;  // that wrote it
};

struct Manifest {
  CheckpointInfo info;
  std::vector<ShardFile> files;
};

inline constexpr const char* kManifestName = "MANIFEST.json";

std::string manifest_text(const Manifest& manifest);
// Throws Error(kNoCheckpoint) saying what is wrong: damaged text, another schema, a file name that leaves the
// directory, a file twice.
Manifest parse_manifest(const std::string& text);

// The records of one rank's files, or why it failed, as the ranks tell each other.
struct RankOutcome {
  std::string error;  // empty: all written
  std::vector<ShardFile> files;
};
std::string outcome_text(const RankOutcome& outcome);
RankOutcome parse_outcome(const std::string& text);

}  // namespace contender
