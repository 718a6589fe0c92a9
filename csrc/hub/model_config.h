// config.json of a Hugging Face model, in and out: model_type deepseek_v3 (also Moonlight), deepseek_v2,
// llama, qwen2, qwen3 and qwen3_moe.
#pragma once

#include <string>

#include "base/config.h"
#include "base/tensor.h"

namespace contender {

// The model that `text` describes; `path` is its file, for messages. Error(kConfig), one line with file and
// key, when a key that decides the shape is missing, when a value is not what it must be, and when the file
// asks for something that this model does not do (another activation, a sliding window, dropout, an unknown
// form of RoPE scaling, ...). Keys that change nothing here are not looked at.
ModelConfig parse_model_config(const std::string& text, const std::string& path);

// The model of a directory, or of a GGUF file (hub/gguf_model.h). The MTP module that config.json announces
// is left out when the weights beside it do not hold it.
ModelConfig read_model_config(const std::string& path);

// Token numbers that a checkpoint knows and the model does not; as JSON text, "" where not known.
struct SpecialIds {
  std::string bos, eos, pad;
};
SpecialIds read_special_ids(const std::string& path);  // of config.json or a GGUF file; none without either

// config.json for weights of `dtype`. Error(kConfig) naming the key for a model that no model_type describes.
std::string model_config_text(const ModelConfig& model, DType dtype, const SpecialIds& ids);
std::string generation_config_text(const SpecialIds& ids);  // "" when no id is known

}  // namespace contender
