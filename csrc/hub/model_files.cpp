#include "hub/model_files.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/config_schema.h"
#include "base/error.h"
#include "data/strict_json.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = 128 << 20;
constexpr const char* kScaleSuffix = "_scale_inv";
constexpr std::string_view kFp8 = dtype_name(DType::kE4M3);

// Values of E4M3 without infinities: sign, 4 exponent bits of bias 7, 3 mantissa bits; all ones is NaN.
const std::array<float, 256>& e4m3_values() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> t{};
    for (int i = 0; i < 256; ++i) {
      const int exponent = (i >> 3) & 15, mantissa = i & 7;
      float v = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
      if (exponent == 15 && mantissa == 7) v = NAN;
      t[static_cast<size_t>(i)] = i & 128 ? -v : v;
    }
    return t;
  }();
  return table;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::vector<std::string> dims;
  for (const int64_t d : shape) dims.push_back(std::to_string(d));
  return "[" + join_words(dims, ", ") + "]";
}

// What is wrong with the tensors of a directory, a few of each kind by name.
class Complaints {
 public:
  // Names come from files: what would break the line is shown as ?.
  void add(const std::string& kind, std::string what) {
    std::replace_if(
        what.begin(), what.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
    kinds_[kind].push_back(what.substr(0, 200));
  }
  std::string text() const {
    constexpr size_t kShown = 5;
    std::string out;
    for (const auto& [kind, list] : kinds_) {
      const size_t shown = std::min(list.size(), kShown);
      const std::vector<std::string> first(list.begin(), list.begin() + static_cast<int64_t>(shown));
      out += fmt::format("{}{} {}: {}", out.empty() ? "" : "; ", list.size(), kind, join_words(first, ", "));
      if (shown < list.size()) out += fmt::format(" and {} more", list.size() - shown);
    }
    return out;
  }

 private:
  std::map<std::string, std::vector<std::string>> kinds_;
};

// Whole pages: a neighbour's may be fetched again.
void advise_pages(const std::byte* data, int64_t bytes, int advice) {
  const auto begin = reinterpret_cast<uintptr_t>(data),
             page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE)), first = begin / page * page;
  ::madvise(reinterpret_cast<void*>(first), static_cast<size_t>(bytes) + (begin - first), advice);
}

bool plain_file_name(const std::string& name) {
  return !name.empty() && name.size() < 256 && name.ends_with(".safetensors") &&
         name.find('/') == std::string::npos && name[0] != '.';
}

// Left by other programs; nothing here reads it.
bool passed_over(const std::string& name, const ModelConfig& m) {
  if (name.ends_with(".rotary_emb.inv_freq")) return true;
  if (m.tie_word_embeddings && name == "lm_head.weight") return true;
  const std::string mtp = fmt::format("model.layers.{}.", m.num_hidden_layers);
  return m.mla() && m.num_nextn_predict_layers == 0 && name.starts_with(mtp);
}

}  // namespace

std::vector<ModelTensor> model_tensors(const ModelConfig& m) {
  std::vector<ModelTensor> list;
  std::set<std::string> seen;
  for (const ParamSpec& s : param_specs(m, {})) {
    for (const ParamPiece& p : s.pieces) {
      if (!seen.insert(p.hf_name).second) continue;
      ModelTensor t{.name = p.hf_name, .rows = p.hf_rows, .cols = p.hf_cols};
      const bool matrix = s.packed || (p.hf_rows > 1 && p.hf_cols > 1);
      t.shape = matrix ? std::vector<int64_t>{t.rows, t.cols} : std::vector<int64_t>{t.rows * t.cols};
      list.push_back(std::move(t));
    }
  }
  if (m.num_nextn_predict_layers == 0) return list;
  const std::string mtp = fmt::format("model.layers.{}.", m.num_hidden_layers);
  for (const auto& [name, from] : {std::pair{mtp + "embed_tokens.weight", "model.embed_tokens.weight"},
                                   {mtp + "shared_head.head.weight", "lm_head.weight"}})
    list.push_back({name, m.vocab_size, m.hidden_size, {m.vocab_size, m.hidden_size}, from});
  return list;
}

