// What the CUDA backend cannot run, seen from the config: before ranks, memory and kernels are there.
#pragma once

#include <string>
#include <vector>

#include "base/config.h"

namespace contender {

// One line for each key whose value no kernel takes: "model.hidden_size: 68: CUDA needs a multiple of 8". Of
// sizes that are not named every one is taken. The limits are those that cuda/ states on top of its files.
std::vector<std::string> cuda_problems(const ModelConfig& model);

// Error(kConfig) with all of them and the way out in one line, when there are any.
void require_cuda_takes(const RunConfig& config);

}  // namespace contender
