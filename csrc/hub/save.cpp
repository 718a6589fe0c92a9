#include "hub/save.h"

#include <bit>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/tokenizer_gguf.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

// What tokenizers and chat templates are made of.
constexpr const char* kCompanions[] = {"tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "tokenizer.model",
                                       "chat_template.jinja",
                                       "chat_template.json",
                                       "generation_config.json"};

DType stored_dtype(const ModelTensor& t, const SaveOptions& o) {
  return t.name.ends_with(kSelectionBias) ? o.selection_bias : o.dtype;
}
int64_t stored_bytes(const ModelTensor& t, const SaveOptions& o) {
  return t.rows * t.cols * dtype_size(stored_dtype(t, o));
}

// To the nearest, ties to even; NaN stays NaN.
uint16_t bf16_of(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  if (f != f) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// Consecutive tensors of at most max_bytes together.
std::vector<std::vector<ModelTensor>> make_shards(const std::vector<ModelTensor>& tensors,
                                                  const SaveOptions& o) {
  std::vector<std::vector<ModelTensor>> shards;
  int64_t bytes = 0;
  for (const ModelTensor& t : tensors) {
    const int64_t more = stored_bytes(t, o);
    if (shards.empty() || bytes + more > o.max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += more;
    shards.back().push_back(t);
  }
  return shards;
}

void write_shard(Storage& storage, const std::string& path, const std::vector<ModelTensor>& tensors,
                 const TensorReader& read, const SaveOptions& o) {
  SafetensorsWriter file;
  file.set_metadata("format", "pt");  // transformers wants it
  std::vector<float> values;
  std::vector<uint16_t> halves;
  for (const ModelTensor& t : tensors) {
    const DType dtype = stored_dtype(t, o);
    file.add(t.name, dtype, t.shape, [&, dtype]() -> Tensor {
      values.resize(static_cast<size_t>(t.rows * t.cols));
      read(t, values.data());
      if (dtype == DType::kF32) return {values.data(), dtype, t.rows, t.cols};
      halves.resize(values.size());
      for (size_t i = 0; i < values.size(); ++i) halves[i] = bf16_of(values[i]);
      return {halves.data(), dtype, t.rows, t.cols};
    });
  }
  file.write(storage, path);
}

void write_weights(Storage& storage, const std::string& dir, const ModelConfig& model,
                   const TensorReader& read, const SaveOptions& o) {
  const auto shards = make_shards(model_tensors(model), o);
  if (shards.size() == 1) return write_shard(storage, dir + "/model.safetensors", shards[0], read, o);
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05d}-of-{:05d}.safetensors", i + 1, shards.size());
    write_shard(storage, dir + "/" + name, shards[i], read, o);
    for (const ModelTensor& t : shards[i]) {
      map[t.name] = name;
      total += stored_bytes(t, o);
    }
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  storage.write_file(dir + "/model.safetensors.index.json", index.dump(2) + "\n");
}

void copy_companions(Storage& storage, const std::string& from, const std::string& to) {
  if (GgufFile::named(from)) {
    const GgufFile file(from);
    if (!has_tokenizer(file)) return;
    const TokenizerTexts texts = gguf_tokenizer_texts(file);
    storage.write_file(to + "/tokenizer.json", texts.tokenizer_json);
    storage.write_file(to + "/tokenizer_config.json", texts.tokenizer_config);
    if (!texts.generation_config.empty())
      storage.write_file(to + "/generation_config.json", texts.generation_config);
    return;
  }
  for (const char* name : kCompanions) {
    std::error_code error;
    if (!fs::is_regular_file(from + "/" + name)) continue;
    fs::copy_file(from + "/" + name, to + "/" + name, error);
    if (error) fail(ExitCode::kStorage, "{}/{}: cannot copy {}: {}", to, name, from, error.message());
  }
}

}  // namespace

void save_model(const std::string& given, const ModelConfig& model, const TensorReader& read,
                const SaveOptions& o) {
  std::string dir = given;
  while (dir.size() > 1 && dir.ends_with('/')) dir.pop_back();
  if (dir.empty()) fail(ExitCode::kConfig, "no name for the directory to write");
  if (fs::exists(dir)) fail(ExitCode::kConfig, "{}: exists already; choose another directory", dir);
  const SpecialIds ids = o.companions.empty() ? SpecialIds() : read_special_ids(o.companions);
  const std::string config = model_config_text(model, o.dtype, ids), generation = generation_config_text(ids);
  Storage storage(0);
  const std::string tmp = dir + ".tmp";
  std::error_code error;
  fs::remove_all(tmp, error);  // of an earlier attempt that was killed
  storage.make_dir(tmp);
  try {
    storage.write_file(tmp + "/config.json", config);
    if (!o.companions.empty()) copy_companions(storage, o.companions, tmp);
    if (!generation.empty() && !fs::exists(tmp + "/generation_config.json"))
      storage.write_file(tmp + "/generation_config.json", generation);
    write_weights(storage, tmp, model, read, o);
    storage.sync_dir(tmp);
    storage.rename(tmp, dir);
  } catch (...) {
    fs::remove_all(tmp, error);
    throw;
  }
}

}  // namespace contender
