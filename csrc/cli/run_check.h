// What `contender doctor --config` looks at besides the keys: who holds what, and what the run reads.
#pragma once

#include <string>
#include <vector>

#include "base/config_schema.h"
#include "mpi/mesh.h"

namespace contender {

// A table: how heads, columns, experts and parameters are cut, and how many ranks have the same part.
std::string shards_text(const RunConfig& config, const MeshShape& mesh);

// Model, tokenizer and prompt files of a run, one a line. What is there is read as a run reads it
// (Error(kConfig) as there); what is not, is "not here yet", with the command of the config's own line "#
// <path>: <command>".
std::string files_text(const RunConfig& config, const std::vector<MissingInput>& missing);

}  // namespace contender
