// A model in a GGUF file: general.architecture llama or qwen2.
#pragma once

#include <map>
#include <string>

#include "data/gguf_file.h"

namespace contender {

// config.json of the model (hub/model_config.h reads it). Error(kConfig), one line with file and key: another
// architecture, a key that is missing, and any key of the architecture that this model does not know
// (experts, windows, other forms of RoPE scaling, ...): it would change what the model computes.
std::string gguf_config_text(const GgufFile& file);

// Its tensors, under their Hugging Face names.
class GgufWeights {
 public:
  explicit GgufWeights(const std::string& path);

  const GgufFile& file() const { return file_; }
  struct Place {
    const GgufTensor* tensor;
    int64_t head_rows;  // 0; of llama's q and k: rows of a head, in which RoPE's pairs are neighbours
  };
  // Without those that follow from config.json. A name that is not known is the file's own.
  const std::map<std::string, Place>& tensors() const { return tensors_; }

  // Rows [row, +rows) x columns [col, +cols) as FP32, in Hugging Face's order: what is a pair of RoPE are
  // rows i and i + half of a head. A vector has one row.
  void read(const Place& place, int64_t row, int64_t rows, int64_t col, int64_t cols, float* dst,
            int64_t ld) const;

 private:
  GgufFile file_;
  std::map<std::string, Place> tensors_;
};

}  // namespace contender
