// Safetensors: uint64 header length | JSON header | tensor data (github.com/huggingface/safetensors, format
// of version 0.3 and later).
//
// The reader takes files from strangers. It accepts exactly: a header of at most 100 MB that lies within the
// file, starts with '{', is UTF-8 JSON, nested no deeper than the format, without duplicate or unknown keys,
// of at most 250,000 tensors; dtypes it knows; data ranges that equal shape x dtype (checked multiplication)
// and tile the data section: no overlap, no hole, the last ends with the file. Anything else is
// Error(kConfig) naming file and tensor; its memory is bounded by the header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "checkpoint/storage.h"

namespace contender {

struct TensorInfo {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  // bytes within the data section
  // As a matrix: [n] is one row, higher ranks fold the leading dimensions; a scalar is 1 x 1.
  int64_t rows() const;
  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
};

// Collects tensors, then writes the file in one pass. The data of a tensor is asked for when its turn comes
// and may be reused after, so that nothing but one tensor need be in memory.
class SafetensorsWriter {
 public:
  using Source = std::function<Tensor()>;  // any ld; rows x cols as given to add
  void set_metadata(const std::string& key, const std::string& value) { metadata_[key] = value; }
  void add(const std::string& name, DType dtype, const std::vector<int64_t>& shape, Source source);
  // Every source is called, in order, even after a write failed: sources may be collective. Then throws
  // Error(kStorage).
  FileRecord write(Storage& storage, const std::string& path) const;

 private:
  struct Entry {
    std::string name;
    TensorInfo info;
    Source source;
  };
  std::string header() const;

  std::map<std::string, std::string> metadata_;
  std::vector<Entry> entries_;
  int64_t data_bytes_ = 0;
};

// A file mapped into memory.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) = delete;

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const TensorInfo& info(const std::string& name) const;  // Error(kConfig) naming the file when missing
  const std::byte* data(const TensorInfo& info) const { return map_ + data_begin_ + info.begin; }
  // Rows [row_begin, +rows) x columns [col_begin, +cols) as FP32 (exact from F32, BF16, F16; other dtypes are
  // an error).
  void read(const std::string& name, int64_t row_begin, int64_t rows, int64_t col_begin, int64_t cols,
            float* dst, int64_t ld) const;

 private:
  std::string path_;
  std::byte* map_ = nullptr;
  int64_t map_bytes_ = 0;
  int64_t data_begin_ = 0;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace contender
