#include "hub/gguf_model.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/error.h"
#include "hub/gguf_blocks.h"

namespace contender {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFrequencies = "rope_freqs.weight";  // factors of llama3's RoPE scaling

std::string architecture_of(const GgufFile& f) {
  const std::string architecture(f.text("general.architecture"));
  if (architecture != "llama" && architecture != "qwen2")
    fail(ExitCode::kConfig, "{}: general.architecture: \"{}\" is not supported: llama and qwen2 are",
         f.path(), f.shown("general.architecture"));
  return architecture;
}

// Keys of one architecture. Each is asked for, or refused at the end.
class Keys {
 public:
  Keys(const GgufFile& file, const std::string& architecture) : f_(file), prefix_(architecture + ".") {}
  bool has(const std::string& key) {
    seen_.insert(prefix_ + key);
    return f_.has(prefix_ + key);
  }
  int64_t integer(const std::string& key) { return has(key), f_.integer(prefix_ + key); }
  int64_t integer(const std::string& key, int64_t otherwise) { return has(key) ? integer(key) : otherwise; }
  double number(const std::string& key) { return has(key), f_.number(prefix_ + key); }
  double number(const std::string& key, double otherwise) { return has(key) ? number(key) : otherwise; }
  std::string shown(const std::string& key, const std::string& otherwise) {
    return has(key) ? f_.shown(prefix_ + key) : otherwise;
  }
  template <class... A>
  [[noreturn]] void refuse(const std::string& key, fmt::format_string<A...> format, A&&... args) const {
    fail(ExitCode::kConfig, "{}: {}{}: {}", f_.path(), prefix_, key,
         fmt::format(format, std::forward<A>(args)...));
  }
  void done() const {
    for (const std::string& key : f_.keys(prefix_))
      if (!seen_.contains(key))
        fail(ExitCode::kConfig, "{}: {:.100} is not supported: the model here does not know it", f_.path(),
             key);
  }