StoredTensor stored_tensor(const SafetensorsFile& file, const TensorInfo& info) {
  return {.type = dtype_name(info.dtype),
          .shape = info.shape,
          .data = file.data(info),
          .bytes = info.end - info.begin,
          .row_bytes = info.cols() * dtype_size(info.dtype)};
}

int64_t StoredTensor::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

void StoredTensor::will_need(int64_t row, int64_t rows) const {
  advise_pages(data + row * row_bytes, rows * row_bytes, MADV_WILLNEED);
}
void StoredTensor::done_with(int64_t row, int64_t rows) const {
  advise_pages(data + row * row_bytes, rows * row_bytes, MADV_DONTNEED);
}

bool ModelFiles::present(const std::string& path) {
  return GgufFile::named(path) || fs::exists(path + "/" + kSingleName) || fs::exists(path + "/" + kIndexName);
}

ModelFiles::ModelFiles(const std::string& path) : path_(path) {
  if (GgufFile::named(path)) {
    gguf_.emplace(path);
    for (const auto& [name, place] : gguf_->tensors()) {
      const GgufTensor& t = *place.tensor;
      const GgufTypeInfo& info = gguf_type_info(t.type);
      tensors_[name] = {.type = info.name,
                        .shape = t.shape,
                        .data = t.data,
                        .bytes = t.bytes,
                        .row_bytes = t.shape.back() / info.block_values * info.block_bytes};
    }
    return;
  }
  const std::string& dir = path;
  const std::string index = dir + "/" + kIndexName;
  if (fs::exists(dir + "/" + kSingleName)) {
    add_file(kSingleName);
  } else if (fs::exists(index)) {
    std::string text;
    try {
      text = read_small_file(index, kMaxIndexBytes);
    } catch (const Error& e) {
      throw Error(ExitCode::kConfig, e.what());
    }
    add_index(text, index);
  } else {
    const bool pickled =
        fs::exists(dir + "/pytorch_model.bin") || fs::exists(dir + "/pytorch_model.bin.index.json");
    fail(ExitCode::kConfig, "{}: no weights: neither {} nor {} is there{}", dir, kSingleName, kIndexName,
         pickled ? "; pytorch_model.bin is not read, transformers saves it as safetensors" : "");
  }
}

void ModelFiles::add_file(const std::string& file) {
  const std::string path = path_ + "/" + file;
  if (!fs::is_regular_file(path)) fail(ExitCode::kConfig, "{}: the file is missing", path);
  const SafetensorsFile& opened = files_.emplace_back(path);
  for (const auto& [name, info] : opened.tensors()) {
    const auto [at, added] = tensors_.emplace(name, stored_tensor(opened, info));
    if (!added) fail(ExitCode::kConfig, "{}: \"{}\" is in {} too", path, name, file_of(at->second).path());
    at->second.file = static_cast<int>(files_.size()) - 1;
  }
}

void ModelFiles::add_index(const std::string& text, const std::string& path) {
  std::map<std::string, std::string> map;
  try {
    const nlohmann::json json = parse_strict_json(text);
    if (!json.is_object() || !json.contains("weight_map")) throw std::runtime_error("no \"weight_map\"");
    map = json["weight_map"].get<std::map<std::string, std::string>>();
  } catch (const std::exception& e) {
    fail(ExitCode::kConfig, "{}: not an index of weights: {}", path, std::string(e.what()).substr(0, 200));
  }
  std::set<std::string> files;
  for (const auto& [name, file] : map) {
    if (!plain_file_name(file))
      fail(ExitCode::kConfig, "{}: \"{}\" is not the name of a safetensors file in this directory", path,
           file.substr(0, 100));
    files.insert(file);
  }
  for (const std::string& file : files) add_file(file);
  Complaints wrong;
  for (const auto& [name, file] : map) {
    const StoredTensor* stored = find(name);
    if (!stored || file_of(*stored).path() != path_ + "/" + file)
      wrong.add("tensors are not where the index says", fmt::format("{} in {}", name, file));
  }
  for (const auto& [name, stored] : tensors_)
    if (!map.contains(name)) wrong.add("tensors are not in the index", name);
  if (const std::string problems = wrong.text(); !problems.empty())
    fail(ExitCode::kConfig, "{}: {}", path, problems);
}

const StoredTensor* ModelFiles::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

