// The weights of a model: the safetensors of a Hugging Face directory, model.safetensors or the shards that
// model.safetensors.index.json names; or a GGUF file.
//
// Files come from strangers. Whatever is wrong with them is one line of Error(kConfig) naming the file: a
// shard that is missing or damaged (checkpoint/safetensors.h, data/gguf_file.h), an index that names a file
// outside of the directory, or a tensor that its file does not hold.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>

#include "checkpoint/safetensors.h"
#include "hub/gguf_model.h"
#include "model/params.h"

namespace contender {

// Side of the square blocks of an FP8 tensor that share a scale: "<name>_scale_inv" holds what the values of
// "<name>" are multiplied with (DeepSeek-V3, arXiv 2412.19437, section 3.3.2).
inline constexpr int64_t kScaleBlock = 128;

// A tensor as a file holds it, mapped.
struct StoredTensor {
  int file = 0;  // of the model's, in the order in which they are read
  std::string type;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t bytes = 0, row_bytes = 0;

  // As a matrix: [n] is one row, higher ranks fold the leading dimensions; a scalar is 1 x 1.
  int64_t rows() const;
  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  // Hints about rows [row, +rows): their bytes will be read soon, or will not be needed again and need not
  // stay in this process's memory.
  void will_need(int64_t row, int64_t rows) const;
  void done_with(int64_t row, int64_t rows) const;
};
StoredTensor stored_tensor(const SafetensorsFile& file, const TensorInfo& info);

class ModelFiles {
 public:
  static bool present(const std::string& path);  // the directory has weights, or it is a GGUF file
  explicit ModelFiles(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  const StoredTensor* find(const std::string& name) const;  // null when it is not there

  // The tensors are those of the model, one for one, of the shapes that it has and of types that can be read.
  // Error(kConfig): one line that lists the missing ones, those that the model does not know, and those of
  // another shape or type. What other programs leave in such files is passed over: rotary tables, a second
  // copy of tied or shared tables, an MTP module that the model goes without.
  void check(const ModelConfig& model) const;

  // Rows [row, +rows) x columns [col, +cols) of a tensor as FP32: from F32, BF16, F16 (exact), FP8 with its
  // scales, or GGUF's blocks. A vector is a matrix of one row or of one column, as `matrix_cols` says.
  void read(const std::string& name, int64_t matrix_cols, int64_t row, int64_t rows, int64_t col,
            int64_t cols, float* dst, int64_t ld) const;

 private:
  void add_file(const std::string& file);
  void add_index(const std::string& text, const std::string& path);
  void read_fp8(const std::string& name, const StoredTensor& t, int64_t row, int64_t rows, int64_t col,
                int64_t cols, float* dst, int64_t ld) const;
  const SafetensorsFile& file_of(const StoredTensor& t) const { return files_[static_cast<size_t>(t.file)]; }

  std::string path_;
  std::optional<GgufWeights> gguf_;    // in the place of
  std::deque<SafetensorsFile> files_;  // tensors point into either
  std::map<std::string, StoredTensor> tensors_;
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
