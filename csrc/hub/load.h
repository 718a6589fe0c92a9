// Weights from a Hugging Face directory or a GGUF file into the shards of this rank.
#pragma once

#include "hub/model_files.h"
#include "model/weights.h"

namespace contender {

// Every parameter of this rank's store from the rectangles of the tensors that it holds, in the order of the
// files, then the packed forms. Beside the shard, memory holds one rectangle and the pages of the file under
// it. `files` has been checked. Error(kConfig) when the MTP module's copies of embedding and head differ from
// the tables that it shares here.
void load_weights(const ModelFiles& files, const ModelConfig& model, WeightStore& weights);

}  // namespace contender