void ModelFiles::check(const ModelConfig& model) const {
  Complaints wrong;
  std::set<std::string> known;
  for (const ModelTensor& t : model_tensors(model)) {
    known.insert(t.name);
    const StoredTensor* stored = find(t.name);
    if (!stored) {
      if (t.copy_of.empty()) wrong.add("missing", t.name);
      continue;
    }
    const bool one_row = t.shape.size() == 1 && stored->shape == std::vector<int64_t>{1, t.shape[0]};
    if (stored->shape != t.shape && !one_row)
      wrong.add("of another shape", fmt::format("{} is {}, the model has {}", t.name,
                                                shape_text(stored->shape), shape_text(t.shape)));
    if (stored->type == dtype_name(DType::kI32) || stored->type == dtype_name(DType::kU8))
      wrong.add("of another type", fmt::format("{} is {}", t.name, stored->type));
    if (stored->type != kFp8) continue;
    const std::string scale = t.name + kScaleSuffix;
    known.insert(scale);
    const std::vector<int64_t> blocks = {ceil_div(t.rows, kScaleBlock), ceil_div(t.cols, kScaleBlock)};
    const StoredTensor* scales = find(scale);
    if (!scales) {
      wrong.add("missing", scale);
    } else if (scales->shape != blocks || scales->type != dtype_name(DType::kF32)) {
      wrong.add("of another shape", fmt::format("{} is {} {}, blocks of {} make F32 {}", scale, scales->type,
                                                shape_text(scales->shape), kScaleBlock, shape_text(blocks)));
    }
  }
  for (const auto& [name, stored] : tensors_)
    if (!known.contains(name) && !passed_over(name, model)) wrong.add("unknown to the model", name);
  if (const std::string problems = wrong.text(); !problems.empty())
    fail(ExitCode::kConfig, "{}: the weights are not those of the model: {}", path_, problems);
}

void ModelFiles::read(const std::string& name, int64_t matrix_cols, int64_t row, int64_t rows, int64_t col,
                      int64_t cols, float* dst, int64_t ld) const {
  const StoredTensor* stored = find(name);
  if (!stored) fail(ExitCode::kConfig, "{}: no tensor \"{}\"", path_, name);
  if (matrix_cols == 1 && stored->cols() != 1) {  // a column, stored as a row
    CHECK(cols == 1 && ld == 1, "{}: {} columns of a vector", name, cols);
    col = row;
    cols = rows;
    row = 0;
    rows = 1;
  }
  if (gguf_) {
    gguf_->read(gguf_->tensors().at(name), row, rows, col, cols, dst, ld);
  } else if (stored->type == kFp8) {
    read_fp8(name, *stored, row, rows, col, cols, dst, ld);
  } else {
    file_of(*stored).read(name, row, rows, col, cols, dst, ld);
  }
}

void ModelFiles::read_fp8(const std::string& name, const StoredTensor& t, int64_t row, int64_t rows,
                          int64_t col, int64_t cols, float* dst, int64_t ld) const {
  const int64_t width = t.cols();
  CHECK(0 <= row && 0 <= rows && row <= t.rows() - rows && 0 <= col && 0 <= cols && col <= width - cols,
        "rows {} +{}, columns {} +{} of {}", row, rows, col, cols, name);
  const std::string scale_name = name + kScaleSuffix;
  const StoredTensor* scale = find(scale_name);
  if (!scale) fail(ExitCode::kConfig, "{}: no tensor \"{}\"", path_, scale_name);
  const int64_t block_cols = ceil_div(width, kScaleBlock), first = col / kScaleBlock,
                blocks = ceil_div(col + cols, kScaleBlock) - first;
  std::vector<float> scales(static_cast<size_t>(block_cols));
  const auto* data = reinterpret_cast<const uint8_t*>(t.data);
  const std::array<float, 256>& value = e4m3_values();
  for (int64_t r = row; r < row + rows; ++r) {
    if (r == row || r % kScaleBlock == 0)
      file_of(*scale).read(scale_name, r / kScaleBlock, 1, first, blocks, scales.data(), blocks);
    const uint8_t* from = data + r * width + col;
    float* to = dst + (r - row) * ld;
    for (int64_t c = 0; c < cols; ++c)
      to[c] = value[from[c]] * scales[static_cast<size_t>((col + c) / kScaleBlock - first)];
  }
}

}  // namespace contender