 private:
  const GgufFile& f_;
  const std::string prefix_;
  std::set<std::string> seen_;
};

const GgufTensor* find(const GgufFile& f, const std::string& name) {
  const auto at = f.tensors().find(name);
  return at == f.tensors().end() ? nullptr : &at->second;
}

// RoPE turns each pair by an angle divided by its factor. Converters write the factors of Llama 3's scaling
// (arXiv 2407.21783) and not the numbers that they come from; those are found by trying what was published.
Json llama3_scaling(const GgufFile& f, const GgufTensor& factors, double theta, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  if (factors.type != GgufType::kF32 || factors.shape != std::vector<int64_t>{half})
    fail(ExitCode::kConfig, "{}: tensor {}: not {} values of F32", f.path(), kFrequencies, half);
  std::vector<float> given(static_cast<size_t>(half));
  gguf_to_f32(factors.type, factors.data, 0, half, given.data());
  constexpr double kLow = 1, kHigh = 4, kOriginal = 8192, kPi = 3.14159265358979323846;
  for (const double factor : {8.0, 32.0}) {
    bool same = true;
    for (int64_t i = 0; i < half; ++i) {
      const double turns =
          kOriginal /
          (2 * kPi * std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
      const double smooth = (turns - kLow) / (kHigh - kLow);
      const double expected = turns < kLow    ? factor
                              : turns > kHigh ? 1
                                              : 1 / ((1 - smooth) / factor + smooth);
      same &= std::abs(given[static_cast<size_t>(i)] - expected) <= 1e-4 * expected;
    }
    if (same)
      return {{"rope_type", "llama3"},
              {"factor", factor},
              {"low_freq_factor", kLow},
              {"high_freq_factor", kHigh},
              {"original_max_position_embeddings", static_cast<int64_t>(kOriginal)}};
  }
  fail(ExitCode::kConfig,
       "{}: tensor {}: the factors are not those of Llama 3.1 or 3.2: no other is supported", f.path(),
       kFrequencies);
}

// Null: none.
Json rope_scaling(const GgufFile& f, Keys& k, double theta, int64_t head_dim) {
  const std::string type = k.shown("rope.scaling.type", "none");
  k.has("rope.scaling.finetuned");  // says how the model was made
  const double factor = k.number("rope.scaling.factor", 1);
  const int64_t original = k.integer("rope.scaling.original_context_length", 0);
  const GgufTensor* factors = find(f, kFrequencies);
  if (type == "yarn" && factor > 1 && !factors) {
    if (original == 0) k.refuse("rope.scaling.original_context_length", "missing");
    return {{"rope_type", "yarn"}, {"factor", factor}, {"original_max_position_embeddings", original}};
  }
  if (factor != 1) k.refuse("rope.scaling.type", "{} by {} is not supported: yarn is", type, factor);
  return factors ? llama3_scaling(f, *factors, theta, head_dim) : Json();
}

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; a name that is not known stays.
std::string hub_name(const std::string& name) {
  static const std::map<std::string, std::string> outer = {{"token_embd.weight", "model.embed_tokens.weight"},
                                                           {"output_norm.weight", "model.norm.weight"},
                                                           {"output.weight", "lm_head.weight"}};
  static const std::map<std::string, std::string> inner = {
      {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
      {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
      {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"}};
  if (const auto found = outer.find(name); found != outer.end()) return found->second;
  const size_t layer = name.find('.'), part = name.find('.', layer + 1), kind = name.rfind('.');
  if (!name.starts_with("blk.") || part == name.npos || kind <= part) return name;
  const auto found = inner.find(name.substr(part + 1, kind - part - 1));
  if (found == inner.end()) return name;
  return "model.layers" + name.substr(layer, part + 1 - layer) + found->second + name.substr(kind);
}

}  // namespace

std::string gguf_config_text(const GgufFile& f) {
  const std::string architecture = architecture_of(f);
  if (f.value_or(&GgufFile::integer, "split.count", int64_t{1}) > 1)
    fail(ExitCode::kConfig, "{}: one of {} files: join them first (llama-gguf-split --merge)", f.path(),
         f.integer("split.count"));
  const GgufTensor* embedding = find(f, "token_embd.weight");
  if (!embedding) fail(ExitCode::kConfig, "{}: no tensor token_embd.weight", f.path());
  Keys k(f, architecture);
  Json j;
  j["model_type"] = architecture;
  j["vocab_size"] = embedding->shape[0];
  if (k.integer("vocab_size", embedding->shape[0]) != embedding->shape[0])
    k.refuse("vocab_size", "{}, but token_embd.weight has {} rows", k.integer("vocab_size"),
             embedding->shape[0]);
  const int64_t hidden = k.integer("embedding_length"), heads = k.integer("attention.head_count");
  j["hidden_size"] = hidden;
  j["num_hidden_layers"] = k.integer("block_count");
  j["num_attention_heads"] = heads;
  j["num_key_value_heads"] = k.integer("attention.head_count_kv", heads);
  j["intermediate_size"] = k.integer("feed_forward_length");
  j["max_position_embeddings"] = k.integer("context_length");
  j["rms_norm_eps"] = k.number("attention.layer_norm_rms_epsilon");
  if (heads < 1 || hidden < 1) k.refuse("attention.head_count", "{} heads of {} values", heads, hidden);
  const int64_t head_dim = k.integer("attention.key_length", hidden / heads);
  j["head_dim"] = head_dim;
  for (const char* key : {"attention.value_length", "rope.dimension_count"})
    if (k.integer(key, head_dim) != head_dim)
      k.refuse(key, "{} is not supported: keys, values and RoPE have {} columns", k.integer(key), head_dim);
  for (const char* key : {"expert_count", "expert_used_count", "attention.sliding_window"})
    if (k.integer(key, 0) != 0) k.refuse(key, "{} is not supported", k.integer(key));
  const double theta = k.number("rope.freq_base", 10000);
  j["rope_theta"] = theta;
  j["rope_scaling"] = rope_scaling(f, k, theta, head_dim);
  k.has("tensor_data_layout");  // a remark
  k.done();
  j["tie_word_embeddings"] = !find(f, "output.weight");
  return j.dump();
}

GgufWeights::GgufWeights(const std::string& path) : file_(path) {
  const std::string architecture = architecture_of(file_);
  // Of a key or value head; 0 where the file says nothing usable: then there is no model to read.
  const int64_t heads =
      file_.value_or(&GgufFile::integer, architecture + ".attention.head_count", int64_t{0});
  const int64_t kv_heads =
      file_.value_or(&GgufFile::integer, architecture + ".attention.head_count_kv", heads);
  for (const auto& [name, tensor] : file_.tensors()) {
    if (name == kFrequencies) continue;
    Place place{&tensor, 0};
    const bool q = name.ends_with(".attn_q.weight"), key = name.ends_with(".attn_k.weight");
    const int64_t parts = q ? heads : kv_heads;
    if (architecture == "llama" && (q || key) && tensor.shape.size() == 2 && parts > 0 &&
        tensor.shape[0] % (2 * parts) == 0)
      place.head_rows = tensor.shape[0] / parts;
    if (!tensors_.emplace(hub_name(name), place).second)
      fail(ExitCode::kConfig, "{}: tensor {} is there twice, under two names", path, hub_name(name));
  }
}

void GgufWeights::read(const Place& place, int64_t row, int64_t rows, int64_t col, int64_t cols, float* dst,
                       int64_t ld) const {
  const GgufTensor& t = *place.tensor;
  const int64_t width = t.shape.back(), half = place.head_rows / 2;
  const int64_t height = t.shape.size() == 1 ? 1 : t.shape[0];
  CHECK(t.shape.size() <= 2 && 0 <= row && 0 <= rows && row <= height - rows && 0 <= col && 0 <= cols &&
            col <= width - cols,
        "rows {} +{}, columns {} +{} of {} x {}", row, rows, col, cols, height, width);
  const GgufTypeInfo& info = gguf_type_info(t.type);
  const int64_t row_bytes = width / info.block_values * info.block_bytes;
  for (int64_t r = row; r < row + rows; ++r) {
    int64_t stored = r;
    if (half > 0) {
      const int64_t within = r % place.head_rows;
      stored = r - within + 2 * (within % half) + within / half;
    }
    gguf_to_f32(t.type, t.data + stored * row_bytes, col, cols, dst + (r - row) * ld);
  }
}

}  // namespace contender
