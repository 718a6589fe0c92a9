// `contender convert` and `contender inspect`: models as files.
#pragma once

#include <string>

#include "cli/cli.h"

namespace contender {

// A directory that transformers loads, from a checkpoint of ours (a run directory: its newest), from a
// Hugging Face directory or from a GGUF file. Returns what to print. Error(kConfig) for files that cannot be
// used, Error(kNoCheckpoint) for a damaged checkpoint.
std::string convert_model(const ConvertOptions& options);

// What a model file, a Hugging Face directory, a checkpoint or a run directory holds: tensors, dtypes, sizes,
// parameters in all and per token, a hash of names, shapes, types and values that does not depend on how the
// tensors are spread over files or ranks: that of a checkpoint is that of its conversion to FP32.
std::string inspect_model(const std::string& path);

// Why nothing at `path` can be taken for a model, in a few words; "" when something can: a Hugging Face
// directory, a GGUF file, a checkpoint, or a run directory.
std::string why_no_model(const std::string& path);

}  // namespace contender
