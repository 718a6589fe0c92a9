#include "hub/model_files.h"

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

bool ModelFiles::present(const std::string& dir) {
  return fs::exists(dir + "/" + kSingleName) || fs::exists(dir + "/" + kIndexName);
}

ModelFiles::ModelFiles(const std::string& dir) : dir_(dir) {
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
    fail(ExitCode::kConfig, "{}: no weights: neither {} nor {} is there", dir, kSingleName, kIndexName);
  }
}

void ModelFiles::add_file(const std::string& file) {
  const std::string path = dir_ + "/" + file;
  if (!fs::is_regular_file(path)) fail(ExitCode::kConfig, "{}: the file is missing", path);
  const SafetensorsFile& opened = files_.emplace_back(path);
  for (const auto& [name, info] : opened.tensors()) {
    const Place place{&opened, &info, static_cast<int>(files_.size()) - 1};
    const auto [at, added] = tensors_.emplace(name, place);
    if (!added) fail(ExitCode::kConfig, "{}: \"{}\" is in {} too", path, name, at->second.file->path());
  }
}

void ModelFiles::add_index(const std::string& text, const std::string& path) {
  std::map<std::string, std::string> map;
  try {
    const nlohmann::json json = parse_strict_json(text);
    map = json.at("weight_map").get<std::map<std::string, std::string>>();
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
    const Place* place = find(name);
    if (!place || place->file->path() != dir_ + "/" + file)
      wrong.add("tensors are not where the index says", fmt::format("{} in {}", name, file));
  }
  for (const auto& [name, place] : tensors_)
    if (!map.contains(name)) wrong.add("tensors are not in the index", name);
  if (const std::string problems = wrong.text(); !problems.empty())
    fail(ExitCode::kConfig, "{}: {}", path, problems);
}

const ModelFiles::Place* ModelFiles::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

void ModelFiles::check(const ModelConfig& model) const {
  Complaints wrong;
  std::set<std::string> known;
  for (const ModelTensor& t : model_tensors(model)) {
    known.insert(t.name);
    const Place* place = find(t.name);
    if (!place) {
      if (t.copy_of.empty()) wrong.add("missing", t.name);
      continue;
    }
    const TensorInfo& info = *place->info;
    const bool one_row = t.shape.size() == 1 && info.shape == std::vector<int64_t>{1, t.shape[0]};
    if (info.shape != t.shape && !one_row)
      wrong.add("of another shape", fmt::format("{} is {}, the model has {}", t.name, shape_text(info.shape),
                                                shape_text(t.shape)));
    if (info.dtype == DType::kI32 || info.dtype == DType::kU8)
      wrong.add("of another type", fmt::format("{} is {}", t.name, dtype_name(info.dtype)));
    if (info.dtype != DType::kE4M3) continue;
    const std::string scale = t.name + kScaleSuffix;
    known.insert(scale);
    const std::vector<int64_t> blocks = {ceil_div(t.rows, kScaleBlock), ceil_div(t.cols, kScaleBlock)};
    const Place* scales = find(scale);
    if (!scales) {
      wrong.add("missing", scale);
    } else if (scales->info->shape != blocks || scales->info->dtype != DType::kF32) {
      wrong.add("of another shape",
                fmt::format("{} is {} {}, blocks of {} make F32 {}", scale, dtype_name(scales->info->dtype),
                            shape_text(scales->info->shape), kScaleBlock, shape_text(blocks)));
    }
  }
  for (const auto& [name, place] : tensors_)
    if (!known.contains(name) && !passed_over(name, model)) wrong.add("unknown to the model", name);
  if (const std::string problems = wrong.text(); !problems.empty())
    fail(ExitCode::kConfig, "{}: the weights are not those of the model: {}", dir_, problems);
}

void ModelFiles::read(const std::string& name, int64_t matrix_cols, int64_t row, int64_t rows, int64_t col,
                      int64_t cols, float* dst, int64_t ld) const {
  const Place* place = find(name);
  if (!place) fail(ExitCode::kConfig, "{}: no tensor \"{}\"", dir_, name);
  const TensorInfo& info = *place->info;
  if (matrix_cols == 1 && info.cols() != 1) {  // a column, stored as a row
    CHECK(cols == 1 && ld == 1, "{}: {} columns of a vector", name, cols);
    return place->file->read(name, 0, 1, row, rows, dst, rows);
  }
  if (info.dtype != DType::kE4M3) return place->file->read(name, row, rows, col, cols, dst, ld);
  CHECK(0 <= row && 0 <= rows && row <= info.rows() - rows && 0 <= col && 0 <= cols &&
            col <= info.cols() - cols,
        "rows {} +{}, columns {} +{} of {}", row, rows, col, cols, name);
  const Place* scale_place = find(name + kScaleSuffix);
  if (!scale_place) fail(ExitCode::kConfig, "{}: no tensor \"{}{}\"", dir_, name, kScaleSuffix);
  const int64_t block_cols = ceil_div(info.cols(), kScaleBlock), first = col / kScaleBlock,
                blocks = ceil_div(col + cols, kScaleBlock) - first;
  std::vector<float> scales(static_cast<size_t>(block_cols));
  const auto* data = reinterpret_cast<const uint8_t*>(place->file->data(info));
  const std::array<float, 256>& value = e4m3_values();
  for (int64_t r = row; r < row + rows; ++r) {
    if (r == row || r % kScaleBlock == 0)
      scale_place->file->read(name + kScaleSuffix, r / kScaleBlock, 1, first, blocks, scales.data(), blocks);
    const uint8_t* from = data + r * info.cols() + col;
    float* to = dst + (r - row) * ld;
    for (int64_t c = 0; c < cols; ++c)
      to[c] = value[from[c]] * scales[static_cast<size_t>((col + c) / kScaleBlock - first)];
  }
}

}  // namespace contender
