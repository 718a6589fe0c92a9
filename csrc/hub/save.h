// A model out, as a directory that transformers loads.
#pragma once

#include <functional>
#include <string>

#include "hub/model_config.h"
#include "hub/model_files.h"

namespace contender {

struct SaveOptions {
  DType dtype = DType::kBF16;          // kBF16 or kF32
  DType selection_bias = DType::kF32;  // of the router's, which may have a type of its own
  int64_t max_shard_bytes = 5'000'000'000;
  std::string companions;  // directory or GGUF file of the model that this one comes from: its tokenizer and
                           // token numbers go along; "": none
};

inline constexpr const char* kSelectionBias = ".e_score_correction_bias";

// The whole of a tensor as FP32, rows x cols as model_tensors says.
using TensorReader = std::function<void(const ModelTensor& tensor, float* values)>;

// Writes config.json, generation_config.json where token numbers are known, and model.safetensors, or shards
// of at most max_shard_bytes (a larger tensor has one to itself) with their index. Memory holds one tensor.
// `dir` appears by rename when it is complete; Error(kConfig) when it is there already, Error(kStorage) when
// the disk refuses.
void save_model(const std::string& dir, const ModelConfig& model, const TensorReader& read,
                const SaveOptions& options);

}  // namespace contender
