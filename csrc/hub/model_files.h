// The safetensors of a Hugging Face directory: model.safetensors, or the shards that
// model.safetensors.index.json names.
//
// Files come from strangers. Whatever is wrong with them is one line of Error(kConfig) naming the file: a
// shard that is missing or damaged (checkpoint/safetensors.h), an index that names a file outside of the
// directory, or a tensor that its file does not hold.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "checkpoint/safetensors.h"
#include "model/params.h"

namespace contender {

// Side of the square blocks of an FP8 tensor that share a scale: "<name>_scale_inv" holds what the values of
// "<name>" are multiplied with (DeepSeek-V3, arXiv 2412.19437, section 3.3.2).
inline constexpr int64_t kScaleBlock = 128;

class ModelFiles {
 public:
  static bool present(const std::string& dir);  // the directory has weights
  explicit ModelFiles(const std::string& dir);

  struct Place {
    const SafetensorsFile* file;
    const TensorInfo* info;
    int file_index;
  };
  const std::string& dir() const { return dir_; }
  const std::map<std::string, Place>& tensors() const { return tensors_; }
  const Place* find(const std::string& name) const;  // null when it is not there

  // The tensors are those of the model, one for one, of the shapes that it has and of types that can be read.
  // Error(kConfig): one line that lists the missing ones, those that the model does not know, and those of
  // another shape or type. What other programs leave in such files is passed over: rotary tables, a second
  // copy of tied or shared tables, an MTP module that the model goes without.
  void check(const ModelConfig& model) const;

  // Rows [row, +rows) x columns [col, +cols) of a tensor as FP32, from F32, BF16, F16 (exact) or FP8 with its
  // scales. A vector is a matrix of one row or of one column, as `matrix_cols` says.
  void read(const std::string& name, int64_t matrix_cols, int64_t row, int64_t rows, int64_t col,
            int64_t cols, float* dst, int64_t ld) const;

 private:
  void add_file(const std::string& file);
  void add_index(const std::string& text, const std::string& path);

  std::string dir_;
  std::deque<SafetensorsFile> files_;  // tensors point into it
  std::map<std::string, Place> tensors_;
};

// The tensors of a model under their Hugging Face names, in the order of its layers.
struct ModelTensor {
  std::string name;
  int64_t rows = 0, cols = 0;
  std::vector<int64_t> shape;  // in files: vectors have one dimension
  std::string copy_of;         // written a second time for readers that do not share tables; "": not a copy
};
std::vector<ModelTensor> model_tensors(const ModelConfig& model);

}  // namespace contender
